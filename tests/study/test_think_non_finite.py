"""`jaxdepth decide` on a model whose deepest exit overflows: null, with a reason, and counted."""

import re
import shutil

import pytest
from studies import settings_of
from tiny import hf_tensors, raw_config, write_folder
from tiny_tokenizers import build

from jaxdepth import InputError
from jaxdepth.cli import main
from jaxdepth.model.config import ModelConfig
from jaxdepth.study.answers import warn_non_finite
from jaxdepth.study.judging import kept
from jaxdepth.study.labelling import answers as labelling
from jaxdepth.study.run_directory import Run, read_record, read_table
from jaxdepth.study.thinking.reading import read_replicate
from jaxdepth.study.verdicts.figures import draw_verdicts
from jaxdepth.study.verdicts.run import run_decide
from jaxdepth.study.verdicts.scores import write_verdicts
from jaxdepth.study.verdicts.settings import Decide
from jaxdepth.study.verdicts.sources import RunVerdicts
from jaxdepth.study.verdicts.summary import print_verdicts
from jaxdepth.study.verdicts.tables import CUTS, FORCED, SWAPPED, VERDICT_TABLE
from jaxdepth.weights.convert import convert

pytestmark = pytest.mark.usefixtures("quick_programs")

OUTCOME_COLUMNS = ("p_refuse", "p_partial", "p_comply", "label_mass", "margin", "verdict")
TABLES = {table.name: table for table in (VERDICT_TABLE, CUTS, FORCED, SWAPPED)}


SMALL = {"cuts": (0,), "force": False, "swap": False}  # few programs


@pytest.fixture(scope="module", params=[SMALL, pytest.param({}, marks=pytest.mark.slow)], ids=len)
def run(request, tmp_path_factory, protocol):
    """A run whose exit 2 is finite, and whose exit 4 is not: finite weights, too large products."""
    folder = tmp_path_factory.mktemp("overflow")
    tokenizer = build("chatml")
    raw = raw_config(vocab_size=len(tokenizer))
    tensors = hf_tensors(ModelConfig.from_hf(raw))
    tensors["model.layers.3.mlp.up_proj.weight"] *= 1e6
    tensors["model.layers.3.mlp.down_proj.weight"][:] = 1e36
    source = write_folder(folder / "source", raw, tensors)
    tokenizer.save_pretrained(source)
    convert(source, folder / "model")
    settings = settings_of(
        Decide, folder / "model", folder / "run", limit=2, batch_size=4, exits="2,4",
        cost_rounds=0, protocol=protocol, **{"cuts": (0, 2)} | request.param,
    )  # fmt: skip
    return run_decide(settings)


def test_rows_are_null_with_a_reason(run):
    for name in filter(run.finished, TABLES):
        for row in read_table(run.path, name).to_pylist():
            columns = [row[c] for c in OUTCOME_COLUMNS if c in row] or [row["answer_outcome"]]
            assert all((value is None) == (row["exit"] == 4) for value in columns), (name, row)
    for row in read_table(run.path, "verdicts").to_pylist():
        assert (row["closed_by"] == "non-finite") == (row["exit"] == 4)
        if row["exit"] == 4:
            assert row["thought_tokens"] is None
            assert row["answer_tokens"] is None
            assert row["answer_outcome"] == "undetermined"
    for row in read_table(run.path, "texts").to_pylist():
        assert (row["thought_ids"] is None) == (row["exit"] == 4)
        assert (row["answer"] is None) == (row["exit"] == 4)


def test_one_line_counts_them(run, capsys):
    warn_non_finite(run, *TABLES.values())
    (line,) = capsys.readouterr().err.splitlines()
    counts = re.findall(r"(\d+) of (\d+) rows of (\w+)", line)
    sizes = {name: read_table(run.path, name).num_rows for name in filter(run.finished, TABLES)}
    assert counts == [(str(n // 2), str(n), name) for name, n in sizes.items()]


def test_scores_are_of_the_exit_that_has_verdicts(run, tmp_path, capsys):
    write_verdicts(run, seed=0)
    verdicts = RunVerdicts(run)
    assert set(verdicts.votes["exit"]) == {2}
    scores = read_table(run.path, "scores").to_pandas()
    assert set(scores["exit"]) == {2}
    assert read_table(run.path, "paired_verdicts")["n"].to_pylist() == [4, 0]
    print_verdicts(run)
    assert "nan" not in capsys.readouterr().out.lower()
    draw_verdicts(run.path)
    out = tmp_path / "report.html"
    assert main(["report", str(run.path), "--out", str(out)]) == 0
    with pytest.raises(InputError, match="4 verdicts are missing, because activations were NaN"):
        read_replicate(verdicts)


def test_a_run_without_any_verdict(run, tmp_path, capsys):
    path = tmp_path / "run"
    shutil.copytree(run.path, path)
    record = read_record(path)
    record["settings"]["exits"] = [4]
    bad = Run(path, record)
    for name in [name for name in record["tables"] if name != "prompts"]:
        table = read_table(run.path, name)
        bad.write_table(name, table.filter([e == 4 for e in table["exit"].to_pylist()]))
    write_verdicts(bad, seed=0)
    print_verdicts(bad)
    assert capsys.readouterr().out.startswith("No exit has a verdict: all activations were NaN")
    assert draw_verdicts(path) == {}
    assert main(["report", str(path), "--out", str(tmp_path / "report.html")]) == 0
    for read in (kept.read_answers, labelling.read_answers):
        with pytest.raises(InputError, match=r"has no answer to .* NaN or infinite"):
            read(path)
