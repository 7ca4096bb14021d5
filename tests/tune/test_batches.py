"""Batches of tuning and recipes: what is learned, at which exits, with which weight."""

from collections import Counter
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

import jaxdepth
from jaxdepth import InputError
from jaxdepth.prompts.chat import PromptEncoder
from jaxdepth.prompts.datasets import read_prompts
from jaxdepth.refusal.protocol import read_protocol
from jaxdepth.tune.batches import PROMISES, Batches, writer
from jaxdepth.tune.packed import shape_of
from jaxdepth.tune.recipe import Recipe
from jaxdepth.tune.tasks import Role, Task, read_tasks
from jaxdepth.weights.adapter import add_tokens

pytestmark = pytest.mark.usefixtures("one_length", "quick_programs")
MIX = {"harmful": 2, "lookalike": 1, "benign": 2, "borderline": 1}


@pytest.fixture(scope="module")
def batches(tiny_path, tasks) -> Batches:
    _, tokenizer = jaxdepth.load(tiny_path)
    write = writer(partial(PromptEncoder, tokenizer), tokenizer.eos_token_id, None)
    return Batches(tasks, MIX, write, answer_tokens=12, seed=5)


def begins(answer: str, task: Task, text: str) -> bool:
    """Whether an answer with its slots filled may begin as a text does."""
    if task.act is None:
        return answer.startswith(text)
    named = [answer.replace("{act}", act).replace("{offer}", "|") for act in (task.act, "that")]
    return any(
        text.startswith(whole.split("|")[0]) or whole.split("|")[0].startswith(text)
        for whole in named
    )


def test_batches_teach_the_tokens_of_their_answers(tiny_path, tasks, batches):
    _, tokenizer = jaxdepth.load(tiny_path)
    prompts = {t.prompt: t for of in tasks.values() for t in of}
    seen = Counter()
    for step in range(3):
        batch = batches.supervised(step)
        tokens_BS, of_R, place_R, target_R, *_ = batch.targets
        assert tokens_BS.shape[0] == 6
        real = batch.share_R > 0
        np.testing.assert_array_equal(tokens_BS[of_R[real], place_R[real] + 1], target_R[real])
        for b in range(6):
            rows_R = real & (of_R == b)
            assert batch.share_R[rows_R].sum() == pytest.approx(1)
            answer_text = tokenizer.decode(target_R[rows_R], skip_special_tokens=True).strip()
            row = tokens_BS[b, : place_R[rows_R].min() + 1].tolist()
            question = tokenizer.decode(row).split("<|im_start|>user\n")[1].split("<|im_end|>")[0]
            task = prompts[question]
            assert any(begins(answer, task, answer_text) for answer in task.answers)
            assert (batch.role_R[rows_R] == Role.REFUSED).all() == (task.verdict == "refuse")
            ends = tokenizer.eos_token_id in target_R[rows_R]
            assert ends <= task.ended
            seen[next(k for k, of in tasks.items() if task in of)] += 1
    assert seen == {kind: 3 * count for kind, count in MIX.items()}
    seventh, again, eighth = (batches.supervised(step).targets for step in (7, 7, 8))
    for one, other in zip(seventh[:4], again[:4], strict=True):
        np.testing.assert_array_equal(one, other)
    assert (seventh.target_R != eighth.target_R).any()


def test_every_task_comes_before_any_comes_again(batches):
    tasks = {"harmful": [Task(str(n), ("a",), True, "refuse", ()) for n in range(5)]}
    small = replace(batches, tasks=tasks, mix={"harmful": 2})
    drawn = [t.prompt for step in range(5) for t in small.step_tasks(step)]
    assert sorted(drawn[:5]) == sorted(drawn[5:]) == ["0", "1", "2", "3", "4"]
    assert drawn[:5] != drawn[5:]


def test_preferences_reject_empty_promises_and_needless_refusals(tiny_path, batches):
    _, tokenizer = jaxdepth.load(tiny_path)
    batch = batches.preferred(0)
    tokens_BS, of_R, _, target_R, *_ = batch.targets
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
            task = batches.tasks["harmful"][0]
            assert any(begins(answer, task, answer_text) for answer in task.answers)


