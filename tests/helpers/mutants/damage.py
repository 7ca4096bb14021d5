"""What damage is made of: values that nobody expects, and ways to put them into files."""

import gzip
import io
import zipfile

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
