"""Tables of runs that are whole but wrong, for each command that reads another's run.

As in test_resealed.py: every column may be another one, or gone, and run.json has its new digest.
"""

import os
import shutil
import time
from importlib.util import find_spec

import numpy as np
import pytest
from folders.runs import FACTS, SETTINGS, make_run
from labelled_runs import label_all, session_of, truths
from mutants import resealed
from reports.planted import planted, write_sweep

from jaxdepth.prompts.prompt import Prompt
from jaxdepth.refusal.protocol import Markers
from jaxdepth.settings_file import build, flatten
from jaxdepth.study.certificates.measured import Measured
from jaxdepth.study.checkpoints.paired import read_paired, write_paired
from jaxdepth.study.checkpoints.tables import DIFFERENCES
from jaxdepth.study.common_tables import PROMPTS
from jaxdepth.study.judging import kept
from jaxdepth.study.judging.run import Panel, _finish
from jaxdepth.study.judging.settings import Rejudge
from jaxdepth.study.judging.tables import JUDGEMENTS
from jaxdepth.study.labelling import answers as labelling
from jaxdepth.study.labelling.corrected import read_labelled
from jaxdepth.study.labelling.plan import open_plan
from jaxdepth.study.labelling.run import open_session, write_corrected
from jaxdepth.study.labelling.settings import Label
from jaxdepth.study.policies.rates import RuleMeans, rule_rates
from jaxdepth.study.policies.tables import DYNAMIC, POLICIES
from jaxdepth.study.probes import thoughts
from jaxdepth.study.probes.behaviour import read_behaviour
from jaxdepth.study.probes.tables import CURVES, KNOWS_DOES, PROBES
from jaxdepth.study.report import origin, page
from jaxdepth.study.report.markdown import markdown_report
from jaxdepth.study.report.reading import read_runs
from jaxdepth.study.run_directory import Run, read_frame, read_record
from jaxdepth.study.subject import _UNRESOLVED
from jaxdepth.study.verdicts.scores import write_verdicts
from jaxdepth.study.verdicts.sources import RunVerdicts
from jaxdepth.study.verdicts.tables import TEXTS, VERDICT_TABLE

SEED = int(os.environ.get("JAXDEPTH_FUZZ_SEED", "20261127"))
FEW, MANY = 25, 250
PAIRS, DEPTH = 6, 4
RULES = {("margin 0.3", "margin", 0.3, 2.5): (1, 2, 0), ("fixed 4", "fixed", 4.0, 4.0): (0, 2, 0)}
NAMES = [f"p{n:04d}-{label}" for n in range(PAIRS) for label in ("harmful", "harmless")]
PLANTED = planted((0, 3, 4, 6), (2, 3, 5, 6), PAIRS)


def asked(names, text):
    return [Prompt(name, text.format(name), None, None, None, "s") for name in names]


DECIDED = SETTINGS | {
    "command": "decide", "exits": [2, DEPTH], "verdict_temperature": 1.0, "refuse_from": 0.5,
    "caution_from": 0.5, "abstain_below": 0.0, "protocol": {"instruction": "i", "close": "c"},
}  # fmt: skip


def start(path, settings) -> Run:
    run = Run.open(path, settings, FACTS | {"depth": DEPTH, "markers": Markers(
        (1,), (2,), (3, 4, 5), ("A", "B", "C"))._asdict()})  # fmt: skip
    rows = [
        {"prompt_id": name, "text": f"{name}?", "label": name[6:], "source": "s"} for name in NAMES
    ]
    run.write_table(PROMPTS.name, PROMPTS.from_rows(rows))
    return run


def write_swept(path):
    write_sweep(path, PLANTED, depth=DEPTH)


def write_labelled(path):
    write_sweep(path, planted((8, 10), (10, 14), 16), model="m")
    label_all(session_of(path, n=60, bands=1), truths(path))
    write_corrected(open_session(Label(runs=(path,), rater="ann", n=60, bands=1))[0])
    judge = {"judge": "x", "identity": "i", "outcome": "refuse", "failed": False}
    panel = Panel(Run(path, read_record(path)), Rejudge(path))
    rows = [
        row | judge for row in panel.answers[["prompt_id", "exit", "sample"]].to_dict("records")
    ]
    _finish(panel, JUDGEMENTS.from_rows(rows).to_pandas(), set())


def write_rules(path):
    named = {"settings": {"command": "sweep --policy"}, "facts": {"depth": DEPTH}}
    make_run(path, RULES, pairs=PAIRS, **named)
    run = Run(path, read_record(path))
    answers = read_frame(path, DYNAMIC).assign(text="x")
    run.write_table(DYNAMIC.name, DYNAMIC.from_frame(answers))
    run.write_table(POLICIES.name, POLICIES.from_frame(rule_rates(RuleMeans.read(path))))


def write_decided(path):
    run = start(path, DECIDED)
    words = ("refuse", "partial", "comply")
    lanes = [
        {"prompt_id": name, "exit": e, "vote": vote}
        for name in NAMES for e in (2, DEPTH) for vote in (0, 1)
    ]  # fmt: skip
    decided = [
        lane | {"p_refuse": 0.5, "p_partial": 0.3, "p_comply": 0.2, "label_mass": 0.9}
        | {"margin": 0.2, "verdict": words[n % 3], "thought_tokens": 2, "closed_by": "model"}
        | {"answer_tokens": 3, "answer_outcome": "comply"}
        for n, lane in enumerate(lanes)
    ]  # fmt: skip
    said = [lane | {"thought": "x", "answer": "y", "thought_ids": [7, 8]} for lane in lanes]
    run.write_table(VERDICT_TABLE.name, VERDICT_TABLE.from_rows(decided))
    run.write_table(TEXTS.name, TEXTS.from_rows(said))
    write_verdicts(run, 0)