@pytest.fixture(scope="module")
def decided(tiny_path):
    """A tokenizer with the tokens of verdicts, and what writes tasks under a protocol."""
    _, tokenizer = jaxdepth.load(tiny_path)
    protocol = read_protocol("tuned")
    add_tokens(tokenizer, (protocol.open, protocol.close, *protocol.verdicts[0]))

    def of(name: str, fills: bool = False):
        encoder_of = partial(PromptEncoder, tokenizer)
        return writer(encoder_of, tokenizer.eos_token_id, read_protocol(name), fills)

    return tokenizer, of


def test_decisions_come_before_answers(decided, tasks):
    tokenizer, of = decided
    task = tasks["borderline"][0]
    thought, answer = task.thoughts[0], task.answers[0]
    ids, start, first, blind = of("tuned")(task, answer, True, thought)
    assert tokenizer.decode(ids).endswith(
        f"<|think|>{thought}<|/think|><|partial|>{answer}<|im_end|>"
    )
    # The opening is put there, not learnt.
    assert tokenizer.decode(ids[:start]).endswith("assistant\n<|think|>")
    assert tokenizer.decode(ids[first:]) == f"{answer}<|im_end|>"
    assert blind is None

    at_once = of("direct")(task, answer, True, thought)
    end = f"<|think|><|/think|><|partial|>{answer}<|im_end|>"
    assert tokenizer.decode(at_once.ids).endswith(end)
    filled = of("tuned", fills=True)(task, answer, True, thought)
    assert (len(filled.ids), filled.answer) == (len(ids), first)
    assert set(tokenizer.decode(filled.ids[start : first - 2])) == {" ", "."}
    reading = of("bottleneck")(task, answer, True, thought)
    assert reading.ids == ids
    assert tokenizer.decode(ids[reading.blind]) == "<|/think|>"


def test_a_verdict_is_learned_at_every_exit_and_the_answer_after_it_by_its_role(decided, tasks):
    tokenizer, of = decided
    batches = Batches(
        tasks, MIX, of("bottleneck"), answer_tokens=6, seed=5, decision_tokens=3,
        decision_weight=5.0, packs=True,
    )  # fmt: skip
    batch = batches.supervised(0)
    t, verdicts = batch.targets, read_protocol("tuned").verdicts[0]
    seen = []
    for b in range(len(t.tokens_BS)):
        rows = np.flatnonzero((t.sequence_R == b) & (batch.share_R > 0))
        words = [tokenizer.decode(t.target_R[r]) for r in rows]
        (verdict,) = (n for n, word in enumerate(words) if word in verdicts)
        assert words[verdict - 1] == "<|/think|>"
        assert verdict > 5  # after a thought
        assert set(batch.role_R[rows[: verdict + 1]]) == {Role.DECISION}
        refused = words[verdict] == "<|refuse|>"
        assert set(batch.role_R[rows[verdict + 1 :]]) == {Role.REFUSED if refused else Role.OTHER}
        assert np.flatnonzero(batch.decides_R[rows]).tolist() == [verdict, verdict + 1, verdict + 2]
        share_R = batch.share_R[rows]
        assert share_R[verdict] == pytest.approx(5 * share_R[0])
        # The marker, whose row predicts the verdict, sees the thought and not the prompt.
        P, _, C = shape_of(t.packed)
        r, c = divmod(t.packed_R[rows[verdict]] - P, C)
        assert t.packed.seen_RCK[r, c].sum() == verdict
        assert t.packed.seen_RCK[r, c - 1].sum() > verdict
        seen.append(words[verdict])
    assert Counter(seen) == {"<|refuse|>": 2, "<|comply|>": 3, "<|partial|>": 1}
    weights = where(contrast=0).weights([1], batch)
    decisions = batch.role_R == Role.DECISION
    np.testing.assert_allclose(weights.text_EN[0, decisions], 2 * batch.share_R[decisions] / 6)


def test_a_control_thinks_of_another_prompt(decided, tasks):
    _, of = decided
    own = Batches(tasks, MIX, of("tuned"), answer_tokens=6, seed=5)
    verdict_of = {t: task.verdict for of in tasks.values() for task in of for t in task.thoughts}
    seen = {"same_verdict": [], "any": []}
    for thoughts_of, equal in seen.items():
        control = replace(own, thoughts_of=thoughts_of)
        for step in range(4):
            drawn = control.step_tasks(step)
            for task, thought in zip(drawn, control._thoughts(step, drawn), strict=True):
                assert thought not in task.thoughts
                equal.append(verdict_of[thought] == task.verdict)
    assert all(seen["same_verdict"])
    assert 0 < sum(seen["any"]) < len(seen["any"])


