"""Files that are whole but wrong, by the hundred: refused in one clear line, or used as they say.

Every kind of file that jaxdepth itself writes, or that a user writes for it, with random values in
it and its digests made again. The seed is SEED; JAXDEPTH_FUZZ_SEED names another one.
"""

import os
import shutil
import time
from importlib.resources import files
from pathlib import Path

import labelled_runs
import numpy as np
import pytest
import tiny_tokenizers
from mutants import resealed
from reports.planted import planted, write_sweep
from tiny import hf_tensors, raw_config, write_folder

import jaxdepth
from jaxdepth.depth.policies import ExitClassifier
from jaxdepth.model.config import ModelConfig
from jaxdepth.model.tuned import Form
from jaxdepth.probing.direction import Directions, find_direction, save_directions
from jaxdepth.probing.exit_classifier import read_exit_classifier, save_exit_classifier
from jaxdepth.prompts.datasets import prompts_digest, read_prompts
from jaxdepth.refusal.protocol import read_protocol
from jaxdepth.settings_file import build, read_settings
from jaxdepth.study.certificates.measured import Measured
from jaxdepth.study.checkpoints.knowledge import questions_digest, read_questions
from jaxdepth.study.inspection.inspect import inspect
from jaxdepth.study.judging import kept
from jaxdepth.study.labelling import answers as labelling
from jaxdepth.study.labelling.plan import open_plan
from jaxdepth.study.report.cells import grid_of, read_cells
from jaxdepth.study.report.charts.choose import charts_of
from jaxdepth.study.report.compared import compare_runs
from jaxdepth.study.report.page import judge_runs
from jaxdepth.study.report.reading import read_runs
from jaxdepth.study.report.texts import pack_texts
from jaxdepth.study.run_directory import read_record
from jaxdepth.study.sweep.rates import Rates
from jaxdepth.study.tuning.settings import Tune
from jaxdepth.weights.adapter import Adapter, brings_tokens, read_adapter, save_adapter, settings_of
from jaxdepth.weights.convert import convert

