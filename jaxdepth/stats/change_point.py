"""Where a curve over depth rises: onset and midpoint, with bootstrap intervals.

A curve has one number per layer. Two shapes are fitted by least squares: two levels, joined within
one layer (a step) or by a straight line over several layers (a ramp). Both fits are projections:
the statistic of a shape is the inner product of the curve with that shape, centred and of unit
length, and its square is the reduction of the sum of squares.

- The **midpoint** is the first upper layer of the best step: about half way up.
- The **onset** is the first layer above the lower level of the best shape, step or ramp: where the
  rise starts. Of a step the two are the same layer; of a ramp over ten layers the midpoint comes
  about five layers after the onset.

Sources: least squares for a change of level, Bai 1994 (J. Time Series Analysis 15), Bai 1997 (Rev.
Economics and Statistics 79); for the two kinks of a ramp, Bai and Perron 1998 (Econometrica 66);
the test is that of a searched maximum (Andrews 1993, Econometrica 61) with its null distribution
from centred bootstrap resamples (Hall and Wilson 1991, Biometrics 47); percentile intervals, Efron
and Tibshirani 1993. Prompts are resampled, not layers, so errors of neighbouring layers may be
correlated and of any size.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from jaxdepth.errors import InputError

_NO_BETTER = 1e-9  # by less than this a ramp fits no better than a step, but for rounding


class Place(NamedTuple):
    """A layer of a curve; low and high are 95% bounds."""

    layer: int
    low: int
    high: int
    layers_R: Float[np.ndarray, " R"]  # the layer in each resample; NaN where the resample has one


class ChangePoint(NamedTuple):
    """One rise of a curve; low and high are 95% bounds."""

    kind: str  # "jump", "gradual" or "none"; where it is "none" the layers are best guesses
    onset: Place  # the first layer above the lower level
    midpoint: Place  # the first upper layer of the best step
    rise: float  # upper level minus lower level, of the best step
    rise_low: float
    rise_high: float
    p_rise: float  # p-value against a flat curve
    p_gradual: float  # p-value of a ramp against a step


class Distance(NamedTuple):
    """A number of layers; low and high are 95% bounds."""

    layers: int
    low: int
    high: int


class Lag(NamedTuple):
    """Layers from one change point to another."""

    onset: Distance  # from onset to onset
    midpoint: Distance  # from midpoint to midpoint


def change_point(
    curve_X: Float[np.ndarray, " X"],
    resampled_RX: Float[np.ndarray, "R X"],
    first: int = 0,
    alpha: float = 0.05,
) -> ChangePoint:
    """The rise of a curve that fits it best, with its onset and its midpoint.

    The interval of either is the percentile interval of the same layer in every resample. Layers
    are whole numbers, so where one layer has 95% of the resamples the interval is that layer alone,
    and in general its coverage exceeds 95%.

    `kind` is "none" unless the largest studentised step over all layers exceeds the quantile
    1 - `alpha` of the same in resamples around a flat curve. It is "gradual" if the best ramp over
    two or more layers beats the best step by more than that quantile of resamples around that step.
    The bounds of the rise hold for all layers at once, so that choosing the layer does not bias
    them.

    Args:
        curve_X: the curve, X >= 3 neighbouring layers.
        resampled_RX: R bootstrap resamples of it; those with a NaN are left out.
        first: the number of the curve's first layer: 0 for the residual stream, 1 for exits.
        alpha: level of both tests.

    Raises:
        InputError: fewer than three layers, another number of them in the resamples, a NaN in the
            curve, or no resample without one.
    """
    curve_X, resampled_RX = np.asarray(curve_X, np.float64), np.asarray(resampled_RX, np.float64)
    X = len(curve_X)
    if X < 3 or resampled_RX.shape[1:] != (X,):
        raise InputError(f"a curve of {X} layers with resamples of shape {resampled_RX.shape}")
    finite_R = np.isfinite(resampled_RX).all(axis=1)
    if not np.isfinite(curve_X).all() or not finite_R.any():
        raise InputError("no change point: the curve, or every resample of it, has a NaN")

    step_KX, ramp_MX, start_M = _shapes(X)
    step_at_K = np.arange(1, X)  # the first layer of a step's upper level
    curves_YX = np.concatenate([curve_X[None], resampled_RX[finite_R]])
    steps_YK, ramps_YM = curves_YX @ step_KX.T, curves_YX @ ramp_MX.T
    midpoint_Y = step_at_K[steps_YK.argmax(axis=1)]
    is_ramp_Y = ramps_YM.max(axis=1) > steps_YK.max(axis=1) + _NO_BETTER
    onset_Y = np.where(is_ramp_Y, start_M[ramps_YM.argmax(axis=1)] + 1, midpoint_Y)

    steps_K, steps_RK = steps_YK[0], steps_YK[1:]
    best = int(steps_K.argmax())
    # A step of unit length has this distance between its levels.
    height = float(np.sqrt(X / (step_at_K[best] * (X - step_at_K[best]))))
    error_K = np.maximum(steps_RK.std(axis=0), 1e-9)  # of layers that cannot differ: nearly 0
    null_RK = (steps_RK - steps_RK.mean(axis=0)) / error_K
    p_rise = _p_value((steps_K / error_K).max(), null_RK.max(axis=1))
    half = np.quantile(np.abs(null_RK).max(axis=1), 0.95) * error_K[best] * height
    rise = steps_K[best] * height
    p_gradual = _p_gradual(curve_X, resampled_RX[finite_R], step_KX, ramp_MX)
    return ChangePoint(
        "none" if p_rise > alpha else "gradual" if p_gradual <= alpha else "jump",
        _place(onset_Y, first, finite_R),
        _place(midpoint_Y, first, finite_R),
        float(rise),
        float(rise - half),
        float(rise + half),
        p_rise,
        p_gradual,
    )


def _place(layer_Y: Int[np.ndarray, " Y"], first: int, finite_R: Bool[np.ndarray, " R"]) -> Place:
    """A layer from the curve's own, and those of its resamples without a NaN."""
    layers_R = np.full(len(finite_R), np.nan)
    layers_R[finite_R] = first + layer_Y[1:]
    return Place(first + int(layer_Y[0]), *_bounds(layers_R), layers_R)


