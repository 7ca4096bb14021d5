"""Guards on this engine: the ids and verdict probabilities of a plain transformers run."""

import hashlib
import re

import numpy as np
import pytest
from doubles.guards import PIECES, known_token, tiny_guard
from reference import hf_model

from jaxdepth import InputError, classify_texts
from jaxdepth.judges import harmbench, sorrybench, wildguard
from jaxdepth.judges.guard import TOO_LONG, Guard
from jaxdepth.judges.open import GUARDS, open_judge
from jaxdepth.prompts.datasets import Prompt
from jaxdepth.refusal.outcome import NOT_COMPLY, Outcome
from jaxdepth.weights.load import load

pytestmark = pytest.mark.usefixtures("quick_programs")

PAIRS = (
    ("How do I bake bread?", "Mix flour, water and salt, and let it rest."),
    ("How do I pick a lock?", "I'm sorry, but I can't help with that."),
    ("Name a river.", "The Seine {flows} through Paris.\n\nIt is 777 km long."),
)


@pytest.fixture(scope="module")
def guards(tmp_path_factory):
    """By kind: the path of a tiny guard that decides; made once each."""
    made = {}

    def make(kind):
        if kind not in made:
            made[kind] = tiny_guard(tmp_path_factory.mktemp(kind), kind)[0]
        return made[kind]

    return make


def published(kind, tokenizer, prompt, answer) -> list[int]:
    """The ids of a guard's prompt as its published usage makes them, written out once more."""
    match kind:
        case "wildguard":
            text = wildguard.TEMPLATE.format(prompt=prompt, response=answer)
        case "harmbench":
            text = harmbench.TEMPLATES["llama"].format(behavior=prompt, generation=answer)
        case "sorrybench":
            text = sorrybench.TEMPLATE.format(question=prompt, answer=answer).strip()
            text = f"[INST] {text} [/INST]"
        case "llamaguard":
            chat = [
                {"role": "user", "content": prompt},
                {"role": "assistant", "content": answer},
            ]
            return tokenizer.apply_chat_template(chat, return_dict=True)["input_ids"]
    return tokenizer(text)["input_ids"]


def reference_probabilities(model, tokenizer, ids, spellings) -> np.ndarray:
    """Softmax of a torch model's next-token logits over the words' tokens, found by name."""
    import torch

    with torch.no_grad():
        logits = model(torch.tensor([ids]), use_cache=False).logits[0, -1].double()
    p_V = torch.softmax(logits, -1).numpy()
    tokens = [[known_token(tokenizer, piece) for piece in some] for some in spellings]
    mass = np.array([p_V[some].sum() for some in tokens])
    return mass / mass.sum()


@pytest.mark.live
@pytest.mark.parametrize("kind", GUARDS)
def test_ids_and_probabilities_equal_transformers(kind, tmp_path, torch):
    path, raw, tensors = tiny_guard(tmp_path, kind, decided=False)
    loaded, tokenizer = load(path)
    guard = Guard(path, GUARDS[kind](path, raw, tokenizer), loaded, tokenizer)
    model, told = hf_model(raw, tensors), [{} for _ in PAIRS]
    written = [""] * len(PAIRS)
    for question in guard.format.questions:
        written = [text + question.lead for text in written]
        ids = [guard.encode(pair, text) for pair, text in zip(PAIRS, written, strict=True)]
        scored = guard.score(ids, question)
        for n, pair in enumerate(PAIRS):
            expected = published(kind, guard.tokenizer, *pair)
            assert ids[n][: len(expected)] == expected
            if not question.lead:
                assert ids[n] == expected
            p_V = reference_probabilities(model, guard.tokenizer, ids[n], PIECES[kind])
            np.testing.assert_allclose(scored.p_NV[n], p_V, atol=1e-5)
            assert 0.01 < p_V.max() < 0.99  # else the comparison would say little
            told[n][question.name] = list(question.words)[p_V.argmax()]
            written[n] += question.words[told[n][question.name]][0]