SEED = int(os.environ.get("JAXDEPTH_FUZZ_SEED", "20261127"))
RAW = raw_config(
    vocab_size=1000, hidden_size=8, intermediate_size=12, num_hidden_layers=2,
    num_attention_heads=2, num_key_value_heads=1, head_dim=4,
)  # fmt: skip
CONFIG = ModelConfig.from_hf(RAW)
FORM = Form((0, 1), ("q",), 2, 4.0, first_new=1000)
PARAMS = {
    "layers.q.a": np.full((2, 8, 2), 0.5, np.float32),
    "layers.q.b": np.full((2, 2, 8), 0.25, np.float32),
    "embed_rows": np.ones((1, 8), np.float32),
    "head_rows": np.ones((1, 8), np.float32),
}
BASE = "b" * 64
FEW = {"manifest": 25, "run": 25, "adapter": 25, "directions": 10, "classifier": 10}
FEW |= {"protocol": 15, "settings": 20, "facts": 10, "prompts": 10, "tables": 25}
NAMES = {"adapter": "adapter.safetensors", "prompts": "prompts.jsonl"}  # others: their kind
MANY = {name: 27 * count for name, count in FEW.items()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """One file or folder of each kind."""
    place = tmp_path_factory.mktemp("whole")
    source = write_folder(place / "source", RAW, hf_tensors(CONFIG))
    tiny_tokenizers.build("chatml").save_pretrained(source)
    convert(source, place / "manifest")
    labelled_runs.write_run(place / "run")
    write_sweep(place / "tables", planted((0, 5), (9, 12), 12))
    made = {"settings": {"seed": 0}, "versions": {"jax": "1"}}
    save_adapter(place / NAMES["adapter"], Adapter(FORM, PARAMS, BASE, ("<|yes|>",), made))
    arrays = {"content.last": np.ones((3, 8), np.float32)}
    save_directions(place / "directions", Directions(arrays, BASE, None, {"prompts": 2}))
    weights = np.ones((2, 8), np.float32), np.ones(2, np.float32)
    save_exit_classifier(place / "classifier", ExitClassifier(*weights), BASE)
    configs = Path(jaxdepth.__file__).parents[1] / "configs"
    (place / "protocol").write_text((configs / "direct.toml").read_text())
    (place / "settings").write_text((configs / "tune" / "shallow.toml").read_text())
    data = files("jaxdepth") / "data"
    (place / "facts").write_text("\n".join((data / "facts.jsonl").read_text().split("\n")[:9]))
    (place / NAMES["prompts"]).write_text(
        "\n".join((data / "pairs.jsonl").read_text().split("\n")[:9])
    )
    return place


def use_manifest(folder, rng):
    resealed.harm_manifest(folder, rng)
    return [lambda: inspect(folder), lambda: jaxdepth.load(folder)]


def use_run(folder, rng):
    resealed.harm_run(folder, rng)
    return [
        lambda: inspect(folder),
        lambda: read_record(folder),
        lambda: kept.read_answers(folder),
        lambda: open_plan(folder, labelling.read_answers(folder), 60, 2, 0),
    ]


def use_tables(folder, rng):
    resealed.harm_tables(folder, rng)

    def report():
        runs = read_runs([folder])
        judge_runs(runs)
        charts_of(runs, compare_runs(runs))
        return [(grid_of(cells), pack_texts([cells])) for cells in map(read_cells, runs)]

    return [
        report,
        lambda: Rates.read(folder),
        lambda: kept.read_answers(folder),
        lambda: open_plan(folder, labelling.read_answers(folder), 60, 2, 0),
        lambda: Measured.read(folder).losses("harmful"),
    ]


def use_adapter(file, rng):
    resealed.harm_arrays(file, rng)
    return [
        lambda: read_adapter(str(file), CONFIG),
        lambda: brings_tokens(str(file)),
        lambda: settings_of(str(file)),
        lambda: inspect(file),
    ]


def use_directions(file, rng):
    resealed.harm_arrays(file, rng)
    return [lambda: find_direction(file, "content.last@2", BASE)]


def use_classifier(file, rng):
    resealed.harm_arrays(file, rng)
    return [lambda: read_exit_classifier(file, BASE)]


def use_protocol(file, rng):
    file.write_bytes(resealed.harm_toml(file.read_text(), rng))
    return [lambda: read_protocol(str(file)).record()]


def use_settings(file, rng):
    file.write_bytes(resealed.harm_toml(file.read_text(), rng))
    return [lambda: build(Tune, read_settings(Tune, str(file)) | {"model": "m", "out": "o"})]


def use_facts(file, rng):
    file.write_bytes(resealed.harm_lines(file.read_text(), rng))
    return [lambda: questions_digest(read_questions(str(file)))]


def use_prompts(file, rng):
    file.write_bytes(resealed.harm_lines(file.read_text(), rng))
    return [lambda: prompts_digest(read_prompts([str(file)]))]


def check(whole, place, kind, seed):
    """One mutant: every use of it ends well, or in one line; returns whether any was refused."""
    name = NAMES.get(kind, kind)
    target = place / name
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    copy = shutil.copytree if (whole / name).is_dir() else shutil.copyfile
    copy(whole / name, target)
    rng = seed if seed is None else np.random.default_rng(seed)
    return resealed.refused(globals()[f"use_{kind}"](target, rng), (kind, seed))


@pytest.mark.parametrize("kind", FEW)
def test_whole_ones_are_used(whole, tmp_path, kind, monkeypatch):
    for name in ("harm_manifest", "harm_run", "harm_arrays", "harm_tables"):
        monkeypatch.setattr(resealed, name, lambda path, rng: None)
    for name in ("harm_toml", "harm_lines"):
        monkeypatch.setattr(resealed, name, lambda text, rng: text.encode())
    assert not check(whole, tmp_path / "mutant", kind, None)


@pytest.mark.parametrize("kind", FEW)
def test_refused_or_used(whole, tmp_path, kind):
    refused = 0
    for number in range(FEW[kind]):
        refused += check(whole, tmp_path / "mutant", kind, [SEED, number])
    assert refused > FEW[kind] // 4  # or the damage reaches nothing


@pytest.mark.slow
@pytest.mark.parametrize("kind", MANY)
def test_thousands(whole, tmp_path, kind):
    seed = int(time.time()) if "JAXDEPTH_FUZZ_SEED" not in os.environ else SEED
    place = tmp_path / "mutant"
    resealed.try_many(
        f"mutants of {kind}", MANY[kind], seed, lambda s: check(whole, place, kind, s)
    )
