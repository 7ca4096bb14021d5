"""The config of a model, read strictly from a Hugging Face `config.json`.

Strict means: every key is either read, listed as not affecting a forward pass, or refused by name.
A key that is dropped in silence is how ports go wrong without anybody noticing.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from reprlib import repr as short  # values in a file may be long
from typing import Any

from jaxdepth.errors import InputError, listed
from jaxdepth.files import read_json

# model_type -> what an absent key means there: num_key_value_heads (None: as many as query heads),
# sliding_window, max_position_embeddings. Source: the configuration classes of transformers.
FAMILIES = {
    "mistral": (8, 4096, 131072),
    "ministral": (8, 4096, 131072),
    "llama": (None, None, 2048),
    "qwen2": (32, 4096, 32768),
}
# Families that are often requested, and why the block would not stay simple with them.
_WHY_NOT = {
    "gemma": "it scales the embedding, and norms by 1 + weight",
    "gemma2": "it caps its logits softly and norms every layer four times",
    "gemma3": "it norms every layer four times, and queries and keys",
    "gemma3_text": "it norms every layer four times, and queries and keys",
    "mistral3": "it is a text model inside an image model",
    "mixtral": "it routes tokens to experts",
    "phi3": "it fuses its projections",
    "qwen3": "it norms queries and keys",
}

# Keys that do not change what a forward pass computes.
_HARMLESS = frozenset(
    """
    architectures attention_dropout bad_words_ids bos_token_id chunk_size_feed_forward
    decoder_start_token_id do_sample dtype eos_token_id finetuning_task generation_config
    hidden_dropout id2label initializer_range is_llama_config label2id max_length
    max_sequence_length min_length
    model_type num_beams output_attentions output_hidden_states pad_token_id prefix pretraining_tp
    problem_type repetition_penalty return_dict sep_token_id task_specific_params temperature
    tokenizer_class top_k top_p torch_dtype torchscript transformers.js_config transformers_version
    typical_p unk_token_id unsloth_fixed unsloth_version use_cache
    """.split()
)

# Keys that would change the numbers unless they hold this value (or null).
_ONLY = {
    "attention_bias": False,
    "mlp_bias": False,
    "hidden_act": "silu",
    "is_encoder_decoder": False,
    "add_cross_attention": False,
    "is_decoder": False,
    "partial_rotary_factor": 1.0,
    "pruned_heads": {},
    "rope_interleaved": False,
    "tie_encoder_decoder": False,
    "use_mrope": False,
}

_SIZES = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
)
_OTHER = (
    "num_key_value_heads",
    "head_dim",
    "rms_norm_eps",
    "rope_theta",
    "rope_scaling",
    "rope_parameters",
    "sliding_window",
    "layer_types",
    "tie_word_embeddings",
    "max_position_embeddings",
)
_QWEN2 = ("use_sliding_window", "max_window_layers")
_FULL, _SLIDING = "full_attention", "sliding_attention"
_MAX_LAYERS = 10_000  # a list is made of as many; no model comes near


@dataclass(frozen=True)
class Llama3Scaling:
    """How Llama 3.1 stretches RoPE to longer texts than it was pretrained on."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position_embeddings: int


@dataclass(frozen=True)
class RopeConfig:
    """Rotary position embedding: its base, and how it is scaled (None: not at all)."""

    theta: float
    scaling: Llama3Scaling | None = None


