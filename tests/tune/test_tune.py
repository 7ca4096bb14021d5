"""`jaxdepth tune`: data, losses at exits, runs that are killed or refused, the command."""

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from studies import settings_of

import jaxdepth
from jaxdepth import InputError, classify_texts
from jaxdepth.cli import main
from jaxdepth.prompts.chat import PromptEncoder
from jaxdepth.prompts.datasets import SPLITS, UNSEEN_CATEGORIES, read_prompts, split_of
from jaxdepth.refusal.protocol import read_protocol
from jaxdepth.study.run_directory import read_table
from jaxdepth.study.tuning.run import tune
from jaxdepth.study.tuning.settings import Tune
from jaxdepth.tune.benign import distinct, is_suitable_prompt
from jaxdepth.tune.data import PROMISES, Batches, Task, read_tasks, tasks_digest, writer
from jaxdepth.tune.recipe import Recipe
from jaxdepth.weights.adapter import add_tokens, read_adapter

pytestmark = pytest.mark.usefixtures("one_length", "quick_programs")
MIX = {"harmful": 2, "lookalike": 1, "benign": 2, "borderline": 1}


@pytest.fixture(scope="module")
def tasks():
    return read_tasks(["builtin:harmful/train"], "builtin")


@pytest.fixture(scope="module")
def batches(tiny_path, tasks) -> Batches:
    _, tokenizer = jaxdepth.load(tiny_path)
    write = writer(PromptEncoder(tokenizer), tokenizer.eos_token_id, None)
    return Batches(tasks, MIX, write, answer_tokens=12, seed=5)


def test_evaluation_prompts_are_never_trained_on(tasks):
    by_split = {s: read_prompts([f"builtin:pairs/{s}"]) for s in SPLITS}
    assert {s: len(of_split) // 2 for s, of_split in by_split.items()} == {
        "train": 160, "validation": 32, "test": 64, "unseen": 64,
    }  # fmt: skip
    for one, other in combinations(SPLITS, 2):
        pairs = [{p.pair_id for p in by_split[s]} for s in (one, other)]
        assert not pairs[0] & pairs[1]
        texts = [{p.text.lower() for p in by_split[s]} for s in (one, other)]
        assert not texts[0] & texts[1]
    assert {p.category for p in by_split["unseen"]} == set(UNSEEN_CATEGORIES)
    assert Counter(p.category for p in by_split["test"]).most_common()[-1][1] == 16
    trained = {t.prompt.lower() for of in tasks.values() for t in of}
    measured = [p for s in SPLITS[1:] for p in by_split[s]] + read_prompts(["builtin:ordinary"])
    assert not trained & {p.text.lower() for p in measured}
    assert all(split_of(p) == "train" for p in by_split["train"])


def test_splits_by_name():
    assert len(read_prompts(["builtin:harmful/test[:5]"])) == 5
    for bad in ("builtin:pairs/tests", "builtin:ordinary/test", "builtin:pairs/"):
        with pytest.raises(InputError, match="no built-in split"):
            read_prompts([bad])


def test_training_answers_have_their_outcome(tasks):
    """Refusals are classified as refusals, and the model's own answers as compliance.

    An earlier detector chose these answers: today's differs on a few.
    """
    refusals = tasks["harmful"][0].answers
    assert len(set(refusals)) == len(refusals) == 40
    assert [r.outcome for r in classify_texts(refusals)].count("refuse") >= 39
    kept = [*tasks["lookalike"], *tasks["benign"]]
    assert len(tasks["benign"]) >= 3000
    assert len({t.prompt for t in tasks["benign"]}) == len(tasks["benign"])
    did = classify_texts([t.answers[0] for t in kept], [t.prompt for t in kept])
    assert [r.outcome for r in did].count("comply") >= 0.96 * len(did)
    assert [r.outcome for r in did].count("refuse") <= 0.005 * len(did)
    assert len(tasks["borderline"]) == 32
    assert not any(r.outcome == "degenerate" for r in classify_texts(PROMISES))


