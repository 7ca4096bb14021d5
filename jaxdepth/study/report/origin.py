"""What a run is of: model, prompts, judge and its error, and the command that makes it again."""

import re
import shlex
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from jaxdepth.files import file_digest
from jaxdepth.refusal.outcome import BUILT_IN
from jaxdepth.settings_file import build, flatten
from jaxdepth.study.judging.tables import AGREEMENT
from jaxdepth.study.labelling.tables import LABELS
from jaxdepth.study.policies.settings import PolicySweep
from jaxdepth.study.probes.settings import Probe
from jaxdepth.study.report.reading import DECIDE, POLICY, PROBE, SWEEP, ReportRun
from jaxdepth.study.report.safe_text import tame_name, without_folders
from jaxdepth.study.run_directory import RUN_FILE
from jaxdepth.study.sweep.rates import Rates
from jaxdepth.study.sweep.settings import Sweep
from jaxdepth.study.verdicts.settings import Decide
from jaxdepth.study.wording import runs_of_exits

_SETTINGS = {SWEEP: Sweep, POLICY: PolicySweep, DECIDE: Decide, PROBE: Probe}
_DIGEST = re.compile("[0-9a-f]{64}")  # what a run records in place of a file
_SHORT = 16  # characters of a digest


def origin_rows(run: ReportRun) -> list[tuple[str, str]]:
    """What a run is of, as pairs of a name and a text."""
    settings, facts, versions = (run.record[key] for key in ("settings", "facts", "versions"))
    model, _, revision = without_folders(facts.get("model", "unknown")).partition("@")
    rows = [
        ("model", f"{model}, {run.depth} layers, {settings.get('dtype', 'unknown dtype')}"),
        ("revision", revision or "not named; its fingerprint is below"),
        ("adapter", without_folders(facts["adapter"]) if facts.get("adapter") else "none"),
        ("prompts", "; ".join(prompt_sets(run))),
        ("system prompt", _system_prompt(settings, facts)),
        ("exits", exits_in_words(run)),
        ("decoding", _decoding(settings)),
        ("judge", " ".join(judge_lines(run))),
        ("finished", _written(run.path)),
        ("command", command_line(run)),
        ("fingerprints", "; ".join(_fingerprints(run))),
        ("made by", ", ".join(f"{n} {versions[n]}" for n in ("jaxdepth", "jax") if n in versions)),
    ]
    return [(name, text) for name, text in rows if text]


def prompt_sets(run: ReportRun) -> list[str]:
    """Every set of prompts with the number of harmful and of harmless ones."""
    lines = []
    for source, rows in run.prompts.groupby("source", sort=False):
        counts = rows["label"].value_counts().sort_index()
        numbers = " and ".join(f"{n} {label}" for label, n in counts.items())
        lines.append(f"{tame_name(without_folders(source))}: {numbers}")
    return lines


def judge_lines(run: ReportRun) -> Iterator[str]:
    """The judge of a run, and what is known of its error."""
    judge = run.record["settings"].get("judge")
    if judge is None:
        return
    yield f"{tame_name(without_folders(judge))}."
    if run.command == SWEEP and run.curve is not None and judge == BUILT_IN:
        yield " ".join(Rates.read(run.path).detection_error.split())
    elif judge == BUILT_IN:
        yield "Its error is in the documentation (refusal detection)."
    if run.has(AGREEMENT.name):
        agreement = run.frame(AGREEMENT)
        for row in agreement[agreement["exit"].isna()].itertuples():
            yield (
                f"{tame_name(row.first)} and {tame_name(row.second)} agree on "
                f"{row.agreement:.0%} of {row.n} answers."
            )
    elif judge != BUILT_IN:
        yield "Its error was not measured here: label a sample (`jaxdepth label`)."
    if run.has(LABELS.name):
        labels = run.frame(LABELS)
        raters = labels["rater"].unique()
        count = (labels["rater"] == raters[0]).sum()
        yield f"{tame_name(raters[0])} labelled {count} answers by hand."