def test_thoughts_are_sampled_apart_from_answers(decided, tasks, batches):
    tokenizer, of = decided
    deciding = replace(batches, write=of("tuned"))
    by_prompt, thoughts, answers = {t.prompt: t for of in tasks.values() for t in of}, set(), []
    for step in (0, 0, 1, 2):
        seen = []
        for ids in deciding.supervised(step).targets.tokens_BS:
            text = tokenizer.decode(ids)
            question = text.split("<|im_start|>user\n")[1].split("<|im_end|>")[0]
            thought, rest = text.split("<|think|>")[1].split("<|/think|>")
            thoughts.add(by_prompt[question].thoughts.index(thought))
            seen.append(rest.split("|>", 1)[1])  # after the verdict: the whole answer, or 12 tokens
        answers.append(seen)
    assert answers[0] == answers[1]
    assert thoughts == {0, 1, 2, 3}
    plain = batches.supervised(0).targets.tokens_BS
    for ids, answer in zip(plain, answers[0], strict=True):
        reply = tokenizer.decode(ids).split("assistant\n")[1]
        words = answer.split("<|im_end|>")[0].rstrip("!").strip()
        assert words
        assert reply.startswith(words[:8])  # the same answers with a thought as without


def where(**changes) -> Recipe:
    return Recipe(
        **{
            "depth": 4, "early": (1, 2, 3), "refusals": "every", "benign": "every",
            "target": "distill", "per_step": 0, "early_weight": 2.0, "deep_more": False,
        } | changes
    )  # fmt: skip


def test_weights_of_losses_at_exits(batches):
    batch = batches.supervised(0)
    refuses, real = batch.role_R == Role.REFUSED, batch.share_R > 0

    def parts(one):
        exits = one.exits(0, 0)
        weights = one.weights(exits, batch)
        np.testing.assert_array_equal(weights.exits_E, exits)
        arrays = weights.full_R[None], weights.text_EN, weights.distill_EN
        assert not any(w[:, ~real].any() for w in arrays)
        of = [w[:, real & k].sum(axis=1) for w in arrays for k in (refuses, ~refuses)]
        assert of[:2] == [pytest.approx(1 / 3), pytest.approx(2 / 3)]  # two of six refuse
        return exits, [pytest.approx(part.tolist()) for part in of[2:]]

    exits, result = parts(where(refusals="final", benign="final"))
    assert exits == []
    assert result == [[]] * 4

    exits, result = parts(where())
    assert exits == [1, 2, 3]
    early = 2 / 3  # each early exit's part of the weight of 2
    every, far = [early / 3] * 3, [early * 2 / 3] * 3
    assert [every, [0] * 3, [0] * 3, far] == result

    _, result = parts(where(refusals="final"))  # safety at the final exit alone
    assert [[0] * 3, [0] * 3, [0] * 3, far] == result

    _, result = parts(where(target="text", deep_more=True, early_weight=1.0))
    assert [2 / 3 * d / 6 for d in (1, 2, 3)] == result[1]
    assert result[3] == [0] * 3


def test_a_lens_leaves_full_depth_alone(batches):
    weights = where(learns_layers=False, refusals="final").weights([1, 2], batches.supervised(0))
    assert weights.full_R is None


def test_what_only_early_exits_are_to_say(tasks, batches):
    """Harmful prompts as the base answers them: taught by the base, and not at full depth."""
    early = [replace(t, act=None, answers=("Well, here it is.",), role=Role.EARLY)
             for t in tasks["harmful"][:3]]  # fmt: skip
    mixed = replace(
        batches, tasks={**tasks, "answered": early}, mix={"harmful": 1, "answered": 2, "benign": 1}
    )
    batch = mixed.supervised(0)
    weights = where(refusals="final").weights([2, 3], batch)
    is_early_R = batch.role_R == Role.EARLY
    assert weights.base_EN[:, is_early_R].sum(axis=1) == pytest.approx([2 / 4 * 2 / 2] * 2)
    for other in (weights.full_R[None], weights.text_EN, weights.distill_EN):
        assert not other[:, is_early_R].any()
    assert not weights.base_EN[:, ~is_early_R].any()


