"""The tokens of a GGUF file, with their types, and the numbers and flags that name some of them."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from reprlib import repr as short  # values in a file may be long
from typing import Any

from tokenizers import AddedToken

from jaxdepth.errors import InputError

# Token types of the GGUF specification.
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
_PREFIX = "tokenizer.ggml."
_NO_TOKEN = (None, -1, 2**32 - 1)  # llama.cpp's writer gives a token that there is not an id of -1


@dataclass(frozen=True)
class Vocabulary:
    """What a file says of its tokenizer."""

    tokens: list[str]  # in order of their ids
    types: list[int]  # of each token
    fields: Mapping[str, Any]  # the file's metadata

    @property
    def ids(self) -> dict[str, int]:
        """The id of every token."""
        return {token: i for i, token in enumerate(self.tokens)}

    def get(self, name: str, default: Any = None) -> Any:
        """The value of `tokenizer.ggml.NAME`."""
        return self.fields.get(_PREFIX + name, default)

    def listed(self, name: str) -> list:
        """The list `tokenizer.ggml.NAME`.

        Raises:
            InputError: there is none.
        """
        return _list(self.fields, name)

    def flag(self, name: str, default: bool) -> bool:
        """The value of `tokenizer.ggml.NAME`, which is true or false.

        Raises:
            InputError: it is something else.
        """
        value = self.get(name, default)
        if not isinstance(value, bool):
            raise InputError(f"{_PREFIX}{name} is {short(value)}, expected true or false")
        return value

    def special(self, name: str, default: int | None = None) -> int | None:
        """The id of the token that `tokenizer.ggml.NAME_token_id` names; None if there is none.

        Args:
            name: "bos", "eos", "unknown", "padding".
            default: what an absent key means.

        Raises:
            InputError: it is not the id of a token.
        """
        token_id = special_id(self.fields, name)
        if token_id is None and f"{_PREFIX}{name}_token_id" not in self.fields:
            token_id = default
        if token_id is not None and token_id >= len(self.tokens):
            raise InputError(
                f"{_PREFIX}{name}_token_id is {token_id}, but there are {len(self.tokens)} tokens: "
                "fetch the file again"
            )
        return token_id

    def added_token(self, token_id: int) -> AddedToken:
        """A token that is found in a text before anything else; control tokens are special."""
        is_control = self.types[token_id] == CONTROL
        return AddedToken(self.tokens[token_id], special=is_control, normalized=False)


def read_vocabulary(fields: Mapping[str, Any]) -> Vocabulary:
    """The tokens of a file and their types.

    Raises:
        InputError: they are missing or damaged.
    """
    tokens, types = _list(fields, "tokens"), _list(fields, "token_type")
    if len(types) != len(tokens) or not all(isinstance(t, str) for t in tokens):
        raise InputError(
            f"the GGUF tokenizer is damaged ({len(tokens)} tokens, {len(types)} types): fetch the "
            "file again"
        )
    (token, count) = Counter(tokens).most_common(1)[0] if tokens else ("", 0)
    if count > 1:
        raise InputError(
            f"the GGUF tokenizer is damaged (token {short(token)} has {count} ids): fetch the file "
            "again"
        )
    return Vocabulary(tokens, types, fields)


def special_id(fields: Mapping[str, Any], name: str) -> int | None:
    """The id that `tokenizer.ggml.NAME_token_id` gives; None if it gives none.

    Raises:
        InputError: it is not a whole number from 0 on.
    """
    token_id = fields.get(f"{_PREFIX}{name}_token_id")
    if token_id in _NO_TOKEN:
        return None
    if isinstance(token_id, bool) or not isinstance(token_id, int) or token_id < 0:
        raise InputError(f"{_PREFIX}{name}_token_id is {short(token_id)}, expected a token id")
    return token_id


def _list(fields: Mapping[str, Any], name: str) -> list:
    value = fields.get(_PREFIX + name)
    if not isinstance(value, list):
        raise InputError(
            f"the GGUF tokenizer has no {_PREFIX}{name}: fetch the file again, convert the "
            "safetensors of this model, or pass --no-tokenizer"
        )
    return value
