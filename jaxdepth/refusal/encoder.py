"""A sentence encoder from a folder: how much an answer is about what its prompt is about.

The folder is one that sentence-transformers writes, with the architecture of BERT: config.json,
model.safetensors and tokenizer.json, and where it has them modules.json, 1_Pooling/config.json
(else the mean is taken) and sentence_bert_config.json (else texts may be as long as the model
allows). Nothing but safetensors and JSON is read: other formats can run code when they are loaded.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float
from tokenizers import Tokenizer

from jaxdepth.errors import InputError, at_least, listed, one_line
from jaxdepth.files import file_digest, open_arrays, read_json
from jaxdepth.refusal.bert import Params, check_config, encode, stack_params

_WEIGHTS, _TOKENIZER, _CONFIG = "model.safetensors", "tokenizer.json", "config.json"
_MODULES, _POOLING = "modules.json", "1_Pooling/config.json"
_LENGTH, _PROMPTS = "sentence_bert_config.json", "config_sentence_transformers.json"
_POOLINGS = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls"}
_PAD_TO = 16  # lengths are padded to multiples of it, so that few programs are compiled


@dataclass(frozen=True, eq=False)
class Encoder:
    """Turns texts into vectors of unit length."""

    config: dict  # config.json
    params: Params
    tokenizer: Tokenizer  # adds special tokens, truncates, does not pad
    pooling: str  # mean or cls
    lowercase: bool  # whether texts become lower case before they are tokenized
    identity: str  # SHA-256 of the files that decide a vector

    @classmethod
    def open(cls, path: str | Path) -> "Encoder":
        """Read an encoder.

        Raises:
            InputError: a file is missing or damaged, or the encoder has an architecture,
                activation, pooling or kind of positions that is not implemented.
        """
        folder = Path(path)
        if not folder.is_dir():
            raise InputError(f"{folder} is not a folder: expected one with a sentence encoder")
        config = _read_object(folder / _CONFIG)
        check_config(config, str(folder / _CONFIG))
        _check_pipeline(folder)
        pooling = _read_pooling(folder / _POOLING)
        reading = _read_object(folder / _LENGTH, optional=True)
        length = reading.get("max_seq_length") or config["max_position_embeddings"]
        if type(length) is not int or length < 3:
            raise InputError(
                f"{folder / _LENGTH}: max_seq_length is {length!r}, expected 3 or more"
            )
        length = min(length, config["max_position_embeddings"])
        tokenizer = _read_tokenizer(folder / _TOKENIZER, config["vocab_size"], length)
        if not (folder / _WEIGHTS).is_file():
            raise InputError(f"{folder} has no {_WEIGHTS}: only safetensors is read, no pickles")
        arrays, _ = open_arrays(folder / _WEIGHTS)
        params = stack_params(config, arrays, str(folder / _WEIGHTS))
        files = [folder / f for f in (_CONFIG, _WEIGHTS, _TOKENIZER, _POOLING, _LENGTH)]
        digests = [file_digest(file) if file.exists() else "" for file in files]
        identity = hashlib.sha256(" ".join(digests).encode()).hexdigest()
        return cls(config, params, tokenizer, pooling, bool(reading.get("do_lower_case")), identity)

    def embed(self, texts: Sequence[str], batch_size: int = 32) -> Float[np.ndarray, "N D"]:
        """Vectors of unit length, float32; equal texts are encoded once.

        Args:
            texts: N texts; what is longer than the encoder reads is truncated.
            batch_size: texts that are encoded together.

        Raises:
            InputError: `batch_size` is below 1.
        """
        at_least(1, batch_size=batch_size)
        row_of = {text: row for row, text in enumerate(dict.fromkeys(texts))}
        distinct = [text.lower() for text in row_of] if self.lowercase else list(row_of)
        ids = [encoding.ids for encoding in self.tokenizer.encode_batch(distinct)]
        by_length = sorted(range(len(ids)), key=lambda row: len(ids[row]))  # little padding
        vectors = np.empty((len(ids), self.config["hidden_size"]), np.float32)
        for start in range(0, len(ids), batch_size):
            rows = by_length[start : start + batch_size]
            vectors[rows] = self._encode([ids[row] for row in rows])[: len(rows)]
        return vectors[[row_of[text] for text in texts]]

    def cosine(self, prompts: Sequence[str], texts: Sequence[str]) -> Float[np.ndarray, " N"]:
        """The cosine of each prompt's vector with that of its text, from -1 to 1.

        Raises:
            InputError: there are more or fewer prompts than texts.
        """
        if len(prompts) != len(texts):
            raise InputError(f"{len(prompts)} prompts for {len(texts)} texts: expected as many")
        vectors = self.embed([*prompts, *texts])
        cosines = np.sum(vectors[: len(prompts)] * vectors[len(prompts) :], axis=-1)
        return np.clip(cosines, -1, 1)

    def _encode(self, ids: Sequence[Sequence[int]]) -> np.ndarray:
        """The vectors of a batch, then those of rows that make their number a power of two."""
        length = -(-max(map(len, ids)) // _PAD_TO) * _PAD_TO
        length = min(length, self.config["max_position_embeddings"])
        tokens_BS = np.zeros((1 << (len(ids) - 1).bit_length(), length), np.int32)
        lengths_B = np.ones(len(tokens_BS), np.int32)
        for row, sequence in enumerate(ids):
            tokens_BS[row, : len(sequence)] = sequence
            lengths_B[row] = len(sequence)
        heads, epsilon = self.config["num_attention_heads"], self.config["layer_norm_eps"]
        return np.asarray(encode(self.params, tokens_BS, lengths_B, heads, epsilon, self.pooling))


def _read_object(file: Path, optional: bool = False) -> dict:
    content = {} if optional and not file.exists() else read_json(file)
    if not isinstance(content, dict):
        raise InputError(f"{file} is not a JSON object: fetch it again")
    return content


def _check_pipeline(folder: Path) -> None:
    """Check that the encoder is a transformer and a pooling, and puts nothing before a text."""
    file = folder / _MODULES
    modules = read_json(file) if file.exists() else []
    if not isinstance(modules, list) or not all(isinstance(m, dict) for m in modules):
        raise InputError(f"{file} is not a list of modules: fetch it again")
    kinds = [str(m.get("type")).rpartition(".")[2] + f" in {m.get('path')!r}" for m in modules]
    expected = ["Transformer in ''", "Pooling in '1_Pooling'", "Normalize in '2_Normalize'"]
    if kinds and kinds not in (expected, expected[:2]):
        raise InputError(f"{file} has {listed(kinds, 4)}, expected {', '.join(expected)}")
    prompt = _read_object(folder / _PROMPTS, optional=True).get("default_prompt_name")
    if prompt is not None:
        raise InputError(f"{folder / _PROMPTS} has the default prompt {prompt!r}, expected none")


def _read_pooling(file: Path) -> str:
    fields = _read_object(file, optional=True)
    flags = [key for key, on in fields.items() if key.startswith("pooling_mode_") and on]
    by_flags = " and ".join(_POOLINGS.get(flag, flag) for flag in flags)  # as in older files
    pooling = fields.get("pooling_mode", by_flags) if fields else "mean"
    if pooling not in _POOLINGS.values():
        raise InputError(f"{file}: the pooling is {pooling!r}, expected 'mean' or 'cls'")
    return pooling


def _read_tokenizer(file: Path, vocab_size: int, length: int) -> Tokenizer:
    if not file.is_file():
        raise InputError(f"{file} is missing: expected the encoder's tokenizer")
    try:
        tokenizer = Tokenizer.from_file(str(file))
        tokenizer.no_padding()
        tokenizer.enable_truncation(length)
        special_ids = tokenizer.encode("").ids
    except Exception as error:  # tokenizers raises plain Exception
        raise InputError(f"{file} cannot be read ({one_line(error)}): fetch it again") from None
    last = max(tokenizer.get_vocab().values())
    if not special_ids or last >= vocab_size:
        raise InputError(
            f"{file} has {len(special_ids)} tokens around a text and ids up to {last}, expected "
            f"[CLS] and [SEP], and ids below {vocab_size}: it belongs to another model"
        )
    return tokenizer