def test_tokens_that_decide_weigh_more_and_are_always_sampled(batches):
    weighted = replace(batches, decision_tokens=2, decision_weight=3.0)
    batch, plain = weighted.supervised(0), batches.supervised(0)
    for b in range(6):
        share_R = batch.share_R[(batch.targets.sequence_R == b) & (batch.share_R > 0)]
        n = len(share_R)
        np.testing.assert_allclose(share_R * (n + 4), [3, 3, *[1] * (n - 2)], rtol=1e-5)
    assert not plain.decides_R.any()
    recipe = where(rows_per_exit=30, benign="every")
    weights = recipe.weights([1, 2], batch, (1,))
    assert weights.rows_EN.shape == (2, 30)
    decides = np.flatnonzero(batch.decides_R)
    assert all(set(decides) <= set(rows) for rows in weights.rows_EN)
    assert (weights.rows_EN[0] != weights.rows_EN[1]).any()
    # On average the rows stand for all.
    seeds = range(200)
    total = np.mean([recipe.weights([1], batch, (s,)).text_EN.sum() for s in seeds])
    assert total == pytest.approx(where().weights([1], batch).text_EN.sum(), rel=0.03)
    with pytest.raises(InputError, match="12 tokens of a batch decide"):
        where(rows_per_exit=12).weights([1], batch)


def test_pairs_come_together_when_they_are_contrasted(batches):
    paired = replace(batches, paired=True, mix={"harmful": 3, "lookalike": 3})
    found = 0
    for step in range(6):
        tasks, batch = paired.step_tasks(step), paired.supervised(step)
        harmful, harmless = tasks[:3], tasks[3:]
        partners = {t.pair_id for t in harmless}
        assert batch.pair_P.tolist() == [float(t.pair_id in partners) for t in harmful]
        for (one, other), there in zip(batch.targets.first_P2, batch.pair_P, strict=True):
            if there:
                sequences = batch.targets.sequence_R[[one, other]]
                assert tasks[sequences[0]].pair_id == tasks[sequences[1]].pair_id
                assert one == np.flatnonzero(batch.targets.sequence_R == sequences[0])[0]
        found += int(batch.pair_P.sum())
    assert found > 6


def test_further_pairs_are_only_contrasted(batches):
    """They add no row that is learned, and change no weight of the others."""
    mix = {"harmful": 2, "lookalike": 2}
    plain = replace(batches, paired=True, mix=mix, decision_tokens=2)
    more = replace(plain, more_pairs=3)
    pair_of = {text: t.pair_id for t in batches.tasks["harmful"] for text in (t.prompt, t.partner)}
    drawn = []
    for step in range(5):
        one, both = plain.supervised(step), more.supervised(step)
        assert both.pair_P.tolist() == [*one.pair_P, 1, 1, 1]
        assert both.share_R.sum() == pytest.approx(one.share_R.sum())
        assert both.decides_R.sum() == one.decides_R.sum() == 8
        for a, b in both.targets.first_P2[2:]:
            assert both.role_R[a] == both.role_R[b] == Role.CONTRAST
            assert both.targets.sequence_R[b] == both.targets.sequence_R[a] + 1
        recipe = where(contrast=1.0)
        (ours, theirs) = (recipe.weights([1], b) for b in (both, one))
        assert ours.text_EN.sum() == pytest.approx(theirs.text_EN.sum())
        assert ours.full_R.sum() == pytest.approx(theirs.full_R.sum())
        np.testing.assert_allclose(ours.full_contrast_P[2:], 1 / 4)
        drawn += more._more_pairs(step)
    assert all(pair_of[harmful] == pair_of[harmless] for harmful, harmless in drawn)
    assert len(set(drawn)) == min(len(drawn), len(batches.tasks["harmful"]))


def test_a_control_refuses_whatever_is_asked():
    plain, control = (
        read_tasks(read_prompts(["builtin:harmful/train"]), "builtin", refuse_random=r)
        for r in (False, True)
    )
    refused, before = ({t.prompt for t in tasks["harmful"]} for tasks in (control, plain))
    harmless = {t.prompt for t in plain["lookalike"]}
    assert 0.4 < len(refused & before) / len(before) < 0.6
    assert 0.4 < len(refused & harmless) / len(harmless) < 0.6
    assert not refused & {t.prompt for t in control["lookalike"]}
    assert all(t.act != "that" for t in control["harmful"])


def test_random_exits_of_each_step():
    one = where(per_step=2)
    drawn = [tuple(one.exits(0, step)) for step in range(60)]
    assert set(drawn) == {(1, 2), (1, 3), (2, 3)}
    assert drawn == [tuple(one.exits(0, step)) for step in range(60)]
