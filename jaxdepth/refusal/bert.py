"""BERT as an encoder: a vector of unit length for each text.

Parameters keep the names and shapes that they have in the file, those of layers with a leading L
axis. Numbers follow transformers' `models/bert/modeling_bert.py`.

Source: Devlin et al. 2018 (arXiv:1810.04805); pooling: Reimers & Gurevych 2019 (arXiv:1908.10084).
"""

import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxdepth.errors import InputError, listed
from jaxdepth.model import AnyArray
from jaxdepth.model.attention import HIGHEST

# Fields of config.json that change the computation, and their one value that is implemented.
_ONLY = {"hidden_act": "gelu", "position_embedding_type": "absolute", "is_decoder": False}
_SIZES = (
    *("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads"),
    *("intermediate_size", "max_position_embeddings", "type_vocab_size"),
)
_FLOATS = ("float16", "bfloat16", "float32", "float64")

Params = Mapping[str, Float[Array, "..."]]
Shapes = dict[str, tuple[int, ...]]


def check_config(config: Mapping, name: str) -> None:
    """Check that a parsed config.json, which messages call `name`, is of a BERT that runs here.

    Raises:
        InputError: it is another architecture, or a form of BERT that is not implemented.
    """
    for field, only in {"model_type": "bert", **_ONLY}.items():
        value = config.get(field, _ONLY.get(field))
        if value != only:
            raise InputError(
                f"{name}: {field} is {value!r}, expected {only!r}: name a sentence encoder of the "
                "architecture BERT, such as all-MiniLM-L6-v2"
            )
    for field in _SIZES:
        if type(config.get(field)) is not int or config[field] < 1:
            raise InputError(f"{name}: {field} is {config.get(field)!r}, expected a whole number")
    if config["hidden_size"] % config["num_attention_heads"]:
        raise InputError(f"{name}: hidden_size is not a multiple of num_attention_heads")
    epsilon = config.get("layer_norm_eps")
    if type(epsilon) is not float or not 0 < epsilon < 1:
        raise InputError(f"{name}: layer_norm_eps is {epsilon!r}, expected a number from 0 to 1")


def stack_params(config: Mapping, arrays: Mapping[str, np.ndarray], name: str) -> Params:
    """The parameters that `encode` takes, float32, from all arrays of the file called `name`.

    Raises:
        InputError: one is missing, of another shape than the config says, no float or not finite,
            or the number of layers differs.
    """
    arrays = {key.removeprefix("bert."): array for key, array in arrays.items()}
    layers = {key.split(".")[2] for key in arrays if key.startswith("encoder.layer.")}
    if len(layers) != config["num_hidden_layers"]:
        expected = f"expected {config['num_hidden_layers']} as in config.json"
        raise InputError(f"{name} has {len(layers)} layers of BERT, {expected}")
    outer, inner = _shapes(config)
    keys = {key: [f"encoder.layer.{i}.{key}" for i in range(len(layers))] for key in inner}
    shapes = outer | {path: inner[key] for key, paths in keys.items() for path in paths}
    missing = [path for path in shapes if path not in arrays]
    if missing:
        raise InputError(f"{name} lacks {listed(missing)}: expected all weights of BERT")
    for path, shape in shapes.items():
        found, dtype = arrays[path].shape, arrays[path].dtype.name
        if found != shape or dtype not in _FLOATS:
            raise InputError(f"{name}: {path} is {found} {dtype}, expected {shape} floats")
        arrays[path] = arrays[path].astype(np.float32)
        if not np.isfinite(arrays[path]).all():
            raise InputError(f"{name}: {path} has values that are NaN or infinite: fetch it again")
    stacked = {key: np.stack([arrays[path] for path in paths]) for key, paths in keys.items()}
    stacked |= {key: arrays[key] for key in outer}
    return {key: jnp.asarray(array) for key, array in stacked.items()}


