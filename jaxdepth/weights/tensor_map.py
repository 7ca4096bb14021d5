"""Which tensor of a source becomes which parameter: names and shapes, before anything is read.

Names: transformers' `modeling_mistral.py`, `modeling_qwen3.py`; for GGUF llama.cpp's
`gguf-py/gguf/constants.py`; for Mistral's format `convert_ministral3_weights_to_hf.py` of
transformers.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from jaxdepth.errors import InputError, listed
from jaxdepth.model.config import ModelConfig
from jaxdepth.model.parameters import LAYER_PARAMETERS, TOP_PARAMETERS, axis_sizes, has_parameter

# Parameter -> name of the tensor; {i} is the layer.
HF_NAMES = {
    "embed": "model.embed_tokens.weight",
    "norm": "model.norm.weight",
    "head": "lm_head.weight",
    "attn_norm": "model.layers.{i}.input_layernorm.weight",
    "q": "model.layers.{i}.self_attn.q_proj.weight",
    "k": "model.layers.{i}.self_attn.k_proj.weight",
    "v": "model.layers.{i}.self_attn.v_proj.weight",
    "q_bias": "model.layers.{i}.self_attn.q_proj.bias",
    "k_bias": "model.layers.{i}.self_attn.k_proj.bias",
    "v_bias": "model.layers.{i}.self_attn.v_proj.bias",
    "q_norm": "model.layers.{i}.self_attn.q_norm.weight",
    "k_norm": "model.layers.{i}.self_attn.k_norm.weight",
    "o": "model.layers.{i}.self_attn.o_proj.weight",
    "mlp_norm": "model.layers.{i}.post_attention_layernorm.weight",
    "gate": "model.layers.{i}.mlp.gate_proj.weight",
    "up": "model.layers.{i}.mlp.up_proj.weight",
    "down": "model.layers.{i}.mlp.down_proj.weight",
}
# Mistral's own format, `params.json` beside `consolidated.safetensors`.
MISTRAL_NAMES = {
    "embed": "tok_embeddings.weight",
    "norm": "norm.weight",
    "head": "output.weight",
    "attn_norm": "layers.{i}.attention_norm.weight",
    "q": "layers.{i}.attention.wq.weight",
    "k": "layers.{i}.attention.wk.weight",
    "v": "layers.{i}.attention.wv.weight",
    "o": "layers.{i}.attention.wo.weight",
    "mlp_norm": "layers.{i}.ffn_norm.weight",
    "gate": "layers.{i}.feed_forward.w1.weight",
    "up": "layers.{i}.feed_forward.w3.weight",
    "down": "layers.{i}.feed_forward.w2.weight",
}
GGUF_NAMES = {
    "embed": "token_embd.weight",
    "norm": "output_norm.weight",
    "head": "output.weight",
    "attn_norm": "blk.{i}.attn_norm.weight",
    "q": "blk.{i}.attn_q.weight",
    "k": "blk.{i}.attn_k.weight",
    "v": "blk.{i}.attn_v.weight",
    "q_bias": "blk.{i}.attn_q.bias",
    "k_bias": "blk.{i}.attn_k.bias",
    "v_bias": "blk.{i}.attn_v.bias",
    "q_norm": "blk.{i}.attn_q_norm.weight",
    "k_norm": "blk.{i}.attn_k_norm.weight",
    "o": "blk.{i}.attn_output.weight",
    "mlp_norm": "blk.{i}.ffn_norm.weight",
    "gate": "blk.{i}.ffn_gate.weight",
    "up": "blk.{i}.ffn_up.weight",
    "down": "blk.{i}.ffn_down.weight",
}


def unpermute(matrix: np.ndarray, heads: int) -> np.ndarray:
    """Undo the interleaving of the rows of q and k in GGUF and in Mistral's own format.

    RoPE rotates pairs of rows: neighbours there, rows half a head apart in Hugging Face's models
    and in ours. Source: `permute` in llama.cpp's `convert_hf_to_gguf.py`.
    """
    rows, columns = matrix.shape
    pairs = matrix.reshape(heads, rows // heads // 2, 2, columns)
    return pairs.swapaxes(1, 2).reshape(rows, columns)


def permute(matrix: np.ndarray, heads: int) -> np.ndarray:
    """What `unpermute` undoes."""
    rows, columns = matrix.shape
    halves = matrix.reshape(heads, 2, rows // heads // 2, columns)
    return halves.swapaxes(1, 2).reshape(rows, columns)


@dataclass(frozen=True)
class MappedTensor:
    """A tensor of a source, and the array of the checkpoint that it becomes.

    The checkpoint keeps one array a layer and parameter, of the same shape as the source's tensor.
    """

    key: str  # of the array in the checkpoint: "embed", or "layers.3.q"
    source: str  # name of the tensor in the source
    shape: tuple[int, ...]  # outputs first, as both store matrices
    heads: int | None  # of q and k, whose rows some formats interleave; None for all others

    @property
    def layer_and_parameter(self) -> tuple[int | None, str]:
        """(3, "layers.q") for the queries of layer 3; (None, "embed") for the embedding."""
        if not self.key.startswith("layers."):
            return None, self.key
        _, layer, name = self.key.split(".")
        return int(layer), f"layers.{name}"

    def transpose(self, array: np.ndarray) -> np.ndarray:
        """View an array of the checkpoint as the parameter, or back.

        A layer's matrices have their inputs first in the model; all else is the same in both.
        """
        return array.T if self.key.startswith("layers.") else array


def tensor_map(config: ModelConfig, names: Mapping[str, str]) -> list[MappedTensor]:
    """Every tensor of a model, in the order of conversion.

    Args:
        config: the shape of the model.
        names: `HF_NAMES`, `GGUF_NAMES` or `MISTRAL_NAMES`.
    """
    sizes = axis_sizes(config)
    heads = {"q": config.num_attention_heads, "k": config.num_key_value_heads}

    def mapped(name: str, axes: str, layer: int | None) -> MappedTensor:
        shape = tuple(sizes[axis] for axis in axes)
        return MappedTensor(
            key=name if layer is None else f"layers.{layer}.{name}",
            source=names[name].format(i=layer),
            shape=shape if layer is None else shape[::-1],
            heads=heads.get(name),
        )

    top = [
        mapped(name, axes, None)
        for name, axes in TOP_PARAMETERS.items()
        if has_parameter(name, config)
    ]
    return top + [
        mapped(name, axes, layer)
        for layer in range(config.num_hidden_layers)
        for name, axes in LAYER_PARAMETERS.items()
        if has_parameter(name, config)
    ]


def check_layer_count(config: ModelConfig, shapes: Mapping[str, object], where: str) -> None:
    """Refuse a config of more layers than the source has tensors, before mapping all of them.

    Args:
        config: the shape of the model.
        shapes: of the source's tensors, by name.
        where: the source, for the message.

    Raises:
        InputError: there are fewer tensors than layers.
    """
    if config.num_hidden_layers > len(shapes):
        raise InputError(
            f"{where}: config.json says num_hidden_layers = {config.num_hidden_layers}, but the "
            f"files hold {len(shapes)} tensors: config.json belongs to another model, or the "
            "download is incomplete"
        )


def check_shapes(
    tensors: Iterable[MappedTensor], shapes: Mapping[str, tuple[int, ...]], where: str
) -> None:
    """Compare the tensors of a source with those that its config implies.

    Args:
        tensors: from `tensor_map`.
        shapes: of the source's tensors, by name.
        where: the source, for messages.

    Raises:
        InputError: names the first tensors that are missing, extra or of another shape.
    """
    expected = {tensor.source: tensor.shape for tensor in tensors}
    missing = [name for name in expected if name not in shapes]
    _refuse("lacks", missing, "the download is incomplete?", where)
    _refuse(
        "has unexpected",
        [name for name in shapes if name not in expected],
        "config.json belongs to another model, or the architecture is not supported",
        where,
    )
    differing = [
        f"{name} {shapes[name]}, expected {shape}"
        for name, shape in expected.items()
        if shapes[name] != shape
    ]
    _refuse("has wrongly shaped", differing, "config.json belongs to another model?", where)


def _refuse(problem: str, names: list[str], hint: str, where: str) -> None:
    if names:
        plural = "s" if len(names) > 1 else ""
        raise InputError(f"{where} {problem} tensor{plural} {listed(names)}: {hint}")
