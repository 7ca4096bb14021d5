"""Random damage to safetensors files: their headers, their numbers, and two shards of a model.

Each kind of damage takes {name: content} and a random generator, and returns new files.
"""

import json
import struct

import numpy as np

from mutants.damage import DTYPES, NUMBERS, VALUES, bomb, flipped, pick, put


def mutate_file(file, rng):
    """Damages one safetensors file; returns the kind of damage."""
    content, rng = file.read_bytes(), np.random.default_rng(rng.getrandbits(64))
    kind = pick(rng, FILE_KINDS)
    file.write_bytes(kind({file.name: content}, rng)[file.name])
    return kind.__name__


def shards(folder):
    """The safetensors of a folder, in order."""
    return sorted(folder.glob("*.safetensors"))


def shard_names(files):
    return [name for name in files if name.endswith(".safetensors")]


def split(content):
    """The header and the numbers of a safetensors file."""
    size = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + size]), content[8 + size :]


def join(header, numbers):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + numbers


# Kinds


def flip(files, rng):
    name = pick(rng, list(files))
    return files | {name: flipped(files[name], rng)}


def flip_header(files, rng):
    name = pick(rng, shard_names(files))
    end = 8 + int.from_bytes(files[name][:8], "little")
    return files | {name: flipped(files[name], rng, 0, end)}


def flip_number(files, rng):
    name = pick(rng, shard_names(files))
    begin = 8 + int.from_bytes(files[name][:8], "little")
    return files | {name: flipped(files[name], rng, begin)}


def cut(files, rng):
    name = pick(rng, list(files))
    return files | {name: files[name][: int(rng.integers(len(files[name])))]}


def more(files, rng):
    name = pick(rng, list(files))
    return files | {name: files[name] + rng.bytes(int(rng.integers(1, 100)))}


def noise(files, rng):
    name = pick(rng, list(files))
    return files | {name: rng.bytes(int(rng.integers(2000)))}


def header_length(files, rng):
    name = pick(rng, shard_names(files))
    size = int.from_bytes(files[name][:8], "little")
    new = pick(rng, (0, 1, 2, size - 1, size + 1, 10**8, 2**31, 2**40, 2**63, 2**64 - 1))
    return files | {name: struct.pack("<Q", new) + files[name][8:]}


def header_bomb(files, rng):
    name = pick(rng, shard_names(files))
    header, numbers = split(files[name])
    return files | {name: join(bomb(rng, json.dumps(header).encode()), numbers)}


def _in_header(files, rng, key, value):
    name = pick(rng, shard_names(files))
    header, numbers = split(files[name])
    tensor = pick(rng, sorted(set(header) - {"__metadata__"}))
    header[tensor][key] = value(header[tensor].get(key))
    return files | {name: join(header, numbers)}


def offsets(files, rng):
    def new(old):
        kind, end = int(rng.integers(6)), int(rng.integers(2))
        if kind == 0:
            return pick(rng, VALUES)
        if kind == 1:
            return old[::-1]
        if kind == 2:
            return [old[0] + 4, old[1] + 4]
        by = pick(rng, NUMBERS) if kind == 3 else old[end] + pick(rng, (-4, -1, 1, 4, 1000))
        return [by if place == end else same for place, same in enumerate(old)]

    return _in_header(files, rng, "data_offsets", new)


def overlap(files, rng):
    """Two tensors of one shape have one place, or each that of the other."""
    name = pick(rng, shard_names(files))
    header, numbers = split(files[name])
    tensors = sorted(set(header) - {"__metadata__"})
    one, other = pick(rng, tensors), pick(rng, tensors)
    places = header[other]["data_offsets"], header[one]["data_offsets"]
    header[one]["data_offsets"] = places[0]
    if rng.random() < 0.5:
        header[other]["data_offsets"] = places[1]
    return files | {name: join(header, numbers)}


def dtype(files, rng):
    return _in_header(files, rng, "dtype", lambda _: pick(rng, DTYPES))


def shape(files, rng):
    def new(old):
        kind = int(rng.integers(5))
        if kind == 0:
            return pick(rng, VALUES)
        if kind == 1:
            return old[::-1]
        if kind == 2:
            return [1, *old]
        if kind == 3:
            return [pick(rng, NUMBERS) for _ in old]
        return [pick(rng, NUMBERS), *old[1:]]

    return _in_header(files, rng, "shape", new)


def header_value(files, rng):
    name = pick(rng, shard_names(files))
    header, numbers = split(files[name])
    put(header, rng, pick(rng, VALUES))
    return files | {name: join(header, numbers)}