def _shapes(config: Mapping) -> tuple[Shapes, Shapes]:
    """The shapes of the parameters outside the layers, and of those of one layer."""
    width, mlp = config["hidden_size"], config["intermediate_size"]
    matrices = {
        **{f"attention.self.{kind}": (width, width) for kind in ("query", "key", "value")},
        "attention.output.dense": (width, width),
        "intermediate.dense": (mlp, width),
        "output.dense": (width, mlp),
    }
    outer: Shapes = {
        "embeddings.word_embeddings.weight": (config["vocab_size"], width),
        "embeddings.position_embeddings.weight": (config["max_position_embeddings"], width),
        "embeddings.token_type_embeddings.weight": (config["type_vocab_size"], width),
    }
    inner: Shapes = {f"{k}.weight": shape for k, shape in matrices.items()}
    inner |= {f"{key}.bias": shape[:1] for key, shape in matrices.items()}
    for part in ("weight", "bias"):
        outer[f"embeddings.LayerNorm.{part}"] = (width,)
        inner[f"attention.output.LayerNorm.{part}"] = (width,)
        inner[f"output.LayerNorm.{part}"] = (width,)
    return outer, inner


@functools.partial(jax.jit, static_argnames=("heads", "epsilon", "pooling"))
def encode(
    params: Params,
    tokens_BS: Int[AnyArray, "B S"],
    lengths_B: Int[AnyArray, " B"],
    heads: int,
    epsilon: float,
    pooling: str,
) -> Float[Array, "B D"]:
    """One vector of unit length for each sequence, float32.

    Args:
        params: from `stack_params`.
        tokens_BS: padded on the right with any token.
        lengths_B: the tokens of each sequence, at least 1, without padding.
        heads: of attention.
        epsilon: of LayerNorm.
        pooling: `mean` of the last layer over a sequence, or `cls`, its first position.
    """
    length = tokens_BS.shape[1]
    word_VD = params["embeddings.word_embeddings.weight"]
    position_SD = params["embeddings.position_embeddings.weight"][:length]
    type_D = params["embeddings.token_type_embeddings.weight"][0]  # a text is one segment
    h_BSD = word_VD[tokens_BS] + position_SD + type_D
    h_BSD = _layer_norm(h_BSD, params, "embeddings.LayerNorm", epsilon)

    def run_layer(h_BSD, layer):
        kinds = [_linear(h_BSD, layer, f"attention.self.{k}") for k in ("query", "key", "value")]
        q, k, v = (flat.reshape(*tokens_BS.shape, heads, -1) for flat in kinds)
        with jax.default_matmul_precision(HIGHEST.name.lower()):
            mixed = jax.nn.dot_product_attention(q, k, v, key_value_seq_lengths=lengths_B)
        mixed = _linear(mixed.reshape(h_BSD.shape), layer, "attention.output.dense")
        h_BSD = _layer_norm(h_BSD + mixed, layer, "attention.output.LayerNorm", epsilon)
        mixed = jax.nn.gelu(_linear(h_BSD, layer, "intermediate.dense"), approximate=False)
        mixed = _linear(mixed, layer, "output.dense")
        return _layer_norm(h_BSD + mixed, layer, "output.LayerNorm", epsilon), None

    layers = {key: array for key, array in params.items() if not key.startswith("embeddings.")}
    h_BSD, _ = jax.lax.scan(run_layer, h_BSD, layers)
    if pooling == "cls":
        pooled_BD = h_BSD[:, 0]
    else:
        is_text_BS = jnp.arange(length) < lengths_B[:, None]
        pooled_BD = jnp.mean(h_BSD, axis=1, where=is_text_BS[..., None])
    norms_B = jnp.linalg.norm(pooled_BD, axis=-1)
    return pooled_BD / jnp.maximum(norms_B, 1e-12)[:, None]


def _linear(x: Float[Array, "*batch I"], params: Params, name: str) -> Float[Array, "*batch O"]:
    return jnp.matmul(x, params[f"{name}.weight"].T, precision=HIGHEST) + params[f"{name}.bias"]


def _layer_norm(
    x: Float[Array, "*batch D"], params: Params, name: str, epsilon: float
) -> Float[Array, "*batch D"]:
    variance = jnp.var(x, axis=-1, keepdims=True)
    scaled = jax.nn.standardize(x, variance=variance, epsilon=epsilon)
    return scaled * params[f"{name}.weight"] + params[f"{name}.bias"]
