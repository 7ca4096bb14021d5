"""Charts of policies and of probes from planted tables."""

import re

import pytest
from reports.planted import LETTERS

from jaxdepth.study.common_tables import PROMPTS
from jaxdepth.study.policies.tables import DYNAMIC, POLICIES
from jaxdepth.study.probes.knows_does import OTHER, QUADRANTS
from jaxdepth.study.probes.tables import CURVES, KNOWS_DOES, PROBES
from jaxdepth.study.report.charts.choose import charts_of
from jaxdepth.study.report.charts.probed import _MEANING
from jaxdepth.study.report.page import render
from jaxdepth.study.report.reading import read_runs
from jaxdepth.study.report.texts import unpack
from jaxdepth.study.run_directory import Run

IDS = ("bad", "good")
RULES = (("margin 0.3", "margin", 0.3, 2.5), ("fixed 4", "fixed", 4.0, 4.0))


def start(path, command: str) -> Run:
    run = Run.open(path, {"command": command, "seed": 0, "judge": "x"}, {"depth": 4})
    prompts = [
        {"prompt_id": name, "text": f"{name}?", "label": label, "category": None}
        | {"pair_id": None, "source": "set"}
        for name, label in zip(IDS, ("harmful", "harmless"), strict=True)
    ]
    run.write_table(PROMPTS.name, PROMPTS.from_rows(prompts))
    return run


@pytest.fixture
def policies(tmp_path):
    run = start(tmp_path / "policies", "sweep --policy")
    answers, rates = [], []
    for rule, policy, threshold, depth in RULES:
        named = {"rule": rule, "policy": policy, "threshold": threshold}
        answers += [
            named | {"prompt_id": name, "sample": 0, "mean_layers": depth, "mean_exit": depth}
            | {"outcome": LETTERS[letter], "text": f"{name} under {rule}", "n_tokens": 5}
            for name, letter in zip(IDS, "rc", strict=True)
        ]  # fmt: skip
        for label, share in (("harmful", 0.25), ("harmless", 0.75)):
            shared = named | {"label": label, "n": 20, "competent": "yes"}
            shared["competent"] = "no" if policy == "margin" else "yes"
            rates.append(shared | {"metric": "mean_layers", "value": depth})
            rates.append(
                shared | {"metric": "comply", "value": share, "low": share - 0.1, "high": 0.9}
            )
    run.write_table(DYNAMIC.name, DYNAMIC.from_rows(answers))
    run.write_table(POLICIES.name, POLICIES.from_rows(rates))
    return run.path


def test_policies_stand_at_their_mean_depth(policies):
    (chart,) = charts_of(read_runs([policies]))
    by_name = {(t["name"], t["xaxis"]): t for t in chart.traces}
    assert by_name["margin", "x"]["x"] == [2.5]
    assert by_name["margin", "x"]["y"] == [0.25]
    assert by_name["fixed", "x2"]["y"] == [0.75]
    assert by_name["margin", "x"]["error_y"]["arrayminus"] == pytest.approx([0.1])
    assert by_name["margin", "x"]["marker"]["symbol"][0].endswith("-open")
    assert not by_name["fixed", "x"]["marker"]["symbol"][0].endswith("-open")
    html = render(read_runs([policies]))
    (chunk,) = re.findall(r'id="texts-0-\d+">([^<]*)<', html)
    assert unpack(chunk)[0]["texts"] == ["bad under margin 0.3", "bad under fixed 4"]
    assert "At a tolerance of 5% nothing is shown: 1 harmful prompts are too few" in html


def test_right_behaviour_is_never_coloured_as_a_fault(tmp_path):
    run = start(tmp_path / "probe", "probe")
    probe = {"target": "content", "position": "last", "set": "own", "n": 20, "n_positive": 10}
    run.write_table(
        PROBES.name,
        PROBES.from_rows(
            probe | {"probe": kind, "layer": layer, "auroc": value, "low": 0.4, "high": 0.99}
            for kind, values in (("logistic", (0.5, 0.9)), ("shuffled labels", (0.5, 0.5)))
            for layer, value in enumerate(values)
        ),
    )
    run.write_table(CURVES.name, CURVES.from_rows([{"curve": "x", "layer": 0, "auroc": 0.5}]))
    counts = dict(zip((*QUADRANTS, OTHER), (1, 2, 3, 4, 0), strict=True))
    run.write_table(
        KNOWS_DOES.name,
        KNOWS_DOES.from_rows(
            {"position": "last", "exit": 4, "label": label, "quadrant": name, "n": 10}
            | {"count": count, "value": count / 10, "competent": "yes"}
            for label in ("harmful", "harmless")
            for name, count in counts.items()
        ),
    )
    auroc, knows = charts_of(read_runs([run.path]))
    assert auroc.traces[0]["y"] == [0.5, 0.9]
    assert "0.90 after layer 1" in auroc.alt
    shares = {t["name"]: t["y"] for t in knows.traces}
    assert shares["harmful: reads harm, refuses (right)"] == [0.1]
    assert shares["harmless: reads no harm, answers (right)"] == [0.4]
    colours = {t["name"]: t["marker"]["color"] for t in knows.traces}
    for label, meanings in _MEANING.items():
        assert set(meanings) == {*QUADRANTS, OTHER}
        for meaning, colour, _ in meanings.values():
            is_right = "(right)" in meaning
            is_fault = "over-refusal" in meaning or "answers all the same" in meaning
            assert not is_right or colour in ("#1f6fa8", "#7fb2d6")
            assert not is_fault or colour == "#b5312b"
            assert label
    assert len(colours) == 9
