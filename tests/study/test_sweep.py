"""The sweep: every number computed a second way, batches, tables, and runs that are killed."""

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest
from scipy.special import logsumexp
from studies import settings_of

import jaxdepth
from jaxdepth import InputError
from jaxdepth.prompts.batches import limit_prompts, make_batches
from jaxdepth.prompts.chat import PromptEncoder
from jaxdepth.prompts.datasets import read_prompts
from jaxdepth.refusal.openers import first_token, resolve_openers
from jaxdepth.settings_file import field_types
from jaxdepth.study.run_directory import Run, read_table
from jaxdepth.study.sweep.run import sweep
from jaxdepth.study.sweep.settings import Sweep

pytestmark = pytest.mark.usefixtures("quick_programs")


def settings(tiny_path, out, **changes) -> Sweep:
    small = {"limit": 6, "batch_size": 4, "max_new_tokens": 0}
    return settings_of(Sweep, tiny_path, out, **small | changes)


def rows(run) -> dict:
    table = read_table(run.path, "first_token").to_pylist()
    by_key = {(r["prompt_id"], r["exit"]): r for r in table}
    assert len(by_key) == len(table)
    return by_key


def test_every_number_computed_one_prompt_and_exit_at_a_time(tiny_path, tmp_path):
    by_key = rows(sweep(settings(tiny_path, tmp_path / "run")))
    model, tokenizer = jaxdepth.load(tiny_path)
    encoder = PromptEncoder(tokenizer)
    openers = list(resolve_openers(encoder).values())
    prompts = limit_prompts(read_prompts(["builtin:pairs/test"]), 6)
    assert len(by_key) == len(prompts) * 4 == 48
    for prompt in prompts:
        tokens = encoder.encode(prompt.text)
        ids, lengths = np.array([tokens + [0] * (64 - len(tokens))]), np.array([len(tokens)])
        full = None
        for exit_layer in (4, 3, 2, 1):
            logits = np.asarray(jaxdepth.exit_logits(model, ids, lengths, exit_layer), np.float64)[
                0
            ]
            logp = logits - logsumexp(logits)
            full = logp if exit_layer == 4 else full
            p_refuse = np.exp(logp[openers]).sum()
            row = by_key[prompt.prompt_id, exit_layer]
            assert row["refusal_log_odds"] == pytest.approx(
                np.log(p_refuse) - np.log1p(-p_refuse), abs=1e-4
            )
            top = int(logp.argmax())
            assert row["top_token_id"] == top
            pieces = (tokenizer.decode([top]), tokenizer.convert_ids_to_tokens(top))
            assert row["top_token"] in pieces
            assert row["top_prob"] == pytest.approx(np.exp(logp.max()), abs=1e-5)
            assert row["entropy"] == pytest.approx(-(np.exp(logp) * logp).sum(), abs=1e-4)
            assert row["kl_to_full"] == pytest.approx(
                (np.exp(full) * (full - logp)).sum(), abs=1e-4
            )
            assert row["agrees_with_full"] == (logp.argmax() == full.argmax())


def assert_close(a: dict, b: dict) -> None:
    assert a.keys() == b.keys()
    for key, row in a.items():
        for name, value in row.items():
            if isinstance(value, float):
                assert value == pytest.approx(b[key][name], abs=2e-5), (key, name)
            else:
                assert value == b[key][name], (key, name)


def test_batches_and_exits_change_nothing(tiny_path, tmp_path):
    all_in_fours = rows(sweep(settings(tiny_path, tmp_path / "a")))
    one_by_one = rows(sweep(settings(tiny_path, tmp_path / "b", batch_size=1)))
    assert_close(all_in_fours, one_by_one)
    two_exits = rows(sweep(settings(tiny_path, tmp_path / "c", exits="2,3")))
    assert_close({k: v for k, v in all_in_fours.items() if k[1] in (2, 3)}, two_exits)


def test_log_odds_are_exact_when_openers_take_nearly_all():
    logits = np.zeros((1, 1, 5), np.float32)
    logits[..., 2] = 60.0
    is_opener = np.arange(5) == 2
    stats = first_token(logits, is_opener)
    assert float(stats.refusal_log_odds[0, 0]) == pytest.approx(60 - np.log(4), abs=1e-4)


def test_every_prompt_is_in_one_batch():
    ids = [[1] * n for n in (3, 20, 16, 17, 5, 40, 3)]
    batches = make_batches(ids, 2)
    assert sorted(index for b in batches for index in b.indices) == list(range(7))
    for b in batches:
        assert b.tokens_BS.shape[0] == 2
        for row, index in enumerate(b.indices):
            assert b.lengths_B[row] == len(ids[index]) <= b.tokens_BS.shape[1]
            assert b.tokens_BS[row, : len(ids[index])].tolist() == ids[index]


