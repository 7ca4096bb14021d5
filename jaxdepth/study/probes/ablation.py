"""What ablating a direction does: to refusal, and to how well harmfulness can still be read.

The direction of every layer d is ablated from the residual stream, after layer d alone or after
every layer. Then the log-odds of a refusal are measured at full depth, and a new content probe is
fitted to the last layer. If refusal falls while harmfulness stays readable, refusal rests on less
of the stream than the knowledge of harm.

All prompts may share a large part along a direction, and ablating takes that away too. So streams
are also set to what harmless prompts have there on average: what is then lost is due to what tells
harmful prompts from harmless ones.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Float, Int

from jaxdepth.model.mistral import Mistral
from jaxdepth.model.sharding import to_host
from jaxdepth.model.steer import steer
from jaxdepth.probing.capture import residuals
from jaxdepth.probing.direction import directions_digest, read_directions
from jaxdepth.probing.folds import cross_fit, make_folds
from jaxdepth.prompts.batches import Batch
from jaxdepth.refusal.openers import first_token
from jaxdepth.runtime.lock import one_at_a_time
from jaxdepth.runtime.progress import ProgressBar, silent
from jaxdepth.stats.estimate import Estimate
from jaxdepth.stats.ranking import auroc
from jaxdepth.stats.resampled import DIFFERENCE, UNIT, clusters_of, rate_bounds, resampled_bounds
from jaxdepth.study.first_token import opener_mask
from jaxdepth.study.probes.directions import DIRECTIONS
from jaxdepth.study.probes.evaluate import Examples
from jaxdepth.study.probes.settings import Probe, Where
from jaxdepth.study.probes.tables import ABLATION
from jaxdepth.study.run_directory import Run, check_file, read_frame
from jaxdepth.study.subject import open_subject

NOWHERE, ONE_LAYER, ALL_LAYERS = "nowhere", "after that layer", "after every layer"
TO_MEAN = "to the harmless mean"
LOG_ODDS, OPENS, CONTENT_AUROC = "refusal log-odds", "opens with a refusal", "content AUROC"


class EvaluationSet(NamedTuple):
    """The prompts on which ablated models are measured, and how."""

    examples: Examples
    batches: Sequence[Batch]
    is_opener_V: Bool[np.ndarray, " V"]
    strengths: tuple[float, ...]  # grid of the probes' inverse regularisation
    fold_N: Int[np.ndarray, " N"]


class Measures(NamedTuple):
    """Measures of full depth, by prompt."""

    log_odds_N: Float[np.ndarray, " N"]  # of a refusal, in nats
    opens_N: Bool[np.ndarray, " N"]  # whether the most probable first token opens a refusal
    score_N: Float[np.ndarray, " N"]  # of a content probe after the last layer, out of fold


def write_ablation(
    run: Run,
    model: Mistral,
    direction_JD: Float[np.ndarray, "J D"],
    prompts: EvaluationSet,
    bar: ProgressBar = silent,
) -> None:
    """Write the table, one part a layer; parts of an earlier attempt are kept.

    The prompts should differ from those that the direction was computed from.
    """
    if run.finished(ABLATION.name):
        return
    depth = model.config.num_hidden_layers
    before = mean_J = None
    with bar("ablation", "layers") as progress:
        for layer in range(depth + 1):
            if not run.has_part(ABLATION.name, layer):
                before = before or _measure(model, prompts)
                if mean_J is None:
                    mean_J = harmless_means(model, direction_JD, prompts)
                rows = []
                for ablated, layers in _ablations(layer, depth):
                    after = before
                    if layers:
                        how = ("set", mean_J[layer]) if ablated == TO_MEAN else ("ablate", 1.0)
                        steered = steer(model, direction_JD[layer], layers, *how)
                        after = _measure(steered, prompts)
                    keys = {"layer": layer, "ablated": ablated}
                    rows += [keys | row for row in compare(prompts, after, before)]
                run.write_part(ABLATION.name, layer, ABLATION.from_rows(rows))
            progress(layer, depth)
    run.finish_parts(ABLATION.name, depth + 1)


def _ablations(layer: int, depth: int) -> Iterable[tuple[str, list[int]]]:
    """The layers after which the direction of `layer` is ablated; none for layer 0."""
    if layer == 0:
        return ((NOWHERE, []),)
    return (ONE_LAYER, [layer]), (ALL_LAYERS, list(range(1, depth + 1))), (TO_MEAN, [layer])


def harmless_means(
    model: Mistral, direction_JD: Float[np.ndarray, "J D"], prompts: EvaluationSet
) -> Float[np.ndarray, " J"]:
    """The part of harmless prompts' streams along each layer's direction at the last token."""
    # Layer 0 has no direction at a token that all prompts share.
    unit_JD = direction_JD / np.maximum(np.linalg.norm(direction_JD, axis=1, keepdims=True), 1e-30)
    along_NJ = np.zeros((len(prompts.examples.ids), len(unit_JD)))
    for rows, h_BJD in _last_streams(model, prompts):
        h_NJD = to_host(h_BJD)[: len(rows)].astype(np.float64)
        along_NJ[rows] = np.einsum("njd,jd->nj", h_NJD, unit_JD)
    return along_NJ[~prompts.examples.harmful_N].mean(axis=0)


def _last_streams(
    model: Mistral, prompts: EvaluationSet
) -> Iterator[tuple[list[int], Float[jax.Array, "B J D"]]]:
    """The streams of every batch at its last tokens, with their rows; padding rows come last."""
    for batch in prompts.batches:
        last_B1 = batch.lengths_B[:, None] - 1
        h_BPJD = residuals(model, batch.tokens_BS, batch.lengths_B, last_B1)
        yield list(batch.indices), h_BPJD[:, 0]


def _measure(model: Mistral, prompts: EvaluationSet) -> Measures:
    N = len(prompts.examples.ids)
    log_odds_N, opens_N = np.zeros(N), np.zeros(N, bool)
    x_ND = np.zeros((N, model.config.hidden_size), np.float32)
    for rows, h_BJD in _last_streams(model, prompts):
        h_BD = h_BJD[:, -1]
        first = _first_token(model, h_BD, prompts.is_opener_V)
        log_odds_N[rows] = to_host(first.refusal_log_odds)[0, : len(rows)]
        opens_N[rows] = prompts.is_opener_V[to_host(first.top_token)[0, : len(rows)]]
        x_ND[rows] = to_host(h_BD)[: len(rows)].astype(np.float32)
    fitted = cross_fit(x_ND[None], prompts.examples.harmful_N, prompts.fold_N, prompts.strengths)
    return Measures(log_odds_N, opens_N, fitted.score_GN[0])


@jax.jit
def _first_token(model, h_BD, is_opener_V):
    """The first-token summary of full depth, from the stream after its last layer."""
    return first_token(model.unembed(h_BD, model.depth)[None], is_opener_V)


def compare(prompts: EvaluationSet, after: Measures, before: Measures) -> list[dict]:
    """The rows of one ablation: each metric with its interval, and its change."""
    examples, rows = prompts.examples, []
    for metric, values in ((LOG_ODDS, "log_odds_N"), (OPENS, "opens_N")):
        both_2N = np.stack([getattr(after, values), getattr(before, values)]).astype(float)
        for label, is_label_N in (
            ("harmful", examples.harmful_N), ("harmless", ~examples.harmful_N)
        ):  # fmt: skip
            value_2M, n = both_2N[:, is_label_N], int(is_label_N.sum())
            counts_RM = examples.counts_RN[:, is_label_N]
            with np.errstate(invalid="ignore"):
                resampled_R2 = counts_RM @ value_2M.T / counts_RM.sum(axis=1)[:, None]
            row = {"metric": metric, "label": label, "n": n}
            clusters, is_rate = clusters_of(counts_RM), metric == OPENS
            row |= _change_row(value_2M.mean(axis=1), resampled_R2, clusters, is_rate)
            if is_rate:  # a rate: near 0 and 1 a bootstrap interval is too narrow
                row["low"], row["high"] = rate_bounds(int(value_2M[0].sum()), n)
            rows.append(row)
    score_2N, harmful_N = np.stack([after.score_N, before.score_N]), examples.harmful_N
    change = _change_row(
        auroc(score_2N, harmful_N, prompts.fold_N),
        auroc(score_2N, harmful_N, prompts.fold_N, examples.counts_RN),
        clusters_of(examples.counts_RN),
        is_rate=True,
        order=2,
    )
    return [*rows, {"metric": CONTENT_AUROC, "label": None, "n": len(harmful_N)} | change]


def _change_row(
    value_2: Float[np.ndarray, " 2"],
    resampled_R2: Float[np.ndarray, "R 2"],
    clusters: int,
    is_rate: bool,
    order: int = 1,
) -> dict[str, float]:
    """The value after ablation and its change, with intervals from the same resamples.

    Args:
        value_2: after ablation and before.
        resampled_R2: the same in resamples.
        clusters: how many were resampled.
        is_rate: whether values are in 0..1, as rates and AUROCs are.
        order: see `resampled_bounds`.
    """
    value_range, change_range = (UNIT, DIFFERENCE) if is_rate else (None, None)
    low_2, high_2 = resampled_bounds(value_2, resampled_R2, clusters, value_range, order)
    change_1, changed_R1 = -np.diff(value_2), -np.diff(resampled_R2, axis=1)
    low_1, high_1 = resampled_bounds(change_1, changed_R1, clusters, change_range, order)
    return {
        "value": float(value_2[0]),
        "low": float(low_2[0]),
        "high": float(high_2[0]),
        "change": float(change_1[0]),
        "change_low": float(low_1[0]),
        "change_high": float(high_1[0]),
    }


@one_at_a_time(lambda settings: settings.output.out)
def ablate(settings: Where, probed: Path, bar: ProgressBar = silent) -> Run:
    """Ablate a probe run's directions, on the prompts that the study transfers to.

    Args:
        settings: of the study.
        probed: a finished probe run of the same model, which has the directions.

    Raises:
        InputError: something in the settings or the prompts is wrong, or the run has no such
            direction.
    """
    probe = Probe(
        model=settings.model,
        prompts=replace(settings.prompts, prompts=settings.transfer),
        devices=settings.devices,
        output=replace(settings.output, out=settings.output.out / ABLATION.name),
    )
    subject = open_subject(probe)
    directions = read_directions(check_file(probed / DIRECTIONS))
    direction_JD = np.stack(
        [directions.at(settings.direction, j) for j in range(len(subject.exits) + 1)]
    )
    examples = Examples.of(ABLATION.name, subject.prompts, probe.probes.draws, settings.output.seed)
    fold_N = make_folds(examples.groups, examples.harmful_N, probe.probes.folds)
    resolved = subject.resolved(
        command=ABLATION.name,
        ablated=settings.direction,
        directions_sha256=directions_digest(probed / DIRECTIONS),
    )
    run = subject.open_run(resolved)
    openers = subject.openers(probe.first_token.openers).values()
    batches = subject.batches(subject.prompt_ids())
    is_opener_V = opener_mask(subject.model, openers)
    prompts = EvaluationSet(examples, batches, is_opener_V, probe.probes.strengths, fold_N)
    write_ablation(run, subject.model, direction_JD, prompts, bar)
    return run


_SAID = {
    ONE_LAYER: "Ablated after that layer",
    ALL_LAYERS: "Ablated after every layer",
    TO_MEAN: "Set to its mean over harmless prompts after that layer",
}


def ablation_findings(run_path: Path) -> list[str]:
    """What the ablations show, one sentence each, computed from the table."""
    frame = read_frame(run_path, ABLATION)
    harmful = frame[frame["label"] == "harmful"]
    lines = []
    for ablated in (ONE_LAYER, ALL_LAYERS, TO_MEAN):
        log_odds = harmful[(harmful["metric"] == LOG_ODDS) & (harmful["ablated"] == ablated)]
        largest = log_odds.loc[log_odds["change"].idxmin()]
        same = frame[(frame["ablated"] == ablated) & (frame["layer"] == largest["layer"])]
        content = same[same["metric"] == CONTENT_AUROC].iloc[0]
        opens, calm = (
            same[(same["metric"] == OPENS) & (same["label"] == label)].iloc[0]
            for label in ("harmful", "harmless")
        )
        change = Estimate(*(largest[name] for name in ("change", "change_low", "change_high")))
        lines.append(
            f"{_SAID[ablated]}, the direction of layer {largest['layer']} lowers the refusal "
            f"log-odds of {largest['n']} harmful prompts most (of {len(log_odds)} layers, chosen "
            f"on these prompts, so biased towards a large change): they change by {change:+.2f} "
            "nats; "
            f"{Estimate.from_row(opens):.0%} then open with a refusal ({opens['change']:+.0%}), "
            f"and {Estimate.from_row(calm):.0%} of harmless prompts ({calm['change']:+.0%}). "
            f"A new probe reads harmfulness with AUROC {Estimate.from_row(content):.2f} "
            f"({content['change']:+.2f})."
        )
    return lines
