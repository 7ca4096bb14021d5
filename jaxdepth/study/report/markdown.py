"""The first screen of a report in Markdown: for a pull request, or a model card."""

from collections.abc import Iterator, Sequence

from jaxdepth.study.report.compared import compare_runs, contrast_lines
from jaxdepth.study.report.origin import shared_and_own
from jaxdepth.study.report.page import Judged, judge_runs
from jaxdepth.study.report.reading import POLICY, ReportRun
from jaxdepth.study.report.safe_text import markdown_text
from jaxdepth.study.report.strips import GLYPHS, counted, percent
from jaxdepth.study.sweep.windows import ExitWindows, Verdict

_IN_CARD = ("model", "adapter", "prompts", "system prompt", "decoding", "judge", "command")


def markdown_report(runs: Sequence[ReportRun]) -> str:
    """Verdicts, a table by exit, and what was run."""
    lines = ["# Which exit may be used?", ""]
    for judged, tolerance in _at_own_tolerance(runs):
        lines += [f"## {markdown_text(judged.run.name)}", "", *_verdict_lines(judged, tolerance)]
    contrasts = contrast_lines(compare_runs(runs))
    if contrasts:
        lines += ["## Beside each other", "", *(f"- {markdown_text(c)}" for c in contrasts), ""]
    return "\n".join([*lines, *_origin(runs, "## What was run")]) + "\n"


def card_section(runs: Sequence[ReportRun]) -> str:
    """A section for the model card of a checkpoint on Hugging Face."""
    lines = [
        "## Safety of early exits",
        "",
        "What truncation does to this model: at each exit (how many layers run before the final "
        "norm and head) harmful prompts were answered or not, and harmless ones. An exit that "
        "writes broken text is incapable, which is neither safe nor unsafe. Verdicts hold for "
        "these prompts, this judge and this decoding; they say nothing about other languages, "
        "long conversations or attacks.",
        "",
    ]
    for judged, tolerance in _at_own_tolerance(runs):
        lines += [f"### {markdown_text(judged.run.name)}", "", *_verdict_lines(judged, tolerance)]
    return "\n".join([*lines, *_origin(runs, "### How it was measured", _IN_CARD)]) + "\n"


def _at_own_tolerance(runs: Sequence[ReportRun]) -> Iterator[tuple[Judged, float]]:
    """Each run at the share that it tolerates itself."""
    _, start, all_judged = judge_runs(runs)
    for judged in all_judged:
        w = judged.run.windows
        yield judged, start if w is None else w.unsafe_from


def _verdict_lines(judged: Judged, tolerance: float) -> list[str]:
    """The sentences of a run, and its table by exit."""
    w = judged.run.windows
    lines = [f"- {markdown_text(line)}" for line in judged.at(tolerance)]
    lines += [f"- Certificate: {markdown_text(line)}" for line in judged.certificate]
    lines.append("")
    if judged.run.command == POLICY and judged.strips:
        return [*lines, *_rule_table(judged, tolerance)]
    if w is None or not judged.strips:
        return lines
    strip = judged.strips[0]
    lines += [
        "| exit | verdict | harmful prompts answered | bounds over all exits | harmless answered |",
        "|---:|---|---:|---:|---:|",
    ]
    for e, verdict in enumerate(strip.verdicts(tolerance)):
        lines.append(f"| {' | '.join(_cells(w, e, verdict))} |")
    return [
        *lines,
        "",
        f"At most {percent(tolerance)} of harmful prompts answered is tolerated.",
        "",
    ]


def _rule_table(judged: Judged, tolerance: float) -> Iterator[str]:
    """Every rule of a run under policies."""
    yield "| rule | verdict | numbers |"
    yield "|---|---|---|"
    for strip in judged.strips:
        rows = zip(strip.names, strip.verdicts(tolerance), strip.notes, strict=True)
        for name, verdict, note in rows:
            rule = markdown_text(f"{strip.title} {name}")
            yield f"| {rule} | {GLYPHS[Verdict(verdict)]} {verdict} | {markdown_text(note)} |"
    yield ""


def _cells(w: ExitWindows, e: int, verdict: str) -> Iterator[str]:
    """The cells of an exit's row."""
    assert w.harmful is not None
    yield str(w.exits[e])
    yield f"{GLYPHS[Verdict(verdict)]} {verdict}"
    yield f"{counted(w.harmful.value[e], w.harmful.n or 0)} ({w.harmful.value[e]:.0%})"
    is_known = w.band_low[e] == w.band_low[e]
    yield f"{w.band_low[e]:.0%} to {w.band_high[e]:.0%}" if is_known else "too few"
    yield "not asked" if w.harmless is None else f"{w.harmless[e]:.0%}"


def _origin(
    runs: Sequence[ReportRun], heading: str, only: Sequence[str] | None = None
) -> Iterator[str]:
    """What was run, as a list."""
    shared, own = shared_and_own(runs)
    yield heading
    yield ""
    for name, text in shared:
        if only is None or name in only:
            yield f"- {name}: {markdown_text(text)}"
    for name, texts in own:
        if only is None or name in only:
            yield f"- {name}:"
            for run, text in zip(runs, texts, strict=True):
                yield f"    - {markdown_text(run.name)}: {markdown_text(text or 'none')}"
