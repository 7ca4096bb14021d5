"""The weights of other tools, opened without reading them.

A source has:
    config, raw_config   the model's shape, and the `config.json` that gave it
    name                 what messages call it
    quantisation         the settings of quantised safetensors, or None
    files                all files that it reads
    shapes               of its tensors, by their names
    tensor_names         its naming scheme: `HF_NAMES`, `GGUF_NAMES` or `MISTRAL_NAMES`
    nbytes(tensor)       the size of one tensor when read
    read(tensor)         one tensor, checked to be finite
Only safetensors and GGUF are read: other formats can run code when they are loaded.
"""

from pathlib import Path

from jaxdepth.errors import InputError
from jaxdepth.weights.gguf.source import GGUFSource
from jaxdepth.weights.huggingface.hub import fetch_model, is_hub_id
from jaxdepth.weights.huggingface.mistral_params import MistralSource, is_mistral_format
from jaxdepth.weights.huggingface.source import SafetensorsSource
from jaxdepth.weights.tensor_map import MappedTensor, check_layer_count, check_shapes, tensor_map

Source = SafetensorsSource | GGUFSource


def open_source(source: str | Path) -> Source:
    """Open a Hugging Face folder or one in Mistral's own format, a GGUF file, a model on the hub.

    Raises:
        InputError: there is nothing that can be read.
    """
    path = Path(source)
    if not path.exists():
        if not is_hub_id(str(source)):
            raise InputError(
                f"{path} does not exist: expected a Hugging Face folder or a .gguf file"
            )
        return _open_folder(fetch_model(str(source)), str(source))
    if path.is_dir():
        return _open_folder(path)
    if path.suffix.lower() == ".gguf":
        return GGUFSource(path)
    raise InputError(f"{path} is neither a folder with safetensors nor a .gguf file")


def _open_folder(folder: Path, name: str | None = None) -> SafetensorsSource:
    of_folder = MistralSource if is_mistral_format(folder) else SafetensorsSource
    return of_folder(folder, name)


def source_tensors(source: Source) -> list[MappedTensor]:
    """The tensors to read from a source, after comparing them with those that it has.

    Raises:
        InputError: tensors are missing, extra or of another shape.
    """
    check_layer_count(source.config, source.shapes, source.name)
    tensors = tensor_map(source.config, source.tensor_names)
    check_shapes(tensors, source.shapes, source.name)
    return tensors
