"""Models that are named by their id on the Hugging Face hub, kept in transformers' own cache."""

import re
from pathlib import Path

from jaxdepth.errors import InputError
from jaxdepth.files import read_json
from jaxdepth.weights.checkpoint import SIDECARS
from jaxdepth.weights.shards import INDEX_NAME, SINGLE_NAME, named_shards

_ID = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")


def is_hub_id(source: str) -> bool:
    """Whether it could be the id of a model, such as `organisation/name` or `.../name@revision`."""
    return _ID.fullmatch(source) is not None


def fetch_model(source: str) -> Path:
    """The folder in the cache that holds a model's config, safetensors and tokenizer.

    What the cache has is not fetched again, and where the hub cannot be reached it is all there is
    (`HF_HUB_OFFLINE=1` does not ask). Nothing else of the model's files is fetched.

    Raises:
        InputError: there is no such model, or the hub cannot be reached.
    """
    from huggingface_hub import snapshot_download

    name, _, revision = source.partition("@")

    def fetch(*patterns: str) -> Path:
        try:
            folder = snapshot_download(
                name, revision=revision or None, allow_patterns=list(patterns)
            )
        except Exception as error:  # many kinds: no such model, no network, not in the cache
            reason = " ".join(str(error).split())[:160]
            raise InputError(
                f"{source} is no folder or file here, and cannot be had from the hub ({reason}): "
                "give a folder, a .gguf file, or the id of a model"
            ) from None
        return Path(folder)

    folder = fetch("config.json", INDEX_NAME, "tokenizer.model", *SIDECARS)
    index = folder / INDEX_NAME
    shards = named_shards(index, read_json(index)) if index.exists() else [SINGLE_NAME]
    return fetch("config.json", *shards)
