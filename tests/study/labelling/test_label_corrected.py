"""From labels to tables: corrected rates, two raters, several runs, and what cannot be labelled."""

import shutil

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from labelled_runs import label_all, prompt_rows, session_of, truths, write_run

from jaxdepth.cli import main
from jaxdepth.refusal.outcome import Outcome
from jaxdepth.study.atomic_files import parquet
from jaxdepth.study.common_tables import GENERATIONS, PROMPTS
from jaxdepth.study.comparison.figures import draw_compared
from jaxdepth.study.comparison.outcomes import Compared
from jaxdepth.study.labelling.answers import KEY, read_answers
from jaxdepth.study.labelling.corrected import (
    MIN_LABELS,
    correct_curve,
    corrected_rates,
    read_labelled,
)
from jaxdepth.study.labelling.figures import corrected_levels
from jaxdepth.study.labelling.plan import read_plan
from jaxdepth.study.labelling.raters import FOLDER, write_labels
from jaxdepth.study.run_directory import Run, read_frame, read_record
from jaxdepth.study.verdicts.tables import TEXTS, VERDICT_TABLE


def write_all_labels(run) -> None:
    answers = read_answers(run)
    write_labels(run, read_plan(run, answers), answers)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of 480 answers, 180 of them labelled by the truth."""
    path = write_run(tmp_path_factory.mktemp("corrected") / "model", pairs=60)
    label_all(session_of(path, n=180), truths(path))
    write_all_labels(path)
    return path


def test_labels_have_no_text_and_all_that_a_correction_needs(run):
    table = pq.read_table(run / "labels.parquet")
    assert table.schema.names == [
        "run", "prompt_id", "exit", "sample", "rater", "label", "stratum",
        "inclusion_probability", "text_sha256",
    ]  # fmt: skip
    assert table.num_rows == 180
    truth = truths(run)
    for row, text in zip(table.to_pylist(), texts_of(run, table), strict=True):
        assert row["label"] == truth[text]
        assert (row["run"], row["rater"]) == ("model", "ann")
        assert text not in map(str, row.values())


def texts_of(run, table) -> list[str]:
    return table.select(KEY).to_pandas().merge(read_answers(run), on=KEY)["text"].tolist()


def test_corrected_rates_by_band_computed_a_second_way(run):
    rates = corrected_rates(run)
    assert [tuple(e) for e in rates["exits"][::6][:4]] == [(1, 2), (3,), (4,), (1, 2, 3)]
    answers, labels = read_answers(run), read_frame(run, "labels")
    labels["weight"] = 1 / labels["inclusion_probability"]
    labels = labels.merge(answers[[*KEY, "outcome"]], on=KEY)
    truth = answers["text"].map(truths(run))
    for row in rates.itertuples(index=False):
        is_in = answers["exit"].isin(row.exits) & answers["prompt_id"].str.endswith(f"-{row.label}")
        some = labels.merge(answers.loc[is_in, KEY], on=KEY)
        assert row.labels == len(some)
        assert row.n == 60
        assert row.value == (answers.loc[is_in, "outcome"] == row.outcome).mean()
        # The cell is a union of strata: the estimate is the weighted mean of its labels.
        mean = np.average(some["label"] == row.outcome, weights=some["weight"])
        assert row.corrected == pytest.approx(mean, abs=1e-12)
        assert row.corrected_low < row.corrected_high
        assert row.corrected_low <= row.corrected <= row.corrected_high
        assert abs(row.corrected - (truth[is_in] == row.outcome).mean()) < 0.2
    comply = rates[rates["outcome"] == Outcome.COMPLY]
    assert (comply["corrected_high"] < comply["value"]).mean() >= 0.75  # half of it is off-topic


def test_the_intervals_of_a_run_cover_the_truth_of_its_prompts(tmp_path):
    """Many samples of the same answers: their share, as a reader would label all of them."""
    hits = 0
    for seed in range(8):
        run = write_run(tmp_path / str(seed), pairs=60)
        answers, truth = read_answers(run), truths(run)
        label_all(session_of(run, n=150, seed=seed), truth)
        write_all_labels(run)
        labelled = read_labelled(run)
        for label in ("harmful", "harmless"):
            is_in_X = labelled.where(exits=[1, 2, 3], label=label)
            rate = labelled.rate(is_in_X, "comply").rate
            true = (answers["text"].map(truth) == "comply")[is_in_X].mean()
            hits += rate.low <= true <= rate.high
    assert hits >= 14  # of 16; the intervals also allow for other prompts


def test_one_exit_is_corrected_by_its_own_labels_if_it_has_enough(run):
    curve = pd.DataFrame(
        [
            ("outcome_comply", "harmful", 3, 0.5),
            ("outcome_comply", "harmful", 1, 0.5),
            ("kl_to_full", "harmful", 3, 0.5),
            ("detected_refuse", "comply", None, 0.5),
        ],
        columns=["metric", "label", "exit", "value"],
    )
    corrected = correct_curve(curve, run)
    assert corrected["value"].tolist() == [0.5] * 4
    band = corrected_rates(run).set_index(["label", "outcome"]).loc[("harmful", "comply")]
    band = band[[tuple(exits) == (3,) for exits in band["exits"]]].iloc[0]
    assert corrected["corrected"][0] == band["corrected"]
    assert corrected["corrected_high"][0] == band["corrected_high"]
    labels = read_frame(run, "labels")
    of_exit_1 = (labels["exit"] == 1) & labels["prompt_id"].str.endswith("-harmful")
    assert of_exit_1.sum() < MIN_LABELS
    assert corrected["corrected"][1:].isna().all()


def test_without_labels_or_with_few_nothing_is_corrected(tmp_path):
    run = write_run(tmp_path / "run")
    curve = pd.DataFrame({"metric": ["outcome_comply"], "label": "harmful", "exit": [3]})
    assert correct_curve(curve, run)["corrected"].isna().all()
    session = session_of(run, n=120)
    label_all(session, truths(run), 10)
    write_all_labels(run)
    assert read_labelled(run) is None
    assert corrected_rates(run).empty
    label_all(session, truths(run), 120)
    write_all_labels(run)
    assert not corrected_rates(run).empty


def test_labels_after_one_that_was_left_out_do_not_count(tmp_path):
    run = write_run(tmp_path / "run")
    session = session_of(run, n=120)
    truth = truths(run)
    names = {item.item_id: truth[item.text] for item in session.items}
    del names[session.items[40].item_id]  # hard to tell
    session.set_labels(names)
    write_all_labels(run)
    assert len(read_frame(run, "labels")) == 119
    assert len(read_labelled(run).labelled_L) == 40


def test_the_first_rater_corrects_and_the_second_is_compared(tmp_path, capsys):
    run = write_run(tmp_path / "run")
    truth = truths(run)
    label_all(session_of(run, rater="zoe", n=120), truth)
    session = session_of(run, rater="ann", n=120)
    changed = session.items[5]
    label_all(session, truth | {changed.text: "partial"})
    assert main(["label", str(run), "--rater", "ann", "--n", "120"]) == 0
    out = capsys.readouterr().out
    assert "zoe and ann agree on 99% of 120 answers of the sample; Cohen's kappa 0.9" in out
    exit_layer = changed.text.split()[2]
    assert f"  run, exit {exit_layer}, {changed.text.split()[1]}, sample 0: " in out
    assert f"{truth[changed.text]} by zoe, partial by ann" in out
    assert "corrected by zoe's labels" in out
    assert read_labelled(run).rater == "zoe"
    assert set(read_frame(run, "labels")["rater"]) == {"zoe", "ann"}


def test_labels_outlive_the_folder_of_raters(tmp_path):
    run = write_run(tmp_path / "run")
    label_all(session_of(run, n=120), truths(run))
    write_all_labels(run)
    before = read_frame(run, "labels")
    shutil.rmtree(run / FOLDER)
    label_all(session_of(run, rater="bob", n=120), truths(run), 5)
    write_all_labels(run)
    after = read_frame(run, "labels")
    assert after[after["rater"] == "ann"].equals(before)
    assert after["rater"].tolist() == ["ann"] * 120 + ["bob"] * 5


def test_labels_stay_when_a_run_is_judged_again(tmp_path):
    """The sample was drawn by the old judge's outcomes; its probabilities hold for any judge."""
    run = write_run(tmp_path / "run", pairs=60)
    label_all(session_of(run, n=180), truths(run))
    write_all_labels(run)
    old = corrected_rates(run)
    frame = read_frame(run, GENERATIONS.name)
    frame["outcome"] = frame["text"].map(truths(run))  # a judge without errors
    Run(run, read_record(run)).write_table(GENERATIONS.name, GENERATIONS.from_frame(frame))
    new = corrected_rates(run)
    assert new["corrected"].to_numpy() == pytest.approx(new["value"].to_numpy(), abs=1e-12)
    assert (new["power"][new["value"] > 0] == 1).all()
    width = (new["corrected_high"] - new["corrected_low"]).mean()
    assert width < (old["corrected_high"] - old["corrected_low"]).mean()