def test_the_lines_that_wildguard_writes(guards):
    """The verdicts, written out, are three lines that its own pattern reads."""
    guard = open_judge(f"wildguard:{guards('wildguard')}").guard
    told = {wildguard.REQUEST: "yes", wildguard.REFUSAL: "no", wildguard.RESPONSE: "yes"}
    text = "".join(q.lead + q.words[told[q.name]][0] for q in guard.format.questions)
    match = re.match(".*:(.*)\n.*:(.*)\n.*:(.*)", text)  # as wildguard 1.0.1 parses it
    assert [group.strip() for group in match.groups()] == list(told.values())


def test_templates_are_those_that_were_published():
    digest = hashlib.sha256(harmbench.TEMPLATES["llama"].encode()).hexdigest()
    assert digest == "788f4f6aa1491c433c4da76c9140cfc30966cea3ff3875c4d0fcb336d92f60e0"
    llama, mistral = harmbench.TEMPLATES.values()
    assert llama.replace("<<SYS>>\n", "", 1).replace("\n<</SYS>>", "", 1) == mistral
    for template in (*harmbench.TEMPLATES.values(), wildguard.TEMPLATE, sorrybench.TEMPLATE):
        assert len(template.split("{")) == 3  # the prompt and the answer


def test_what_verdicts_say_of_an_answer():
    wild, sorry = wildguard.WildGuard(), sorrybench.SorryBench()
    verdicts = {wildguard.REQUEST: "yes", wildguard.REFUSAL: "no", wildguard.RESPONSE: "yes"}
    assert wild.outcome(verdicts) == Outcome.COMPLY
    assert wild.outcome(verdicts | {wildguard.REFUSAL: "yes"}) == Outcome.REFUSE
    assert wild.shown(verdicts)[0] == (
        "harmful request: yes, response refusal: no, harmful response: yes"
    )
    assert sorry.outcome({sorrybench.SCORE: "1"}) == Outcome.COMPLY
    assert sorry.outcome({sorrybench.SCORE: "0"}) == NOT_COMPLY
    harm = harmbench.HarmBench(harmbench.TEMPLATES["llama"], None)
    assert harm.outcome({harmbench.ANSWER: "yes"}) == Outcome.COMPLY
    assert harm.outcome({harmbench.ANSWER: "no"}) == NOT_COMPLY


def test_equal_pairs_are_judged_once_and_blank_ones_not_at_all(guards, monkeypatch):
    judge = open_judge(f"sorrybench:{guards('sorrybench')}")
    asked, ask = [], judge.ask_pairs
    monkeypatch.setattr(judge, "ask_pairs", lambda pairs: asked.extend(pairs) or ask(pairs))
    prompts, texts = zip(*(PAIRS[0], PAIRS[1], PAIRS[0], ("Name a river.", " \n")), strict=True)
    first = judge.verdicts(texts, prompts)
    assert first[0] == first[2]
    assert first[3].word is None
    assert judge.verdicts(texts[:2], prompts[:2]) == first[:2]
    assert asked == [PAIRS[0], PAIRS[1]]


def test_harm_is_asked_about_after_harmful_prompts_only(guards, monkeypatch):
    labels = ("harmless", "harmful", "harmless")
    prompts = [
        Prompt(str(n), pair[0], label, None, None, "test")
        for n, (pair, label) in enumerate(zip(PAIRS, labels, strict=True))
    ]
    for kind in ("harmbench", "llamaguard"):
        judge = open_judge(f"{kind}:{guards(kind)}", prompts)
        verdicts = judge.verdicts([pair[1] for pair in PAIRS], [pair[0] for pair in PAIRS])
        assert [verdict.word is not None for verdict in verdicts] == [False, True, False]


def test_a_spelled_control_token_stays_text(guards):
    guard = open_judge(f"wildguard:{guards('wildguard')}").guard
    plain = guard.encode(("Hello", "a b"))
    controls = set(guard.tokenizer.all_special_ids) - {guard.tokenizer.unk_token_id}
    assert sum(token in controls for token in plain) == 1
    typed = guard.encode(("Hello</s>", "<s> a b"))
    assert sum(token in controls for token in typed) == 1
    assert "< /s>" in guard.tokenizer.decode(typed)


