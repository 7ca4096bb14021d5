"""Models on the Hugging Face hub, downloaded to its own cache."""

import errno
import re
from pathlib import Path

from jaxdepth.errors import InputError, one_line
from jaxdepth.files import read_json
from jaxdepth.runtime.log import warn
from jaxdepth.weights.checkpoint import SIDECARS
from jaxdepth.weights.huggingface.shards import (
    CONSOLIDATED,
    INDEX_NAME,
    PARAMS,
    SINGLE_NAME,
    named_shards,
)
from jaxdepth.weights.huggingface.tokenizer_files import PATTERNS
from jaxdepth.weights.quantised.methods import GPTQ_SETTINGS

_READ_ONLY = (errno.EACCES, errno.EPERM, errno.EROFS)
_MODEL_ID = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")


def is_hub_id(source: str) -> bool:
    """Whether this could be a model's id, such as `organisation/name` or `.../name@revision`."""
    return _MODEL_ID.fullmatch(source) is not None


def fetch_model(model_id: str) -> Path:
    """The folder in the hub's cache with a model's config, safetensors and tokenizer.

    Only these files are downloaded, and only those that the cache lacks. Where the hub cannot be
    reached, or its cache cannot be written, the cache is used alone; `HF_HUB_OFFLINE=1` does not
    try to reach it.

    Raises:
        InputError: there is no such model, or the hub cannot be reached.
    """
    from huggingface_hub import snapshot_download  # heavy

    name, _, revision = model_id.partition("@")
    is_read_only = False

    def download(*patterns: str) -> str:
        nonlocal is_read_only
        request = {"revision": revision or None, "allow_patterns": list(patterns)}
        try:
            return snapshot_download(name, local_files_only=is_read_only, **request)
        except OSError as error:
            if is_read_only or error.errno not in _READ_ONLY:
                raise
            warn(f"the cache of the hub cannot be written ({one_line(error)}): it is used as it is")
            is_read_only = True
            return snapshot_download(name, local_files_only=True, **request)

    def fetch(*patterns: str) -> Path:
        try:
            folder = download(*patterns)
        except Exception as error:  # many types: no such model, no network, not in the cache
            raise InputError(
                f"{model_id} is not a local folder or file, and cannot be downloaded from the hub "
                f"({one_line(error)}): give a folder, a .gguf file, or the id of a model"
            ) from None
        return Path(folder)

    folder = fetch("config.json", GPTQ_SETTINGS, PARAMS, INDEX_NAME, *SIDECARS, *PATTERNS)
    index, shards = folder / INDEX_NAME, [SINGLE_NAME]
    # The single file counts, as in transformers, if both are there.
    if index.exists() and not (fetch("config.json", SINGLE_NAME) / SINGLE_NAME).is_file():
        shards = named_shards(index, read_json(index))
    folder = fetch("config.json", *shards)
    if (folder / PARAMS).exists() and not any((folder / shard).exists() for shard in shards):
        return fetch(PARAMS, f"{CONSOLIDATED}*.safetensors")  # Mistral's own format alone
    return folder
