"""SentencePiece tokenizers from GGUF: the ids are those of the `sentencepiece` library itself."""

import io
import random
import string
import time
from pathlib import Path

import pytest
from gguf_files import write_gguf
from tiny import hf_tensors, raw_config

from jaxdepth import InputError
from jaxdepth.model.config import ModelConfig
from jaxdepth.prompts.chat import PromptEncoder
from jaxdepth.weights.checkpoint import load_tokenizer
from jaxdepth.weights.convert import convert
from jaxdepth.weights.gguf.tokenizer import gguf_tokenizer

sentencepiece = pytest.importorskip("sentencepiece")  # of the test extra

P = "tokenizer.ggml."
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, _, BYTE = range(1, 7)
SYMBOLS = ["<tool>", "<tool", "::"]  # one begins with another
LINES = [
    "",
    " ",
    "  two before,   three between, one after ",
    "tabs\tand\n\nlines\r\n",
    "na\u00efve caf\u00e9 e\u0301 \u4f60\u597d \u05e9\u05dc\u05d5\u05dd \u00bd \u200b",
    "\U0001f600\U0001f469\u200d\U0001f680 \U0001f44d\U0001f3fd",
    "<s> </s> <unk> <0x0A> [INST] are only text here",
    "\u2581 is SentencePiece's own space, \u2581\u2581 two of them",
    "\x00\x01 \ufeff \ufffd",
]
ALPHABET = [
    *"etaoinshrdlu ETAOIN  ,.:;!?'-_()[]<>/0123456789\n\t",
    *("  ", "    ", " the", "ing", "token", "\u2581", "\u00e9", "\u4f60", "\U0001f600", "\x00"),
    *("<s>", "<0x0A>", "[INST]", "<unk>"),
]


def corpus() -> list[str]:
    folder = Path(__file__).parents[3] / "docs"
    return [line for f in sorted(folder.glob("*.md")) for line in f.read_text().splitlines()]


def random_strings(count: int, extra: list[str] | tuple = (), seed: int = 0) -> list[str]:
    rng = random.Random(seed)
    return ["".join(rng.choices([*ALPHABET, *extra], k=rng.randrange(40))) for _ in range(count)]


def train(texts: list[str] | None = None, **options):
    """A BPE of 400 pieces, trained as Llama's was, by default on the documentation."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts or corpus()),
        model_writer=model,
        **{
            "model_type": "bpe",
            "vocab_size": 400,
            "byte_fallback": True,
            "normalization_rule_name": "identity",
            "remove_extra_whitespaces": False,
            "allow_whitespace_only_pieces": True,
            "split_digits": True,
            "control_symbols": ["[INST]"],
            "minloglevel": 2,
        }
        | options,
    )
    return sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())


def spm_fields(processor, /, **more) -> dict:
    """A model as llama.cpp's converter writes it."""
    model, ids = processor, range(processor.vocab_size())
    types = [
        UNKNOWN if model.is_unknown(i)
        else CONTROL if model.is_control(i)
        else BYTE if model.is_byte(i)
        else USER_DEFINED if model.id_to_piece(i) in SYMBOLS
        else NORMAL
        for i in ids
    ]  # fmt: skip
    return {
        f"{P}model": "llama",
        f"{P}pre": "default",
        f"{P}tokens": [model.id_to_piece(i) for i in ids],
        f"{P}scores": [model.get_score(i) for i in ids],
        f"{P}token_type": types,
        f"{P}bos_token_id": model.bos_id(),
        f"{P}eos_token_id": model.eos_id(),
        f"{P}unknown_token_id": model.unk_id(),
        **{P + key: value for key, value in more.items()},
    }


def ids_of(tokenizer, text: str) -> list[int]:
    """The ids of a text in which no control token is meant, as SentencePiece reads all texts."""
    return tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]


@pytest.fixture(scope="module")
def llama():
    return train()


def test_ids_and_texts_of_a_converted_model_are_those_of_sentencepiece(llama, tmp_path):
    """Through a file and a checkpoint: lines of every kind, the corpus, 2,000 random strings."""
    raw = raw_config(vocab_size=llama.vocab_size(), hidden_size=16, num_hidden_layers=1)
    fields = {key.replace(".", "__"): value for key, value in spm_fields(llama).items()}
    tensors = hf_tensors(ModelConfig.from_hf(raw))
    convert(write_gguf(tmp_path / "m.gguf", raw, tensors, **fields), tmp_path / "model")
    tokenizer = load_tokenizer(tmp_path / "model")
    texts = [*LINES, *corpus(), *random_strings(2000)]
    assert len(texts) > 2500
    for text in texts:
        ids = llama.encode(text)
        assert ids_of(tokenizer, text) == ids, text
        assert tokenizer.decode(ids) == llama.decode(ids), text


