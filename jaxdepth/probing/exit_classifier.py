"""CALM's learned exit: a linear classifier per layer that predicts whether full depth agrees.

It is trained on full depth's own answers: at every position that predicts a token of them, whether
the most probable token after each layer is that of full depth.

Source: the early exit classifier of Schuster et al. 2022 (arXiv:2207.07061); here each layer has
its own, fitted independently.
"""

import math
from pathlib import Path
from typing import NamedTuple, TypedDict

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxdepth.depth.exits import check_tokens
from jaxdepth.depth.policies import ExitClassifier
from jaxdepth.errors import InputError
from jaxdepth.files import read_arrays, save_arrays
from jaxdepth.model.mistral import Mistral
from jaxdepth.model.sharding import to_host
from jaxdepth.probing.capture import residuals
from jaxdepth.probing.fit import fit_logistic

FORMAT = "jaxdepth-exit-classifier-1"
_ALWAYS = 100.0  # log-odds of probability 1 in every floating type


class Header(TypedDict):
    """What the metadata of a classifier's file hold."""

    base: str


class Examples(NamedTuple):
    """Residual streams at N positions, and whether each exit has full depth's token there.

    Row d - 1 is for exit d, as in `ExitClassifier`.
    """

    x_LND: Float[np.ndarray, "L N D"]  # in the model's dtype
    agrees_LN: Bool[np.ndarray, "L N"]


def agreement_examples(
    model: Mistral,
    tokens_BS: Int[np.ndarray, "B S"],
    lengths_B: Int[np.ndarray, " B"],
    begins_B: Int[np.ndarray, " B"],
) -> Examples:
    """Examples to fit an exit classifier to, from prompts with full depth's answers.

    The positions from the prompt's last to the answer's last but one predict the answer's tokens.
    Examples are in the order of sequences, then of positions.

    Args:
        model: a model from `jaxdepth.load`.
        tokens_BS: token ids of prompt and answer, right-padded with any id of the vocabulary.
        lengths_B: the length of prompt and answer.
        begins_B: the length of the prompt, where the answer begins.

    Raises:
        InputError: a token id or length is out of range, or a sequence has no prompt or no answer.
    """
    check_tokens(model, tokens_BS, lengths_B)
    lengths_B, begins_B = np.asarray(lengths_B), np.asarray(begins_B)
    if begins_B.shape != lengths_B.shape or not ((begins_B >= 1) & (begins_B < lengths_B)).all():
        raise InputError(
            f"answers begin at {begins_B.tolist()}: expected 1 up to less than the lengths"
            f" {lengths_B.tolist()}"
        )
    counts_B1 = (lengths_B - begins_B)[:, None]
    steps_P = np.arange(counts_B1.max(initial=1))
    # Shorter answers repeat their last position, which is masked out below.
    positions_BP = begins_B[:, None] - 1 + np.minimum(steps_P, counts_B1 - 1)
    h_LBPD = jnp.moveaxis(residuals(model, tokens_BS, lengths_B, positions_BP)[:, :, 1:], 2, 0)
    is_real_BP = steps_P < counts_B1
    top_LN = to_host(_top_tokens(model, h_LBPD))[:, is_real_BP]
    return Examples(to_host(h_LBPD)[:, is_real_BP], top_LN == top_LN[-1])


@jax.jit
def _top_tokens(model: Mistral, h_LBPD: Float[Array, "L B P D"]) -> Int[Array, "L B P"]:
    """The most probable token after each layer, with one layer's logits in memory at a time."""
    exits_L = 1 + jnp.arange(len(h_LBPD))
    return jax.lax.map(lambda x: model.unembed(*x).argmax(axis=-1), (h_LBPD, exits_L))


def fit_exit_classifier(
    x_LND: Float[np.ndarray, "L N D"], agrees_LN: Bool[np.ndarray, "L N"], strength: float = 1e-2
) -> ExitClassifier:
    """Fit one L2-regularised logistic classifier per exit, each by `fit_logistic`.

    Two kinds of exit have weights of 0. Where all N examples agree or none does, the bias is the
    log-odds of the smoothed rate (k + 1/2) / (N + 1), with k that agree (Krichevsky and Trofimov
    1981). Full depth always agrees with itself: its bias gives probability 1.

    Args:
        x_LND: residual streams after layers 1 to L, from `agreement_examples`. Time grows with the
            cube of N and memory with its square: a few thousand examples suffice.
        agrees_LN: whether each exit has full depth's token.
        strength: inverse strength of the regularisation.

    Raises:
        InputError: shapes do not match, there are no examples, full depth disagrees with itself, or
            as `fit_logistic` does.
    """
    agrees_LN = np.asarray(agrees_LN)
    if np.ndim(x_LND) != 3 or agrees_LN.shape != np.shape(x_LND)[:2] or agrees_LN.size == 0:
        raise InputError(
            f"streams of shape {np.shape(x_LND)} with agreement of shape {agrees_LN.shape},"
            " expected (L, N, D) and (L, N), none of them 0"
        )
    if not agrees_LN[-1].all():
        raise InputError("the last exit disagrees with itself: it must be full depth")
    L, N, D = np.shape(x_LND)
    weights_LD, bias_L = np.zeros((L, D), np.float32), np.full(L, _ALWAYS, np.float32)
    for row, agrees_N in enumerate(agrees_LN[:-1]):
        count = int(agrees_N.sum())
        if 0 < count < N:
            probes = fit_logistic(x_LND[row][None], agrees_N, np.ones((1, N), bool), [strength])
            weights_LD[row], bias_L[row] = (array[0, 0, 0] for array in probes)
        else:
            bias_L[row] = math.log((count + 0.5) / (N - count + 0.5))
    return ExitClassifier(weights_LD, bias_L)


def save_exit_classifier(path: Path, classifier: ExitClassifier, base_fingerprint: str) -> None:
    """Write a classifier of the checkpoint with a fingerprint; its arrays are float32."""
    metadata = {"format": FORMAT, "base": base_fingerprint}
    parameters = {"weights": classifier.weights_LD, "bias": classifier.bias_L}
    arrays = {name: np.ascontiguousarray(array, np.float32) for name, array in parameters.items()}
    save_arrays(path, arrays, metadata)


def read_exit_classifier(path: Path, base_fingerprint: str) -> ExitClassifier:
    """Read the classifier of the checkpoint with a fingerprint from a file.

    Raises:
        InputError: there is no file, it is damaged, it holds something else, or it was made for
            another checkpoint.
    """
    if not path.is_file():
        raise InputError(f"no exit classifier {path}")
    arrays, header = read_arrays(path, "an exit classifier", FORMAT, Header)
    base = header["base"]
    if base != base_fingerprint:
        raise InputError(
            f"{path} was made for the base {base[:12]}, this checkpoint is"
            f" {base_fingerprint[:12]}: name that base, or another file"
        )
    shapes = {name: array.shape for name, array in arrays.items()}
    weights = shapes.get("weights", ())
    if len(weights) != 2 or shapes != {"weights": weights, "bias": weights[:1]}:
        raise InputError(f"{path}: its arrays are not (L, D) weights and (L,) bias: it is damaged")
    return ExitClassifier(arrays["weights"], arrays["bias"])