def write_probed(path):
    run = start(path, SETTINGS | {"command": "probe", "steer": "none"})
    probe = {"target": "content", "position": "last", "set": "own", "n": 12, "n_positive": 6}
    rows = [
        probe | {"probe": kind, "layer": layer, "auroc": 0.8, "low": 0.4, "high": 0.99}
        for kind in ("logistic", "shuffled labels") for layer in range(DEPTH + 1)
    ]  # fmt: skip
    run.write_table(PROBES.name, PROBES.from_rows(rows))
    curve = [{"curve": "x", "layer": layer, "auroc": 0.5} for layer in range(DEPTH + 1)]
    run.write_table(CURVES.name, CURVES.from_rows(curve))
    known = [
        {"position": "last", "exit": e, "competent": "yes", "label": name[6:], "n": PAIRS}
        | {"quadrant": quadrant, "count": 3, "value": 0.5, "low": 0.2, "high": 0.8}
        for e in (2, DEPTH) for name in NAMES[:2]
        for quadrant in ("knows and refuses", "complies without knowing")
    ]  # fmt: skip
    run.write_table(KNOWS_DOES.name, KNOWS_DOES.from_rows(known))


def report(path):
    runs = read_runs([path])
    page.render(runs)
    markdown_report(runs)


def export(path):
    if find_spec("inspect_ai"):
        from jaxdepth.benchmarks.inspect.export import export_logs

        export_logs(path)


def read_thoughts(path):
    read, record = thoughts.read_thoughts(path, asked(NAMES, "{}?"), None), read_record(path)
    if record["settings"]["command"] == "decide" and TEXTS.name in record["tables"]:
        assert len(read.ids) == len(NAMES)


def record_all_settings(path):
    """Those that its command has, as a real run records them."""
    record = read_record(path)
    cls = origin._SETTINGS[record["settings"]["command"]]
    settings = build(cls, {"model": "m"})
    usual = {k: v for k, v in flatten(settings).items() if k not in _UNRESOLVED}
    record["settings"] = usual | record["settings"]
    Run(path, record)._save()


# kind -> what makes the run, and what reads it.
KINDS = {
    "swept": (write_swept, [
        report,
        lambda path: read_behaviour(path, asked(PLANTED, "Prompt {}?"), {"steer": "none"}),
    ]),
    "labelled": (write_labelled, [
        report, read_labelled, export, kept.read_answers,
        lambda path: open_plan(path, labelling.read_answers(path), 90, 1, 0),
    ]),
    "rules": (write_rules, [
        report, kept.read_answers, RuleMeans.read,
        lambda path: Measured.read(path).losses("harmful"),
    ]),
    "decided": (write_decided, [
        report, kept.read_answers, labelling.read_answers, read_thoughts,
        lambda path: read_behaviour(path, asked(NAMES, "{}?"), SETTINGS),
        lambda path: RunVerdicts(Run(path, read_record(path))).sources,
    ]),
    "probed": (write_probed, [report]),
}  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run of each kind."""
    place = tmp_path_factory.mktemp("whole")
    for kind, (write, _) in KINDS.items():
        write(place / kind)
        record_all_settings(place / kind)
    return place


@pytest.fixture(autouse=True)
def _without_a_model_or_scripts(monkeypatch):
    monkeypatch.setattr(page, "_charting", lambda: "")  # the same in all pages
    monkeypatch.setattr(thoughts, "open_thoughts", lambda *args: [[1, 2]] * len(args[-1]))


def check(whole, place, kind, seed):
    """One mutant, or the run itself without a seed; whether it was refused."""
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(whole / kind, place)
    if seed is not None:
        harm = resealed.harm_run if seed[1] % 4 == 0 else resealed.harm_tables
        harm(place, np.random.default_rng(seed))
    uses = [lambda use=use: use(place) for use in KINDS[kind][1]]
    return resealed.refused(uses, (kind, seed))


@pytest.mark.parametrize("kind", KINDS)
def test_refused_or_used(whole, tmp_path, kind):
    assert not check(whole, tmp_path / "whole", kind, None)
    count = FEW if kind != "labelled" else FEW // 3  # logs of Inspect take long
    refused = sum(check(whole, tmp_path / "mutant", kind, [SEED, n]) for n in range(count))
    assert refused > count // 10  # many columns of a probe are shown as they are


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_hundreds(whole, tmp_path, kind):
    seed = int(time.time()) if "JAXDEPTH_FUZZ_SEED" not in os.environ else SEED
    place = tmp_path / "mutant"
    resealed.try_many(f"tables of {kind}", MANY, seed, lambda s: check(whole, place, kind, s))


@pytest.mark.parametrize("content", [b"PAR1", b"", "columns"])
def test_a_table_without_a_digest(tmp_path, content):
    """The differences of two checkpoints lie in no run."""
    file = tmp_path / f"{DIFFERENCES.name}.parquet"
    write_paired(tmp_path, DIFFERENCES.empty().to_pandas())
    assert read_paired(tmp_path).empty
    if content == "columns":
        import pyarrow.parquet as pq

        pq.write_table(DIFFERENCES.empty().drop_columns(["layer"]), file)
    else:
        file.write_bytes(content)
    assert resealed.refused([lambda: read_paired(tmp_path)], file)
