"""What is read along a thought: from before its first token to the verdict that ends it.

thought_probes.parquet  probes where a thought begins, where it has been closed, at the verdict
thought_scores.parquet  what the first two say of each prompt at every token, out of fold
thoughts.parquet        how well that tells the verdict along the thought, and where it falls

Thoughts are those of full depth in a run of `decide`, the first vote of each prompt. Is the verdict
readable before the thought (post hoc reasoning)? Does the score of refusal fall just before the
verdict, as Yin et al. 2025 (arXiv:2510.06036) found in reasoning models?
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from jaxtyping import Float, Int

from jaxdepth.model.sharding import to_host
from jaxdepth.probe.along import scores_along
from jaxdepth.probe.folds import CrossFitted, cross_fit
from jaxdepth.prompts.batches import Batch, make_batches
from jaxdepth.prompts.chat import PromptEncoder
from jaxdepth.prompts.datasets import Prompt
from jaxdepth.refusal.protocol import VERDICTS, Markers, open_thoughts
from jaxdepth.runtime.progress import ProgressBar
from jaxdepth.stats.intervals import interval
from jaxdepth.stats.ranking import auroc
from jaxdepth.study.batched import OnHost, in_parts
from jaxdepth.study.probes.activations import Capture, capture, read_stream
from jaxdepth.study.probes.evaluate import (
    CHOSEN,
    CONTENT,
    PROBES_SCHEMA,
    Evaluation,
    Examples,
    Target,
    evaluate,
    folds_of,
)
from jaxdepth.study.run_directory import Run, read_record, read_table
from jaxdepth.study.verdicts.tables import TEXTS, VERDICT_TABLE

OPENED, CLOSED, VERDICT = POSITIONS = "opened", "closed", "verdict"
FITTED_AT = (OPENED, CLOSED)  # whose probes are followed along the thought
PROBES, SCORES, ALONG = "thought_probes", "thought_scores", "thoughts"
POINTS = 11  # along each thought, from its first token to its last
PLACES = (OPENED, *(f"{p:.0%}" for p in np.linspace(0, 1, POINTS)), CLOSED, VERDICT)
AUROC, MEAN, FALL = "AUROC", "mean score", "fall to the verdict"

SCORES_SCHEMA = pa.schema(
    [
        ("prompt_id", pa.string()),
        ("target", pa.string()),
        ("fitted_at", pa.string()),
        ("layer", pa.int32()),
        ("positive", pa.bool_()),
        ("fold", pa.int32()),
        ("thought_tokens", pa.int32()),
        ("scores", pa.list_(pa.float32())),  # opened, each token of the thought, of close, verdict
    ]
)
ALONG_SCHEMA = pa.schema(
    [
        ("target", pa.string()),
        ("fitted_at", pa.string()),
        ("layer", pa.int32()),  # that folds chose most often
        ("metric", pa.string()),
        ("positive", pa.bool_()),  # whose mean or fall it is; null for AUROC
        ("place", pa.string()),  # one of PLACES; null for a fall
        ("n", pa.int32()),
        ("value", pa.float64()),
        ("low", pa.float64()),  # 95%, bootstrap of whole pairs
        ("high", pa.float64()),
    ]
)


@dataclass(frozen=True)
class Thoughts:
    """Prompts as full depth went on with them: prompt | open | thought | close | verdict."""

    ids: list[list[int]]
    begins_N: Int[np.ndarray, " N"]  # the last token before the thought
    tokens_N: Int[np.ndarray, " N"]  # of the thought alone

    @property
    def places_NP(self) -> Int[np.ndarray, "N P"]:
        """Where POSITIONS are."""
        ends_N = np.array([len(ids) for ids in self.ids]) - 1
        return np.stack([self.begins_N, ends_N - 1, ends_N], axis=1)


def read_thoughts(
    run_path: Path, prompts: Sequence[Prompt], encoder: PromptEncoder
) -> Thoughts | None:
    """What full depth thought of some prompts; None if the run holds no thoughts.

    Args:
        run_path: a run of `decide` that `read_behaviour` has accepted.
        prompts: whose thoughts are wanted.
        encoder: of the model of that run.

    Raises:
        InputError: a table of the run is unfinished or damaged.
    """
    record = read_record(run_path)
    if record["settings"]["command"] != "decide" or TEXTS.name not in record["tables"]:
        return None
    depth, protocol = record["facts"]["depth"], record["settings"]["protocol"]
    markers = Markers(**record["facts"]["markers"])

    def of_first_votes(table: str) -> dict[str, dict]:
        rows = read_table(run_path, table).to_pylist()
        return {r["prompt_id"]: r for r in rows if (r["exit"], r["vote"]) == (depth, 0)}

    texts, verdicts = of_first_votes(TEXTS.name), of_first_votes(VERDICT_TABLE.name)
    opened = open_thoughts(
        encoder, markers, protocol["instruction"], protocol["close"], [p.text for p in prompts]
    )
    ids, tokens = [], []
    for prompt, before in zip(prompts, opened, strict=True):
        thought = texts[prompt.prompt_id]["thought_ids"]
        said = verdicts[prompt.prompt_id]
        # One that abstained has no verdict that was said: the most probable one stands for it.
        likely = [said[f"p_{name}"] for name in VERDICTS]
        name = said["verdict"]
        verdict = VERDICTS.index(name) if name in VERDICTS else int(np.argmax(likely))
        ids.append([*before, *thought, *markers.close, markers.verdicts[verdict]])
        tokens.append(len(thought))
    begins_N = np.array([len(before) for before in opened]) - 1
    return Thoughts(ids, begins_N, np.array(tokens))


def probe_thoughts(
    run: Run,
    model,
    thoughts: Thoughts,
    own: Examples,
    targets: Sequence[Target],
    how: Evaluation,
    batch_size: int,
    bar: ProgressBar,
) -> None:
    """Writes the tables above; goes on where an earlier run was stopped."""
    if run.finished(ALONG):
        return
    wanted = Capture("thoughts", thoughts.ids, thoughts.places_NP)
    capture(run, model, wanted, batch_size, bar)
    streams = {name: read_stream(run.path, wanted.name, p) for p, name in enumerate(POSITIONS)}
    if not run.finished(PROBES):
        rows = []
        for name, x_JND in streams.items():
            for target in targets:
                rows += evaluate(how, name, own, x_JND, (), target)[0]
        run.write_table(PROBES, pa.Table.from_pylist(rows, PROBES_SCHEMA))
    if not run.finished(SCORES):
        probes = [
            _Followed.fit(how, own, target, name, streams[name])
            for target in targets
            for name in FITTED_AT
        ]
        middle_JD = np.mean([x_JND.mean(axis=1) for x_JND in streams.values()], axis=0)
        batches = make_batches(thoughts.ids, batch_size, model.mesh)

        def rows_of(batch: Batch) -> OnHost:
            return _follow(model, batch, thoughts, own, probes, middle_JD)

        in_parts(run, (SCORES,), batches, rows_of, bar)
    _write_along(run, own)


@dataclass(frozen=True)
class _Followed:
    """The probes of one target, fitted at one position."""

    target: Target
    fitted_at: str
    fold_M: Int[np.ndarray, " M"]
    fitted: CrossFitted

    @classmethod
    def fit(cls, how: Evaluation, own: Examples, target: Target, name: str, x_JND) -> "_Followed":
        fold_M, _ = folds_of(how, own, target)
        x_JMD = x_JND[:, target.rows_M]
        found = cross_fit(x_JMD, target.positive_M, fold_M, how.strengths)
        return cls(target, name, fold_M, found)

    def row_of(self, n: int) -> int | None:
        """Where a prompt is among those of the target."""
        found = np.flatnonzero(self.target.rows_M == n)
        return int(found[0]) if len(found) else None


def _follow(model, batch: Batch, thoughts: Thoughts, own: Examples, probes, middle_JD) -> OnHost:
    """What each prompt's probes say of a batch: those of the fold that it was tested in."""
    rows_BT = [[probe.row_of(n) for probe in probes] for n in batch.padded_indices]
    folds_BT = [
        [0 if m is None else probe.fold_M[m] for probe, m in zip(probes, rows_T, strict=True)]
        for rows_T in rows_BT
    ]

    def of_folds(read) -> np.ndarray:
        return np.array(
            [[read(p.fitted)[:, f] for p, f in zip(probes, folds_T, strict=True)]
             for folds_T in folds_BT]
        )  # fmt: skip

    score_BTJS = to_host(
        scores_along(
            model,
            batch.tokens_BS,
            batch.lengths_B,
            of_folds(lambda fitted: fitted.weights_GFD),
            of_folds(lambda fitted: fitted.bias_GF),
            middle_JD,
        )
    )
    rows = []
    for b, n in enumerate(batch.indices):
        for t, probe in enumerate(probes):
            m = rows_BT[b][t]
            for layer, score_S in enumerate(score_BTJS[b, t] if m is not None else ()):
                rows.append(
                    {
                        "prompt_id": own.ids[n],
                        "target": probe.target.name,
                        "fitted_at": probe.fitted_at,
                        "layer": layer,
                        "positive": bool(probe.target.positive_M[m]),
                        "fold": int(probe.fold_M[m]),
                        "thought_tokens": int(thoughts.tokens_N[n]),
                        "scores": score_S[thoughts.begins_N[n] : batch.lengths_B[b]],
                    }
                )
    return lambda: [pa.Table.from_pylist(rows, SCORES_SCHEMA)]


