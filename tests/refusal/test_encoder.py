"""The sentence encoder against transformers' BERT, however texts are batched; its error lines."""

import json
import os
import shutil
import string

import numpy as np
import pytest
from ml_dtypes import bfloat16
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from jaxdepth.errors import InputError
from jaxdepth.refusal import encoder as module
from jaxdepth.refusal.encoder import Encoder

TEXTS = [
    "How is bread made?",
    "Mix flour and water.",
    "",
    "Rivers flow to the sea. " * 3,  # longer than the encoder reads
    "The tower",
    "sea",
]
SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "vocab_size": 120}
SIZES |= {"num_attention_heads": 4, "max_position_embeddings": 24, "type_vocab_size": 2}
CONFIG = {"model_type": "bert", "hidden_act": "gelu", "layer_norm_eps": 1e-12, **SIZES}
MAX_LENGTH = 22
POOLING = "1_Pooling/config.json"
FLAGS = ("pooling_mode_mean_tokens", "pooling_mode_cls_token")
FIRST_QUERY = "encoder.layer.0.attention.self.query.weight"


def random_tensors(seed=0):
    """Every tensor of a tiny BERT, by its name in a file."""
    rng = np.random.default_rng(seed)
    width, mlp = CONFIG["hidden_size"], CONFIG["intermediate_size"]
    shapes = {
        "embeddings.word_embeddings.weight": (CONFIG["vocab_size"], width),
        "embeddings.position_embeddings.weight": (CONFIG["max_position_embeddings"], width),
        "embeddings.token_type_embeddings.weight": (2, width),
    }
    linear, norms = {}, ["embeddings.LayerNorm"]
    for i in range(CONFIG["num_hidden_layers"]):
        layer = f"encoder.layer.{i}"
        linear |= {f"{layer}.attention.self.{k}": (width, width) for k in ("query", "key", "value")}
        linear[f"{layer}.attention.output.dense"] = (width, width)
        linear[f"{layer}.intermediate.dense"] = (mlp, width)
        linear[f"{layer}.output.dense"] = (width, mlp)
        norms += [f"{layer}.attention.output.LayerNorm", f"{layer}.output.LayerNorm"]
    linear["pooler.dense"] = (width, width)  # the encoder does not use it
    for name, shape in linear.items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    for name in norms:
        shapes |= {f"{name}.weight": (width,), f"{name}.bias": (width,)}
    tensors = {name: rng.standard_normal(shape) * 0.3 for name, shape in shapes.items()}
    for name in norms:
        tensors[f"{name}.weight"] += 1
    return {name: tensor.astype(np.float32) for name, tensor in tensors.items()}


