"""Residual streams of a run on disk, chunk by chunk, so that memory is bounded by a chunk.

    activations/SET/000000-DIGEST.safetensors   `stream` (B P J D) in its dtype, `rows` (B,)

A chunk is a batch of prompts, written whole. A chunk that exists is not captured again; its digest
is checked when it is read.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Float, Int

from jaxdepth.depth.exits import exit_logits
from jaxdepth.errors import InputError
from jaxdepth.model.mistral import Mistral
from jaxdepth.model.sharding import to_host
from jaxdepth.probing.capture import residuals
from jaxdepth.prompts.batches import make_batches
from jaxdepth.runtime import preemption
from jaxdepth.runtime.distributed import barrier
from jaxdepth.runtime.progress import ProgressBar, silent
from jaxdepth.study.atomic_files import check_chunk, chunks_done, find_chunks, write_chunk
from jaxdepth.study.run_directory import Run

FOLDER = "activations"
_SUFFIX = ".safetensors"


@dataclass(frozen=True)
class Capture:
    """A set of prompts as token ids, and the indices at which its streams are captured."""

    name: str
    ids: Sequence[Sequence[int]]
    places_NP: Int[np.ndarray, "N P"]
    response: bool = False
    """One more position: the first token of the reply, as full depth decodes it greedily."""


def capture(
    run: Run, model: Mistral, prompts: Capture, batch_size: int, bar: ProgressBar = silent
) -> None:
    """Capture residual streams after every layer, and write the chunks that do not exist yet.

    Raises:
        InputError: an existing chunk is damaged.
    """
    from safetensors.numpy import save_file

    folder = run.path / FOLDER / prompts.name
    with bar(f"residual streams of {prompts.name}", "prompts") as progress:
        done = 0
        batches = make_batches(prompts.ids, batch_size, model.mesh)
        is_done = chunks_done(folder, range(len(batches)))
        for number, batch in enumerate(batches):
            real = len(batch.indices)
            if not is_done[number]:
                preemption.raise_if_stop_requested()
                places_BP = prompts.places_NP[list(batch.padded_indices)]
                tokens_BS, lengths_B = batch.tokens_BS, batch.lengths_B
                if prompts.response:
                    tokens_BS, lengths_B = _with_reply(model, tokens_BS, lengths_B)
                    places_BP = np.concatenate([places_BP, lengths_B[:, None] - 1], axis=1)
                stream = to_host(residuals(model, tokens_BS, lengths_B, places_BP))[:real]
                if not np.isfinite(stream.astype(np.float32)).all():
                    raise InputError(
                        f"residual streams of {prompts.name} are NaN or infinite: run with --dtype "
                        "float32, or check the checkpoint"
                    )
                arrays = {"stream": stream, "rows": np.array(batch.indices, np.int32)}
                if number % jax.process_count() == jax.process_index():
                    write_chunk(folder, number, _SUFFIX, lambda p: save_file(arrays, p))  # noqa: B023
            done += real
            progress(done, len(prompts.ids))
    barrier()  # for the writers of all chunks


def _with_reply(model: Mistral, tokens_BS: np.ndarray, lengths_B: np.ndarray):
    """The sequences with the most probable next token of full depth appended, and their lengths."""
    logits_BV = exit_logits(model, tokens_BS, lengths_B, model.config.num_hidden_layers)
    tokens = np.pad(tokens_BS, ((0, 0), (0, 1)))
    tokens[np.arange(len(tokens)), lengths_B] = to_host(logits_BV).argmax(axis=1)
    return tokens, lengths_B + 1


def read_stream(run_path: Path, name: str, position: int) -> Float[np.ndarray, "J N D"]:
    """Read the residual streams of all prompts of a set at one position, as float32.

    Raises:
        InputError: chunks are missing or damaged.
    """
    from safetensors import SafetensorError, safe_open

    files = find_chunks(run_path / FOLDER / name)
    if not files:
        raise InputError(f"{run_path / FOLDER / name} holds no residual streams: probe again")
    parts, rows = [], []
    for number in sorted(files):
        file = check_chunk(files[number])
        try:
            with safe_open(file, framework="np") as chunk:
                parts.append(chunk.get_slice("stream")[:, position].astype(np.float32))
                rows.append(chunk.get_tensor("rows"))
        except (SafetensorError, OSError) as error:
            raise InputError(f"{file} cannot be read ({error}): remove it and run again") from None
    order = np.argsort(np.concatenate(rows))
    return np.concatenate(parts)[order].swapaxes(0, 1)