def _write_along(run: Run, own: Examples) -> None:
    """Follows the layer that folds chose most often, over the prompts with a thought."""
    chosen = {
        (r["target"], r["position"]): int(np.bincount(r["chosen_layers"]).argmax())
        for r in read_table(run.path, PROBES).to_pylist()
        if r["probe"] == CHOSEN
    }
    scores = {}
    for row in read_table(run.path, SCORES).to_pylist():
        of = row["target"], row["fitted_at"]
        if row["layer"] == chosen[of] and row["thought_tokens"]:
            scores.setdefault(of, []).append(row)
    rows = []
    place = {prompt_id: n for n, prompt_id in enumerate(own.ids)}
    for (target, fitted_at), mine in scores.items():
        at = {"target": target, "fitted_at": fitted_at, "layer": chosen[target, fitted_at]}
        counts_RM = own.counts_RN[:, [place[r["prompt_id"]] for r in mine]]
        rows += [at | row for row in _along(mine, counts_RM)]
    run.write_table(ALONG, pa.Table.from_pylist(rows, ALONG_SCHEMA))


def _along(mine: list[dict], counts_RM: Float[np.ndarray, "R M"]) -> list[dict]:
    """The rows of one probe: AUROC and means at every place, and the falls."""
    positive_M, fold_M = (np.array([r[name] for r in mine]) for name in ("positive", "fold"))
    score_MX = np.array([at_places(r["scores"], r["thought_tokens"]) for r in mine])
    thought_M = np.array([np.mean(r["scores"][1 : 1 + r["thought_tokens"]]) for r in mine])
    fall_M = thought_M - score_MX[:, PLACES.index(CLOSED)]
    rows = []
    if any(len(set(positive_M[fold_M == f])) == 2 for f in set(fold_M)):
        value_X = auroc(score_MX.T, positive_M, fold_M)
        bounds = interval(auroc(score_MX.T, positive_M, fold_M, counts_RM))
        rows += _rows({"metric": AUROC, "n": len(mine)}, PLACES, value_X, *bounds)
    for side in (True, False):
        of = positive_M == side
        if of.any():
            at = {"positive": side, "n": int(of.sum())}
            for metric, places, value_MX in (
                (MEAN, PLACES, score_MX), (FALL, (None,), fall_M[:, None])
            ):  # fmt: skip
                counts_RG = counts_RM[:, of]
                with np.errstate(invalid="ignore"):
                    drawn_RX = (counts_RG @ value_MX[of]) / counts_RG.sum(axis=1, keepdims=True)
                found = value_MX[of].mean(axis=0), *interval(drawn_RX)
                rows += _rows(at | {"metric": metric}, places, *found)
    return rows