def tiny_tokenizer(lowercase=True):
    """WordPiece of letters and a few words, which pads and truncates as no encoder should."""
    specials, letters = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"], string.ascii_letters + ".,?"
    pieces = [*specials, *letters, *(f"##{letter}" for letter in letters), "sea", "the", "bread"]
    tokenizer = Tokenizer(models.WordPiece({p: i for i, p in enumerate(pieces)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        "[CLS] $A [SEP]", special_tokens=[(t, tokenizer.token_to_id(t)) for t in specials[2:]]
    )
    tokenizer.enable_padding(length=10)
    tokenizer.enable_truncation(10)
    return tokenizer


def write_json(path, content):
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content))


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A folder with a tiny encoder and no optional file but the length."""
    folder = tmp_path_factory.mktemp("encoder")
    write_json(folder / "config.json", CONFIG)
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": MAX_LENGTH})
    save_file(random_tensors(), folder / "model.safetensors", {"format": "pt"})
    tiny_tokenizer().save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture
def folder(original, tmp_path):
    """A copy that a test may change."""
    return shutil.copytree(original, tmp_path / "encoder")


@pytest.mark.live
@pytest.mark.parametrize(
    ("pooling", "fields"),
    [
        ("mean", None),
        ("mean", dict(zip(FLAGS, (True, False), strict=True))),
        ("cls", dict(zip(FLAGS, (False, True), strict=True))),
        ("cls", {"pooling_mode": "cls"}),
    ],
)
def test_vectors_are_those_of_transformers(folder, pooling, fields, torch):
    from transformers import BertModel

    if fields:
        write_json(folder / POOLING, fields)
    model = BertModel.from_pretrained(folder).eval()
    tokenizer = tiny_tokenizer()
    tokenizer.no_padding()
    tokenizer.no_truncation()
    expected = []
    for text in TEXTS:  # one at a time: nothing is padded
        ids = tokenizer.encode(text).ids
        ids = ids if len(ids) <= MAX_LENGTH else [*ids[: MAX_LENGTH - 1], ids[-1]]
        with torch.no_grad():
            hidden = model(torch.tensor([ids])).last_hidden_state[0]
        vector = hidden.mean(0) if pooling == "mean" else hidden[0]
        expected.append((vector / vector.norm()).numpy())
    vectors = Encoder.open(folder).embed(TEXTS)
    assert vectors.dtype == np.float32
    assert np.abs(vectors - expected).max() < 1e-5
    assert np.abs(np.linalg.norm(vectors, axis=1) - 1).max() < 1e-5


def test_neither_batches_nor_padding_change_a_vector(original):
    encoder = Encoder.open(original)
    alone = encoder.embed(TEXTS, batch_size=1)
    together = encoder.embed([*TEXTS[::-1], TEXTS[0]])
    assert np.abs(together - [*alone[::-1], alone[0]]).max() < 1e-5
    assert np.abs(alone @ alone.T - np.eye(len(TEXTS))).max() < 0.999  # and they differ
    assert encoder.embed([]).shape == (0, CONFIG["hidden_size"])
    cosines = encoder.cosine(TEXTS[:5], TEXTS[1:])
    assert np.allclose(cosines, np.sum(alone[:5] * alone[1:], axis=1), atol=1e-5)
    assert encoder.cosine(TEXTS, TEXTS).max() <= 1


def test_equal_texts_are_encoded_once_in_few_shapes(original, monkeypatch):
    encoder, shapes = Encoder.open(original), []

    def encode(params, tokens_BS, *arguments):
        shapes.append(tokens_BS.shape)
        return np.zeros((len(tokens_BS), CONFIG["hidden_size"]), np.float32)

    monkeypatch.setattr(module, "encode", encode)
    encoder.embed([" ".join(["sea"] * count) for count in range(19)] * 3, batch_size=8)
    assert shapes == [(8, 16), (8, 24), (4, 24)]  # 2 to 20 tokens with the special ones


def test_names_with_a_prefix_and_short_floats_are_read(folder):
    expected = Encoder.open(folder).embed(TEXTS)
    tensors = {f"bert.{name}": x.astype(bfloat16) for name, x in random_tensors().items()}
    save_file(tensors, folder / "model.safetensors")
    assert 0 < np.abs(Encoder.open(folder).embed(TEXTS) - expected).max() < 0.05


def test_texts_become_lower_case_where_the_folder_says_so(folder):
    tiny_tokenizer(lowercase=False).save(str(folder / "tokenizer.json"))
    assert Encoder.open(folder).cosine(["SEA"], ["sea"]) < 0.999
    write_json(folder / "sentence_bert_config.json", {"do_lower_case": True})
    encoder = Encoder.open(folder)
    assert encoder.cosine(["SEA"], ["sea"]) > 0.9999
    # Without a length, all positions are used.
    words = " ".join(["sea"] * 50)
    assert len(encoder.tokenizer.encode(words).ids) == CONFIG["max_position_embeddings"]


def test_the_identity_is_that_of_what_decides_a_vector(original, folder):
    identity = Encoder.open(original).identity
    (folder / "README.md").write_text("a model")
    assert Encoder.open(folder).identity == identity
    write_json(folder / POOLING, {"pooling_mode": "cls"})
    with_pooling = Encoder.open(folder).identity
    save_file(random_tensors(seed=1), folder / "model.safetensors")
    assert len({identity, with_pooling, Encoder.open(folder).identity}) == 3


def without(name):
    return lambda folder: (folder / name).unlink()


def with_config(**changes):
    return lambda folder: write_json(folder / "config.json", CONFIG | changes)


def with_json(name, content):
    return lambda folder: write_json(folder / name, content)


def with_tensor(name, change):
    def edit(folder):
        tensors = load_file(folder / "model.safetensors")
        new = change(tensors.pop(name))
        save_file(tensors if new is None else tensors | {name: new}, folder / "model.safetensors")

    return edit


def only_a_pickle(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def with_modules(*kinds):
    paths = ("", "1_Pooling", "2_Dense")
    modules = [{"type": f"x.models.{k}", "path": p} for k, p in zip(kinds, paths, strict=False)]
    return with_json("modules.json", modules)


def no_special_tokens(folder):
    tokenizer = tiny_tokenizer()
    tokenizer.post_processor = processors.Sequence([])
    tokenizer.no_padding()
    tokenizer.save(str(folder / "tokenizer.json"))


def twice(tensor):
    return np.concatenate([tensor, tensor])


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (shutil.rmtree, "encoder is not a folder"),
        (without("config.json"), "config.json is missing"),
        (without("tokenizer.json"), "tokenizer.json is missing: expected the encoder's tokenizer"),
        (without("model.safetensors"), "has no model.safetensors"),
        (only_a_pickle, "only safetensors is read, no pickles"),
        (with_json("config.json", []), "config.json is not a JSON object"),
        (with_config(model_type="mpnet"), "model_type is 'mpnet', expected 'bert'"),
        (with_config(hidden_act="gelu_new"), "hidden_act is 'gelu_new', expected 'gelu'"),
        (
            with_config(position_embedding_type="relative_key"),
            "position_embedding_type is 'relative_key', expected 'absolute'",
        ),
        (with_config(is_decoder=True), "is_decoder is True, expected False"),
        (with_config(vocab_size="30k"), "vocab_size is '30k', expected a whole number"),
        (with_config(num_attention_heads=5), "not a multiple of num_attention_heads"),
        (with_config(layer_norm_eps=None), "layer_norm_eps is None"),
        (with_config(num_hidden_layers=10**9), "has 3 layers of BERT, expected 1000000000"),
        (with_config(vocab_size=130), r"word_embeddings.weight is \(120, 32\) float32"),
        (with_tensor(FIRST_QUERY, lambda _: None), f"lacks {FIRST_QUERY}"),
        (with_tensor(FIRST_QUERY, twice), r"query.weight is \(64, 32\) float32, expected \(32, 32"),
        (with_tensor(FIRST_QUERY, lambda x: x.astype(np.int8)), "int8, expected .* floats"),
        (with_tensor(FIRST_QUERY, lambda x: x * np.nan), "NaN or infinite"),
        (lambda f: (f / "model.safetensors").write_bytes(b"x" * 20), "damaged or incomplete"),
        (with_json(POOLING, {"pooling_mode_max_tokens": True}), "is 'pooling_mode_max_tokens'"),
        (
            with_json(
                POOLING, {k: True for k in ("pooling_mode_mean_tokens", "pooling_mode_cls_token")}
            ),
            "is 'mean and cls', expected 'mean' or 'cls'",
        ),
        (with_json(POOLING, {"pooling_mode": "lasttoken"}), "the pooling is 'lasttoken'"),
        (with_modules("Transformer", "Pooling", "Dense"), "Dense in '2_Dense', expected"),
        (with_modules("Transformer"), "has Transformer in '', expected"),
        (with_json("modules.json", {"0": 1}), "not a list of modules"),
        (
            with_json("config_sentence_transformers.json", {"default_prompt_name": "query"}),
            "has the default prompt 'query', expected none",
        ),
        (with_json("sentence_bert_config.json", {"max_seq_length": 2}), "max_seq_length is 2"),
        (lambda f: (f / "tokenizer.json").write_text("{"), "tokenizer.json cannot be read"),
        (no_special_tokens, "has 0 tokens around a text"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(folder, edit, message):
    edit(folder)
    with pytest.raises(InputError, match=message) as raised:
        Encoder.open(folder)
    assert "\n" not in str(raised.value)


def test_arguments_that_do_not_fit(original):
    encoder = Encoder.open(original)
    with pytest.raises(InputError, match="2 prompts for 1 texts"):
        encoder.cosine(["a", "b"], ["c"])
    with pytest.raises(InputError, match="batch_size is 0, expected at least 1"):
        encoder.embed(["a"], batch_size=0)


def test_a_real_encoder_prefers_the_answer_to_the_prompt():
    path = os.environ.get("JAXDEPTH_ENCODER")
    if path is None:
        pytest.skip("JAXDEPTH_ENCODER names no folder with a sentence encoder")
    encoder = Encoder.open(path)
    answers = {
        "How do I bake bread at home?": "Mix flour, water, salt and yeast. Let it rise, then bake.",
        "How can I learn to play chess?": "Start with how the pieces move, then study openings.",
        "Why is the sky blue?": "Air scatters short wavelengths of sunlight more than long ones.",
        "What should I pack for a hike?": "Bring boots, a rain jacket, water, snacks and a map.",
    }
    to_the_point = encoder.cosine(list(answers), list(answers.values()))
    others = list(answers.values())[1:] + list(answers.values())[:1]
    assert np.all(to_the_point > encoder.cosine(list(answers), others) + 0.1)
