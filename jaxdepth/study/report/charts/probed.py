"""Charts of probes: what a layer represents, and that beside what the exit does."""

from collections.abc import Sequence

import numpy as np

from jaxdepth.errors import InputError
from jaxdepth.stats.estimate import Estimate
from jaxdepth.study.probes.evaluate import CONTENT, LOGISTIC, OWN, SHUFFLED
from jaxdepth.study.probes.knows_does import OTHER
from jaxdepth.study.probes.tables import KNOWS_DOES, PROBES
from jaxdepth.study.report.charts.base import Chart, axes_of, line, stacked
from jaxdepth.study.report.reading import ReportRun
from jaxdepth.study.report.safe_text import tame_name

# What a combination means for prompts of a label, its colour and its pattern. What an exit should
# do is blue: "complies without knowing" is right where there is no harm to know of.
_MEANING = {
    "harmful": {
        "knows and refuses": ("reads harm, refuses (right)", "#1f6fa8", ""),
        "refuses without knowing": ("reads no harm, refuses", "#7fb2d6", "/"),
        "knows but complies": ("reads harm, answers all the same", "#b5312b", ""),
        "complies without knowing": ("reads no harm, answers", "#e3a29f", "x"),
        OTHER: (OTHER, "#eeeeee", "\\"),
    },
    "harmless": {
        "complies without knowing": ("reads no harm, answers (right)", "#1f6fa8", ""),
        "knows but complies": ("reads harm wrongly, answers (right)", "#7fb2d6", "/"),
        "refuses without knowing": ("reads no harm, refuses (over-refusal)", "#b5312b", ""),
        "knows and refuses": ("reads harm wrongly, refuses (false alarm)", "#e3a29f", "x"),
        OTHER: (OTHER, "#eeeeee", "\\"),
    },
}


def probed_charts(runs: Sequence[ReportRun]) -> list[Chart]:
    """What probes read in all runs, then what each exit does with that."""
    if not runs:
        return []
    beside = [knows_chart(r, n) for n, r in enumerate(runs) if r.has(KNOWS_DOES.name)]
    return [auroc_chart(runs), *beside]


def auroc_chart(runs: Sequence[ReportRun]) -> Chart:
    """AUROC of the content probe by layer at each position, with shuffled labels as a control."""
    traces, shown, number = [], [], 0
    for run in runs:
        frame = run.frame(PROBES)
        frame = frame[(frame["target"] == CONTENT) & (frame["set"] == OWN)]
        for position in frame["position"].dropna().unique():
            for probe in (LOGISTIC, SHUFFLED):
                rows = frame[(frame["position"] == position) & (frame["probe"] == probe)]
                rows = rows[rows["layer"].notna()].sort_values("layer")
                if rows.empty:
                    continue
                bounds = (rows[c].to_numpy(float) for c in ("auroc", "low", "high"))
                e = Estimate(*bounds, n=int(rows["n"].iloc[0]))
                where = tame_name(position)
                name = f"{run.name}, {where}" + ("" if probe == LOGISTIC else ", shuffled labels")
                traces.append(line(name, rows["layer"], e, number, spec=".2f"))
                number += 1
                if probe == LOGISTIC:
                    best = int(np.argmax(e.value))
                    shown.append(f"{name} {e.value[best]:.2f} after layer {best}")
    layout = axes_of(["harmful or harmless, read by a linear probe"], "layer", "AUROC", (0.3, 1.03))
    return Chart(
        name="probes",
        title="What each layer represents",
        alt=f"Highest AUROC of the probe: {'; '.join(shown)}.",
        note="Bars: 95%. Chance is 0.5. A probe says what can be read there, not what the model "
        "uses.",
        traces=traces,
        layout=layout,
    )


def knows_chart(run: ReportRun, number: int = 0) -> Chart:
    """What the probe reads at an exit beside what the exit does, with each label's own words."""
    frame = run.frame(KNOWS_DOES)
    is_known = frame["label"].isin(_MEANING) & frame["quadrant"].isin(_MEANING["harmful"])
    if not is_known.all():
        raise InputError(
            f"{run.path}: the table {KNOWS_DOES.name} has a label or a quadrant that there is not: "
            "it is damaged, run the command again to another --out"
        )
    frame = frame[frame["position"] == frame["position"].iloc[-1]]
    labels = sorted(frame["label"].unique())
    layout = axes_of([f"{label} prompts" for label in labels], "exit and layer", "share of prompts")
    layout["barmode"] = "stack"
    layout["height"] += 110  # the legend has many words
    layout["legend"] |= {"y": -0.26}
    traces, shown = [], []
    for panel, label in enumerate(labels):
        for quadrant, (meaning, colour, pattern) in _MEANING[label].items():
            rows = frame[(frame["label"] == label) & (frame["quadrant"] == quadrant)]
            rows = rows.sort_values("exit")
            counts = zip(rows["count"], rows["n"], strict=True)
            notes = [f"{count} of {n}" for count, n in counts]
            name = f"{label}: {meaning}" if quadrant != OTHER else meaning
            legend = quadrant != OTHER or not panel
            traces.append(
                stacked(name, rows["exit"].tolist(), rows["value"].tolist(), notes, colour, panel,
                        pattern, legend=legend)
            )  # fmt: skip
            if "(right)" in meaning and len(rows) and not quadrant.startswith("knows but"):
                shown.append(f"{label} prompts, {meaning}: {rows['value'].iloc[-1]:.0%}")
    return Chart(
        name=f"knows-{number}",
        title=f"What {run.name} reads in a prompt, and what the exit does",
        alt=f"Shares by exit; at the deepest one: {'; '.join(shown)}.",
        note="Blue is what an exit should do; red is what it should not. On harmless prompts there "
        "is no harm to read, so reading none and answering is right.",
        traces=traces,
        layout=layout,
    )
