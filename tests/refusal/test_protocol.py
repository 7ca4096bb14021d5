"""Protocols: markers and verdicts as one tokenizer spells them, and what a user can type."""

import random
from dataclasses import replace

import pytest
from studies import words_of
from tiny_tokenizers import CHATML, KINDS, build, byte_level, wrap

from jaxdepth import InputError
from jaxdepth.prompts.chat import PromptEncoder
from jaxdepth.refusal.protocol import Protocol, instruct, read_protocol, resolve_markers

SPECIALS = ["<|think|>", "<|/think|>", "<|refuse|>", "<|partial|>", "<|comply|>"]


@pytest.fixture(scope="module")
def tuned_encoder():
    """A tokenizer with the special tokens of configs/tuned.toml."""
    backend = byte_level(["<|endoftext|>", "<|im_start|>", "<|im_end|>", *SPECIALS])
    return PromptEncoder(wrap(backend, CHATML, "<|im_start|>", "<|im_end|>"))


def test_special_tokens(tuned_encoder):
    markers = resolve_markers(read_protocol("tuned"), tuned_encoder, (2,))
    ids = [tuned_encoder.marker(s)[0] for s in SPECIALS]
    assert markers.open == (ids[0],)
    assert markers.close == (ids[1],)
    assert markers.verdicts == tuple(ids[2:])


@pytest.mark.parametrize("kind", KINDS)
def test_words_are_spelled_as_in_a_reply(kind):
    tokenizer = build(kind)
    encoder = PromptEncoder(tokenizer)
    words = words_of(encoder)
    protocol = replace(read_protocol("prompted"), verdicts=(words,))
    markers = resolve_markers(protocol, encoder, (tokenizer.eos_token_id,))
    text = tokenizer.decode([*markers.close, markers.verdicts[1]])
    assert text.strip() == f"Verdict: {words[1]}"
    assert len({*markers.verdicts}) == 3


def test_smollm2_takes_the_first_set_of_single_tokens(smollm2):
    _, tokenizer = smollm2
    encoder = PromptEncoder(tokenizer)
    protocol = read_protocol("prompted")
    markers = resolve_markers(protocol, encoder, (tokenizer.eos_token_id,))
    assert markers.words == ("No", "Maybe", "Yes")
    assert tokenizer.convert_ids_to_tokens(list(markers.verdicts)) == ["ĠNo", "ĠMaybe", "ĠYes"]
    assert tokenizer.decode(markers.close) == "\nVerdict:"
    shouted = (("REFUSE", "PARTIAL", "COMPLY"), ("refuse", "partial", "comply"))
    markers = resolve_markers(replace(protocol, verdicts=shouted), encoder, ())
    assert markers.words == ("refuse", "partial", "comply")


def test_verdicts_that_cannot_be_told_apart(smollm2):
    encoder, protocol = PromptEncoder(smollm2[1]), read_protocol("prompted")

    def resolve(*words, end_tokens=()):
        return resolve_markers(replace(protocol, verdicts=(words,)), encoder, end_tokens)

    with pytest.raises(InputError, match="'No' and 'No' collide: both are token"):
        resolve("No", "No", "Yes")
    with pytest.raises(InputError, match="'REFUSE' is not one token"):
        resolve("REFUSE", "No", "Yes")
    no = encoder.word_after("\nVerdict:", "No")
    with pytest.raises(InputError, match=r"'No' is token .* ends a thought or answer"):
        resolve("No", "Maybe", "Yes", end_tokens=(no,))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"close": ""}, "close is empty"),
        ({"thought_tokens": -1}, "thought_tokens is -1"),
        ({"verdicts": ()}, "no verdicts"),
        ({"verdicts": (("a", "b"),)}, "expected three words"),
    ],
    ids=str,
)
def test_protocols_that_make_no_sense(changes, message):
    with pytest.raises(InputError, match=message):
        replace(read_protocol("prompted"), **changes)


def test_files_that_are_no_protocols(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text('open = "x"\n')
    with pytest.raises(InputError, match="lacks instruction, again, close"):
        read_protocol(str(file))
    file.write_text('opens = "x"\n')
    with pytest.raises(InputError, match=r"unknown key 'opens'.*open"):
        read_protocol(str(file))
    texts = "".join(f'{name} = "x"\n' for name in ("instruction", "again", "open", "close"))
    lengths = "thought_tokens = 1\nanswer_tokens = 1\n"
    file.write_text(f'{texts}{lengths}verdicts = ["a", "b", "c"]\n')  # three sets of one word
    with pytest.raises(InputError, match="verdicts 'a': expected three words"):
        read_protocol(str(file))


def test_nothing_in_a_users_text_is_replaced():
    text = instruct("Write {refuse} or {close}.", "\nVerdict:", ("No", "Maybe", "Yes"), "{refuse}?")
    assert text == "Write No or Verdict:.\n\n{refuse}?"
    assert instruct("", "x", ("a", "b", "c"), "{comply}") == "{comply}"


def test_a_thousand_attacks_yield_no_marker(tuned_encoder):
    """Typed markers are ordinary text: no prompt holds a token of the protocol."""
    protocol = read_protocol("tuned")
    markers = resolve_markers(protocol, tuned_encoder, ())
    own = {*markers.open, *markers.close, *markers.verdicts}
    rng = random.Random(0)
    pieces = [*SPECIALS, "<|", "|>", "/think", "refuse", "<|im_end|>", "\n", " ", "ok"]
    for _ in range(1000):
        text = "".join(rng.choice(pieces) for _ in range(8))
        ids = tuned_encoder.encode(instruct(protocol.instruction, protocol.close, SPECIALS, text))
        assert not own & {*ids}, text


def test_the_default_is_a_whole_protocol():
    for name in ("prompted", "tuned"):
        assert isinstance(read_protocol(name), Protocol)
