"""The checkpoint on disk: the only place that knows Orbax.

A checkpoint is a folder that appears whole or not at all:
    jaxdepth.json   what it is: source and its digests, every leaf's shape, dtype and digest
    config.json     as in the source (for GGUF: rebuilt from its metadata)
    tokenizer.json, tokenizer_config.json, chat_template.jinja ...   if the source had them
    weights/        Orbax; one array per layer and tensor, so that nothing large is ever doubled;
                    matrices as in the source, outputs first
"""

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxdepth.config import ModelConfig, read_config, read_json
from jaxdepth.errors import InputError, listed
from jaxdepth.mesh import fetch, leaf_sharding, weight_spec
from jaxdepth.model.mistral import Mistral, on_mesh
from jaxdepth.processes import agree, gathered, is_first, wait
from jaxdepth.weights.adapter import apply_adapter, read_adapter
from jaxdepth.weights.plan import HF_NAMES, Piece, plan

MANIFEST = "jaxdepth.json"
WEIGHTS = "weights"
FORMAT = 2


def digest(array: np.ndarray) -> str:
    """SHA-256 of an array's bytes, in C order and its own dtype."""
    return hashlib.sha256(np.ascontiguousarray(array).view(np.uint8).data).hexdigest()


def write_arrays(folder: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Adds arrays to the checkpoint that is being written in `folder`."""
    from orbax.checkpoint import v1 as ocp

    ocp.partial.save((folder / WEIGHTS).absolute(), dict(arrays))


def finish(folder: Path, manifest: Mapping) -> None:
    """Ends the writing: from here on `folder` is whole."""
    from orbax.checkpoint import v1 as ocp

    ocp.partial.finalize((folder / WEIGHTS).absolute())
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")


def read_manifest(path: Path) -> dict:
    """What `jaxdepth.json` says of the checkpoint at `path`.

    Raises:
        InputError: there is no converted checkpoint at `path`, or it is of another format.
    """
    if not (path / MANIFEST).is_file():
        raise InputError(
            f"{path} is not a converted checkpoint (it has no {MANIFEST}); "
            f"make one with: jaxdepth convert SOURCE {path}"
        )
    manifest = read_json(path / MANIFEST)
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise InputError(f"{path / MANIFEST} is damaged or of another format: convert again")
    return manifest


def load(
    path: str | Path, dtype=None, mesh: Mesh | None = None, adapter: str | Path | None = None
) -> tuple[Mistral, object | None]:
    """A converted checkpoint: the model and its tokenizer.

    Every array is held against the digest that was taken when it was converted. On a mesh, weights
    go straight into their shards: a host never holds more than one array of one layer.

    Args:
        path: a folder made by `jaxdepth convert`.
        dtype: of the weights and of the residual stream; None keeps that of the embedding on disk.
            Norms, softmax and RoPE are computed in float32 whatever the dtype.
        mesh: from `jaxdepth.mesh.make_mesh`: the devices that hold the model; None is one device.
        adapter: merged in: `builtin:NAME`, a file from `jaxdepth tune`, or a PEFT folder.

    Returns:
        The model, and a transformers fast tokenizer (None if the source had none).

    Raises:
        InputError: nothing converted at `path`, an array is damaged or missing, the mesh does not
            divide an array, or the adapter is for another base.
    """
    path = Path(path)
    manifest = read_manifest(path)
    config, _ = read_config(path / "config.json")
    leaves = manifest["leaves"]
    dtype = jnp.dtype(dtype or leaves["embed"]["dtype"])
    # An adapter goes into the weights as they are on disk: rounding comes last.
    stored = dtype if adapter is None else jnp.dtype(leaves["embed"]["dtype"])
    groups: dict[str, list[Piece]] = {}
    for piece in plan(config, HF_NAMES):
        groups.setdefault(piece.layer_and_leaf[1], []).append(piece)
    wanted = {p.key for pieces in groups.values() for p in pieces}
    if wanted != set(leaves):
        wrong = listed(sorted(wanted ^ set(leaves)))
        raise InputError(f"{path}: {MANIFEST} and config.json differ in {wrong}: convert again")
    if mesh is None:
        arrays = {name: _stack(path, pieces, leaves, stored) for name, pieces in groups.items()}
    else:
        arrays = _sharded(path, config, groups, leaves, stored, mesh)
    model, tokenizer = Mistral(config, arrays, mesh), load_tokenizer(path)
    if adapter is not None:
        found = read_adapter(str(adapter), config)
        model = apply_adapter(model, tokenizer, manifest["fingerprint"], found, str(adapter))
        model = on_mesh(jax.tree.map(lambda array: array.astype(dtype), model), mesh)
    return model, tokenizer


def load_tokenizer(path: Path):
    """The transformers fast tokenizer in a folder, or None if it holds no tokenizer.json.

    Raises:
        InputError: the files are there but cannot be read.
    """
    if not (path / "tokenizer.json").is_file():
        return None
    from transformers import PreTrainedTokenizerFast

    try:
        return PreTrainedTokenizerFast.from_pretrained(path)
    except Exception as error:  # tokenizers raises plain Exception
        reason = " ".join(str(error).split())[:120]
        raise InputError(f"the tokenizer in {path} cannot be read ({reason})") from None


def end_tokens(path: str | Path, tokenizer) -> tuple[int, ...]:
    """The token ids that end an answer: those of the model's files, and of its tokenizer."""
    path = Path(path)
    found = {None if tokenizer is None else tokenizer.eos_token_id}
    for name in ("config.json", "generation_config.json"):
        ids = read_json(path / name).get("eos_token_id") if (path / name).is_file() else None
        found |= set(ids) if isinstance(ids, list) else {ids}
    return tuple(sorted(i for i in found if isinstance(i, int)))


def save_state(folder: Path, step: int, state) -> None:
    """Keeps a training state, whole or not at all; the one before it then goes."""
    from orbax.checkpoint import v1 as ocp

    place = (folder / f"{step:08d}").absolute()
    ocp.save(place, _flat(state))
    for other in folder.iterdir() if is_first() else ():
        if other.name != place.name:
            shutil.rmtree(other)
    wait()


def load_state(folder: Path, like):
    """The last training state that was kept, in the form of `like`; None if there is none.

    Raises:
        InputError: it is damaged.
    """
    from orbax.checkpoint import v1 as ocp

    kept = [int(p.name) for p in folder.glob("*") if p.name.isdecimal()]
    last = int(gathered(max(kept, default=-1))[0])
    if last < 0:
        return None
    place = folder / f"{last:08d}"
    wanted = _flat(like)
    try:
        found = ocp.load(place.absolute(), wanted)
    except Exception as error:  # Orbax and TensorStore raise many kinds for damaged files
        reason = " ".join(str(error).split())[:160]
        raise InputError(
            f"{place} cannot be read ({reason}): remove {folder} to begin anew"
        ) from None
    return jax.tree.unflatten(jax.tree.structure(like), [found[key] for key in wanted])


def _flat(tree) -> dict[str, jax.Array]:
    return {f"{n:05d}": leaf for n, leaf in enumerate(jax.tree.leaves(tree))}


def _stack(path: Path, pieces: list[Piece], leaves: Mapping, dtype) -> jax.Array:
    """One leaf: its layers read, checked and stacked, in `dtype`."""
    found = _read_arrays(path, [p.key for p in pieces])
    for piece in pieces:
        _check_digest(path, piece, found[piece.key], leaves)
    if pieces[0].layer_and_leaf[0] is None:
        return jnp.asarray(found[pieces[0].key], dtype)
    first = pieces[0].turn(found[pieces[0].key])
    stack = np.empty((len(pieces), *first.shape), dtype)
    for piece in pieces:
        stack[piece.layer_and_leaf[0]] = piece.turn(found.pop(piece.key))
    return jnp.asarray(stack)


def _check_digest(path: Path, piece: Piece, array: np.ndarray, leaves: Mapping) -> None:
    if tuple(array.shape) != piece.shape or digest(array) != leaves[piece.key]["sha256"]:
        raise InputError(
            f"{path}: array {piece.key} is not what was converted: the files are damaged, "
            "convert again"
        )


def _sharded(
    path: Path, config: ModelConfig, groups: Mapping, leaves: Mapping, dtype, mesh: Mesh
) -> dict[str, jax.Array]:
    """Every leaf in its shards; of each array one process sees the whole, to check it."""
    shardings = {name: leaf_sharding(name, config, mesh) for name in groups}  # refuses first
    arrays, errors = {}, []
    for name, pieces in groups.items():
        spec = weight_spec(name.removeprefix("layers."), config, mesh)
        single = pieces[0].layer_and_leaf[0] is None
        # On disk the outputs of a layer's matrix come first.
        held = NamedSharding(mesh, spec if single else PartitionSpec(*spec[::-1]))
        found = _read_arrays(path, [p.key for p in pieces], held)
        for number, piece in enumerate(pieces):
            whole = fetch(found[piece.key])
            if number % jax.process_count() == jax.process_index():
                try:
                    _check_digest(path, piece, whole, leaves)
                except InputError as error:
                    errors.append(error)
        parts = [found.pop(piece.key) for piece in pieces]
        arrays[name] = _joined(parts, dtype, single, shardings[name])
    agree(errors[0] if errors else None)
    return arrays


def _joined(parts: list[jax.Array], dtype, single: bool, sharding: NamedSharding) -> jax.Array:
    def join(parts):
        return (parts[0] if single else jnp.stack([part.T for part in parts])).astype(dtype)

    return jax.jit(join, out_shardings=sharding)(parts)


def _read_arrays(
    path: Path, keys: list[str], sharding: NamedSharding | None = None
) -> dict[str, np.ndarray | jax.Array]:
    """Arrays of a checkpoint, on the host or in their shards."""
    from orbax.checkpoint import v1 as ocp

    folder = (path / WEIGHTS).absolute()
    context = ocp.Context()
    context.pytree.loading.partial_load = True
    try:
        with context:
            on_disk = ocp.metadata(folder).metadata
            wanted = {key: on_disk[key] for key in keys}
            if sharding is not None:
                wanted = {
                    key: jax.ShapeDtypeStruct(said.shape, said.dtype, sharding=sharding)
                    for key, said in wanted.items()
                }
            return dict(ocp.load(folder, wanted))
    except Exception as error:  # Orbax and TensorStore raise many kinds for damaged files
        reason = " ".join(str(error).split())[:160]
        raise InputError(f"{folder} cannot be read ({reason}): convert again") from None


def fingerprint(config: ModelConfig, leaves: Mapping) -> str:
    """One digest for a model: its config and all its leaves."""
    content = [repr(config), *(f"{k} {leaves[k]['sha256']}" for k in sorted(leaves))]
    return hashlib.sha256("\n".join(content).encode()).hexdigest()
