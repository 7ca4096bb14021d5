"""`jaxdepth convert`: a Hugging Face folder or id, or a GGUF file, becomes a checkpoint."""

from jaxdepth.runtime.progress import progress_bar
from jaxdepth.weights.convert import convert
from jaxdepth.weights.settings import Convert
from jaxdepth.weights.verify import verify


def run(settings: Convert) -> int:
    with progress_bar("converting", "tensors") as progress:
        done = convert(settings.source, settings.target, settings.tokenizer, progress)
    print(f"{settings.target}: {'converted' if done else 'already converted from this source'}")
    if settings.verify:
        print_verification(settings)
    return 0


def print_verification(settings: Convert) -> None:
    """Compare a checkpoint with its source and print what was compared."""
    with progress_bar("verifying", "arrays") as progress:
        verified = verify(settings.source, settings.target, progress)
    print(f"verified: {verified.arrays} arrays are those of {settings.source}")
    if verified.logits is None:
        print(f"logits: {verified.reference}")
    else:
        print(f"logits of every exit: within {verified.logits:.1g} of {verified.reference}")