@pytest.mark.parametrize(
    ("options", "more"),
    [
        ({"add_dummy_prefix": False}, {"add_space_prefix": False}),
        ({"byte_fallback": False, "character_coverage": 0.98, "vocab_size": 200}, {}),
        ({"split_by_whitespace": False, "max_sentencepiece_length": 40}, {}),
        ({"split_by_unicode_script": False, "split_digits": False}, {}),
        ({"user_defined_symbols": SYMBOLS}, {}),
    ],
    ids=["no-prefix", "unknown", "across-words", "any-script", "symbols"],
)
def test_ids_of_other_models(options, more):
    model = train(**options)
    tokenizer = gguf_tokenizer(spm_fields(model, **more))
    extra, names = (), ()
    if "user_defined_symbols" in options:  # a token's name alone between two is the token
        extra, names = [*SYMBOLS, *SYMBOLS], ("<s>", "<0x0A>", "[INST]", "<unk>")
    texts = [t for t in random_strings(800, extra, seed=1) if not any(n in t for n in names)]
    assert len(texts) > 100
    for text in [*LINES, *corpus()[::5], *texts]:
        ids = model.encode(text)
        assert ids_of(tokenizer, text) == ids, text
        assert tokenizer.decode(ids, skip_special_tokens=False) == model.decode(ids).replace(
            model.decode([model.unk_id()]), "<unk>"
        ), text
    unknown = [model.unk_id() in model.encode(text) for text in texts]
    assert any(unknown) == ("byte_fallback" in options)


def test_ties_are_joined_from_the_left():
    """Two letters, so that pieces overlap themselves in every way."""
    for seed in range(3):
        rng = random.Random(seed)
        words = ["".join(rng.choices("aab ", k=rng.randrange(3, 40))) for _ in range(300)]
        model = train(words, byte_fallback=False, vocab_size=120, control_symbols=[])
        tokenizer = gguf_tokenizer(spm_fields(model))
        texts = ["a" * n for n in range(40)] + ["ab" * n for n in range(30)]
        texts += ["".join(rng.choices("ab ", k=rng.randrange(60))) for _ in range(300)]
        for text in texts:
            assert ids_of(tokenizer, text) == model.encode(text), text


def with_runs_of_spaces(lengths: list[int]):
    """A model with pieces of so many spaces, all of the lowest score, as Llama and Mistral have."""
    from sentencepiece import sentencepiece_model_pb2

    model = train(allow_whitespace_only_pieces=False)
    proto = sentencepiece_model_pb2.ModelProto.FromString(model.serialized_model_proto())
    for length in lengths:
        proto.pieces.add(piece="\u2581" * length, score=-1e9)
    return sentencepiece.SentencePieceProcessor(model_proto=proto.SerializeToString())


@pytest.mark.parametrize(
    "lengths",
    [
        [2, 4, 8, 5, 16, 6, 12, 13, 10, 14, 3, 9, 7, 11],  # Mistral's
        [2, 3, 4, 5, 6, 7, 8],
        [2, 3, 5],  # from the left 4 are 3 and 1
        [4, 2, 7, 8, 3],
        [2],
    ],
)
def test_runs_of_spaces_share_a_score(lengths):
    model = with_runs_of_spaces(lengths)
    tokenizer = gguf_tokenizer(spm_fields(model))
    texts = [a + " " * n + b for n in range(70) for a in ("", "so") for b in ("", "the", "\n")]
    for text in [*texts, *random_strings(100, seed=3)]:
        assert ids_of(tokenizer, text) == model.encode(text), text


def test_control_tokens_and_added_tokens_begin_the_text_anew(llama):
    """As llama.cpp and transformers do: a text is what stands between two of them."""
    fields = spm_fields(llama)
    start = llama.vocab_size()
    fields[f"{P}tokens"] += ["<|im_start|>", "<|im_start|>x"]
    fields[f"{P}scores"] += [-1000.0, -1000.0]
    fields[f"{P}token_type"] += [USER_DEFINED, USER_DEFINED]
    tokenizer = gguf_tokenizer(fields)
    inst = llama.piece_to_id("[INST]")
    for before in ("", "so ", "  "):
        for after in ("", "hi", " hi", "\nhi"):
            for token, token_id in (("<|im_start|>", start), ("[INST]", inst), ("<s>", 1)):
                ids = tokenizer(before + token + after, add_special_tokens=False)["input_ids"]
                assert ids == [*llama.encode(before), token_id, *llama.encode(after)]
    assert tokenizer("<|im_start|>x", add_special_tokens=False)["input_ids"] == [start + 1]


def test_prompts_are_those_of_transformers(llama):
    """A chat template over control tokens, around texts that begin with spaces or line breaks."""
    turn = (
        "{{ bos_token }}{% for m in messages %}{{ '[INST] ' + m.content + '[INST]' }}{% endfor %}"
    )
    tokenizer = gguf_tokenizer(spm_fields(llama) | {"tokenizer.chat_template": turn})
    encoder = PromptEncoder(tokenizer)
    for text in ("so it is", "  two", "\n\nlines ", "\u4f60\u00e9"):
        turns = [{"role": "user", "content": text}]
        rendered = tokenizer.apply_chat_template(turns, tokenize=False)
        ids = tokenizer(rendered, add_special_tokens=False)["input_ids"]
        assert list(encoder.encode(text)) == ids, text
        assert ids[:2] == [1, llama.piece_to_id("[INST]")]


