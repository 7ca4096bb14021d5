"""Random damage to folders: of Hugging Face, of PEFT, and converted checkpoints.

Each kind of damage takes {name: content} and a random generator, and returns new files.
"""

import json

import numpy as np

from mutants.damage import NAMES, VALUES, bomb, pick, put
from mutants.safetensors import (
    FILE_KINDS,
    SHARD_KINDS,
    cut,
    flip,
    more,
    noise,
    shard_names,
)

INDEX = "model.safetensors.index.json"


def mutate_source(folder, rng):
    """Damages a Hugging Face folder of two shards; returns the kind of damage."""
    return mutate_folder(folder, rng, KINDS)


def mutate_checkpoint(folder, rng):
    """Damages a converted checkpoint; returns the kind of damage."""
    return mutate_folder(folder, rng, CHECKPOINT_KINDS)


def mutate_peft(folder, rng):
    """Damages a folder with a LoRA of PEFT; returns the kind of damage."""
    return mutate_folder(folder, rng, PEFT_KINDS)


def mutate_folder(folder, rng, kinds):
    """Damages the files of a folder; returns the kind of damage, and the files.

    Args:
        folder: it has no empty files.
        rng: of the standard library.
        kinds: functions of {name: content} and a random generator of numpy.
    """
    files = {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}
    files = {name: files[name] for name in sorted(files) if files[name]}
    rng = np.random.default_rng(rng.getrandbits(64))
    kind = pick(rng, kinds)
    harmed = kind(files, rng)
    for name in files.keys() - harmed.keys():
        (folder / name).unlink()
    for name, content in harmed.items():
        if files.get(name) != content:
            (folder / name).write_bytes(content)
    changed = [n for n in files | harmed if files.get(n) != harmed.get(n)]
    return f"{kind.__name__} {changed}"


# Kinds


def gone(files, rng):
    """Any file."""
    name = pick(rng, list(files))
    return {n: content for n, content in files.items() if n != name}


def shard_gone(files, rng):
    name = pick(rng, shard_names(files))
    return {n: content for n, content in files.items() if n != name}


def without_index(files, rng):
    return harm_some({n: c for n, c in files.items() if n != INDEX}, rng, SHARD_KINDS)


def _in_index(files, rng, change):
    index = json.loads(files[INDEX])
    index = change(index) or index
    return files | {INDEX: json.dumps(index).encode()}


def index_name(files, rng):
    """A shard is called by a name that leads elsewhere, for one tensor or for all."""

    def change(index):
        where = index["weight_map"]
        tensor, new = pick(rng, sorted(where)), pick(rng, NAMES)
        old, all_of_it = where[tensor], rng.random() < 0.5
        for name, shard in list(where.items()):
            if name == tensor or (all_of_it and shard == old):
                where[name] = new.replace("{}", old)

    return _in_index(files, rng, change)


def index_value(files, rng):
    return _in_index(files, rng, lambda index: put(index, rng, pick(rng, VALUES)))


def index_map(files, rng):
    def change(index):
        if rng.random() < 0.3:
            del index["weight_map"]
        else:
            index["weight_map"] = pick(rng, VALUES)

    return _in_index(files, rng, change)


def index_tensor(files, rng):
    def change(index):
        where = index["weight_map"]
        if rng.random() < 0.5:
            del where[pick(rng, sorted(where))]
        else:
            where[pick(rng, ("x", "\x1b[2J", "x" * 10**4))] = pick(rng, sorted(where.values()))

    return _in_index(files, rng, change)


def sidecar_bomb(files, rng):
    name = pick(rng, [n for n in files if n.endswith(".json")])
    return files | {name: bomb(rng, files[name])}


def config_value(files, rng):
    config = json.loads(files["config.json"])
    config[pick(rng, sorted(config))] = pick(rng, VALUES)
    return files | {"config.json": json.dumps(config).encode()}


def config_key(files, rng):
    config = json.loads(files["config.json"])
    fields = (
        "rope_scaling", "rope_parameters", "layer_types", "sliding_window", "eos_token_id",
        "quantization_config", "auto_map", "head_dim", "x", "\x1b[2J", "x" * 10**4,
    )  # fmt: skip
    config[pick(rng, fields)] = pick(rng, VALUES)
    return files | {"config.json": json.dumps(config).encode()}


def config_sizes(files, rng):
    """All sizes at once are absurd."""
    config = json.loads(files["config.json"])
    for name in config:
        if isinstance(config[name], int) and not isinstance(config[name], bool):
            config[name] = 10 ** int(rng.integers(1, 19))
    return files | {"config.json": json.dumps(config).encode()}


def peft_value(files, rng):
    config = json.loads(files["adapter_config.json"])
    config[pick(rng, (*config, "use_rslora", "use_dora", "x"))] = pick(rng, VALUES)
    return files | {"adapter_config.json": json.dumps(config).encode()}


def tokenizer_value(files, rng):
    sidecars = ("tokenizer.json", "tokenizer_config.json", "generation_config.json")
    present = [name for name in sidecars if name in files]
    if not present:
        return flip(files, rng)
    name = pick(rng, present)
    tree = json.loads(files[name])
    put(tree, rng, pick(rng, VALUES))
    return files | {name: json.dumps(tree).encode()}


KINDS = (
    *SHARD_KINDS, flip, cut, more, noise, shard_gone, without_index, index_name, index_value,
    index_map, index_tensor, sidecar_bomb, config_value, config_key, config_sizes, tokenizer_value,
)  # fmt: skip
PEFT_KINDS = (*FILE_KINDS, peft_value, peft_value, peft_value, sidecar_bomb, gone)
CHECKPOINT_KINDS = (flip, flip, flip, cut, more, noise, gone)


def harm_some(files, rng, kinds):
    return pick(rng, kinds)(files, rng)
