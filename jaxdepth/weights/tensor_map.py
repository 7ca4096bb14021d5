"""Which source tensor becomes which leaf: names and shapes, before anything is read."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from jaxdepth.errors import InputError, listed
from jaxdepth.model.config import ModelConfig
from jaxdepth.model.parameters import LAYER_PARAMETERS, TOP_PARAMETERS, axis_sizes, has_parameter

# leaf -> tensor name, {i} being the layer
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
    "o": "model.layers.{i}.self_attn.o_proj.weight",
    "mlp_norm": "model.layers.{i}.post_attention_layernorm.weight",
    "gate": "model.layers.{i}.mlp.gate_proj.weight",
    "up": "model.layers.{i}.mlp.up_proj.weight",
    "down": "model.layers.{i}.mlp.down_proj.weight",
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
    "o": "blk.{i}.attn_output.weight",
    "mlp_norm": "blk.{i}.ffn_norm.weight",
    "gate": "blk.{i}.ffn_gate.weight",
    "up": "blk.{i}.ffn_up.weight",
    "down": "blk.{i}.ffn_down.weight",
}


@dataclass(frozen=True)
class Piece:
    """One array on its way: a source tensor, and the leaf of one layer that it becomes."""

    key: str  # in the checkpoint: "embed", or "layers.3.q"
    source: str  # the tensor's name in the source
    shape: tuple[int, ...]  # of the source tensor, and of the checkpoint's array
    heads: int | None  # of q and k, whose rows most GGUF files permute

    @property
    def layer_and_leaf(self) -> tuple[int | None, str]:
        """(3, "layers.q") for layer 3's queries; (None, "embed") for the embedding."""
        if not self.key.startswith("layers."):
            return None, self.key
        _, number, name = self.key.split(".")
        return int(number), f"layers.{name}"

    def turn(self, array: np.ndarray) -> np.ndarray:
        """A view of the checkpoint's array as the leaf has it, or back: layers' inputs first."""
        return array.T if self.key.startswith("layers.") else array


def plan(config: ModelConfig, names: Mapping[str, str]) -> list[Piece]:
    """Every piece of a model, in the order in which it is converted.

    Args:
        config: the shape of the model.
        names: `HF_NAMES` or `GGUF_NAMES`.
    """
    size = axis_sizes(config)

    def piece(name: str, axes: str, layer: int | None) -> Piece:
        shape = tuple(size[a] for a in axes)
        heads = {"q": config.num_attention_heads, "k": config.num_key_value_heads}
        return Piece(
            key=name if layer is None else f"layers.{layer}.{name}",
            source=names[name].format(i=layer),
            shape=shape if layer is None else shape[::-1],
            heads=heads.get(name),
        )

    top = [
        piece(name, axes, None)
        for name, axes in TOP_PARAMETERS.items()
        if has_parameter(name, config)
    ]
    return top + [
        piece(name, axes, layer)
        for layer in range(config.num_hidden_layers)
        for name, axes in LAYER_PARAMETERS.items()
        if has_parameter(name, config)
    ]


def check_depth(config: ModelConfig, found: Mapping[str, object], where: str) -> None:
    """Refuses a config of more layers than a source can hold, before a plan for them is made.

    Raises:
        InputError: there are fewer tensors than layers.
    """
    if config.num_hidden_layers > len(found):
        raise InputError(
            f"{where}: config.json says num_hidden_layers = {config.num_hidden_layers}, but the "
            f"files hold {len(found)} tensors: config.json belongs to another model, or the "
            "download is incomplete"
        )


def check_plan(pieces: list[Piece], found: Mapping[str, tuple[int, ...]], where: str) -> None:
    """Holds the shapes found in a source against the plan.

    Raises:
        InputError: names the first tensors that are missing, extra or of another shape.
    """
    wanted = {p.source: p.shape for p in pieces}
    _refuse("lacks", [n for n in wanted if n not in found], "the download is incomplete?", where)
    _refuse(
        "has unexpected",
        [n for n in found if n not in wanted],
        "config.json belongs to another model, or the architecture is not supported",
        where,
    )
    wrong = [f"{n} {found[n]}, expected {s}" for n, s in wanted.items() if found[n] != s]
    _refuse("has wrongly shaped", wrong, "config.json belongs to another model?", where)


def _refuse(what: str, names: Iterable[str], hint: str, where: str) -> None:
    names = list(names)
    if names:
        plural = "s" if len(names) > 1 else ""
        raise InputError(f"{where} {what} tensor{plural} {listed(names)}: {hint}")
