"""Random damage to the metadata of a GGUF file, in a header that is written anew and whole."""

import copy
import struct

from gguf import GGUFReader

from mutants.damage import VALUES, pick

_ALIGNMENT = 32
# Keys that a file may have or lack, and values that somebody may write.
_NEW = (
    "{}.rope.scaling.type", "{}.rope.scaling.factor", "{}.rope.scale_linear",
    "{}.rope.scaling.original_context_length", "{}.rope.scaling.yarn_log_multiplier",
    "{}.rope.scaling.yarn_ext_factor", "{}.rope.scaling.attn_factor", "{}.rope.dimension_count",
    "{}.attention.sliding_window", "{}.attention.temperature_scale", "{}.expert_count",
    "{}.attention.value_length", "{}.vocab_size", "{}.x", "split.count", "split.no",
    "general.architecture", "general.alignment", "tokenizer.chat_template", "tokenizer.ggml.pre",
    "tokenizer.ggml.model", "tokenizer.ggml.merges", "tokenizer.ggml.scores",
    "tokenizer.ggml.bos_token_id", "tokenizer.ggml.padding_token_id",
    "tokenizer.ggml.unknown_token_id", "tokenizer.ggml.add_bos_token",
    "tokenizer.ggml.add_eos_token", "tokenizer.ggml.add_space_prefix",
    "tokenizer.ggml.remove_extra_whitespaces",
)  # fmt: skip
_LIKELY = (
    0, 1, 2, 3, 4, 6, 32, -1, 2**32 - 1, 0.0, 0.5, 1.0, 8.0, True, False, "none", "linear", "yarn",
    "longrope", "llama", "gpt2", "mistral3", "qwen2", "smollm3", "default", "tekken", "{{ x",
    [0.0], ["a b"], ["a", "b"], [-1000.0], [1, 2],
)  # fmt: skip


def mutate_fields(file, rng):
    """Damages one or two fields of a file; returns what they are."""
    fields, infos, data = _parts(file)
    done = []
    for _ in range(int(rng.integers(1, 3))):
        done.append(_damage(fields, rng))
    file.write_bytes(_joined(fields, infos, data))
    return [(key, repr(fields.get(key))[:80]) for key in done]


def _damage(fields, rng):
    """Changes a field; returns its key."""
    kind, key = int(rng.integers(6)), pick(rng, list(fields))
    value = fields[key]
    if kind == 0:
        del fields[key]
    elif kind == 1:
        fields[key] = copy.deepcopy(pick(rng, VALUES))
    elif kind == 2:
        fields[key] = copy.deepcopy(pick(rng, _LIKELY))
    elif kind == 3:
        architecture = fields.get("general.architecture", "llama")
        key = pick(rng, _NEW).replace("{}", str(architecture)[:20])
        fields[key] = copy.deepcopy(pick(rng, _LIKELY))
    elif isinstance(value, list) and value:
        fields[key] = _changed_list(list(value), rng)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        fields[key] = pick(rng, (value + 1, value * 2, -value, float(value), str(value), value / 2))
    else:
        fields[key] = fields[pick(rng, list(fields))]
    return key


def _changed_list(items, rng):
    """A list with one item changed, less items, or more."""
    kind, place = int(rng.integers(6)), int(rng.integers(len(items)))
    if kind == 0:
        return items[:place]
    if kind == 1:
        return items + items[place:]
    if kind == 2:
        return [*items[:place], *items[place + 1 :]]
    old = items[place]
    if isinstance(old, str):
        changes = ("", " ", "\u2581", "a b", old + "a", old[:-1], "\ud800", "x" * 2000)
        items[place] = pick(rng, changes)
    else:
        items[place] = type(old)(pick(rng, (0, 1, 3, 4, 6, 7, -1, -1000)))
    return items


def _parts(file):
    """The fields of a file, the descriptions of its tensors as bytes, and their numbers."""
    content, reader = file.read_bytes(), GGUFReader(file)
    fields = {k: f.contents() for k, f in reader.fields.items() if not k.startswith("GGUF.")}
    last = reader.tensors[-1].field
    end = int(last.offset) + sum(int(part.nbytes) for part in last.parts)
    infos = content[int(reader.tensors[0].field.offset) : end]
    return fields, (len(reader.tensors), infos), content[int(reader.data_offset) :]


def _joined(fields, infos, data):
    count, described = infos
    encoded = {key: _value(value) for key, value in fields.items()}
    encoded = {key: value for key, value in encoded.items() if value is not None}
    header = b"GGUF" + struct.pack("<IQQ", 3, count, len(encoded))
    header += b"".join(_string(key) + value for key, value in encoded.items()) + described
    return header + bytes(-len(header) % _ALIGNMENT) + data


def _string(text):
    raw = text.encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(raw)) + raw


_STRING, _ARRAY = 8, 9
# Type -> its number in the specification, and its form.
_FORMS = {
    "bool": (7, "<?"), "u32": (4, "<I"), "i32": (5, "<i"), "u64": (10, "<Q"), "i64": (11, "<q"),
    "f32": (6, "<f"), "f64": (12, "<d"),
}  # fmt: skip


def _kind(value):
    """The narrowest type for a value; numbers that no integer holds are floats."""
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int):
        bounds = {"u32": (0, 2**32), "u64": (0, 2**64), "i32": (-(2**31), 0), "i64": (-(2**63), 0)}
        return next((name for name, (low, high) in bounds.items() if low <= value < high), "f64")
    return "f32" if abs(value) < 3e38 else "f64"


def _number(kind, value):
    if kind in ("f32", "f64"):
        value = float(value) if abs(value) < 1e300 or value != value else float("inf")
        if kind == "f32" and not abs(value) < 3e38:
            value = float("inf")
    return struct.pack(_FORMS[kind][1], value)


def _value(value):
    """The type and the bytes of a value; None if GGUF has no such value."""
    if isinstance(value, str):
        return struct.pack("<I", _STRING) + _string(value)
    if isinstance(value, bool | int | float):
        kind = _kind(value)
        return struct.pack("<I", _FORMS[kind][0]) + _number(kind, value)
    if not isinstance(value, list) or any(isinstance(v, list | dict) or v is None for v in value):
        return None
    if not value or all(isinstance(v, str) for v in value):
        items, number = b"".join(map(_string, value)), _STRING
    elif any(isinstance(v, str) for v in value):
        items, number = b"".join(_string(str(v)) for v in value), _STRING
    else:
        kinds = {_kind(v) for v in value}
        is_small = all(-(2**31) <= v < 2**31 for v in value)
        kind = "f32" if "f32" in kinds else "i32" if is_small else "f64"
        items, number = b"".join(_number(kind, v) for v in value), _FORMS[kind][0]
    return struct.pack("<IIQ", _ARRAY, number, len(value)) + items
