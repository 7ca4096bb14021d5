"""Verify a checkpoint against its source: array by array, then by the logits of the model."""

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
from jaxdepth.model.families import WRAPPERS
from jaxdepth.model.mistral import Mistral
from jaxdepth.weights.checkpoint import digest, fingerprint, read_chunk, read_manifest
from jaxdepth.weights.huggingface.source import SafetensorsSource
from jaxdepth.weights.load import load
from jaxdepth.weights.sources import Source, open_source, source_tensors

# The tolerance of the parity tests with transformers, at the widths of real models.
TOLERANCE = 1e-3
_LENGTHS = (16, 9)


class Verified(NamedTuple):
    """What was compared with a source, and is equal."""

    arrays: int  # how many
    logits: float | None  # the largest difference over all exits; None if not computed
    reference: str  # what gave the reference's logits, or why they were not computed


def verify(
    source: str | Path,
    target: str | Path,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Verified:
    """Compare every array of a checkpoint with its source, then the logits at every exit.

    Both sides of an array are read anew and compared by digest. The logits are those of two prompts
    of fixed token ids, in float32. The reference is transformers' model if torch is installed and
    the source is a folder that is not quantised, else a model built from the source in memory.
    Logits are left out if two such models do not fit into memory.

    Args:
        source: as for `convert`.
        target: a folder made by `convert`.
        progress: called with the number of arrays done, and of all.

    Raises:
        InputError: either is damaged, or they differ: names the arrays, or the exit.
    """
    target = Path(target)
    opened, manifest = open_source(source), read_manifest(target)
    records = manifest["leaves"]
    tensors = {tensor.key: tensor for tensor in source_tensors(opened)}
    if set(tensors) != set(records) or opened.raw_config != read_json(target / "config.json"):
        raise InputError(f"{target} was converted from another model than {source}")
    differing, done = [], 0
    for number in sorted({record["chunk"] for record in records.values()}):
        for key, array in read_chunk(target, number).items():
            expected = digest(opened.read(tensors[key]))
            if {digest(array), records[key]["sha256"]} != {expected}:
                differing.append(key)
            done += 1
            progress(done, len(tensors))
    if differing:
        raise InputError(
            f"{len(differing)} of {len(tensors)} arrays of {target} differ from {source}: "
            f"{listed(differing, 5)}: convert again, to another folder"
        )
    if manifest["fingerprint"] != fingerprint(opened.config, records):
        raise InputError(f"{target} names another fingerprint than its arrays have: convert again")
    return Verified(len(tensors), *_compare_logits(opened, target))


def _compare_logits(source: Source, target: Path) -> tuple[float | None, str]:
    """The largest difference and what gave the reference; or None, and why there is none."""
    config = source.config
    nbytes = sum(4 * int(np.prod(tensor.shape)) for tensor in source_tensors(source))
    if 3 * nbytes > _available_memory():
        return None, f"left out: two models of {nbytes / 1e9:.1f} GB do not fit into memory"
    tokens_BS, lengths_B = _prompts(config)
    is_quantised = source.quantisation is not None
    # Not in Mistral's own format.
    if type(source) is SafetensorsSource and not is_quantised and find_spec("torch"):
        reference = "transformers"
        expected = _transformers_logits(source, tokens_BS, lengths_B)
    else:
        reference = "a model built from the source"
        model = _model_of(source)
        expected = {e: _logits(model, tokens_BS, lengths_B, e) for e in _exits(config)}
        del model
    model, _ = load(target, dtype="float32", apart=False)
    largest = 0.0
    for exit_layer, expected_BV in expected.items():
        logits_BV = _logits(model, tokens_BS, lengths_B, exit_layer)
        difference = float(np.abs(logits_BV - expected_BV).max())
        if not difference <= TOLERANCE:
            raise InputError(
                f"logits of {target} at exit {exit_layer} are off by {difference:.2g} from "
                f"{reference}, expected at most {TOLERANCE:g}: convert again"
            )
        largest = max(largest, difference)
    return largest, reference


def _exits(config: ModelConfig) -> range:
    return range(1, config.num_hidden_layers + 1)


def _prompts(config: ModelConfig) -> tuple[Int[np.ndarray, "B S"], Int[np.ndarray, " B"]]:
    shape = len(_LENGTHS), max(_LENGTHS)
    return np.random.default_rng(0).integers(0, config.vocab_size, shape), np.array(_LENGTHS)


def _logits(
    model: Mistral,
    tokens_BS: Int[np.ndarray, "B S"],
    lengths_B: Int[np.ndarray, " B"],
    exit_layer: int,
) -> Float[np.ndarray, "B V"]:
    return np.asarray(
        exit_logits(model, jnp.asarray(tokens_BS), jnp.asarray(lengths_B), exit_layer)
    )


def _model_of(source: Source) -> Mistral:
    """A model of a source's tensors in float32, by the plainest code."""
    arrays: dict[str, list[np.ndarray]] = {}
    for tensor in source_tensors(source):  # in order of layers
        _, name = tensor.layer_and_parameter
        array = tensor.transpose(source.read(tensor)).astype(np.float32)
        arrays.setdefault(name, []).append(array)
    parameters = {n: np.stack(a) if n.startswith("layers.") else a[0] for n, a in arrays.items()}
    return Mistral(source.config, {n: jnp.asarray(array) for n, array in parameters.items()})


def _transformers_logits(
    source: SafetensorsSource,
    tokens_BS: Int[np.ndarray, "B S"],
    lengths_B: Int[np.ndarray, " B"],
) -> Mapping[int, Float[np.ndarray, "B V"]]:
    """The logits of transformers' model at every exit, truncated by its `num_hidden_layers`."""
    import torch  # optional
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText  # heavy

    auto = AutoModelForImageTextToText if source.model_type in WRAPPERS else AutoModelForCausalLM
    model = auto.from_pretrained(
        source.folder, dtype=torch.float32, use_safetensors=True, local_files_only=True
    ).eval()
    logits = {}
    for exit_layer in _exits(source.config):
        model.config.get_text_config().num_hidden_layers = exit_layer
        with torch.no_grad():
            rows = [
                model(torch.tensor(row[None, :length])).logits[0, -1].numpy()
                for row, length in zip(tokens_BS, lengths_B, strict=True)
            ]
        logits[exit_layer] = np.stack(rows)
    return logits


def _available_memory() -> int:
    """Bytes of memory that can be used; all of it if the system does not say."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