def test_a_comparison_is_labelled_together_and_corrected(tmp_path, capsys):
    runs = {name: write_run(tmp_path / name, seed=n) for n, name in enumerate("ba")}
    compared = Compared.read(runs)
    parquet(compared.table())(tmp_path / "comparison.parquet")
    assert main(["label", str(tmp_path), "--n", "180", "--export", str(tmp_path / "x.csv")]) == 0
    assert "360 texts" in capsys.readouterr().out
    truth = {text: label for run in runs.values() for text, label in truths(run).items()}
    session = session_of(tmp_path, rater="first", n=180)
    first = [item.text.split()[0] for item in session.items[:40]]
    assert 8 < first.count("a") < 32  # runs take turns, in no order that tells
    label_all(session, truth)
    assert main(["label", str(tmp_path), "--n", "180"]) == 0
    out = capsys.readouterr().out
    assert "360 of 360 texts are labelled by first." in out
    assert f"Corrected columns: {tmp_path / 'comparison.parquet'}." in out
    assert draw_compared(Compared.read(runs), tmp_path)  # with corrected rates
    table = pq.read_table(tmp_path / "comparison.parquet").to_pandas()
    assert table["value"].tolist() == compared.table().to_pandas()["value"].tolist()
    some = table[(table["outcome"] == "comply") & (table["exit"] == 3)]
    assert list(some["model"]) == ["b", "b", "a", "a"]
    assert (some["corrected"] < some["value"]).all()
    for row in some.itertuples(index=False):  # each model by its own labels
        label = row.group.split()[1]
        own = dict(corrected_levels_of(runs[row.model], label))
        assert row.corrected == pytest.approx(own[(3,)].value)


