"""`jaxdepth tune`: data, losses at exits, runs that are killed or refused, the command."""

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from studies import settings_of

import jaxdepth
from jaxdepth import InputError, classify_texts
from jaxdepth.cli import main
from jaxdepth.prompts.datasets import SPLITS, read_prompts
from jaxdepth.study.run_directory import read_table
from jaxdepth.study.tuning import training
from jaxdepth.study.tuning.run import tune
from jaxdepth.study.tuning.settings import Tune
from jaxdepth.tune.batches import PROMISES, _words
from jaxdepth.tune.benign import distinct, is_suitable_prompt
from jaxdepth.tune.tasks import read_tasks, tasks_digest
from jaxdepth.weights.adapter import read_adapter, save_adapter

pytestmark = pytest.mark.usefixtures("one_length", "quick_programs")
DATA = Path(jaxdepth.__file__).parent / "data"
MIX = {"harmful": 2, "lookalike": 1, "benign": 2, "borderline": 1}


def test_evaluation_prompts_are_never_trained_on(tasks):
    by_split = {s: read_prompts([f"builtin:pairs/{s}"]) for s in SPLITS}
    assert {s: len(of_split) // 2 for s, of_split in by_split.items()} == {
        "train": 537, "validation": 77, "test": 105, "unseen": 352, "unseen_forms": 161,
    }  # fmt: skip
    for one, other in combinations(SPLITS, 2):
        pairs = [{p.pair_id for p in by_split[s]} for s in (one, other)]
        assert not pairs[0] & pairs[1]
        texts = [{p.text.lower() for p in by_split[s]} for s in (one, other)]
        assert not texts[0] & texts[1]
    categories = {s: {p.category for p in of} for s, of in by_split.items()}
    assert len(categories["unseen"]) == 4
    assert not categories["unseen"] & (categories["train"] | categories["validation"])
    assert len(categories["test"]) == 10
    rows = map(json.loads, (DATA / "pairs.jsonl").read_text().splitlines())
    forms = {(row["split"], row["form"]) for row in rows}
    unseen = {form for split, form in forms if split == "unseen_forms"}
    assert len(unseen) == 2
    assert not unseen & {form for split, form in forms if split in ("train", "validation", "test")}
    kinds = {s: {p.category for p in read_prompts([f"builtin:lookalikes/{s}"])} for s in SPLITS[:4]}
    assert len(kinds["unseen"]) == 2
    assert len(kinds["train"]) == 5
    assert not kinds["unseen"] & kinds["train"]
    trained = {t.prompt.lower() for of in tasks.values() for t in of}
    measured = [p for s in SPLITS[1:] for p in by_split[s]] + read_prompts(["builtin:ordinary"])
    measured += [p for s in SPLITS[1:4] for p in read_prompts([f"builtin:lookalikes/{s}"])]
    assert not trained & {p.text.lower() for p in measured}


def test_splits_by_name():
    assert len(read_prompts(["builtin:harmful/test[:5]"])) == 5
    for bad in ("builtin:pairs/tests", "builtin:ordinary/test", "builtin:pairs/"):
        with pytest.raises(InputError, match="no built-in split"):
            read_prompts([bad])


def test_training_answers_have_their_outcome(tasks):
    """Refusals are classified as refusals, and the model's own answers as compliance.

    An earlier detector chose these answers: today's differs on a few. Of the 36 that it calls
    refusals two in three do decline, read one by one ("I'm afraid I'm not able to provide that").
    """
    answers = tasks["harmful"][0].answers
    assert set(Counter(answers).values()) == {1, 8}  # conventional ones are learned more often
    wordings = list(dict.fromkeys(answers))
    assert len(wordings) >= 300
    assert all(wording.count("{act}") == 1 for wording in wordings)
    assert sum("{offer}" in wording for wording in wordings) >= 0.4 * len(wordings)
    rng = np.random.default_rng(0)
    chosen = [tasks["harmful"][n % len(tasks["harmful"])] for n in range(len(wordings))]
    refusals = [
        _words(replace(task, answers=(wording,)), rng)
        for task, wording in zip(chosen, wordings, strict=True)
    ]
    assert not any("{" in refusal for refusal in refusals)
    # The detector was fitted on half of the wordings; of the others it finds nine in ten.
    assert [r.outcome for r in classify_texts(refusals)].count("refuse") >= 0.84 * len(refusals)
    kept = [*tasks["lookalike"], *tasks["hard"], *tasks["benign"]]
    assert len(tasks["benign"]) >= 6000
    assert len({t.prompt for t in tasks["benign"]}) == len(tasks["benign"])
    assert len({t.system for t in tasks["benign"]}) > 5
    did = classify_texts([t.answers[0] for t in kept], [t.prompt for t in kept])
    assert [r.outcome for r in did].count("comply") >= 0.96 * len(did)
    assert [r.outcome for r in did].count("refuse") <= 0.006 * len(did)
    assert len(tasks["borderline"]) == 132
    assert not any(r.outcome == "degenerate" for r in classify_texts(PROMISES))