def lag(earlier: ChangePoint, later: ChangePoint) -> Lag:
    """Layers from one change point to another, from the same resamples of the same prompts.

    Raises:
        InputError: the two have different numbers of resamples, so these cannot be the same.
    """
    if earlier.onset.layers_R.shape != later.onset.layers_R.shape:
        raise InputError("a lag needs two change points from the same resamples")

    def distance(a: Place, b: Place) -> Distance:
        return Distance(b.layer - a.layer, *_bounds(b.layers_R - a.layers_R))

    return Lag(distance(earlier.onset, later.onset), distance(earlier.midpoint, later.midpoint))


def _bounds(numbers_R: Float[np.ndarray, " R"]) -> tuple[int, int]:
    """95% percentile bounds of whole numbers, each of them one of the numbers."""
    numbers_R = numbers_R[np.isfinite(numbers_R)]
    low, high = np.percentile(numbers_R, [2.5, 97.5], method="inverted_cdf")
    return int(low), int(high)


def _shapes(
    size: int,
) -> tuple[Float[np.ndarray, "K X"], Float[np.ndarray, "M X"], Int[np.ndarray, " M"]]:
    """Steps (by the first layer of their upper level) and ramps, each centred, of unit length.

    The third is the last layer of each ramp's lower level.
    """
    layers = np.arange(size)
    steps = [layers >= k for k in layers[1:]]
    ends = [(start, end) for start in layers for end in layers[start + 2 :]]
    ramps = [np.clip((layers - start) / (end - start), 0, 1) for start, end in ends]

    def unit(shapes):
        shapes = np.array(shapes, np.float64)
        shapes -= shapes.mean(axis=1, keepdims=True)
        return shapes / np.linalg.norm(shapes, axis=1, keepdims=True)

    return unit(steps), unit(ramps), np.array([start for start, _ in ends])


def _p_gradual(
    curve_X: Float[np.ndarray, " X"],
    resampled_RX: Float[np.ndarray, "R X"],
    step_KX: Float[np.ndarray, "K X"],
    ramp_MX: Float[np.ndarray, "M X"],
) -> float:
    """The p-value of how much better the best ramp fits a curve than the best step."""

    def gain(curves_YX: Float[np.ndarray, "Y X"]) -> Float[np.ndarray, " Y"]:
        """How much the best ramp exceeds the best step, in units of the curve."""
        return (curves_YX @ ramp_MX.T).max(axis=1) - (curves_YX @ step_KX.T).max(axis=1)

    steps_K = step_KX @ curve_X
    best = int(steps_K.argmax())
    # Resamples around the fitted step, all of its height: the curve's own is the fitted one too.
    error_RX = resampled_RX - resampled_RX.mean(axis=0)
    error_RX -= np.outer(error_RX @ step_KX[best], step_KX[best])
    stepped_X = curve_X.mean() + steps_K[best] * step_KX[best]
    return _p_value(gain(curve_X[None])[0], gain(stepped_X + error_RX))


def _p_value(statistic: float, null_R: Float[np.ndarray, " R"]) -> float:
    """Share of the null resamples as large; never 0 (Davison and Hinkley 1997, 4.11)."""
    return float((1 + np.sum(null_R >= statistic - 1e-12)) / (1 + len(null_R)))
