"""`jaxdepth.respond`: what `jaxdepth decide` decodes, without what comes before the verdict."""

import random
from dataclasses import replace

import numpy as np
import pytest
from tiny_tokenizers import KINDS, build

import jaxdepth
from jaxdepth import InputError
from jaxdepth.depth.decode import advance_lanes
from jaxdepth.depth.sampling import Sampling
from jaxdepth.refusal.decide import decide, shown
from jaxdepth.refusal.protocol import VERDICTS, read_protocol
from jaxdepth.serving.responder import padded_rows
from jaxdepth.serving.visible import decode_visible, visible_ids
from jaxdepth.study.verdicts.decider import choose_protocol

pytestmark = pytest.mark.usefixtures("quick_programs", "prompts_of_one_length")

WORDS = "How do I boil an egg for my friend in the garden without a pot or water".split()


def chats(count: int, seed: int = 0) -> list[list[dict[str, str]]]:
    """Chats of one to five messages, of all lengths."""
    rng, result = random.Random(seed), []
    for n in range(count):
        roles = ["system"] * (n % 2) + ["user", "assistant"] * (n % 3) + ["user"]
        texts = [" ".join(rng.choices(WORDS, k=rng.randint(1, 5))) for _ in roles]
        result.append([{"role": r, "content": t} for r, t in zip(roles, texts, strict=True)])
    return result


def alone(responder, chat):
    """Verdict, probabilities and visible text of one chat, from `jaxdepth decide`'s own engine."""
    tokens = np.zeros((1, 160), np.int32)  # one shape, one program
    tokens[0, : len(chat.ids)] = chat.ids
    decided = decide(
        responder.loaded.model,
        tokens,
        np.array([len(chat.ids)]),
        [responder.exit_layer],
        responder.markers,
        thought_tokens=responder.protocol.thought_tokens,
        answer_tokens=chat.max_tokens,
        sampling=responder.sampling,
        rule=responder.rule,
        seeds_B=[chat.seed],
        stop_tokens=responder.loaded.end_tokens,
    )
    answer = shown(decided, responder.markers, 0, 0, 0)
    text = responder.loaded.tokenizer.decode(answer, skip_special_tokens=True)
    logp = decided.logp[0, 0, 0].astype(np.float64)
    return VERDICTS[decided.verdict[0, 0, 0]], np.exp(logp) / np.exp(logp).sum(), text


def test_responses_are_those_of_decide(responder):
    conversations = chats(11)
    responses = jaxdepth.respond(responder, conversations)
    assert len({response.text for response in responses}) > 5
    for messages, response in list(zip(conversations, responses, strict=True))[::3]:
        verdict, p, text = alone(responder, responder.chat(messages))
        assert (response.verdict, response.text) == (verdict, text)
        assert list(response.probabilities.values()) == pytest.approx(p.tolist(), abs=1e-5)
        assert response.exit == 3
        assert response.hidden_tokens <= 6
        single = jaxdepth.respond(responder, messages)
        assert replace(single, probabilities={}) == replace(response, probabilities={})


def test_the_protocols_instruction_stands_before_the_last_message(deciding_path, protocol):
    prompted = jaxdepth.open_responder(deciding_path, protocol=protocol, max_prompt_tokens=128)
    messages = chats(3)[-1]
    text = prompted.loaded.tokenizer.decode(prompted.chat(messages).ids)
    words = prompted.markers.words[0]
    assert f"Think, then Verdict: {words}\n\n{messages[-1]['content']}<|im_end|>" in text
    assert text.endswith("assistant\nI")
    assert text.count("Think, then") == 1
    assert prompted.exit_layer == 4  # all layers


def test_the_default_protocol_is_that_of_the_adapter(monkeypatch):
    own = read_protocol("direct").record()
    monkeypatch.setattr(
        "jaxdepth.study.verdicts.decider.settings_of",
        lambda name: {"protocol": own} if name == "thinker" else {},
    )
    for adapter in (None, "lora"):
        assert choose_protocol(None, adapter) == read_protocol("prompted")
    assert choose_protocol(None, "thinker") == read_protocol("direct")
    assert choose_protocol("tuned", "thinker") == read_protocol("tuned")


def test_nothing_leaves_before_the_verdict_and_what_left_stays(responder):
    encoded = [responder.chat(messages) for messages in chats(4)]
    whole = jaxdepth.respond(responder, chats(4))
    before = [""] * 4
    seen_none = False
    for so_far in responder.run(encoded, step_tokens=1):
        for n, response in enumerate(so_far):
            if response is None:
                seen_none = True
                assert not before[n]
                continue
            assert response.text.startswith(before[n])
            assert whole[n].text.startswith(response.text)
            before[n] = response.text
    assert seen_none
    assert before == [response.text for response in whole]


def test_a_stream_is_the_response_in_pieces(responder):
    messages = chats(3)[2]
    pieces = list(jaxdepth.stream_response(responder, messages))
    whole = jaxdepth.respond(responder, messages)
    assert "".join(piece.text for piece in pieces) == whole.text
    assert [piece.finish for piece in pieces] == [None] * (len(pieces) - 1) + [whole.finish]
    assert {piece.verdict for piece in pieces} == {whole.verdict}
    assert pieces[-1].visible_tokens == whole.visible_tokens


