"""Is a checkpoint what its source says? Array by array, then by what the model computes."""

import os
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from jaxdepth.depth.exits import exit_logits
from jaxdepth.errors import InputError, listed
from jaxdepth.files import read_json
from jaxdepth.model.config import ModelConfig
from jaxdepth.model.mistral import Mistral
from jaxdepth.weights.checkpoint import digest, fingerprint, read_chunk, read_manifest
from jaxdepth.weights.convert import planned
from jaxdepth.weights.load import load
from jaxdepth.weights.sources import GGUFSource, SafetensorsSource, open_source

# As for parity with transformers, at widths that one uses.
TOLERANCE = 1e-3
_LENGTHS = (16, 9)


class Verified(NamedTuple):
    """What was held against a source, and found equal."""

    arrays: int
    logits: float | None  # the largest difference, over all exits; None where not computed
    against: str  # what the logits were held against, or why they were not


def verify(
    source: str | Path,
    target: str | Path,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Verified:
    """Holds every array of a checkpoint against its source, and logits at every exit.

    Arrays are read anew from both sides and compared by digest. The logits, of two prompts of fixed
    token ids in float32, are held against transformers' where the source is a folder and torch can
    be imported, else against a model that is put together from the source in memory; they are left
    out where two such models do not fit into memory.

    Args:
        source: as for `convert`.
        target: a folder made by `convert`.
        progress: called with arrays done and arrays in all.

    Raises:
        InputError: either is damaged, or they differ: names the arrays, or the exit.
    """
    target = Path(target)
    opened, manifest = open_source(source), read_manifest(Path(target))
    said = manifest["leaves"]
    pieces = {piece.key: piece for piece in planned(opened)}
    if set(pieces) != set(said) or opened.raw_config != read_json(target / "config.json"):
        raise InputError(f"{target} was converted from another model than {source}")
    wrong, done = [], 0
    for number in sorted({leaf["chunk"] for leaf in said.values()}):
        for key, array in read_chunk(target, number).items():
            wanted = digest(opened.read(pieces[key]))
            if {digest(array), said[key]["sha256"]} != {wanted}:
                wrong.append(key)
            done += 1
            progress(done, len(pieces))
    if wrong:
        raise InputError(
            f"{len(wrong)} of {len(pieces)} arrays of {target} differ from {source}: "
            f"{listed(wrong, 5)}: convert again, to another folder"
        )
    if manifest["fingerprint"] != fingerprint(opened.config, said):
        raise InputError(f"{target} names another fingerprint than its arrays have: convert again")
    return Verified(len(pieces), *_compare_logits(opened, target))


def _compare_logits(opened: SafetensorsSource | GGUFSource, target: Path):
    """The largest difference, and from what; or None, and why."""
    config = opened.config
    size = sum(4 * int(np.prod(piece.shape)) for piece in planned(opened))
    if 3 * size > _free_memory():
        return None, f"left out: two models of {size / 1e9:.1f} GB do not fit into memory"
    tokens_BS, lengths_B = _prompts(config)
    if isinstance(opened, SafetensorsSource) and find_spec("torch"):
        against = "transformers"
        wanted = _by_transformers(opened.folder, config, tokens_BS, lengths_B)
    else:
        model = _from_source(opened)
        against = "a model put together from the source"
        wanted = {e: _last(model, tokens_BS, lengths_B, e) for e in _exits(config)}
        del model
    model, _ = load(target, dtype="float32")
    worst = 0.0
    for exit_, logits_BV in wanted.items():
        off = float(np.abs(_last(model, tokens_BS, lengths_B, exit_) - logits_BV).max())
        if not off <= TOLERANCE:
            raise InputError(
                f"logits of {target} at exit {exit_} are off by {off:.2g} from {against}, expected "
                f"at most {TOLERANCE:g}: convert again"
            )
        worst = max(worst, off)
    return worst, against


def _exits(config: ModelConfig) -> range:
    return range(1, config.num_hidden_layers + 1)


def _prompts(config: ModelConfig) -> tuple[Int[np.ndarray, "B S"], Int[np.ndarray, " B"]]:
    shape = len(_LENGTHS), max(_LENGTHS)
    return np.random.default_rng(0).integers(0, config.vocab_size, shape), np.array(_LENGTHS)


def _last(model: Mistral, tokens_BS, lengths_B, exit_: int) -> Float[np.ndarray, "B V"]:
    return np.asarray(exit_logits(model, tokens_BS, lengths_B, exit_))


def _from_source(opened: SafetensorsSource | GGUFSource) -> Mistral:
    leaves: dict[str, list[np.ndarray]] = {}
    for piece in planned(opened):  # layer after layer
        array = piece.turn(opened.read(piece)).astype(np.float32)
        leaves.setdefault(piece.layer_and_leaf[1], []).append(array)
    stack = {n: np.stack(a) if n.startswith("layers.") else a[0] for n, a in leaves.items()}
    return Mistral(opened.config, {name: jnp.asarray(array) for name, array in stack.items()})


def _by_transformers(
    folder: Path, config: ModelConfig, tokens_BS, lengths_B
) -> Mapping[int, Float[np.ndarray, "B V"]]:
    """Its logits, truncated by cutting the number of layers that it runs."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, use_safetensors=True, local_files_only=True
    ).eval()
    found = {}
    for exit_ in _exits(config):
        model.config.num_hidden_layers = exit_
        with torch.no_grad():
            rows = [
                model(torch.tensor(row[None, :length])).logits[0, -1].numpy()
                for row, length in zip(tokens_BS, lengths_B, strict=True)
            ]
        found[exit_] = np.stack(rows)
    return found


def _free_memory() -> int:
    """Bytes of memory that are free or can be made so; all of it where the system does not say."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
