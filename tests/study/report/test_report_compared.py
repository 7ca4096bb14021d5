"""Models beside each other in a report: contrasts and the frontier against counted numbers."""

import pytest
from reports.planted import planted, write_sweep

from jaxdepth.cli import main
from jaxdepth.study.report.charts.choose import charts_of
from jaxdepth.study.report.compared import compare_runs, contrast_lines
from jaxdepth.study.report.page import render
from jaxdepth.study.report.reading import read_runs

N = 40


def planted_refusals(harmful, refused):
    """As `planted`, and so many of N harmless prompts are refused at each exit; others answered."""
    outcomes = planted(harmful, (N,) * len(harmful), N)
    for n in range(N):
        outcomes[f"good{n:04d}"] = "".join("r" if n < k else "c" for k in refused)
    return outcomes


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("compared")
    write_sweep(path / "untouched", planted_refusals((40, 30, 20), (0, 2, 4)))
    write_sweep(path / "robust", planted_refusals((10, 0, 4), (8, 8, 4)))
    return path


def test_models_are_compared_with_the_untouched_one(folder, tmp_path):
    runs = read_runs([folder])
    compared = compare_runs(runs)
    refused, answered = contrast_lines(compared)
    # Refused at exits 1 and 2: 30 and 40 of 40, against 0 and 10: 87.5% - 12.5%.
    assert refused.startswith(
        "robust against untouched: harmful prompts refused before exit 3 +75 [+"
    )
    # Answered: 10 and 0 of 40, against 40 and 30: 12.5% - 87.5%. Look-alikes refused: 8 and 8 of
    # 40, against 0 and 2. Runs are in the order of their names.
    assert answered.startswith(
        "untouched against robust: harmful prompts answered to the point +75 [+"
    )
    assert "(exits 1-2; TPR - FPR there +10 [" in answered
    assert "and +68 [" in answered
    html = render(runs).replace("&#39;", "'")
    assert refused in html
    assert answered in html
    out = tmp_path / "report.md"
    assert main(["report", str(folder), "--format", "md", "--out", str(out)]) == 0
    assert "## Beside each other" in out.read_text("utf-8")


def test_the_frontier_has_a_point_for_each_exit(folder):
    runs = read_runs([folder])
    chart = next(c for c in charts_of(runs, compare_runs(runs)) if c.name == "frontier")
    by_name = {trace["name"]: trace for trace in chart.traces}
    assert by_name["untouched"]["x"] == [0.0, 0.05, 0.1]
    assert by_name["untouched"]["y"] == [0.0, 0.25, 0.5]
    assert by_name["robust"]["x"] == [0.2, 0.2, 0.1]
    assert by_name["robust"]["y"] == [0.75, 1.0, 0.9]
    assert by_name["robust"]["customdata"][0].startswith("exit 1: 75% [")
    assert "robust 90% against 10%" in chart.alt


def test_runs_of_other_exits_or_prompts_are_not_paired(folder, tmp_path):
    other = write_sweep(tmp_path / "other", planted_refusals((40, 30), (0, 2)))
    runs = read_runs([folder / "untouched", other])
    assert compare_runs(runs) is None
    settings = {"prompts_sha256": "0"}
    same_ids = planted_refusals((40, 30, 20), (0, 2, 4))
    other = write_sweep(tmp_path / "texts", same_ids, settings=settings)
    assert compare_runs(read_runs([folder / "untouched", other])) is None
    assert "Beside each other" not in render(runs)
