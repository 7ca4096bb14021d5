"""A sweep whose deepest exit overflowed: its tables have nulls, and what reads them says so."""

import numpy as np
import pytest
from reports.planted import planted, write_sweep

from jaxdepth.cli import main
from jaxdepth.study.common_tables import FIRST_TOKEN, GENERATIONS, NON_FINITE
from jaxdepth.study.run_directory import Run, read_record, read_table
from jaxdepth.study.settings import Windows
from jaxdepth.study.sweep.curves import depth_curves
from jaxdepth.study.sweep.figures import draw_sweep
from jaxdepth.study.sweep.rates import write_rates
from jaxdepth.study.sweep.summary import findings, print_curves

pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")
PAIRS = 12
NULL = {"n_tokens": None, "text": None, "ended": NON_FINITE, "outcome": "undetermined"}


@pytest.fixture(params=[(3,), (1, 2, 3)], ids=["deepest", "all"])
def overflowed(request, tmp_path):
    """A run, and the exits that are finite."""
    path = write_sweep(tmp_path / "run", planted((3, 4, 5), (6, 7, 8), PAIRS))
    run = Run(path, read_record(path))
    for table in (FIRST_TOKEN, GENERATIONS):
        rows = read_table(path, table).to_pylist()
        keys = {"prompt_id", "exit", "sample"}
        for row in rows:
            if row["exit"] in request.param:
                row |= NULL | {name: None for name in row if name not in keys | NULL.keys()}
            if table is FIRST_TOKEN:  # nothing agrees with logits that are not finite
                row |= {"agrees_with_full": None, "kl_to_full": None}
        run.write_table(table.name, table.from_rows(rows))
    write_rates(run, depth_curves(path), Windows())
    return path, 3 - len(request.param)


def test_no_number_where_there_is_none(overflowed, tmp_path, capsys):
    path, finite = overflowed
    curves = depth_curves(path)
    for label in curves.labels:
        odds = curves.refusal_log_odds[label].value
        assert np.isfinite(odds).tolist() == [n < finite for n in range(3)]
        for e in (curves.agrees_with_full[label], curves.kl_to_full[label]):
            assert np.isnan([e.value, e.low, e.high]).all()
    print_curves(curves)
    assert not any("agreement" in line for line in findings(curves))
    draw_sweep(path)
    for words in (["--out", tmp_path / "a.html"], ["--format", "card", "--out", tmp_path / "a.md"]):
        assert main(["report", str(path), *map(str, words)]) == 0
    assert "nan" not in capsys.readouterr().out.lower()