def test_a_chat_that_is_given_up_ends_the_batch(responder):
    running = responder.run([responder.chat(m) for m in chats(2)], step_tokens=1)
    assert next(running) == [None, None]
    with pytest.raises(StopIteration):
        running.send(np.array([True, True]))


def test_each_chat_has_its_own_maximum(responder):
    messages = chats(1)[0]
    for max_tokens in (0, 1, 4):
        response = jaxdepth.respond(responder, messages, max_tokens=max_tokens)
        assert response.visible_tokens <= max_tokens
    mixed = [replace(responder.chat(messages), max_tokens=n) for n in (0, 2, 6)]
    *_, last = responder.run(mixed)
    tokens = [response.visible_tokens for response in last]
    assert tokens == sorted(tokens)
    assert tokens[0] == 0


def test_a_sampled_response_depends_on_its_seed_alone(deciding_path, responder):
    settings = replace(responder.settings.responding, temperature=1.0)
    sampled = replace(responder, settings=replace(responder.settings, responding=settings))
    assert sampled.sampling == Sampling(1.0)
    messages = chats(4, seed=5)
    first = jaxdepth.respond(sampled, messages, seeds=[7, 8, 9, 10])
    assert jaxdepth.respond(sampled, messages[2], seeds=9).text == first[2].text
    again = jaxdepth.respond(sampled, [messages[2]] * 4, seeds=[9, 1, 2, 3])
    assert again[0].text == first[2].text
    assert len({response.text for response in again}) > 1


def test_an_abstaining_model_shows_nothing(responder):
    unsure = replace(responder, rule=replace(responder.rule, abstain_below=1.0))
    response = jaxdepth.respond(unsure, chats(1)[0])
    assert (response.verdict, response.text, response.finish) == ("abstain", "", "content_filter")


def test_programs_are_few(responder, monkeypatch):
    """One for each power of two of tokens and of chats, whatever comes."""
    jaxdepth.respond(responder, chats(3))  # so that some are compiled
    before = advance_lanes._cache_size()
    for n in (1, 2, 3, 4, 3, 1, 5, 6):
        assert len(jaxdepth.respond(responder, chats(n, seed=n))) == n
    assert advance_lanes._cache_size() - before <= 2  # of one chat, and of two
    assert [padded_rows(n, 6) for n in range(1, 7)] == [1, 2, 4, 4, 6, 6]
    monkeypatch.setattr("jaxdepth.serving.responder._SHORTEST", 32)
    lengths = {responder._padded_length(n) for n in range(1, 161)}
    assert lengths == {32, 64, 128, 160}


def test_an_answer_ends_where_the_model_begins_to_think_again(responder):
    think, *_ = responder.markers.open
    refuse = responder.markers.verdicts[0]
    assert responder._hidden == {think, *responder.markers.close, *responder.markers.verdicts}
    ends = frozenset(responder.loaded.end_tokens)
    for token in (think, refuse, *ends):
        assert visible_ids([20, 21, token, 22], ends, responder._hidden) == ([20, 21], True)
    assert visible_ids([20, 21], ends, responder._hidden) == ([20, 21], False)


@pytest.mark.parametrize("kind", KINDS)
def test_a_text_that_grows_is_never_taken_back(kind):
    """For any tokens: unfinished characters and byte tokens are held back."""
    tokenizer, rng = build(kind), np.random.default_rng(0)
    for _ in range(30):
        ids = rng.integers(0, len(tokenizer), 12).tolist()
        ids += tokenizer.encode("é漢🙂", add_special_tokens=False)
        whole, before = decode_visible(tokenizer, ids, is_whole=True), ""
        for end in range(len(ids) + 1):
            text = decode_visible(tokenizer, ids[:end], is_whole=False)
            assert text.startswith(before)
            assert whole.startswith(text)
            before = text


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"exit": 5}, "exit"),
        ({"lanes": 0}, "lanes is 0"),
        ({"max_prompt_tokens": 600}, "600 tokens and 12 new ones are more than the 512"),
        ({"memory_gb": 1e-4}, "lower lanes or max_prompt_tokens"),
        ({"protocol": "tunde"}, "no settings file tunde; did you mean 'tuned'"),
        ({"exits": "3"}, "unknown key 'exits'; did you mean 'exit'"),
        ({"temperature": -1.0}, "temperature is -1"),
    ],
    ids=str,
)
def test_settings_that_are_refused(deciding_path, settings, says):
    small = {"protocol": "tuned", "thought_tokens": 4, "answer_tokens": 6}
    with pytest.raises(InputError, match=says):
        jaxdepth.open_responder(deciding_path, **{**small, **settings})


@pytest.mark.parametrize(
    ("messages", "more", "says"),
    [
        ("Hello", {}, "expected a chat"),
        ([], {}, "expected a chat"),
        ([{"role": "user", "content": "an egg " * 200}], {}, "expected at most 160"),
        ([{"role": "user", "content": "x"}], {"max_tokens": 7}, "max_tokens is 7"),
        ([{"role": "user", "content": "x"}], {"seeds": -1}, "seed is -1"),
        ([[{"role": "user", "content": "x"}]], {"seeds": [1, 2]}, "2 seeds for 1 chats"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_chats_that_are_refused(responder, messages, more, says):
    with pytest.raises(InputError, match=says):
        jaxdepth.respond(responder, messages, **more)
