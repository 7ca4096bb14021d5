"""The sample to label: known probabilities, the same for every rater, and no bias."""

import numpy as np
import pandas as pd
import pytest
from labelled_runs import label_all, session_of, truths, write_run
from scipy.stats import binomtest

from jaxdepth import InputError
from jaxdepth.refusal.outcome import Outcome
from jaxdepth.study.common_tables import GENERATIONS
from jaxdepth.study.labelling.answers import KEY, read_answers
from jaxdepth.study.labelling.corrected import Labelled
from jaxdepth.study.labelling.plan import allocate, draw_plan, exit_bands, read_plan
from jaxdepth.study.labelling.raters import read_rater
from jaxdepth.study.run_directory import Run, read_frame, read_record


@pytest.fixture(scope="module")
def answers(tmp_path_factory) -> pd.DataFrame:
    return read_answers(write_run(tmp_path_factory.mktemp("plan") / "run", pairs=20))


BANDS = [(1, 2), (3,), (4,)]


def test_bands_of_exits():
    assert exit_bands([1, 2, 3, 4], 4, 2) == [(1, 2), (3,), (4,)]
    assert exit_bands([16, 20, 28, 29], 30, 2) == [(16, 20), (28, 29)]
    assert exit_bands([4], 4, 2) == [(4,)]
    assert exit_bands([1, 2], 4, 5) == [(1,), (2,)]


def test_allocation_is_equal_for_cells_and_follows_roots_within_them():
    sizes, cells = np.array([400, 100, 900, 900]), np.array([0, 0, 1, 1])
    drawn = allocate(sizes, cells, 60)
    assert drawn.tolist() == [20, 10, 15, 15]
    smaller = allocate(sizes, cells, 35)
    assert (smaller <= drawn).all()
    assert allocate(np.array([2, 50]), np.array([0, 1]), 30).tolist() == [2, 28]
    assert allocate(np.array([2, 5]), np.array([0, 1]), 30).tolist() == [2, 5]
    with pytest.raises(InputError, match="draw at least 12, or use fewer --bands"):
        allocate(sizes, cells, 11)


def test_strata_probabilities_and_order(answers):
    plan = draw_plan(answers, BANDS, 80, seed=0)
    assert len(plan) == 80
    assert not plan[KEY].duplicated().any()
    joined = plan.merge(answers, on=KEY)
    band_of = {1: "1-2", 2: "1-2", 3: "3", 4: "4"}
    expected = joined["label"] + " " + joined["exit"].map(band_of) + " " + joined["outcome"]
    assert (joined["stratum"] == expected).all()
    sizes = answers["label"] + " " + answers["exit"].map(band_of) + " " + answers["outcome"]
    sizes = sizes.value_counts()
    for stratum, group in plan.groupby("stratum"):
        assert (group["stratum_size"] == sizes[stratum]).all()
        assert (group["inclusion_probability"] == len(group) / sizes[stratum]).all()
        assert len(group) >= 3
    strata = plan["stratum"].nunique()
    assert strata == len(sizes) == 18
    assert not plan["stratum"][:strata].duplicated().any()  # one of each comes first
    assert plan.equals(draw_plan(answers, BANDS, 80, seed=0))
    assert not plan.equals(draw_plan(answers, BANDS, 80, seed=1))
    # Nothing can be read off the order: exits are not sorted, nor are outcomes.
    assert not joined["exit"].is_monotonic_increasing


def test_every_answer_of_a_stratum_is_drawn_as_often(answers):
    drawn = pd.concat(draw_plan(answers, BANDS, 60, seed=seed) for seed in range(100))
    counts = drawn.groupby(KEY).agg(count=("exit", "size"), p=("inclusion_probability", "first"))
    p_values = [binomtest(int(c), 100, p).pvalue for c, p in counts.itertuples(index=False)]
    assert min(p_values) > 0.05 / len(answers) / 5


def labelled(answers, plan, truth, count) -> Labelled:
    """The labels of the first `count` answers of a sample."""
    known = plan[:count]
    place = pd.Series(answers.index, pd.MultiIndex.from_frame(answers[KEY]))
    index = place.loc[list(known[KEY].itertuples(index=False, name=None))].to_numpy()
    size = known.groupby("stratum")["stratum"].transform("size")
    weight = (known["stratum_size"] / size).to_numpy(float)
    return Labelled(answers, index, truth[index], weight, "ann", BANDS, 0)