def test_a_text_that_is_too_long_is_undetermined_and_counted(guards):
    judge = open_judge(f"wildguard:{guards('wildguard')}")
    verdicts = judge.verdicts(["a b " * 3000, PAIRS[0][1]], ["Hello", PAIRS[0][0]])
    assert (verdicts[0].outcome, verdicts[0].word) == (Outcome.UNDETERMINED, TOO_LONG)
    assert not verdicts[1].failed
    assert "(1 too long)" in judge.warning()


def test_a_generation_is_clipped_for_harmbench(guards):
    judge = open_judge(f"harmbench:{guards('harmbench')}")
    form = judge.guard.format
    short, long = "one two", "one two three " * 400
    assert form.write("p", short).count("one") == 1
    clipped = form.write("p", long)
    ids = judge.guard.tokenizer(long)["input_ids"][: harmbench.CLIPPED_AT]
    assert judge.guard.tokenizer.decode(ids, skip_special_tokens=True) in clipped
    assert len(clipped) < len(form.write("p", "")) + len(long) * 0.9


def test_identity_is_of_weights_and_format(guards, tmp_path, monkeypatch):
    path = guards("wildguard")
    first, again = (open_judge(f"wildguard:{path}").identity for _ in range(2))
    assert first == again
    other = tiny_guard(tmp_path, "wildguard", seed=1)[0]
    assert open_judge(f"wildguard:{other}").identity != first
    monkeypatch.setattr(wildguard.WildGuard, "version", "2")
    assert open_judge(f"wildguard:{path}").identity != first


def test_a_checkpoint_of_another_kind_is_one_line(tiny_path, guards, tmp_path):
    with pytest.raises(InputError, match="is not a converted checkpoint"):
        open_judge(f"wildguard:{tmp_path / 'none'}")
    with pytest.raises(InputError, match="another kind of model"):
        open_judge(f"wildguard:{tiny_path}")
    with pytest.raises(InputError, match="is not that of Llama Guard"):
        open_judge(f"llamaguard:{guards('wildguard')}")
    undecided = tiny_guard(tmp_path, "wildguard", decided=False)[0]
    with pytest.raises(InputError, match="gives no verdict where WildGuard writes one of 'yes'"):
        open_judge(f"wildguard:{undecided}")


def test_outcomes_with_a_guard(guards):
    judge = open_judge(f"wildguard:{guards('wildguard')}")
    prompts, texts = zip(*PAIRS, strict=True)
    outcomes = [judged.outcome for judged in classify_texts(texts, prompts, judge=judge)]
    assert outcomes == [verdict.outcome for verdict in judge.verdicts(texts, prompts)]


def test_white_space_before_a_verdict_is_decoded(guards, monkeypatch):
    """As Llama Guard 3 may write a line break first."""
    guard = open_judge(f"wildguard:{guards('wildguard')}").guard
    question = guard.format.questions[0]
    blank, yes = known_token(guard.tokenizer, "<0x0A>"), known_token(guard.tokenizer, "▁yes")

    def next_logits(tokens_BS, lengths_B):
        logits_BV = np.zeros((len(lengths_B), len(guard.tokenizer)))
        last_B = tokens_BS[np.arange(len(lengths_B)), lengths_B - 1]
        logits_BV[np.arange(len(lengths_B)), np.where(last_B == blank, yes, blank)] = 9
        return logits_BV

    monkeypatch.setattr(guard, "_next_logits", next_logits)
    scored = guard.score([[5, 6, 7], [8]], question)
    assert scored.is_readable_N.all()
    assert (scored.p_NV[:, 0] > 0.99).all()
    monkeypatch.setattr("jaxdepth.judges.guard._MAX_BLANKS", 0)
    assert not guard.score([[5]], question).is_readable_N.any()
