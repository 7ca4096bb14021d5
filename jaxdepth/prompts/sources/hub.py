"""Rows of a dataset by its id on the Hugging Face hub, from the cache or the network."""

from collections.abc import Iterator
from typing import Any

from jaxdepth.errors import InputError, listed, one_line
from jaxdepth.prompts.sources.rows import Row, make_row

SCHEME = "hf:"
_ROWS_AT_ONCE = 1024


def read_hub(name: str) -> tuple[str, Iterator[Row]]:
    """The full name and the rows of `OWNER/NAME`, `OWNER/NAME/SPLIT` or `OWNER/NAME/CONFIG/SPLIT`.

    With `HF_HUB_OFFLINE=1` only the cache is read.

    Raises:
        InputError: the datasets library is missing, there is no such dataset, or several splits and
            none was named.
    """
    where = SCHEME + name
    parts = name.split("/")
    if not 2 <= len(parts) <= 4 or not all(parts):
        raise InputError(f"{where}: expected {SCHEME}OWNER/NAME, with /SPLIT or /CONFIG/SPLIT")
    try:
        import datasets
    except ModuleNotFoundError as error:
        raise InputError(
            f"{where} needs {error.name}: pip install 'jaxdepth[datasets]', or name a downloaded "
            "file or folder"
        ) from None
    repository, rest = "/".join(parts[:2]), parts[2:]
    config = rest[0] if len(rest) == 2 else None
    datasets.disable_progress_bars()
    try:
        splits: Any = datasets.load_dataset(repository, config)
    except Exception as error:  # of many kinds, by the network, the cache and each format
        raise InputError(
            f"{where} cannot be loaded ({one_line(error)}); expected {SCHEME}OWNER/NAME, "
            f"/SPLIT or /CONFIG/SPLIT after it, in the cache where HF_HUB_OFFLINE is set"
        ) from None
    if not rest and len(splits) > 1:
        raise InputError(f"{where} has the splits {listed(splits, 9)}: write {where}/SPLIT")
    split = rest[-1] if rest else next(iter(splits))
    if split not in splits:
        raise InputError(f"{where} has no split {split}; it has {listed(splits, 9)}")
    return "/".join([repository, *rest[:-1], split]), _rows(
        splits[split].with_format("arrow"), where
    )


def _rows(dataset: Any, where: str) -> Iterator[Row]:
    for start in range(0, len(dataset), _ROWS_AT_ONCE):
        for number, values in enumerate(dataset[start : start + _ROWS_AT_ONCE].to_pylist(), start):
            place = f"{where}, row {number + 1}"
            yield make_row(place, values.items())