@pytest.mark.parametrize("count", [90, 78])
def test_rates_are_unbiased_with_all_labels_and_with_a_beginning_of_them(answers, count):
    rng = np.random.default_rng(0)
    is_off = (answers["outcome"] == "comply") & (rng.random(len(answers)) < 0.5)
    is_refusal = (answers["outcome"] == "degenerate") & (rng.random(len(answers)) < 0.3)
    truth = answers["outcome"].mask(is_off, "off-topic").mask(is_refusal, "refuse")
    truth = truth.to_numpy(object)
    values = []
    for seed in range(50):
        plan = draw_plan(answers, BANDS, 90, seed)
        some = labelled(answers, plan, truth, count)
        is_in_X = some.where(exits=[1, 2, 3], label="harmful")
        values.append([some.rate(is_in_X, outcome).rate.value for outcome in Outcome])
    true = [(truth[is_in_X] == outcome).mean() for outcome in Outcome]
    error = np.std(values, axis=0) / np.sqrt(len(values))
    assert (np.abs(np.mean(values, axis=0) - true) <= 3.5 * error + 1e-9).all()
    judged = [(answers["outcome"][is_in_X] == outcome).mean() for outcome in Outcome]
    assert np.abs(np.subtract(judged, true)).max() > 0.1  # which the labels correct


def test_a_sample_is_stored_and_the_same_for_the_next_rater(tmp_path):
    run = write_run(tmp_path / "run")
    first = session_of(run, rater="ann")
    label_all(first, truths(run), 20)
    second = session_of(run, rater="bob", seed=5, bands=1)  # the stored sample counts
    assert [item.item_id for item in first.items] == [item.item_id for item in second.items]
    assert second.labelled == 0
    assert session_of(run, rater="ann").labelled == 20


def test_a_larger_number_extends_the_sample(tmp_path):
    run = write_run(tmp_path / "run")
    small = session_of(run, n=60)
    label_all(small, truths(run), 60)
    large = session_of(run, n=90)
    ids = [item.item_id for item in large.items]
    assert ids[:60] == [item.item_id for item in small.items]
    assert len(ids) == 90
    assert large.labelled == 60
    assert len(session_of(run, n=70).items) == 90
    with pytest.raises(InputError, match="cannot be extended"):
        session_of(run, n=120, seed=1)


def test_equal_texts_are_labelled_once_for_all_runs(tmp_path):
    def text(row):
        return "I cannot help with that." if row["outcome"] == "refuse" else repr(row)

    runs = [write_run(tmp_path / name, text=text) for name in ("a", "b")]
    session = session_of(*runs, n=200)
    plans = [read_frame(run, "label_plan") for run in runs]
    refusal = next(item for item in session.items if item.text.startswith("I cannot"))
    session.set_labels({refusal.item_id: "refuse"})
    for run, plan in zip(runs, plans, strict=True):
        assert read_rater(run, "ann").labels == {refusal.item_id: "refuse"}
        assert len(plan) == 200
    assert len(session.items) < 200 * 2 - 20
    # A label given in one run holds in another that has the text.
    other = write_run(tmp_path / "c", text=text)
    assert session_of(other, runs[0], n=200).label_of(refusal) == "refuse"
    assert read_rater(other, "ann").labels == {refusal.item_id: "refuse"}


def test_a_changed_text_is_named(tmp_path):
    run = write_run(tmp_path / "run")
    session_of(run)
    row = read_frame(run, "label_plan").iloc[7]
    frame = read_frame(run, GENERATIONS.name)
    is_row = (frame["prompt_id"] == row["prompt_id"]) & (frame["exit"] == row["exit"])
    frame.loc[is_row, "text"] = "another"
    Run(run, read_record(run)).write_table(GENERATIONS.name, GENERATIONS.from_frame(frame))
    with pytest.raises(InputError, match=rf"{row['prompt_id']} at exit {row['exit']} .*sample 0"):
        read_plan(run, read_answers(run))
