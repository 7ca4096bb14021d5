"""Labels of a sweep: its curve is corrected, and stays so when the sweep is run again."""

import numpy as np
import pyarrow.parquet as pq
import pytest
from labelled_runs import session_of, write_run

from jaxdepth.cli import main
from jaxdepth.refusal.outcome import Outcome
from jaxdepth.study.run_directory import Run, read_frame, read_record, read_table
from jaxdepth.study.settings import Windows
from jaxdepth.study.sweep.curves import depth_curves
from jaxdepth.study.sweep.rates import write_rates


def test_a_sweep_is_labelled(tmp_path, capsys):
    path = write_run(tmp_path / "run", pairs=24, exits=(2, 4))
    run = Run(path, read_record(path))
    write_rates(run, depth_curves(run.path), Windows())
    before = read_frame(run.path, "curve")
    assert before["corrected"].isna().all()
    session = session_of(run.path, n=96)
    labels = {
        item.item_id: "comply" if n % 4 else "off-topic" for n, item in enumerate(session.items)
    }
    session.set_labels(labels)
    assert main(["label", str(run.path), "--rater", "ann", "--n", "96"]) == 0
    out = capsys.readouterr().out
    assert "corrected by ann's labels" in out
    assert str(run.path / "figures" / "unsafe_window.png") in out
    after = read_frame(run.path, "curve")
    assert after.drop(columns=["corrected", "corrected_low", "corrected_high"]).equals(
        before.drop(columns=["corrected", "corrected_low", "corrected_high"])
    )
    rates = after[after["metric"].str.startswith("outcome_")]
    assert len(rates) == len(Outcome) * 4
    assert rates[["corrected", "corrected_low", "corrected_high"]].notna().all(axis=None)
    by_outcome = rates.groupby("metric")["corrected"].mean()
    assert by_outcome.sum() == pytest.approx(1)
    assert by_outcome["outcome_comply"] > 0.5
    assert np.isnan(after.loc[after["metric"] == "kl_to_full", "corrected"]).all()
    labelled = read_table(run.path, "curve")
    again = Run(run.path, read_record(run.path))
    write_rates(again, depth_curves(run.path), Windows())  # as the same sweep command does
    assert read_table(run.path, "curve") == labelled
    assert pq.read_schema(run.path / "curve.parquet").names[-1] == "corrected_high"