def corrected_levels_of(run, label):
    levels = corrected_levels(run, label, Outcome.COMPLY)
    assert [exits for exits, _ in levels] == [[3], [4], [1, 2]]
    return [(tuple(exits), rate) for exits, rate in levels]


def fails(capsys, *args) -> str:
    assert main(["label", *map(str, args)]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    return err


def test_runs_that_cannot_be_labelled_are_one_line(tmp_path, capsys):
    assert "no run is named" in fails(capsys)
    assert "is no run directory" in fails(capsys, tmp_path / "none")
    textless = write_run(tmp_path / "textless")
    frame = read_frame(textless, GENERATIONS.name).assign(text=None)
    record = read_record(textless)
    Run(textless, record).write_table(GENERATIONS.name, GENERATIONS.from_frame(frame))
    assert "did not keep its texts: run it again with --keep-text" in fails(capsys, textless)
    good = write_run(tmp_path / "good")
    before = sorted(good.iterdir())
    assert "did not keep its texts" in fails(capsys, good, textless)
    assert sorted(good.iterdir()) == before  # nothing is begun
    Run.open(tmp_path / "policy", {"command": "sweep --policy"}, {})
    assert "a run of sweep --policy: expected one of" in fails(capsys, tmp_path / "policy")
    Run.open(tmp_path / "new", {"command": "sweep"}, {})
    assert "no finished table generations" in fails(capsys, tmp_path / "new")
    both = ("--export", tmp_path / "a.csv", "--import", tmp_path / "b.csv")
    assert "give one of them" in fails(capsys, good, *both)
    assert "n is 10, but the answers have 18 strata" in fails(capsys, good, "--n", 10)
    assert "bands is 0" in fails(capsys, good, "--bands", 0)


def test_a_run_of_decide(tmp_path, capsys):
    path = tmp_path / "run"
    run = Run.open(path, {"command": "decide", "seed": 0}, {"depth": 2})
    prompts, rng = prompt_rows(20), np.random.default_rng(0)
    lanes = [{"prompt_id": p["prompt_id"], "exit": e, "vote": 0} for p in prompts for e in (1, 2)]
    outcomes = [str(rng.choice(["refuse", "comply"])) for _ in lanes]
    verdicts = [lane | {"answer_outcome": o} for lane, o in zip(lanes, outcomes, strict=True)]
    texts = [lane | {"thought": "a secret", "answer": f"{lane}"} for lane in lanes]
    run.write_table(PROMPTS.name, PROMPTS.from_rows(prompts))
    run.write_table(VERDICT_TABLE.name, VERDICT_TABLE.from_rows(verdicts))
    assert "did not keep its texts" in fails(capsys, path)
    run.write_table(TEXTS.name, TEXTS.from_rows(texts))
    session = session_of(path, n=80)
    assert all("secret" not in item.text for item in session.items)
    label_all(session, {item.text: "comply" for item in session.items})
    assert main(["label", str(path), "--rater", "ann", "--n", "80"]) == 0
    rates = read_frame(path, "corrected")
    assert (rates[rates["outcome"] == "comply"]["corrected"] == 1).all()
    verdicts[3]["answer_outcome"] = None
    run.write_table(VERDICT_TABLE.name, VERDICT_TABLE.from_rows(verdicts))
    assert "has verdicts without an answer" in fails(capsys, path)
