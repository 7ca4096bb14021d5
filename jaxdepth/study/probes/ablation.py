"""What a direction causes, layer by layer: refusal and readable harmfulness after it is taken out.

For every layer d the direction that was found after layer d is ablated, there alone or everywhere.
Then full depth says how strongly it opens with a refusal, and a new probe is fitted to its last
layer: if refusal falls and harmfulness stays readable, behaviour is thinner than what is known.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import pyarrow as pa
from jaxtyping import Float

from jaxdepth.model.mistral import Mistral
from jaxdepth.model.sharding import to_host
from jaxdepth.model.steer import steer
from jaxdepth.probing.capture import residuals
from jaxdepth.probing.direction import directions_digest, read_directions
from jaxdepth.probing.folds import cross_fit, make_folds
from jaxdepth.prompts.batches import Batch, make_batches
from jaxdepth.refusal.openers import first_token, resolve_openers
from jaxdepth.runtime.progress import ProgressBar, silent
from jaxdepth.stats.intervals import interval, wilson
from jaxdepth.stats.ranking import auroc
from jaxdepth.study.first_token import opener_mask
from jaxdepth.study.probes.directions import DIRECTIONS
from jaxdepth.study.probes.evaluate import Examples
from jaxdepth.study.probes.settings import Probe, Where
from jaxdepth.study.run_directory import Run, check_file, read_table
from jaxdepth.study.subject import open_subject

ABLATION = "ablation"
NOWHERE, THERE, EVERYWHERE = "nowhere", "after that layer", "after every layer"
LOG_ODDS, OPENS, CONTENT_AUROC = "refusal log-odds", "opens with a refusal", "content AUROC"
SCHEMA = pa.schema(
    [
        ("layer", pa.int32()),  # after which the direction was found; 0 where nothing is ablated
        ("ablated", pa.string()),
        ("metric", pa.string()),
        ("label", pa.string()),  # null for the AUROC
        ("n", pa.int32()),
        ("value", pa.float64()),
        ("low", pa.float64()),
        ("high", pa.float64()),
        ("change", pa.float64()),  # against the model as it is, on the same prompts
        ("change_low", pa.float64()),
        ("change_high", pa.float64()),
    ]
)


class Asked(NamedTuple):
    """What ablated models are asked."""

    examples: Examples
    batches: Sequence[Batch]
    is_opener_V: np.ndarray
    strengths: tuple[float, ...]  # of the probes
    fold_N: np.ndarray


class Seen(NamedTuple):
    """What full depth shows of every prompt."""

    log_odds_N: np.ndarray
    opens_N: np.ndarray  # whether the most probable token opens a refusal
    score_N: np.ndarray  # out of fold, of a content probe after the last layer


def write_ablation(
    run: Run,
    model: Mistral,
    direction_JD: Float[np.ndarray, "J D"],
    asked: Asked,
    bar: ProgressBar = silent,
) -> None:
    """Writes the table, one part a layer; an earlier attempt's parts are left out.

    The prompts should be others than those that the direction was found with.
    """
    if run.finished(ABLATION):
        return
    depth = model.config.num_hidden_layers
    before = None
    with bar("ablation", "layers") as progress:
        for layer in range(depth + 1):
            if not run.has_part(ABLATION, layer):
                before = before or _see(model, asked)
                rows = []
                for ablated, layers in _places(layer, depth):
                    changed = steer(model, direction_JD[layer], layers, "ablate")
                    at = {"layer": layer, "ablated": ablated}
                    rows += [at | row for row in compare(asked, _see(changed, asked), before)]
                if layer == 0:
                    at = {"layer": 0, "ablated": NOWHERE}
                    rows = [at | row for row in compare(asked, before, before)]
                run.write_part(ABLATION, layer, pa.Table.from_pylist(rows, SCHEMA))
            progress(layer, depth)
    run.finish_parts(ABLATION, depth + 1)


def _places(layer: int, depth: int) -> Iterable[tuple[str, list[int]]]:
    """Where a direction is ablated."""
    if layer == 0:
        return ()
    return (THERE, [layer]), (EVERYWHERE, list(range(1, depth + 1)))


def _see(model: Mistral, asked: Asked) -> Seen:
    N = len(asked.examples.ids)
    log_odds_N, opens_N = np.zeros(N), np.zeros(N, bool)
    x_ND = np.zeros((N, model.config.hidden_size), np.float32)
    for batch in asked.batches:
        rows = list(batch.indices)
        last_B1 = batch.lengths_B[:, None] - 1
        h_BD = residuals(model, batch.tokens_BS, batch.lengths_B, last_B1)[:, 0, -1]
        said = _first_token(model, h_BD, asked.is_opener_V)
        log_odds_N[rows] = to_host(said.refusal_log_odds)[0, : len(rows)]
        opens_N[rows] = asked.is_opener_V[to_host(said.top_token)[0, : len(rows)]]
        x_ND[rows] = to_host(h_BD)[: len(rows)].astype(np.float32)
    fitted = cross_fit(x_ND[None], asked.examples.harmful_N, asked.fold_N, asked.strengths)
    return Seen(log_odds_N, opens_N, fitted.score_GN[0])


@jax.jit
def _first_token(model, h_BD, is_opener_V):
    """What full depth says first, of the stream that its last layer leaves."""
    return first_token(model.unembed(h_BD)[None], is_opener_V)


def compare(asked: Asked, after: Seen, before: Seen) -> list[dict]:
    """The rows of one ablation: each metric with its interval, and its change."""
    examples, rows = asked.examples, []
    for metric, values in ((LOG_ODDS, "log_odds_N"), (OPENS, "opens_N")):
        both_2N = np.stack([getattr(after, values), getattr(before, values)]).astype(float)
        for label, mine_N in (("harmful", examples.harmful_N), ("harmless", ~examples.harmful_N)):
            counts_RM = examples.counts_RN[:, mine_N]
            with np.errstate(invalid="ignore"):
                resampled_R2 = counts_RM @ both_2N[:, mine_N].T / counts_RM.sum(axis=1)[:, None]
            found = _row(both_2N[:, mine_N].mean(axis=1), resampled_R2)
            if metric == OPENS:  # a rate: near 0 and 1 a bootstrap knows too little
                bounds = wilson(int(both_2N[0, mine_N].sum()), int(mine_N.sum()))
                found |= dict(zip(("low", "high"), bounds, strict=True))
            rows.append({"metric": metric, "label": label, "n": int(mine_N.sum())} | found)
    score_2N = np.stack([after.score_N, before.score_N])
    y_N = examples.harmful_N
    found = _row(
        auroc(score_2N, y_N, asked.fold_N), auroc(score_2N, y_N, asked.fold_N, examples.counts_RN)
    )
    return [*rows, {"metric": CONTENT_AUROC, "label": None, "n": len(y_N)} | found]


def _row(value_2: np.ndarray, resampled_R2: np.ndarray) -> dict:
    low_2, high_2 = interval(resampled_R2)
    low, high = interval(resampled_R2[:, 0] - resampled_R2[:, 1])
    return {
        "value": float(value_2[0]),
        "low": float(low_2[0]),
        "high": float(high_2[0]),
        "change": float(value_2[0] - value_2[1]),
        "change_low": float(low),
        "change_high": float(high),
    }


def ablate(settings: Where, probed: Path, bar: ProgressBar = silent) -> Run:
    """Ablates a probe run's directions, on the prompts that the study transfers to.

    Args:
        settings: of the study.
        probed: the finished probe run of the same model, whose directions are taken.

    Raises:
        InputError: something in the settings or the prompts is wrong, or the run has no such
            direction.
    """
    probe = Probe(
        model=settings.model,
        prompts=replace(settings.prompts, prompts=settings.transfer),
        devices=settings.devices,
        output=replace(settings.output, out=settings.output.out / ABLATION),
    )
    subject = open_subject(probe)
    directions = read_directions(check_file(probed / DIRECTIONS))
    direction_JD = np.stack(
        [directions.at(settings.direction, j) for j in range(len(subject.exits) + 1)]
    )
    own = Examples.of(ABLATION, subject.prompts, probe.probes.draws, settings.output.seed)
    fold_N = make_folds(own.groups, own.harmful_N, probe.probes.folds)
    resolved = subject.resolved(
        command=ABLATION,
        ablated=settings.direction,
        directions_sha256=directions_digest(probed / DIRECTIONS),
    )
    run = subject.open_run(resolved)
    openers = resolve_openers(subject.encoder, probe.first_token.openers).values()
    batches = make_batches(subject.prompt_ids(), probe.prompts.batch_size, subject.model.mesh)
    is_opener_V = opener_mask(subject.model, openers)
    asked = Asked(own, batches, is_opener_V, probe.probes.strengths, fold_N)
    write_ablation(run, subject.model, direction_JD, asked, bar)
    return run


def ablation_findings(run_path: Path) -> list[str]:
    """What the ablations show, one sentence each, computed from the table."""
    rows = read_table(run_path, ABLATION).to_pylist()
    lines = []
    for ablated in (THERE, EVERYWHERE):
        mine = [r for r in rows if r["ablated"] == ablated]
        harmful = [r for r in mine if (r["metric"], r["label"]) == (LOG_ODDS, "harmful")]
        most = min(harmful, key=lambda r: r["change"])
        content = next(
            r for r in mine if r["metric"] == CONTENT_AUROC and r["layer"] == most["layer"]
        )
        opens = next(
            r for r in mine
            if (r["metric"], r["label"], r["layer"]) == (OPENS, "harmful", most["layer"])
        )  # fmt: skip
        lines.append(
            f"Taken out {ablated}, the direction of layer {most['layer']} changes refusal log-odds "
            f"of {most['n']} harmful prompts most, by {most['change']:+.2f} "
            f"[{most['change_low']:+.2f}, {most['change_high']:+.2f}] nats; "
            f"{opens['value']:.0%} [{opens['low']:.0%}, {opens['high']:.0%}] then open with a "
            f"refusal ({opens['change']:+.0%}). Harmfulness is read with AUROC "
            f"{content['value']:.2f} [{content['low']:.2f}, {content['high']:.2f}] "
            f"({content['change']:+.2f})."
        )
    return lines