def test_batches_teach_the_tokens_of_their_answers(tiny_path, tasks, batches):
    _, tokenizer = jaxdepth.load(tiny_path)
    prompts = {t.prompt: t for of in tasks.values() for t in of}
    seen = Counter()
    for step in range(3):
        batch = batches.supervised(step)
        tokens_BS, of_R, place_R, target_R = batch.targets
        assert tokens_BS.shape[0] == 6
        assert len(of_R) == 6 * 12
        real = batch.share_R > 0
        np.testing.assert_array_equal(tokens_BS[of_R[real], place_R[real] + 1], target_R[real])
        for b in range(6):
            rows_R = real & (of_R == b)
            assert batch.share_R[rows_R].sum() == pytest.approx(1)
            answer_text = tokenizer.decode(target_R[rows_R], skip_special_tokens=True).strip()
            row = tokens_BS[b, : place_R[rows_R].min() + 1].tolist()
            question = tokenizer.decode(row).split("<|im_start|>user\n")[1].split("<|im_end|>")[0]
            task = prompts[question]
            assert any(answer.startswith(answer_text) for answer in task.answers)
            assert batch.refuses_R[rows_R].all() == (task.verdict == "refuse")
            ends = tokenizer.eos_token_id in target_R[rows_R]
            assert ends <= task.ended
            seen[next(k for k, of in tasks.items() if task in of)] += 1
    assert seen == {kind: 3 * count for kind, count in MIX.items()}
    seventh, again, eighth = (batches.supervised(step).targets for step in (7, 7, 8))
    for one, other in zip(seventh, again, strict=True):
        np.testing.assert_array_equal(one, other)
    assert (seventh.target_R != eighth.target_R).any()


def test_every_task_comes_before_any_comes_again(batches):
    tasks = {"harmful": [Task(str(n), ("a",), True, "refuse", "") for n in range(5)]}
    small = replace(batches, tasks=tasks, mix={"harmful": 2})
    drawn = [t.prompt for step in range(5) for t in small.step_tasks(step)]
    assert sorted(drawn[:5]) == sorted(drawn[5:]) == ["0", "1", "2", "3", "4"]
    assert drawn[:5] != drawn[5:]


def test_preferences_reject_empty_promises_and_needless_refusals(tiny_path, batches):
    _, tokenizer = jaxdepth.load(tiny_path)
    batch = batches.preferred(0)
    tokens_BS, of_R, _, target_R = batch.targets
    assert len(tokens_BS) == 12
    chosen = batches.supervised(0)
    for b in range(12):
        rows_R = (of_R == b) & (batch.share_R > 0)
        answer_text = tokenizer.decode(target_R[rows_R], skip_special_tokens=True).strip()
        if b < 6:
            same = (chosen.targets.sequence_R == b) & (chosen.share_R > 0)
            np.testing.assert_array_equal(target_R[rows_R], chosen.targets.target_R[same])
        elif b < 8:
            assert any(promise.startswith(answer_text) for promise in PROMISES)
        else:
            assert any(r.startswith(answer_text) for r in batches.tasks["harmful"][0].answers)


def test_decisions_come_before_answers(tiny_path, tasks):
    _, tokenizer = jaxdepth.load(tiny_path)
    protocol = read_protocol("tuned")
    add_tokens(tokenizer, (protocol.open, protocol.close, *protocol.verdicts[0]))
    write = writer(PromptEncoder(tokenizer), tokenizer.eos_token_id, protocol)
    task = tasks["borderline"][0]
    ids, start = write(task, task.answers[0], True)
    answer_text = tokenizer.decode(ids)
    assert answer_text.endswith(
        f"<|think|>{task.thought}<|/think|><|partial|>{task.answers[0]}<|im_end|>"
    )
    # The opening is put there, not learnt.
    assert tokenizer.decode(ids[:start]).endswith("assistant\n<|think|>")
    assert len({t.thought for t in tasks["harmful"]}) == 8  # one for each category


