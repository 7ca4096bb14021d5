"""Positions in chat templates, and what is captured there."""

import numpy as np
import pytest
from parity_grid import families
from tiny import hf_tensors, model_of, prompts, raw_config
from tiny_tokenizers import KINDS, TEXTS, build

from jaxdepth import InputError, exit_logits
from jaxdepth.probing.capture import residuals
from jaxdepth.probing.positions import choose_positions, locate
from jaxdepth.prompts.chat import PromptEncoder

pytestmark = pytest.mark.usefixtures("quick_programs")

AFTER = {
    "mistral v0.3": ["[/INST]"],
    "llama 3": ["<|eot_id|>", "<|start_header_id|>", "assistant", "<|end_header_id|>", "\n\n"],
    "chatml": ["<|im_end|>", "\n", "<|im_start|>", "assistant", "\n"],
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_instruction_ends_where_the_users_text_does(kind):
    """By decoding: up to the position stands all of the text, one token earlier not all."""
    tokenizer = build(kind)
    encoder = PromptEncoder(tokenizer)
    for text in [*TEXTS[:40], "naïve café 你好 😀", "<|im_end|> </s> [/INST] typed", "trailing  "]:
        ids, place = encoder.locate(text)
        assert ids == encoder.encode(text)
        # Spaces aside: SentencePiece puts one where a typed marker was broken up.
        upto, before = (tokenizer.decode(ids[:n]).replace(" ", "") for n in (place + 1, place))
        assert text.replace(" ", "") in upto
        assert text.replace(" ", "") not in before


@pytest.mark.parametrize("kind", AFTER)
def test_the_templates_tokens_come_after_it(kind):
    tokenizer = build(kind)
    located = locate(PromptEncoder(tokenizer), tokenizer, TEXTS[:30])
    pieces = [tokenizer.decode([i]) for i in located.ids[0][located.places_NP[0, 0] + 1 :]]
    template_text = "".join(pieces).replace(" ", "")
    assert template_text == "".join(AFTER[kind])
    count = len(pieces)
    assert located.names[0] == "instruction"
    assert located.names[-1] == "last"
    assert len(located.names) == count + 1 == len(located.tokens) + 1
    for ids, places in zip(located.ids, located.places_NP, strict=True):
        assert places[-1] == len(ids) - 1
        assert (np.diff(places) == 1).all()


def test_a_base_model_has_the_instruction_only():
    tokenizer = build("chatml")
    tokenizer.chat_template = None
    located = locate(PromptEncoder(tokenizer), tokenizer, TEXTS[:3])
    assert located.names == ("instruction",)
    assert [len(ids) - 1 for ids in located.ids] == located.places_NP[:, 0].tolist()
    assert choose_positions(["last", "instruction"], located) == [0]


def test_unknown_positions_are_named():
    tokenizer = build("chatml")
    located = locate(PromptEncoder(tokenizer), tokenizer, TEXTS[:3])
    end = len(located.names) - 1
    assert choose_positions(["all"], located) == list(range(end + 1))
    assert choose_positions(["last", "template2"], located) == [end, 2]
    with pytest.raises(InputError, match="no position 'templat2'; did you mean 'template2'"):
        choose_positions(["templat2"], located)


@pytest.mark.parametrize("name", ["mistral-7b-v0.1", "qwen2.5-window"])
def test_what_is_captured_is_what_exits_unembed(name):
    model = model_of(families()[name])
    tokens_BS, lengths_B = prompts()
    places_BP = np.stack([lengths_B - 1, lengths_B // 2], axis=1)
    got_BPJD = residuals(model, tokens_BS, lengths_B, places_BP)
    assert got_BPJD.shape == (3, 2, 5, 64)
    for exit in range(1, 5):
        logits = model.unembed(got_BPJD[:, 0, exit], exit)
        np.testing.assert_allclose(
            logits, exit_logits(model, tokens_BS, lengths_B, exit), atol=1e-5
        )
        # A place in the middle is the end of a shorter prompt.
        logits = model.unembed(got_BPJD[:, 1, exit], exit)
        shorter = exit_logits(model, tokens_BS, lengths_B // 2 + 1, exit)
        np.testing.assert_allclose(logits, shorter, atol=1e-5)
    embed = hf_tensors(model.config)["model.embed_tokens.weight"]
    last = tokens_BS[np.arange(3), lengths_B - 1]
    np.testing.assert_array_equal(got_BPJD[:, 0, 0], embed[last])


def test_positions_beyond_a_sequence_are_refused():
    model = model_of(raw_config())
    tokens_BS, lengths_B = prompts()
    for bad in (lengths_B[:, None], np.full((3, 1), -1)):
        with pytest.raises(InputError, match="lies beyond its sequence"):
            residuals(model, tokens_BS, lengths_B, bad)
    with pytest.raises(InputError, match="expected \\(B, P\\)"):
        residuals(model, tokens_BS, lengths_B, lengths_B)
