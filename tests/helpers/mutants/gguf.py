"""Random damage to a GGUF file.

Each kind of damage takes the content, a random generator and the length of the header.
"""

import struct

import numpy as np
from gguf import GGUFReader

from mutants.damage import flipped, pick


def mutate_gguf(file, rng):
    """Damages a GGUF file; returns the kind of damage."""
    content, rng = file.read_bytes(), np.random.default_rng(rng.getrandbits(64))
    kind = pick(rng, GGUF_KINDS)
    file.write_bytes(kind(content, rng, GGUFReader(file).data_offset))
    return kind.__name__


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
