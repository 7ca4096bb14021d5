"""Random damage to JSON settings, at any depth: a kind of damage for any file that holds them."""

import copy
import json

from mutants.damage import VALUES, pick, put

# What is not absurd, but may be wrong where it stands.
_LIKELY = (2, 4, 8, 16, 32, 128, 1e-5, 1.5, 1e6, "4", "9" * 5000, "\u0664", [2], [16, 16], ["x"],
           "default", "linear", "yarn", "group", "silu", "float16", "int32", True, False, None,
           {"factor": 2.0})  # fmt: skip


def settings_damage(name, *keys):
    """A kind of damage: of {file name: content}, one setting in the JSON file `name`.

    Args:
        name: of the file.
        keys: that lead to what is damaged; by default all of the file.
    """

    def settings(files, rng):
        tree = json.loads(files[name])
        part = tree
        for key in keys:
            part = part[key]
        damage(part, rng)
        return files | {name: json.dumps(tree).encode()}

    settings.__name__ = ".".join((name, *keys))
    return settings


def damage(tree, rng):
    """One value in a tree of objects is another, is gone, or is new."""
    kind = int(rng.integers(6))
    if kind == 0:
        put(tree, rng, copy.deepcopy(pick(rng, VALUES)))
    elif kind == 1:
        put(tree, rng, copy.deepcopy(pick(rng, _LIKELY)))
    elif kind == 2:  # without a key
        part, key = _place(tree, rng)
        del part[key]
    elif kind == 3:  # a value is that of another key
        part, key = _place(tree, rng)
        other, other_key = _place(tree, rng)
        part[key] = copy.deepcopy(other[other_key])
    elif kind == 4:  # a number is another one
        part, key = _place(tree, rng)
        value = part[key]
        if isinstance(value, int | float) and not isinstance(value, bool):
            part[key] = pick(
                rng, (value + 1, value - 1, value * 2, -value, float(value), value / 2)
            )
        else:
            part[key] = copy.deepcopy(pick(rng, _LIKELY))
    else:  # a key that nobody knows
        part, _ = _place(tree, rng)
        part[pick(rng, ("x", "format", "bits", "\x1b[2J", "x" * 10**4))] = pick(rng, _LIKELY)


def _place(tree, rng):
    """An object somewhere in a tree, and a key of it."""
    places = []

    def walk(part):
        for key, value in part.items():
            places.append((part, key))
            if isinstance(value, dict):
                walk(value)

    walk(tree)
    return pick(rng, places)