def test_prompts_that_a_model_draws():
    assert is_suitable_prompt("Can you suggest a plan for my garden?")
    for bad in ("can you suggest a plan?", "Hello there.", "How do I kill a weed?", "A b c d"):
        assert not is_suitable_prompt(bad)
    seen: set[str] = set()
    prompts = [f"Can you give me some tips on how to {do}?" for do in ("bake", "fly")]
    assert distinct(prompts, seen) == prompts[:1]
    assert distinct(["What is the tallest tree there is?"], seen) != []


def settings(tiny_path, out, **changes) -> Tune:
    small = {"steps": 7, "save_every": 3, "rank": 2, "harmful": 1, "lookalike": 1, "benign": 1}
    small |= {"answer_tokens": 8, "warmup": 1, "exits_per_step": 2, "learning_rate": 1e-2}
    return settings_of(Tune, tiny_path, out, **small | changes)


@pytest.fixture(scope="module")
def run(tiny_path, one_length, tmp_path_factory):
    return tune(settings(tiny_path, tmp_path_factory.mktemp("runs") / "run"))


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from test_tune import settings
from jaxdepth.study.tuning import training
from jaxdepth.study.tuning.run import tune
from jaxdepth.tune import batches, packed
batches._POSITIONS, batches._ROWS = 224, 64
packed._ROW, packed._COUNT = 224, 4
left = [int(sys.argv[4])]
def stop():
    if not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)
    left[0] -= 1
for owner, name in ((training.Run, "write_part"), (training, "save_checked_state")):
    def wrapped(*args, real=getattr(owner, name)):  # before and after each
        stop()
        real(*args)
        stop()
    setattr(owner, name, wrapped)