def where(**changes) -> Recipe:
    return Recipe(
        **{
            "depth": 4, "early": (1, 2, 3), "refusals": "every", "benign": "every",
            "target": "distill", "per_step": 0, "early_weight": 2.0, "deep_more": False,
        } | changes
    )  # fmt: skip


def test_weights_of_losses_at_exits(batches):
    batch = batches.supervised(0)
    refuses, real = batch.refuses_R, batch.share_R > 0

    def parts(one):
        exits = one.exits(0, 0)
        weights = one.weights(exits, batch)
        np.testing.assert_array_equal(weights.exits_E, exits)
        assert not weights.text_ER[:, ~real].any()
        assert not weights.distill_ER[:, ~real].any()
        of = [w[:, real & k].sum(axis=1) for w in weights[1:] for k in (refuses, ~refuses)]
        return exits, [pytest.approx(part.tolist()) for part in of]

    # Two of six sequences refuse.
    exits, result = parts(where(refusals="final", benign="final"))
    assert exits == [4]
    assert result == [[1 / 3], [2 / 3], [0], [0]]

    exits, result = parts(where())
    assert exits == [1, 2, 3, 4]
    early = 2 / 3  # each early exit's part of the weight of 2
    every = [early / 3] * 3 + [1 / 3]
    far = [early * 2 / 3] * 3 + [0]
    assert [every, [0, 0, 0, 2 / 3], [0] * 4, far] == result

    _, result = parts(where(refusals="final"))  # safety at the final exit alone
    assert [[0, 0, 0, 1 / 3], [0, 0, 0, 2 / 3], [0] * 4, far] == result

    _, result = parts(where(target="text", deep_more=True, early_weight=1.0))
    assert [2 / 3 * d / 6 for d in (1, 2, 3)] + [2 / 3] == result[1]
    assert result[3] == [0] * 4


def test_random_exits_of_each_step():
    one = where(per_step=2)
    drawn = [tuple(one.exits(0, step)) for step in range(60)]
    assert {len(d) for d in drawn} == {3}
    assert {d[:2] for d in drawn} == {(1, 2), (1, 3), (2, 3)}
    assert all(d[2] == 4 for d in drawn)
    assert drawn == [tuple(one.exits(0, step)) for step in range(60)]


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
from jaxdepth.tune import data
data._BUCKET = 224
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
    assert {len(e) for e in table["exits"]} == {3}
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


@pytest.mark.parametrize(
    "changes",
    [
        {"method": "verdicts", "borderline": 1},
        {"method": "dpo", "benign_target": "text"},
        {"train": "weights", "layers": "3-4", "leaves": ("q", "mlp_norm", "norm")},
        {"dtype": "bfloat16", "accumulate": 2, "layer_dropout": 0.5, "remat": True},
        {"refusals_at": "final", "benign_at": "final"},
    ],
    ids=["verdicts", "dpo", "weights", "bfloat16", "final"],
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
        args = ["decide", tiny_path, "--adapter", file, "--protocol", "tuned", "--limit", 1]
        args += ["--out", tmp_path / "decide", "--exits", "4", "--thought-tokens", 2]
        assert main(list(map(str, [*args, "--answer-tokens", 2, "--cost-rounds", 0]))) == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
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
    other = {**tasks, "benign": tasks["benign"][1:]}
    assert tasks_digest(tasks) != tasks_digest(other)
    assert tasks_digest(tasks) == tasks_digest(read_tasks(["builtin:harmful/train"], "builtin"))


def test_the_command(tiny_path, tmp_path, capsys):
    config = tmp_path / "mine.toml"
    config.write_text("steps = 2\nharmful = 1\nlookalike = 0\nbenign = 1\nanswer_tokens = 4\n")
    args = ["tune", tiny_path, "--config", config, "--out", tmp_path / "run"]
    assert main(list(map(str, args))) == 0
    printed = capsys.readouterr().out
    for part in ("2 steps; mean of the last 2", "losses.png", "adapter.safetensors"):
        assert part in printed.replace("\n", " ")
    assert (tmp_path / "run" / "figures" / "losses.svg").is_file()