@dataclass(frozen=True)
class ModelConfig:
    """Everything about a model that its numbers depend on.

    Names are those of Hugging Face; the axis letter of each size is in brackets.
    """

    vocab_size: int  # [V]
    hidden_size: int  # [D]
    intermediate_size: int  # [F]
    num_hidden_layers: int  # [L]
    num_attention_heads: int  # [Q]
    num_key_value_heads: int  # [K]
    head_dim: int  # [H], need not be D / Q
    rms_norm_eps: float
    rope: RopeConfig
    sliding_window: int | None  # keys that a query sees, itself included; None: all before it
    tie_word_embeddings: bool  # the unembedding is the embedding
    max_position_embeddings: int  # longer inputs are refused
    sliding_layers: tuple[bool, ...] | None = None  # those that have the window; None: all
    qkv_bias: bool = False  # queries, keys and values are projected with a bias

    def __post_init__(self):
        for name in (*_SIZES, "num_key_value_heads", "head_dim", "max_position_embeddings"):
            _positive_int(name, getattr(self, name))
        if self.sliding_window is not None:
            _positive_int("sliding_window", self.sliding_window)
        slides = self.sliding_layers
        if slides and (self.sliding_window is None or len(slides) != self.num_hidden_layers):
            raise InputError(
                f"sliding_layers {slides} with sliding_window {self.sliding_window}: expected a "
                f"window, and one of true and false for each of {self.num_hidden_layers} layers"
            )
        if self.num_attention_heads % self.num_key_value_heads:
            raise InputError(
                f"num_attention_heads {self.num_attention_heads} is not a multiple of "
                f"num_key_value_heads {self.num_key_value_heads}: fix config.json"
            )
        if self.head_dim % 2:
            raise InputError(f"head_dim {self.head_dim} is odd, but RoPE rotates pairs")

    @classmethod
    def from_hf(cls, raw: Mapping[str, Any]) -> "ModelConfig":
        """The config of a `config.json` that was parsed to a mapping.

        Absent optional keys mean what they mean to transformers. Both forms of RoPE are read:
        `rope_theta` with `rope_scaling`, and transformers 5's `rope_parameters`.

        Raises:
            InputError: an unknown family, a key that would change the numbers, a bad value.
        """
        if not isinstance(raw, Mapping):
            raise InputError(f"config.json holds a {type(raw).__name__}, expected an object")
        family = raw.get("model_type")
        if not isinstance(family, str) or family not in FAMILIES:
            why = f" ({_WHY_NOT[str(family)]})" if str(family) in _WHY_NOT else ""
            raise InputError(
                f"unsupported architecture: model_type {short(family)}{why}; supported are "
                f"{', '.join(FAMILIES)}"
            )
        _refuse_unknown(raw, family)
        missing = [name for name in _SIZES if raw.get(name) is None]
        if missing:
            raise InputError(f"config.json lacks {listed(missing)}: the file is incomplete")

        def value(name: str, default):
            return default if raw.get(name) is None else raw[name]

        heads = _positive_int("num_attention_heads", raw["num_attention_heads"])
        kv_heads, _, positions = FAMILIES[family]
        # A null means "as many as query heads"; an absent key means the class default.
        kv_default = heads if "num_key_value_heads" in raw or kv_heads is None else kv_heads
        window, sliding = _windows(raw, family)
        return cls(
            **{name: raw[name] for name in _SIZES},
            num_key_value_heads=value("num_key_value_heads", kv_default),
            head_dim=value("head_dim", _positive_int("hidden_size", raw["hidden_size"]) // heads),
            rms_norm_eps=_number("rms_norm_eps", value("rms_norm_eps", 1e-6)),
            rope=_rope(raw),
            sliding_window=window,
            sliding_layers=sliding,
            qkv_bias=family == "qwen2",
            tie_word_embeddings=_boolean(raw, "tie_word_embeddings", False),
            max_position_embeddings=value("max_position_embeddings", positions),
        )


def read_config(path: Path) -> tuple[ModelConfig, dict]:
    """The config in a `config.json` file, and the file's own content.

    Raises:
        InputError: the file is missing, is not JSON, or describes a model that is not supported.
    """
    raw = read_json(path)
    return parse_config(raw, path), raw


def parse_config(raw: Mapping[str, Any], path: Path) -> ModelConfig:
    """The config in the content of a `config.json`; errors name its path."""
    try:
        return ModelConfig.from_hf(raw)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def _refuse_unknown(raw: Mapping[str, Any], family: str) -> None:
    recognised = {*_SIZES, *_OTHER, *_ONLY, *(_QWEN2 if family == "qwen2" else ())} | _HARMLESS
    unknown = [k for k in raw if k not in recognised and not k.startswith("_")]
    if unknown:
        raise InputError(
            f"unknown key {short(unknown[0])} = {short(raw[unknown[0]])} may change the numbers "
            "and is not implemented; if it does not matter to the forward pass, remove it from "
            "config.json"
        )
    for name, allowed in _ONLY.items():
        if raw.get(name) is not None and raw[name] != allowed:
            raise InputError(f"{name} = {short(raw[name])} is not implemented, only {allowed!r}")
    if family == "llama" and raw.get("sliding_window") is not None:
        raise InputError(
            f"sliding_window = {short(raw['sliding_window'])} in a llama config is ignored by "
            "transformers; set it to null, or model_type to mistral"
        )


def _windows(raw: Mapping[str, Any], family: str) -> tuple[int | None, tuple[bool, ...] | None]:
    """The sliding window (None: no layer has one), and which layers have it (None: all of them)."""
    layers = _positive_int("num_hidden_layers", raw["num_hidden_layers"])
    window = raw.get("sliding_window", FAMILIES[family][1])
    if window is not None:
        _positive_int("sliding_window", window)
    first = 0
    if family == "qwen2":
        window = window if _boolean(raw, "use_sliding_window", False) else None
        first = raw.get("max_window_layers", 28)
        if isinstance(first, bool) or not isinstance(first, int) or first < 0:
            raise InputError(f"max_window_layers is {short(first)}, expected a whole number")
    kinds = raw.get("layer_types")
    if kinds is None and (window is None or first == 0):
        return window, None
    if layers > _MAX_LAYERS:
        raise InputError(f"num_hidden_layers is {layers}, expected at most {_MAX_LAYERS}")
    if kinds is None:
        kinds = [_SLIDING if i >= first else _FULL for i in range(layers)]
    is_valid = isinstance(kinds, list) and all(k in (_FULL, _SLIDING) for k in kinds)
    if not is_valid or len(kinds) != layers:
        raise InputError(
            f"layer_types is {short(kinds)}, expected a list of {layers}, each {_FULL!r} or "
            f"{_SLIDING!r}"
        )
    if family in ("mistral", "llama") and set(kinds) != {_FULL if window is None else _SLIDING}:
        raise InputError(
            f"layer_types differ from sliding_window = {window!r} in a {family} config, where "
            "transformers ignores them; remove them, or set model_type to ministral"
        )
    if _SLIDING not in kinds:
        return None, None
    if window is None:
        raise InputError(f"layer_types has {_SLIDING!r}, but there is no sliding_window")
    return window, tuple(k == _SLIDING for k in kinds) if _FULL in kinds else None


def _rope(raw: Mapping[str, Any]) -> RopeConfig:
    new, scaling = raw.get("rope_parameters"), raw.get("rope_scaling")
    for name in ("rope_parameters", "rope_scaling"):
        if not isinstance(raw.get(name), Mapping | None):
            raise InputError(f"{name} is {short(raw[name])}, expected an object")
    if new is not None and scaling is not None and dict(new) != dict(scaling):
        raise InputError("rope_parameters and rope_scaling disagree: keep one of them")
    rope = dict(new if new is not None else scaling or {})
    given = [t for t in (rope.pop("rope_theta", None), raw.get("rope_theta")) if t is not None]
    thetas = {_number("rope_theta", theta) for theta in given}
    if len(thetas) > 1:
        raise InputError(f"two values of rope_theta: {sorted(thetas)}; keep one of them")
    theta = thetas.pop() if thetas else 10000.0
    named = (rope.pop(key, None) for key in ("rope_type", "type"))
    kinds = {str(name) for name in named if name is not None}
    kind = kinds.pop() if len(kinds) == 1 else "default" if not kinds else sorted(kinds)
    if rope.pop("partial_rotary_factor", 1.0) != 1.0:
        raise InputError("partial_rotary_factor other than 1.0 is not implemented")
    if kind == "default" and not rope:
        return RopeConfig(theta)
    if kind != "llama3":
        extra = f" with {listed(rope)}" if rope else ""
        raise InputError(
            f"RoPE type {short(kind)}{extra} is not implemented, only 'default' and 'llama3'"
        )
    fields = tuple(Llama3Scaling.__dataclass_fields__)
    if set(rope) != set(fields):
        raise InputError(
            f"llama3 RoPE scaling has the keys {sorted(rope)}, expected {sorted(fields)}"
        )
    factor, low, high, original = (_number(name, rope[name]) for name in fields)
    if low == high:
        raise InputError("llama3 RoPE scaling: low_freq_factor equals high_freq_factor")
    return RopeConfig(theta, Llama3Scaling(factor, low, high, int(original)))


def _positive_int(name: str, value) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InputError(f"{name} is {short(value)}, expected a positive whole number")
    return value


def _number(name: str, value) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e300:
        raise InputError(f"{name} is {short(value)}, expected a positive number")
    return float(value)


def _boolean(raw: Mapping[str, Any], name: str, default: bool) -> bool:
    value = raw.get(name, default)
    if not isinstance(value, bool):
        raise InputError(f"{name} is {short(value)}, expected true or false")
    return value