def test_texts_begin_with_bos_unless_the_file_says_otherwise(llama):
    fields, text = spm_fields(llama), "so it is"
    ids = llama.encode(text)
    assert gguf_tokenizer(fields)(text)["input_ids"] == [1, *ids]
    assert gguf_tokenizer(fields | {f"{P}add_bos_token": False})(text)["input_ids"] == ids
    both = gguf_tokenizer(fields | {f"{P}add_eos_token": True})
    assert both(text)["input_ids"] == [1, *ids, 2]
    names = ("bos", "eos", "unknown")
    unnamed = {k: v for k, v in fields.items() if k not in [f"{P}{n}_token_id" for n in names]}
    tokenizer = gguf_tokenizer(unnamed)  # 0, 1 and 2, as llama.cpp assumes
    assert (tokenizer.unk_token, tokenizer.bos_token, tokenizer.eos_token) == (
        "<unk>",
        "<s>",
        "</s>",
    )
    assert tokenizer(text)["input_ids"] == [1, *ids]


def test_merges_of_the_file_are_used_where_scores_order_nothing(llama):
    fields = spm_fields(llama)
    merges = [
        f"{piece[:i]} {piece[i:]}"
        for piece in sorted(fields[f"{P}tokens"][259:], key=llama.piece_to_id)
        for i in range(1, len(piece))
        if {piece[:i], piece[i:]} <= set(fields[f"{P}tokens"][259:])
    ]
    flat = fields | {f"{P}scores": [-1000.0] * llama.vocab_size()}
    with pytest.raises(InputError, match=r"pieces of the GGUF tokenizer \(.* share their score"):
        gguf_tokenizer(flat)
    tokenizer = gguf_tokenizer(flat | {f"{P}merges": merges})
    for text in [*LINES, *random_strings(300, seed=2)]:
        assert ids_of(tokenizer, text) == llama.encode(text), text


def test_a_large_vocabulary_takes_seconds():
    rng, letters = random.Random(0), list("\u2581" + string.ascii_letters + string.digits)
    pieces, words = dict.fromkeys(letters), []
    while len(words) < 32_000:
        left, right = rng.choices(words[-4000:] or letters, k=1)[0], rng.choice(letters)
        if left + right not in pieces and len(left) < 16:
            pieces[left + right] = None
            words.append(left + right)
        elif rng.random() < 0.5:
            left = rng.choice(letters) + rng.choice(letters)
            words += [left] if left not in pieces else []
            pieces[left] = None
    names = [f"<0x{i:02X}>" for i in range(256)]
    tokens = ["<unk>", "<s>", "</s>", *names, *words, *letters]
    types = [UNKNOWN, CONTROL, CONTROL] + [BYTE] * 256 + [NORMAL] * (len(tokens) - 259)
    scores = [0.0] * 259 + [-float(i) for i in range(len(tokens) - 259)]
    fields = {"model": "llama", "tokens": tokens, "scores": scores, "token_type": types}
    start = time.process_time()
    tokenizer = gguf_tokenizer({P + key: value for key, value in fields.items()})
    assert time.process_time() - start < 10  # takes half a second; a quadratic list, minutes
    assert len(tokenizer) == len(tokens)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "t5"}, r"kind 't5' is not implemented, only 'gpt2' .* and 'llama'"),
        ({"remove_extra_whitespaces": True}, "remove_extra_whitespaces is not implemented"),
        ({"precompiled_charsmap": [1, 2]}, "precompiled_charsmap is not implemented"),
        ({"scores": [0.0]}, "1 scores, expected 400"),
        ({"scores": [float("nan")] * 400}, "all of them numbers"),
        ({"token_type": None}, "has no tokenizer.ggml.token_type"),
        ({"tokens": ["a"] * 400}, "token 'a' has 400 ids"),
        ({"unknown_token_id": 400}, "unknown_token_id is 400, but there are 400 tokens"),
        ({"token_type": [1] * 3 + [6] * 255 + [1] * 142}, "255 tokens of bytes, expected 256"),
        ({"token_type": [1] * 400, "unknown_token_id": -1}, "0 tokens of bytes"),
        ({"add_space_prefix": 1}, "add_space_prefix is 1, expected true or false"),
        ({"add_bos_token": True, "bos_token_id": -1}, "no tokenizer.ggml.bos_token_id"),
    ],
    ids=str,
)
def test_what_is_not_understood_is_refused_in_one_line(llama, change, message):
    with pytest.raises(InputError, match=message) as caught:
        gguf_tokenizer(spm_fields(llama, **change))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("piece", "message"),
    [("ab\u4f60", "the character '\u4f60', which is no token"), ("a" * 2000, "of 2000 characters")],
    ids=["character", "long"],
)
def test_pieces_that_the_library_cannot_make(llama, piece, message):
    fields = spm_fields(llama)
    fields[f"{P}tokens"][300] = piece
    with pytest.raises(InputError, match=message):
        gguf_tokenizer(fields)