def exits_in_words(run: ReportRun) -> str:
    """The exits of a run as `20-30 of 30`."""
    exits = run.record["settings"].get("exits") or []
    if not exits:
        return ""
    all_L = np.arange(1, run.depth + 1)
    return f"{runs_of_exits(all_L, np.isin(all_L, exits))} of {run.depth} layers"


def command_line(run: ReportRun) -> str:
    """A command with the settings of a run; the model and other files are named without folders."""
    cls, facts = _SETTINGS[run.command], run.record["facts"]
    defaults = flatten(build(cls, {}, missing=None))
    words = ["jaxdepth", run.command.split()[0], without_folders(facts.get("model", "MODEL"))]
    recorded = run.record["settings"] | {"adapter": facts.get("adapter")}
    recorded["reference"] = facts.get("reference")
    recorded["encoder"] = facts.get("encoder")
    for name, default in defaults.items():
        value = recorded.get(name)
        if name == "model" or name not in recorded or value is None:
            continue
        if name == "exits":
            all_L = np.arange(1, run.depth + 1)
            value = runs_of_exits(all_L, np.isin(all_L, value)).replace(", ", ",")
            default = runs_of_exits(all_L, all_L > 0)
        elif name == "judge":
            default = BUILT_IN
        elif name == "openers" and set(value) <= set(default):
            continue  # those of the default words that the tokenizer has
        elif isinstance(value, dict):
            continue  # what a file said
        elif name in ("adapter", "reference", "encoder"):
            value = without_folders(value)
        if value == default or (isinstance(default, tuple) and list(default) == value):
            continue
        words += _option(name, value)
    return " ".join(map(shlex.quote, map(tame_name, words)))


def _option(name: str, value) -> list[str]:
    """A setting as words of a command line."""
    flag = name.replace("_", "-")
    if isinstance(value, bool):
        return [f"--{flag}" if value else f"--no-{flag}"]
    values = value if isinstance(value, list) else [value]
    words = ["FILE" if _DIGEST.fullmatch(str(v)) else without_folders(v) for v in values]
    return [f"--{flag}", *words] if words else []


def _system_prompt(settings: dict, facts: dict) -> str:
    given = settings.get("system") or settings.get("system_prompt")
    if given:
        return tame_name(given)
    if facts.get("chat_template"):
        return "none given: what the chat template says by itself"
    return "none: the model has no chat template"


def _decoding(settings: dict) -> str:
    """How answers were decoded; nothing where there were none."""
    if not settings.get("max_new_tokens") and not settings.get("answer_tokens"):
        return ""
    limit = settings.get("max_new_tokens") or settings.get("answer_tokens")
    heat = settings.get("temperature") or 0.0
    how = f"temperature {heat:g}" if heat else "greedy"
    samples = settings.get("samples") or settings.get("votes") or 1
    return f"{how}, {samples} per prompt and exit, at most {limit} new tokens"


def _written(path: Path) -> str:
    """When run.json was last written, which is when the run or its labels were finished."""
    seconds = (path / RUN_FILE).stat().st_mtime
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")


def _fingerprints(run: ReportRun) -> Iterator[str]:
    settings = run.record["settings"]
    for key, name in (
        ("model_fingerprint", "model"),
        ("adapter_sha256", "adapter"),
        ("prompts_sha256", "prompts"),
        ("outcome_rule", "outcome rule"),
    ):
        if settings.get(key):
            yield f"{name} {str(settings[key])[:_SHORT]}"
    yield f"{RUN_FILE} {file_digest(run.path / RUN_FILE)[:_SHORT]}"


def shared_and_own(
    runs: Sequence[ReportRun],
) -> tuple[list[tuple[str, str]], list[tuple[str, list[str]]]]:
    """What runs have in common, and what is different between them, by row."""
    rows = [dict(origin_rows(run)) for run in runs]
    names = list(dict.fromkeys(name for row in rows for name in row))
    values = {name: [row.get(name, "") for row in rows] for name in names}
    shared = [(name, texts[0]) for name, texts in values.items() if len(set(texts)) == 1]
    own = [(name, texts) for name, texts in values.items() if len(set(texts)) > 1]
    return shared, own