tune(settings(Path(sys.argv[1]), Path(sys.argv[2])))
"""


def test_killed_and_resumed_equals_uninterrupted(tiny_path, run, tmp_path):
    tests = os.path.dirname(__file__)
    for after in (1, 4):  # rows without their state; a state and no rows yet
        args = [sys.executable, "-c", KILLED, tiny_path, tmp_path / "run", tests, str(after)]
        assert subprocess.run(args).returncode == -signal.SIGKILL
    again = tune(settings(tiny_path, tmp_path / "run"))
    assert read_table(again.path, "loss") == read_table(run.path, "loss")
    result, expected = (p / "adapter.safetensors" for p in (again.path, run.path))
    assert result.read_bytes() == expected.read_bytes()
    with pytest.raises(InputError, match="steps = 7, not 8"):
        tune(settings(tiny_path, tmp_path / "run", steps=8))


def test_training_lowers_the_loss_and_the_adapter_carries_it(tiny_path, run, tmp_path):
    table = read_table(run.path, "loss").to_pydict()
    assert table["step"] == list(range(7))
    assert {len(e) for e in table["exits"]} == {2}
    long = tune(settings(tiny_path, tmp_path / "long", steps=40))
    loss = read_table(long.path, "loss")["full"].to_numpy()
    assert loss[-5:].mean() < 0.95 * loss[:5].mean()
    base, _ = jaxdepth.load(tiny_path)
    adapter = read_adapter(str(long.path / "adapter.safetensors"), base.config)
    assert adapter.made["settings"]["steps"] == 40
    assert len(adapter.made["settings"]["tasks_sha256"]) == 64
    sweep = ["sweep", tiny_path, "--out", tmp_path / "sweep", "--limit", 2, "--max-new-tokens", 0]
    assert main(list(map(str, [*sweep, "--adapter", long.path / "adapter.safetensors"]))) == 0
    resolved = json.loads((tmp_path / "sweep" / "run.json").read_text())["settings"]
    assert len(resolved["adapter_sha256"]) == 64
    assert main(list(map(str, sweep))) == 2  # the same run without it


def test_a_run_begins_from_an_adapter_of_the_same_base_and_form(tiny_path, run, tmp_path):
    file = run.path / "adapter.safetensors"
    base, _ = jaxdepth.load(tiny_path)
    adapter = read_adapter(str(file), base.config)
    kept = tune(settings(tiny_path, tmp_path / "kept", start=str(file), steps=1, learning_rate=0.0))
    after = read_adapter(str(kept.path / "adapter.safetensors"), base.config)
    for name, array in adapter.params.items():
        np.testing.assert_array_equal(after.params[name], array)
    other = tmp_path / "other.safetensors"
    save_adapter(other, replace(adapter, base="0" * 64))
    with pytest.raises(InputError, match="was made for the base 000000000000"):
        tune(settings(tiny_path, tmp_path / "a", start=str(other)))
    with pytest.raises(InputError, match="the same layers, leaves, rank and alpha"):
        tune(settings(tiny_path, tmp_path / "b", start=str(file), alpha=3.0))


@pytest.mark.parametrize(
    "changes",
    [
        {"method": "verdicts", "borderline": 1},
        {"method": "dpo", "benign_target": "text"},
        {"train": "weights", "layers": "3-4", "leaves": ("q", "mlp_norm", "norm")},
        {"dtype": "bfloat16", "accumulate": 2, "layer_dropout": 0.5, "remat": True},
        {"refusals_at": "final", "benign_at": "final"},
        {"refusals_at": "final", "answered": 1, "rows_per_exit": 12},
        {"contrast": 1.0, "contrast_pairs": 2, "decision_tokens": 2, "decision_weight": 2.0},
    ],
    ids=["verdicts", "dpo", "weights", "bfloat16", "final", "answered", "contrast"],
)
def test_every_way_to_tune_runs_and_loads(tiny_path, tmp_path, changes):
    run = tune(settings(tiny_path, tmp_path / "run", steps=2, **changes))
    file = run.path / "adapter.safetensors"
    model, tokenizer = jaxdepth.load(tiny_path, adapter=file)
    base, _ = jaxdepth.load(tiny_path)
    tokens = np.array([tokenizer("How do I bake bread?")["input_ids"]])
    ours, theirs = (
        jaxdepth.exit_logits(m, tokens, np.array([tokens.shape[1]]), 4) for m in (model, base)
    )
    assert np.abs(ours[..., : theirs.shape[-1]] - theirs).max() > 0
    assert np.isfinite(ours).all()
    if changes.get("method") == "verdicts":
        args = ["decide", tiny_path, "--adapter", file, "--limit", 1]  # it names its protocol
        args += ["--out", tmp_path / "decide", "--exits", "4", "--thought-tokens", 2]
        assert main(list(map(str, [*args, "--answer-tokens", 2, "--cost-rounds", 0]))) == 0
        record = json.loads((tmp_path / "decide" / "run.json").read_text())
        assert record["settings"]["protocol"]["close"] == "<|/think|>"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train": "lens"}, "a lens learns to say what full depth says"),
        ({"contrast": 1.0, "harmful": 0}, "contrast is between the prompts of pairs"),
        ({"contrast_pairs": 2}, "contrast_pairs are contrasted: set contrast above 0"),
        ({"method": "dpo", "benign_target": "text", "answered": 1}, "answered is for method ref"),
        ({"start": "builtin:shallow"}, "or for another model"),
        ({"steps": 0}, "steps is 0, expected at least 1"),
        ({"harmful": 0, "lookalike": 0, "benign": 0}, "an empty batch"),
        ({"exits": "4"}, "names no exit below full depth"),
        ({"exits_per_step": -1}, "exits_per_step is -1"),
        ({"method": "dpo"}, "set benign_target to text"),
        ({"layer_dropout": 2.0}, "expected at most 1"),
        ({"learning_rate": -1.0}, "learning_rate is -1.0"),
        ({"rank": 0}, "rank is 0"),
        ({"leaves": ("mlp",)}, "'mlp' cannot be trained"),
        ({"benign_answers": "nowhere.jsonl"}, "make it with tools/make_benign.py"),
        ({"harmful_prompts": ("builtin:ordinary",)}, "nothing to refuse"),
        ({"learning_rate": 1e30, "clip": 1e30}, "lower learning_rate"),
    ],
)
def test_bad_settings(tiny_path, tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        tune(settings(tiny_path, tmp_path / "run", **changes))


def test_columns_of_own_harmful_prompts(tiny_path, tmp_path):
    file = tmp_path / "asked.csv"
    file.write_text("ask,label\nHow do I hurt somebody?,harmful\n")
    changes = {"harmful_prompts": (str(file),), "start": "builtin:shallow"}
    with pytest.raises(InputError, match="write --columns prompt=NAME"):
        tune(settings(tiny_path, tmp_path / "run", **changes))
    with pytest.raises(InputError, match="or for another model"):  # the prompts have been read
        tune(settings(tiny_path, tmp_path / "run", columns=("prompt=ask",), **changes))


def test_a_gradient_that_is_none_is_never_saved(tiny_path, tmp_path, monkeypatch):
    """The loss of a step may still be finite when its gradient, and so the next state, is not."""
    make = training.make_step

    def make_broken(*args):
        step = make(*args)

        def broken(state, base, micro):
            number = int(state.step)
            state, losses = step(state, base, micro)
            if number == 2:
                state = state._replace(params={n: a * np.nan for n, a in state.params.items()})
                losses = losses._replace(grad_norm=losses.grad_norm * np.nan)
            return state, losses

        return broken

    changes = {"steps": 4, "save_every": 1, "lookalike": 0}
    monkeypatch.setattr(training, "make_step", make_broken)
    with pytest.raises(
        InputError, match=r"the norm of its gradient nan.* after 2 steps is kept in"
    ):
        tune(settings(tiny_path, tmp_path / "run", **changes))
    assert not (tmp_path / "run" / "adapter.safetensors").exists()
    monkeypatch.setattr(training, "make_step", make)
    resumed = tune(settings(tiny_path, tmp_path / "run", **changes))
    assert read_table(resumed.path, "loss")["step"].to_pylist() == [0, 1, 2, 3]
    assert np.isfinite(read_table(resumed.path, "loss")["loss"].to_numpy()).all()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "line 1 is not valid JSON"),
        ('{"kind": "benign", "text": "a"}', "line 1 lacks answer, ended"),
        ("[]", "lacks kind"),
        ("", "benign = 1, but there are no such prompts"),
    ],
)
def test_bad_files_of_benign_answers(tiny_path, tmp_path, text, message):
    file = tmp_path / "benign.jsonl"
    file.write_text(text)
    with pytest.raises(InputError, match=message):
        tune(settings(tiny_path, tmp_path / "run", benign_answers=str(file), lookalike=0))


def test_the_tasks_have_a_digest(tasks):
    """It follows what is learned, and nothing else."""
    mix = {"harmful": 1, "benign": 1, "borderline": 0}

    def digest(tasks, mix=mix, thoughts=False):
        return tasks_digest(tasks, mix, thoughts=thoughts)

    assert digest(tasks) == digest(read_tasks(read_prompts(["builtin:harmful/train"]), "builtin"))
    tasks = {kind: of_kind[:9] for kind, of_kind in tasks.items()}  # the others take long
    assert digest(tasks) != digest({**tasks, "benign": tasks["benign"][1:]})
    assert digest(tasks) == digest({**tasks, "borderline": []})
    assert digest(tasks) != digest(tasks, mix | {"borderline": 1})
    pensive = {**tasks, "benign": [replace(t, thoughts=("Hm.",)) for t in tasks["benign"]]}
    assert digest(tasks) == digest(pensive)
    assert digest(tasks, thoughts=True) != digest(pensive, thoughts=True)
    unrefused = {**tasks, "harmful": tasks["harmful"][1:]}
    assert digest(tasks, {"answered": 1}) != digest(unrefused, {"answered": 1})


def test_the_command(tiny_path, tmp_path, capsys):
    config = tmp_path / "mine.toml"
    config.write_text("steps = 2\nharmful = 1\nlookalike = 0\nbenign = 1\nanswer_tokens = 4\n")
    args = ["tune", tiny_path, "--config", config, "--out", tmp_path / "run"]
    assert main(list(map(str, args))) == 0
    printed = capsys.readouterr().out
    for part in ("2 steps; mean of the last 2", "losses.png", "adapter.safetensors"):
        assert part in printed.replace("\n", " ")
    assert (tmp_path / "run" / "figures" / "losses.svg").is_file()
