"""Two processes on one target at the same moment: one does it, the other is told so in one line."""

import json
import os
import subprocess
import sys

import pytest
import tiny_tokenizers
from tiny import hf_tensors, raw_config, write_folder

from jaxdepth.model.config import ModelConfig
from jaxdepth.weights.convert import convert

pytestmark = pytest.mark.slow
RAW = raw_config(vocab_size=1000, num_hidden_layers=2, max_position_embeddings=2048)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A checkpoint with a tokenizer, two sources, and prompts."""
    place = tmp_path_factory.mktemp("races")
    config = ModelConfig.from_hf(RAW)
    for seed, name in enumerate(("one", "other")):
        write_folder(place / name, RAW, hf_tensors(config, seed))
        tiny_tokenizers.build("chatml").save_pretrained(place / name)
    convert(place / "one", place / "model")
    (place / "asked.txt").write_text("How do I bake bread?\nName three colours.\n")
    return place


def race(place, *commands):
    """The commands at once; the exit status and the last line on standard error of each."""
    words = [[sys.executable, "-m", "jaxdepth", *command] for command in commands]
    options = {"cwd": place, "stderr": subprocess.PIPE, "text": True, "env": os.environ}
    started = [subprocess.Popen(command, **options) for command in words]
    said = [process.communicate(timeout=600)[1].splitlines()[-1:] for process in started]
    return [process.returncode for process in started], said


SWEEP = "sweep model --prompts harmless=asked.txt --max-new-tokens 2 --out"
TUNE = "tune model --steps 2 --warmup 0 --harmful 1 --benign 1 --borderline 0 --lookalike 0 --out"


@pytest.mark.parametrize("command", [SWEEP, TUNE], ids=["sweep", "tune"])
def test_two_commands_on_one_run(place, command):
    words, run = command.split(), command.split()[0]
    assert race(place, [*words, f"{run}-alone"])[0] == [0]
    statuses, said = race(place, [*words, run], [*words, run])
    assert 0 in statuses
    for status, line in zip(statuses, said, strict=True):  # the second may begin when one is done
        assert status == 0 or "is in use by process" in line[0]
    assert race(place, [*words, run])[0] == [0]
    tables = [json.loads((place / name / "run.json").read_text()) for name in (run, f"{run}-alone")]
    assert tables[0]["tables"] == tables[1]["tables"]
    assert tables[0]["files"].keys() == tables[1]["files"].keys()


def test_two_conversions_of_two_sources(place):
    both = (["convert", source, "target"] for source in ("one", "other"))
    statuses, said = race(place, *both)
    assert sorted(statuses) == [0, 2]
    (line,) = said[statuses.index(2)]
    assert "is in use by process" in line or "was converted from another source" in line
    source = ("one", "other")[statuses.index(0)]
    assert race(place, ["convert", source, "target", "--verify"])[0] == [0]


def test_two_exports(place):
    words = ["export", "model", "hf", "--exit", "1"]
    statuses, said = race(place, words, words)
    assert 0 in statuses
    for status, line in zip(statuses, said, strict=True):
        assert status == 0 or "is in use by process" in line[0]
    assert race(place, words)[0] == [0]