def tensor_name(files, rng):
    name = pick(rng, shard_names(files))
    header, numbers = split(files[name])
    tensors = sorted(set(header) - {"__metadata__"})
    old = pick(rng, tensors)
    new = pick(
        rng,
        (
            "", "x", "\x1b[2J\n", "x" * 10**4, old + " ", "__metadata__", pick(rng, tensors),
            "model.layers.1000000000.self_attn.q_proj.weight", "a.rotary_emb.inv_freq", "../x",
        ),
    )  # fmt: skip
    return files | {name: join({new if n == old else n: v for n, v in header.items()}, numbers)}


def same_key(files, rng):
    """A key of the header, twice."""
    name = pick(rng, shard_names(files))
    header, numbers = split(files[name])
    tensors = sorted(set(header) - {"__metadata__"})
    text = json.dumps(header)[:-1] + ", "
    text += f"{json.dumps(pick(rng, tensors))}: {json.dumps(header[pick(rng, tensors)])}}}"
    return files | {name: join(text.encode(), numbers)}


def metadata(files, rng):
    name = pick(rng, shard_names(files))
    header, numbers = split(files[name])
    return files | {name: join({"__metadata__": pick(rng, VALUES)} | header, numbers)}


def many_tensors(files, rng):
    """A header of thousands of empty tensors."""
    name = pick(rng, shard_names(files))
    header, numbers = split(files[name])
    end = len(numbers)
    empty = {"dtype": "F32", "shape": [0], "data_offsets": [end, end]}
    return files | {name: join(header | {f"x{n}": empty for n in range(5000)}, numbers)}


def shard_doubled(files, rng):
    one, other = shard_names(files)[:2]
    new = pick(rng, (one, "model-00003-of-00002.safetensors", "model.safetensors"))
    return files | {new: files[other]}


def shards_swapped(files, rng):
    one, other = shard_names(files)[:2]
    return files | {one: files[other], other: files[one]}


# Whole files, in which one tensor is not what is expected.

_SAME_SIZE = (
    ("F32", "I32", "U32"), ("F16", "BF16", "I16", "U16"), ("F64", "I64", "U64"),
    ("I8", "U8", "F8_E4M3", "F8_E5M2", "F8_E8M0", "BOOL"),
)  # fmt: skip


def _with_tensor(files, rng, change):
    """A file in which a tensor's entry and bytes are what `change` makes of them; None is none."""
    name = pick(rng, shard_names(files))
    header, numbers = split(files[name])
    tensor = pick(rng, sorted(set(header) - {"__metadata__"}))
    again, content = {}, b""
    for key, entry in header.items():
        if key == "__metadata__":
            again[key] = entry
            continue
        begin, end = entry.pop("data_offsets")
        part = entry, numbers[begin:end]
        part = change(*part) if key == tensor else part
        if part is not None:
            entry, own = part
            again[key] = entry | {"data_offsets": [len(content), len(content) + len(own)]}
            content += own
    return files | {name: join(again, content)}


def tensor_gone(files, rng):
    return _with_tensor(files, rng, lambda entry, content: None)


def tensor_rows(files, rng):
    """One row less, twice as many, or none."""

    def change(entry, content):
        rows, *row = entry["shape"] or [1]
        size = len(content) // max(rows, 1)
        count = pick(rng, (rows - 1, 2 * rows, 0))
        return entry | {"shape": [count, *row]}, (content * 2)[: count * size]

    return _with_tensor(files, rng, change)


def tensor_shape(files, rng):
    """The same numbers in another shape."""

    def change(entry, content):
        shape = entry["shape"]
        size = 1
        for axis in shape:
            size *= axis
        return entry | {
            "shape": pick(rng, ([size], [1, *shape], shape[::-1], [*shape, 1], [1, size]))
        }, content

    return _with_tensor(files, rng, change)


def tensor_type(files, rng):
    """The same bytes as another type of the same size."""

    def change(entry, content):
        others = next((kinds for kinds in _SAME_SIZE if entry["dtype"] in kinds), ("F32",))
        return entry | {"dtype": pick(rng, others)}, content

    return _with_tensor(files, rng, change)


def tensor_bytes(files, rng):
    """Other numbers: zeros, all bits set, random ones, or the same bytes backwards."""

    def change(entry, content):
        size = len(content)
        return entry, pick(
            rng, (bytes(size), b"\xff" * size, rng.bytes(size), content[::-1], b"\x7f" * size)
        )

    return _with_tensor(files, rng, change)


TENSOR_KINDS = (tensor_gone, tensor_rows, tensor_shape, tensor_type, tensor_bytes)

SHARD_KINDS = (
    flip_header, flip_number, header_length, header_bomb, offsets, overlap, dtype, shape,
    header_value, tensor_name, same_key, metadata, many_tensors, shard_doubled, shards_swapped,
    *TENSOR_KINDS,
)  # fmt: skip


FILE_KINDS = (
    flip, flip_header, flip_number, cut, more, noise, header_length, header_bomb, offsets, overlap,
    dtype, shape, header_value, tensor_name, same_key, metadata, many_tensors, *TENSOR_KINDS,
)  # fmt: skip
