"""Settings of studies for tests, by their flat names, and verdict words of any tokenizer."""

from jaxdepth.prompts.chat import PromptEncoder
from jaxdepth.settings_file import build


def settings_of(cls, model, out, **values):
    """Settings of a command for a model and a run directory."""
    return build(cls, {"model": model, "out": out, **values})


def words_of(encoder: PromptEncoder, count: int = 3) -> tuple[str, ...]:
    """Words that are one token after "Verdict:"."""
    some = ("how", "the", "to", "a", "I", "of", "do", "my", "in", "is", "for", "can")
    result = [word for word in some if encoder.word_after("\nVerdict:", word) is not None]
    assert len(result) >= count
    return tuple(result[:count])
