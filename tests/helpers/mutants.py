"""Random damage to a model's files, for `test_fuzz`.

Each kind of damage takes {name: content} and a random generator, and returns new files.
"""

import gzip
import io
import json
import struct
import zipfile

import numpy as np
from gguf import GGUFReader

INDEX = "model.safetensors.index.json"


def mutate_source(folder, rng):
    """Damages a Hugging Face folder of two shards; returns the kind of damage."""
    return _mutate(folder, rng, KINDS)


def mutate_checkpoint(folder, rng):
    """Damages a converted checkpoint; returns the kind of damage."""
    return _mutate(folder, rng, CHECKPOINT_KINDS)


def mutate_file(file, rng):
    """Damages one safetensors file; returns the kind of damage."""
    content, rng = file.read_bytes(), np.random.default_rng(rng.getrandbits(64))
    kind = pick(rng, FILE_KINDS)
    file.write_bytes(kind({file.name: content}, rng)[file.name])
    return kind.__name__


def mutate_peft(folder, rng):
    """Damages a folder with a LoRA of PEFT; returns the kind of damage."""
    return _mutate(folder, rng, PEFT_KINDS)


def _mutate(folder, rng, kinds):
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


def mutate_gguf(file, rng):
    """Damages a GGUF file; returns the kind of damage."""
    content, rng = file.read_bytes(), np.random.default_rng(rng.getrandbits(64))
    kind = pick(rng, GGUF_KINDS)
    file.write_bytes(kind(content, rng, GGUFReader(file).data_offset))
    return kind.__name__


NUMBERS = (
    0, 1, -1, 3, 2**31 - 1, 2**32, 10**9, 10**18, 2**63 - 1, 2**64 - 1, 2**64, 10**400, 0.5, -1e9,
    1e308, float("inf"), float("nan"),
)  # fmt: skip
VALUES = (
    *NUMBERS, None, True, False, "", "x", "model.norm.weight", "x" * 10**5, "\x1b[2J\n\u202e", "\0",
    [], [1], {}, {"a": 1}, [[[[]]]], ["x"] * 1000, [10**9, 10**9],
)  # fmt: skip
DTYPES = (
    "F64", "F32", "F16", "BF16", "I64", "I32", "I16", "I8", "U8", "U64", "BOOL", "F8_E4M3",
    "F8_E5M2", "F4", "C64", "f32", "", 3, None, [],
)  # fmt: skip
NAMES = (
    "/etc/passwd", "../{}", "a/../../{}", "..\\{}", "C:\\{}", "C:{}", "\\\\host\\share\\{}",
    "\\{}", "//host/share/{}", "{}\0", "\0", "", ".", "..", "./{}", "./../{}", "{}/", "~/{}",
    "{}\n", "x" * 5000, "x/" * 5000, "file:///{}", "CON", "nowhere.safetensors", "config.json",
)  # fmt: skip


def pick(rng, options):
    return options[int(rng.integers(len(options)))]


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


def flipped(content, rng, begin=0, end=None):
    """The content with one byte of its part changed."""
    content = bytearray(content)
    place = int(rng.integers(begin, end or len(content)))
    content[place] ^= int(rng.integers(1, 256))
    return bytes(content)


def put(tree, rng, value):
    """Puts a value in the place of one that is somewhere in a tree of JSON."""
    places = []

    def walk(part):
        keys = part if isinstance(part, dict) else range(len(part))
        for key in list(keys):
            places.append((part, key))
            if isinstance(part[key], dict | list):
                walk(part[key])

    walk(tree)
    part, key = pick(rng, places)
    part[key] = value


def bomb(rng, content):
    """What may lie in the place of a JSON file."""
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w") as archive:
        archive.writestr("a", content)
    return pick(
        rng,
        (
            b"[" * 200_000,
            b'{"a":' * 200_000,
            b"[" * 900 + b"]" * 900,
            gzip.compress(content),
            whole.getvalue(),
            b"",
            b"\0" * 1000,
            content.decode().encode("utf-16"),
            b"\xef\xbb\xbf" + content,
            b"\xff" + content,
            b"9" * 5000,
            b"1" + b"0" * 400,
            b"1e999",
            b"NaN",
            b"null",
            b"[]",
            b'"x"',
            b"{}",
            b'"\\ud800"',
            b'{"\\ud800": "\\ud800"}',
            b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n",
            b"<!doctype html><html>",
            content + content,
            content[:-1],
        ),
    )


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


def gone(files, rng):
    """Any file."""
    name = pick(rng, list(files))
    return {n: content for n, content in files.items() if n != name}


def shard_gone(files, rng):
    name = pick(rng, shard_names(files))
    return {n: content for n, content in files.items() if n != name}


def shard_doubled(files, rng):
    one, other = shard_names(files)[:2]
    new = pick(rng, (one, "model-00003-of-00002.safetensors", "model.safetensors"))
    return files | {new: files[other]}


def shards_swapped(files, rng):
    one, other = shard_names(files)[:2]
    return files | {one: files[other], other: files[one]}


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
    name = pick(rng, ("tokenizer.json", "tokenizer_config.json", "generation_config.json"))
    tree = json.loads(files[name])
    put(tree, rng, pick(rng, VALUES))
    return files | {name: json.dumps(tree).encode()}


SHARD_KINDS = (
    flip_header, flip_number, header_length, header_bomb, offsets, overlap, dtype, shape,
    header_value, tensor_name, same_key, metadata, many_tensors, shard_doubled, shards_swapped,
)  # fmt: skip
KINDS = (
    *SHARD_KINDS, flip, cut, more, noise, shard_gone, without_index, index_name, index_value,
    index_map, index_tensor, sidecar_bomb, config_value, config_key, config_sizes, tokenizer_value,
)  # fmt: skip


FILE_KINDS = (
    flip, flip_header, flip_number, cut, more, noise, header_length, header_bomb, offsets, overlap,
    dtype, shape, header_value, tensor_name, same_key, metadata, many_tensors,
)  # fmt: skip
PEFT_KINDS = (*FILE_KINDS, peft_value, peft_value, peft_value, sidecar_bomb, gone)
CHECKPOINT_KINDS = (flip, flip, flip, cut, more, noise, gone)


def harm_some(files, rng, kinds):
    return pick(rng, kinds)(files, rng)


# GGUF: one file


def gguf_flip(content, rng, header):
    return flipped(content, rng, 0, header)


def gguf_cut(content, rng, header):
    return content[: int(rng.integers(len(content)))]


def gguf_word(content, rng, header):
    """Four or eight bytes of the header are another number."""
    form, limit = pick(rng, (("<I", 2**32), ("<Q", 2**64)))
    new = struct.pack(form, pick(rng, (0, 1, 2, 255, 2**16, 2**20, 2**31, 2**32 - 1)))
    if form == "<Q":
        new = struct.pack(form, pick(rng, (0, 1, 10**6, 2**31, 2**40, 2**63, limit - 1)))
    place = int(rng.integers(4, header))
    return content[:place] + new + content[place + len(new) :]


def gguf_shift(content, rng, header):
    """Bytes of the header are left out, or there are more."""
    place, size = int(rng.integers(header)), int(rng.integers(1, 9))
    if rng.random() < 0.5:
        return content[:place] + content[place + size :]
    return content[:place] + rng.bytes(size) + content[place:]


def gguf_number(content, rng, header):
    return flipped(content, rng, header)


GGUF_KINDS = (gguf_flip, gguf_flip, gguf_cut, gguf_word, gguf_word, gguf_shift, gguf_number)