def test_run_json_describes_the_run(tiny_path, tmp_path):
    run = sweep(settings(tiny_path, tmp_path / "run", openers=("I",)))
    record = json.loads((run.path / "run.json").read_text())
    manifest = json.loads((tiny_path / "jaxdepth.json").read_text())
    assert record["settings"]["model_fingerprint"] == manifest["fingerprint"]
    assert record["settings"]["exits"] == [1, 2, 3, 4]
    assert list(record["settings"]["openers"]) == ["I"]
    assert record["settings"]["seed"] == 0
    unresolved = {"model", "out", "adapter", "reference", "directions", "mesh", "profile"}
    unresolved |= {"encoder", "date"}  # this template prints no date
    unresolved |= {"prompts", "columns", "memory_gb"}  # their digest; no number depends on it
    unresolved |= {"competent_from", "unsafe_from"}  # in the windows table, which is made anew
    resolved = {name for name, _ in field_types(Sweep)} - unresolved
    assert resolved <= set(record["settings"])
    assert not unresolved & set(record["settings"])
    assert len(record["settings"]["prompts_sha256"]) == 64
    assert {"jax", "flax", "jaxdepth", "transformers", "numpy"} <= set(record["versions"])
    assert record["tables"]["prompts"]["rows"] == 12
    assert record["tables"]["first_token"]["rows"] == 48
    schema = pq.read_schema(run.path / "first_token.parquet")
    assert schema.names == [
        "prompt_id",
        "exit",
        "refusal_log_odds",
        "top_token",
        "top_token_id",
        "top_prob",
        "entropy",
        "kl_to_full",
        "agrees_with_full",
    ]
    names = pq.read_schema(run.path / "prompts.parquet").names
    conversation = ["system", "earlier", "prefill"]
    assert names == ["prompt_id", "text", "label", "category", "pair_id", "source", *conversation]
    assert sorted(p.name for p in run.path.iterdir()) == [
        "first_token.parquet",
        "log.txt",
        "prompts.parquet",
        "run.json",
    ]


def test_a_finished_run_is_not_computed_again(tiny_path, tmp_path):
    run = sweep(settings(tiny_path, tmp_path / "run"))
    before = (run.path / "first_token.parquet").stat().st_mtime_ns

    def bar(what, unit):
        raise AssertionError(f"there is nothing to do, but {what} began")

    sweep(settings(tiny_path, tmp_path / "run"), bar)
    assert (run.path / "first_token.parquet").stat().st_mtime_ns == before


def test_a_run_is_not_resumed_with_other_settings(tiny_path, tmp_path):
    sweep(settings(tiny_path, tmp_path / "run"))
    with pytest.raises(InputError, match=r"exits = .*another --out"):
        sweep(settings(tiny_path, tmp_path / "run", exits="1"))
    with pytest.raises(InputError, match="limit = 6, not 7"):
        sweep(settings(tiny_path, tmp_path / "run", limit=7))


KILLED = """
import os, signal, sys
from pathlib import Path
from jaxdepth.settings_file import build
from jaxdepth.study.sweep.run import sweep
from jaxdepth.study.sweep.settings import Sweep
renames_left = [int(sys.argv[3])]
real = Path.replace
def replace(self, target):  # every file of a run is renamed into its place
    if not renames_left[0]:
        os.kill(os.getpid(), signal.SIGKILL)
    renames_left[0] -= 1
    return real(self, target)
Path.replace = replace
options = {"limit": 6, "batch_size": 4, "max_new_tokens": 4}
sweep(build(Sweep, {"model": sys.argv[1], "out": sys.argv[2], **options}))
"""


@pytest.mark.parametrize("kills", [(2, 3, 3), pytest.param((0, 2, 3, 3), marks=pytest.mark.slow)])
def test_killed_and_resumed_equals_uninterrupted(kills, tiny_path, tmp_path):
    whole = sweep(settings(tiny_path, tmp_path / "whole", max_new_tokens=4))
    # Renames of a whole run: run.json; prompts, run.json; 3 or more parts, first_token, run.json;
    # as many for generations. Each attempt resumes where the last one was killed.
    for after in kills:
        args = [sys.executable, "-c", KILLED, tiny_path, tmp_path / "run", str(after)]
        assert subprocess.run(args).returncode == -signal.SIGKILL
    run = sweep(settings(tiny_path, tmp_path / "run", max_new_tokens=4))
    for table in ("prompts", "first_token", "generations"):
        assert read_table(run.path, table) == read_table(whole.path, table)
    leftovers = [p.name for p in run.path.rglob("*") if "partial" in p.name or "parts" in p.name]
    assert not leftovers


def test_damage_is_noticed_and_named(tiny_path, tmp_path):
    run = sweep(settings(tiny_path, tmp_path / "run"))
    file = run.path / "first_token.parquet"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(InputError, match=r"first_token.parquet is damaged"):
        read_table(run.path, "first_token")
    os.truncate(run.path / "run.json", 20)
    with pytest.raises(InputError, match=r"run.json is not valid JSON"):
        sweep(settings(tiny_path, tmp_path / "run"))


def test_paths_that_cannot_be_runs(tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "notes.txt").write_text("x")
    for path, error in (("file", "not a run"), ("file/run", "a file"), ("folder", "not a run")):
        with pytest.raises(InputError, match=error):
            Run.open(tmp_path / path, {}, {})
    with pytest.raises(InputError, match="not a run directory"):
        read_table(tmp_path / "folder", "first_token")
    run = Run.open(tmp_path / "new" / "run", {"a": 1}, {})
    with pytest.raises(InputError, match="no finished table"):
        read_table(run.path, "first_token")


@pytest.mark.parametrize(("limit", "count"), [(None, 210), (1, 2), (3, 6)])
def test_limit_keeps_pairs_together(limit, count):
    assert len(limit_prompts(read_prompts(["builtin:pairs/test"]), limit)) == count
