"""Guards of early exits: a probe for harm, read at an early layer, decides who may exit early.

A guarded token exits at its first exit if the prompt is calm, that is, if the probe gives it at
least the threshold's probability of being harmless; otherwise it runs to full depth. The probe
reads the last token of the prompt, which the reply follows. Read along the answer too, it has to
find every token up to here calm: once it does not, the rest of the answer runs to full depth.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxdepth.depth.policies import ExitRule
from jaxdepth.errors import InputError, listed, nearest
from jaxdepth.model import AnyArray
from jaxdepth.model.attention import HIGHEST
from jaxdepth.model.config import ModelConfig


class HarmProbe(NamedTuple):
    """A logistic probe per layer: sigmoid((h - centre) @ w + b) that a prompt is harmful.

    Row d is for the residual stream after d layers. The centre keeps float32 exact enough: a few
    features of a residual stream dwarf those that a probe reads, and hardly vary.
    """

    weights_JD: Float[AnyArray, "J D"]
    centre_JD: Float[AnyArray, "J D"]
    bias_J: Float[AnyArray, " J"]


class Guards(NamedTuple):
    """The guards of X lanes; lanes of other policies have one that they do not ask."""

    weights_XD: Float[AnyArray, "X D"]
    centre_XD: Float[AnyArray, "X D"]
    bias_X: Float[AnyArray, " X"]
    layers_X: Int[AnyArray, " X"]
    first_exits_X: Int[AnyArray, " X"]  # 1 for other policies, which may take any candidate
    reads_answer: Bool[AnyArray, ""]


def first_exit_of(rule: ExitRule, exits: Sequence[int], depth: int) -> int:
    """The exit that a calm token takes.

    It is that of the guard or, by default, the first candidate that is not before its layer.

    Args:
        rule: a guarded rule.
        exits: the candidates.
        depth: the number of layers, which always is a candidate.
    """
    guard = rule.guard
    assert guard is not None
    return guard.first_exit or min(d for d in (*exits, depth) if d >= guard.layer)


def lane_guards(
    rules: Sequence[ExitRule],
    exits: Sequence[int],
    probes: Mapping[str, HarmProbe],
    config: ModelConfig,
    reads_answer: bool,
    samples: int,
) -> Guards | None:
    """The guards of all lanes, or None where no rule has one; lane e * samples + m is of rule e."""
    if all(rule.guard is None for rule in rules):
        return None
    E, D = len(rules), config.hidden_size
    weights_ED, centre_ED = np.zeros((2, E, D), np.float32)
    bias_E = np.zeros(E, np.float32)
    layers_E, first_exits_E = np.zeros(E, np.int32), np.ones(E, np.int32)
    for e, rule in enumerate(rules):
        if rule.guard is not None:
            probe, layers_E[e] = probes[rule.guard.probe], rule.guard.layer
            weights_ED[e], centre_ED[e], bias_E[e] = (np.asarray(a)[layers_E[e]] for a in probe)
            first_exits_E[e] = first_exit_of(rule, exits, config.num_hidden_layers)
    return Guards(
        np.repeat(weights_ED, samples, axis=0),
        np.repeat(centre_ED, samples, axis=0),
        np.repeat(bias_E, samples),
        np.repeat(layers_E, samples),
        np.repeat(first_exits_E, samples),
        np.asarray(reads_answer),
    )


def read_guards(
    guards: Guards,
    layer: Int[Array, ""],
    is_first: Bool[Array, ""],
    h_XBD: Float[Array, "#X B D"],
    calm_XB: Float[Array, "X B"],
) -> Float[Array, "X B"]:
    """The smallest probability of being harmless that each lane's guard has read so far.

    Args:
        guards: of all lanes.
        layer: how many layers have run.
        is_first: whether this is the prompt's last token, which every guard reads.
        h_XBD: the residual stream after that layer.
        calm_XB: the smallest probability before this reading.
    """
    offset_XBD = h_XBD.astype(jnp.float32) - guards.centre_XD[:, None]
    harm_XB = jnp.einsum("xbd,xd->xb", offset_XBD, guards.weights_XD, precision=HIGHEST)
    read_XB = jax.nn.sigmoid(-(harm_XB + guards.bias_X[:, None]))
    reads_X1 = ((guards.layers_X == layer) & (is_first | guards.reads_answer))[:, None]
    return jnp.where(reads_X1, jnp.minimum(calm_XB, read_XB), calm_XB)


def check_guards(
    rules: Sequence[ExitRule],
    exits: Sequence[int],
    probes: Mapping[str, HarmProbe],
    config: ModelConfig,
) -> None:
    """Raise InputError for a guard without its probe, out of range, or behind its exit."""
    L, D = config.num_hidden_layers, config.hidden_size
    for guard in (rule.guard for rule in rules if rule.guard is not None):
        if guard.probe not in probes:
            raise InputError(
                f"no probe {guard.probe!r} for guarded{nearest(guard.probe, probes)}; there are: "
                f"{listed(probes, 9) or 'none'}"
            )
        shapes = tuple(np.shape(x) for x in probes[guard.probe])
        if shapes != ((L + 1, D), (L + 1, D), (L + 1,)):
            raise InputError(
                f"the arrays of the probe {guard.probe} are {shapes}, expected ({L + 1}, {D}) "
                f"twice and ({L + 1},)"
            )
        if not 1 <= guard.layer <= L:
            raise InputError(f"guarded reads layer {guard.layer}: expected one of 1 to {L}")
        if guard.first_exit is not None and guard.first_exit not in (*exits, L):
            raise InputError(f"guarded exits at {guard.first_exit}, which is no candidate exit")
        if guard.first_exit is not None and guard.first_exit < guard.layer:
            raise InputError(
                f"guarded exits at {guard.first_exit}, before layer {guard.layer} that its probe "
                "reads: name a later exit or an earlier layer"
            )