def at_places(scores: Sequence[float], thought_tokens: int) -> list[float]:
    """The scores of one prompt at PLACES; it must have a thought."""
    along = np.linspace(1, thought_tokens, POINTS).round().astype(int)
    return [scores[0], *(scores[k] for k in along), scores[-2], scores[-1]]


def _rows(at: dict, places, value_X, low_X, high_X) -> list[dict]:
    numbers = zip(places, value_X, low_X, high_X, strict=True)
    return [
        at | {"place": p, "value": float(v), "low": float(lo), "high": float(hi)}
        for p, v, lo, hi in numbers
    ]


def thought_findings(run_path: Path) -> list[str]:
    """What the tables show, one sentence each."""
    probes = read_table(run_path, PROBES).to_pylist()
    rows = read_table(run_path, ALONG).to_pylist()
    chosen = {(r["target"], r["position"]): r for r in probes if r["probe"] == CHOSEN}
    lines = []
    for target in dict.fromkeys(t for t, _ in chosen):
        before, after = (_auroc(chosen[target, name]) for name in FITTED_AT)
        lines.append(
            f"{target}, read before the first token of the thought: AUROC {before}; where the "
            f"thought has been closed: {after} (layers chosen on validation)."
        )
        falls = [
            f"{_number(r)} in those {side_of(target, r['positive'])} (n={r['n']})"
            for r in rows
            if (r["target"], r["fitted_at"], r["metric"]) == (target, OPENED, FALL)
        ]
        if falls:
            lines.append(
                f"The score of {target} (probe of before the thought) falls from its mean over the "
                f"thought to its close by {', by '.join(falls)}."
            )
    return lines


def side_of(target: str, positive: bool) -> str:
    """What the prompts of one class are."""
    sides = ("harmful", "harmless") if target == CONTENT else ("refused", "answered")
    return sides[not positive]


def _auroc(row: dict) -> str:
    return f"{row['auroc']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"


def _number(row: dict) -> str:
    return f"{row['value']:+.2f} [{row['low']:+.2f}, {row['high']:+.2f}]"
