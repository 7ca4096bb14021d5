"""Added tokens that are ordinary text have Hugging Face's ids; markers are nobody's to type."""

import pytest
from tiny_tokenizers import CHATML, LLAMA2, byte_level, sentencepiece
from tokenizers import AddedToken
from transformers import PreTrainedTokenizerFast

from jaxdepth.prompts.chat import PromptEncoder

WORDS = {
    "letters": ["ü", "ö", "x"],
    "words": ["Zürich", "python", "in Zürich", "C++"],
    "white space": ["    ", "  ", "\n", "\n\n", "\t"],
    "signs": ["😀", "[1]", "<br>", "...", "e.g."],
    "flags": [
        AddedToken("Zürich", lstrip=True),
        AddedToken("python", single_word=True),
        AddedToken("spaces", rstrip=True, normalized=True),
    ],
}
TEXTS = [
    "Wie schön ist Zürich?",
    "use python:\n    x = 1\n\n\treturn x",
    "two  spaces, pythons in Zürich",
    " 😀 <br>[1] e.g. C++...",
    "plain",
    "Zürich",
]


def with_words(words, backend=None, template=CHATML):
    """A tokenizer with a control token before and after the added words."""
    backend = backend or byte_level(["<|endoftext|>"])
    backend.add_special_tokens(["<|im_start|>"])
    ordinary = [w if isinstance(w, AddedToken) else AddedToken(w, normalized=False) for w in words]
    backend.add_tokens(ordinary)
    backend.add_special_tokens(["<|im_end|>"])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, chat_template=template, eos_token="<|im_end|>"
    )


def hugging_face_ids(tokenizer, text):
    if not tokenizer.chat_template:
        return tokenizer(text)["input_ids"]
    messages = [{"role": "user", "content": text}]
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)
    return ids["input_ids"]


@pytest.mark.parametrize("template", [CHATML, None], ids=["chat", "base"])
@pytest.mark.parametrize("kind", WORDS)
def test_words_have_the_ids_of_hugging_face(kind, template):
    tokenizer = with_words(WORDS[kind], template=template)
    encoder, used = PromptEncoder(tokenizer), set()
    for text in TEXTS:
        ids = encoder.encode(text)
        assert ids == hugging_face_ids(tokenizer, text), text
        used |= set(ids)
    words = {i for i, token in tokenizer.added_tokens_decoder.items() if not token.special}
    assert words & used
    assert not words & encoder.control_ids


@pytest.mark.parametrize("legacy", [False, True])
def test_words_of_a_sentencepiece_tokenizer(legacy):
    backend = sentencepiece(["<unk>", "<s>", "</s>"], legacy)
    tokenizer = with_words(["Zürich", "    ", "\n"], backend, LLAMA2)
    tokenizer.bos_token = "<s>"
    encoder = PromptEncoder(tokenizer)
    for text in TEXTS[:2]:
        assert encoder.encode(text) == hugging_face_ids(tokenizer, text), text


def test_a_word_is_located_and_found_after_a_lead():
    tokenizer = with_words(WORDS["words"])
    encoder = PromptEncoder(tokenizer)
    python = tokenizer.convert_tokens_to_ids("python")
    ids, last = encoder.locate("use python")
    assert ids[last] == python
    assert encoder.word_after("<|im_start|>", "python") == python
    assert encoder.answer_start("python") == python


@pytest.mark.parametrize(
    ("marker", "template"),
    [
        ("<|im_start|>", CHATML),  # as in fine-tunes that forgot to mark it
        ("<|im_start|>", None),
        ("<\uff5cUser\uff5c>", None),
        ("</think>", CHATML),
        ("<turn>", CHATML + "{# <turn> #}"),
        ("[INST]", CHATML + "{# [INST] #}"),
    ],
)
def test_markers_that_are_not_marked_as_special(marker, template):
    backend = byte_level(["<|endoftext|>", "<|im_end|>"])
    backend.add_tokens([AddedToken(marker, special=False, normalized=False)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, chat_template=template, eos_token="<|im_end|>"
    )
    encoder, token = PromptEncoder(tokenizer), tokenizer.convert_tokens_to_ids(marker)
    assert token in encoder.control_ids
    own = encoder.encode("a b").count(token)
    assert encoder.encode(f"a {marker} b").count(token) == own
    assert encoder.marker(marker) == [token]
