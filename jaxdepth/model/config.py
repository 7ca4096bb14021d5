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
from jaxdepth.model.families import FAMILIES, FUSED, WHY_NOT, WRAPPERS, Family
from jaxdepth.model.rope_config import QueryScaling, RopeConfig, number, read_rope

# Keys that do not change what a forward pass computes.
_HARMLESS = frozenset(
    """
    architectures attention_dropout attn_implementation auto_map bad_words_ids begin_suppress_tokens
    bos_token_id chunk_size_feed_forward classifier_dropout cross_attention_hidden_size
    decoder_start_token_id diversity_penalty do_sample dtype early_stopping embd_pdrop
    encoder_no_repeat_ngram_size eos_token_id exponential_decay_length_penalty finetuning_task
    forced_bos_token_id forced_eos_token_id generation_config gradient_checkpointing hidden_dropout
    id2label initializer_range is_llama_config label2id length_penalty max_length max_new_tokens
    max_sequence_length max_window_layers min_length min_new_tokens model_max_length model_type
    name_or_path neftune_noise_alpha no_repeat_ngram_size num_beam_groups num_beams num_labels
    num_return_sequences original_max_position_embeddings output_attentions output_hidden_states
    output_scores pad_token_id prefix pretraining_tp problem_type remove_invalid_values
    repetition_penalty resid_pdrop return_dict return_dict_in_generate sep_token_id suppress_tokens
    task_specific_params temperature tf_legacy_loss tie_last_hidden_states tokenizer_class
    tokenizer_model_max_length tokenizer_padding_side top_k top_p torch_dtype torchscript
    transformers.js_config transformers_version typical_p unk_token_id unsloth_fixed
    unsloth_version use_bfloat16 use_cache
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
    "use_sliding_window": False,  # of families that do not read it
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
# Keys of an image model beside its text model.
_OF_WRAPPERS = (
    "image_token_id",
    "image_token_index",
    "multimodal_projector_bias",
    "projector_hidden_act",
    "spatial_merge_size",
    "text_config",
    "tie_word_embeddings",
    "vision_config",
    "vision_feature_layer",
)
_FULL, _SLIDING = "full_attention", "sliding_attention"
MAX_LAYERS = 10_000  # a list is made of as many; no model comes near


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
    qk_norm: bool = False  # each head of queries and keys is normalised before RoPE
    rope_layers: tuple[bool, ...] | None = None  # those that rotate queries and keys; None: all
    query_scaling: QueryScaling | None = None  # queries grow with their position

    def __post_init__(self):
        for name in (*_SIZES, "num_key_value_heads", "head_dim", "max_position_embeddings"):
            _positive_int(name, getattr(self, name))
        if self.sliding_window is not None:
            _positive_int("sliding_window", self.sliding_window)
        slides, layers = self.sliding_layers, self.num_hidden_layers
        if slides and (self.sliding_window is None or len(slides) != layers):
            raise InputError(
                f"sliding_layers {slides} with sliding_window {self.sliding_window}: expected a "
                f"window, and one of true and false for each of {layers} layers"
            )
        if self.rope_layers and len(self.rope_layers) != layers:
            raise InputError(f"rope_layers has {len(self.rope_layers)} entries for {layers} layers")
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

        Absent optional keys mean what they mean to transformers. Of an image model it is that of
        its text model.

        Raises:
            InputError: an unknown family, a key that would change the numbers, a bad value.
        """
        raw = block_config(raw)
        name = raw.get("model_type")
        if not isinstance(name, str) or name not in FAMILIES:
            why = f" ({WHY_NOT[str(name)]})" if str(name) in WHY_NOT else ""
            raise InputError(
                f"unsupported architecture: model_type {short(name)}{why}; supported are "
                f"{', '.join([*FAMILIES, *WRAPPERS, *FUSED])}"
            )
        family = FAMILIES[name]
        _refuse_unknown(raw, {*_SIZES, *_OTHER, *family.keys}, name)
        missing = [name for name in _SIZES if raw.get(name) is None]
        if missing:
            raise InputError(f"config.json lacks {listed(missing)}: the file is incomplete")

        def value(name: str, default):
            return default if raw.get(name) is None else raw[name]

        heads = _positive_int("num_attention_heads", raw["num_attention_heads"])
        width = _positive_int("hidden_size", raw["hidden_size"])
        layers = _positive_int("num_hidden_layers", raw["num_hidden_layers"])
        # A null means "as many as query heads"; an absent key means the class default.
        kv_default = heads if "num_key_value_heads" in raw else family.kv_heads or heads
        max_positions = _positive_int(
            "max_position_embeddings", value("max_position_embeddings", family.max_positions)
        )
        rope, query_scaling = read_rope(raw, family, max_positions)
        rope_layers = _rope_layers(raw, layers) if "no_rope_layers" in family.keys else None
        window, sliding = _windows(raw, family, layers, rope_layers)
        return cls(
            **{name: raw[name] for name in _SIZES},
            num_key_value_heads=value("num_key_value_heads", kv_default),
            head_dim=value("head_dim", family.head_dim or width // heads),
            rms_norm_eps=number("rms_norm_eps", value("rms_norm_eps", family.rms_norm_eps)),
            rope=rope,
            sliding_window=window,
            sliding_layers=sliding,
            qkv_bias=family.qkv_bias,
            qk_norm=family.qk_norm,
            rope_layers=rope_layers,
            query_scaling=query_scaling,
            tie_word_embeddings=_boolean(raw, "tie_word_embeddings", family.ties_head),
            max_position_embeddings=max_positions,
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


def block_config(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """The config of what is read of a model, one of `FAMILIES`; of most it is the model's own.

    Of an image model it is that of its text model, with what they share. A family whose files fuse
    matrices is read as Mistral's. The head of a text model is the embedding unless the image
    model's own config says otherwise: transformers 5 reads that one only, and its default is true.

    Raises:
        InputError: there is none, or a key of the image model is unknown.
    """
    if not isinstance(raw, Mapping):
        raise InputError(f"config.json holds a {type(raw).__name__}, expected an object")
    wrapper = raw.get("model_type")
    if isinstance(wrapper, str) and wrapper in FUSED:
        stated = {k: v for k, v in raw.items() if v is not None and k != "auto_map"}
        changed = {"model_type": "mistral", "architectures": ["MistralForCausalLM"]}
        return FUSED[wrapper] | stated | changed
    if not isinstance(wrapper, str) or wrapper not in WRAPPERS:
        return raw
    text = raw.get("text_config")
    if not isinstance(text, Mapping):
        raise InputError(f"text_config of {wrapper} is {short(text)}, expected an object")
    _refuse_unknown(raw, set(_OF_WRAPPERS), wrapper)
    shared = ("eos_token_id", "bos_token_id", "pad_token_id", "torch_dtype", "dtype")
    config = {key: raw[key] for key in shared if key in raw} | dict(text)
    tied = raw.get("tie_word_embeddings")
    return config | {
        "model_type": text.get("model_type") or WRAPPERS[wrapper],
        "tie_word_embeddings": True if tied is None else tied,
    }


def _refuse_unknown(raw: Mapping[str, Any], read: set[str], family: str) -> None:
    """Refuse all keys at once that are neither read nor known to change nothing."""
    problems = []
    for name, value in sorted(raw.items(), key=lambda item: str(item[0])):
        if value is None or name in read or name in _HARMLESS or name.startswith("_"):
            continue
        if name not in _ONLY:
            problems.append(f"{short(name)} = {short(value)}")
        elif value != _ONLY[name]:
            problems.append(f"{name} = {short(value)} (only {_ONLY[name]!r})")
    if problems:
        plural = "keys" if len(problems) > 1 else "key"
        raise InputError(
            f"{plural} {listed(problems, len(problems))} may change the numbers, not implemented; "
            "if not, convert a copy of the folder whose config.json lacks what does not matter"
        )
    if family == "llama" and raw.get("sliding_window") is not None:
        raise InputError(
            f"sliding_window = {short(raw['sliding_window'])} in a llama config is ignored by "
            "transformers; in a copy of the folder set it to null, or model_type to mistral"
        )


def _rope_layers(raw: Mapping[str, Any], layers: int) -> tuple[bool, ...] | None:
    """Which layers rotate queries and keys (None: all), by SmolLM3's keys."""
    _check_layer_count(layers)
    rotated = raw.get("no_rope_layers")
    if rotated is None:
        interval = raw.get("no_rope_layer_interval")
        interval = 4 if interval is None else _positive_int("no_rope_layer_interval", interval)
        rotated = [int((i + 1) % interval != 0) for i in range(layers)]
    is_valid = isinstance(rotated, list) and all(r in (0, 1) for r in rotated)
    if not is_valid or len(rotated) < layers:
        raise InputError(
            f"no_rope_layers is {short(rotated)}, expected 1 (RoPE) or 0 (none) for each of "
            f"{layers} layers"
        )
    return None if all(rotated[:layers]) else tuple(bool(r) for r in rotated[:layers])


def _check_layer_count(layers: int) -> None:
    if layers > MAX_LAYERS:
        raise InputError(f"num_hidden_layers is {layers}, expected at most {MAX_LAYERS}")


def _windows(
    raw: Mapping[str, Any],
    family: Family,
    layers: int,
    rope_layers: tuple[bool, ...] | None,
) -> tuple[int | None, tuple[bool, ...] | None]:
    """The sliding window (None: no layer has one), and which layers have it (None: all of them)."""
    window, first = raw.get("sliding_window", family.window), 0
    if window is not None:
        _positive_int("sliding_window", window)
    if "use_sliding_window" in family.keys:
        window = window if _boolean(raw, "use_sliding_window", False) else None
        first = raw.get("max_window_layers", 28)
        if isinstance(first, bool) or not isinstance(first, int) or first < 0:
            raise InputError(f"max_window_layers is {short(first)}, expected a whole number")
    kinds = raw.get("layer_types")
    has_nope = "no_rope_layers" in family.keys
    if kinds is None and (window is None or (first == 0 and not has_nope)):
        return window, None
    _check_layer_count(layers)
    if kinds is None and has_nope:  # in SmolLM3 the layers without RoPE have the window
        kinds = [_FULL if rotates else _SLIDING for rotates in rope_layers or (True,) * layers]
    elif kinds is None:
        kinds = [_SLIDING if i >= first else _FULL for i in range(layers)]
    is_valid = isinstance(kinds, list) and all(k in (_FULL, _SLIDING) for k in kinds)
    if not is_valid or len(kinds) != layers:
        raise InputError(
            f"layer_types is {short(kinds)}, expected a list of {layers}, each {_FULL!r} or "
            f"{_SLIDING!r}"
        )
    if not family.layer_types_count and set(kinds) != {_FULL if window is None else _SLIDING}:
        raise InputError(
            f"layer_types differ from sliding_window = {window!r} in a {raw['model_type']} config, "
            "where transformers ignores them; in a copy of the folder remove them, or set "
            "model_type to ministral"
        )
    if _SLIDING not in kinds:
        return None, None
    if window is None:
        raise InputError(f"layer_types has {_SLIDING!r}, but there is no sliding_window")
    return window, tuple(k == _SLIDING for k in kinds) if _FULL in kinds else None


def _positive_int(name: str, value) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InputError(f"{name} is {short(value)}, expected a positive whole number")
    return value


def _boolean(raw: Mapping[str, Any], name: str, default: bool) -> bool:
    value = default if raw.get(name) is None else raw[name]
    if not isinstance(value, bool):
        raise InputError(f"{name} is {short(value)}, expected true or false")
    return value
