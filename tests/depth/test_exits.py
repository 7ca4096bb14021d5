"""The traced exit: one program for every exit, NaN out of range, and the cost of one pass."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiled_matmuls import compiled_matmul_flops
from tiny import VOCAB, model_of, prompts, raw_config

import jaxdepth
from jaxdepth.depth.exits import _exit_logits, parse_exits
from jaxdepth.model.attention import attend
from jaxdepth.model.mistral import Mistral

VMAPPED = jax.vmap(jaxdepth.exit_logits, in_axes=(None, None, None, 0))
one_layer = jax.jit(lambda block, h, *inputs: block(h, *inputs))


@pytest.fixture(scope="module")
def model():
    return model_of(raw_config())


def truncated_twin(model: Mistral, tokens, lengths, exit: int) -> np.ndarray:
    """The slow twin: a Python loop over the first layers, one prompt at a time, unpadded."""
    rows = []
    for row, length in zip(tokens, lengths, strict=True):
        h = model.embed_tokens(jnp.asarray(row[None, :length]))
        inputs = model.position_inputs(int(length))
        for i in range(exit):
            block = jax.tree.map(lambda leaf, i=i: leaf[i], model.layers)
            h, _ = one_layer(block, h, *inputs)
        rows.append(np.asarray(model.unembed(h, exit))[0, -1])
    return np.array(rows)


def test_equals_the_slow_twin(model):
    tokens, lengths = prompts()
    actual = np.asarray(VMAPPED(model, tokens, lengths, jnp.arange(1, 5)))
    for exit in range(1, 5):
        twin = truncated_twin(model, tokens, lengths, exit)
        assert np.abs(actual[exit - 1] - twin).max() < 1e-5
        one = np.asarray(jaxdepth.exit_logits(model, tokens, lengths, exit))
        assert np.abs(actual[exit - 1] - one).max() < 1e-5


def test_padding_changes_nothing(model):
    tokens, lengths = prompts()
    batched = np.asarray(jaxdepth.exit_logits(model, tokens, lengths, 3))
    other = np.where(np.arange(64) < lengths[:, None], tokens, VOCAB - 1)
    assert np.abs(np.asarray(jaxdepth.exit_logits(model, other, lengths, 3)) - batched).max() == 0
    for b, length in enumerate(lengths):
        one = jaxdepth.exit_logits(model, tokens[b : b + 1, :length], lengths[b : b + 1], 3)
        assert np.abs(np.asarray(one)[0] - batched[b]).max() < 1e-5


def test_one_compilation_serves_every_exit(model):
    tokens, lengths = prompts()
    jaxdepth.exit_logits(model, tokens, lengths, 1)
    before = _exit_logits._cache_size()
    for exit in (2, 3, 4, np.int64(2), jnp.int32(3)):
        jaxdepth.exit_logits(model, tokens, lengths, exit)
    assert _exit_logits._cache_size() == before


@pytest.mark.usefixtures("unchecked_shapes")
@pytest.mark.parametrize("exit", [0, 5, -1, 1.5])
def test_a_concrete_exit_is_validated(model, exit):
    with pytest.raises(jaxdepth.InputError, match="exit"):
        jaxdepth.exit_logits(model, *prompts(), exit)


def test_a_traced_exit_out_of_range_is_nan(model):
    logits = VMAPPED(model, *prompts(), jnp.array([-1, 0, 1, 4, 5, 2**31 - 1]))
    assert np.isnan(logits).all((1, 2)).tolist() == [True, True, False, False, True, True]
    assert not np.isnan(logits[2:4]).any()


@pytest.mark.usefixtures("unchecked_shapes")
def test_bad_lengths_and_tokens(model):
    tokens, lengths = prompts()
    for bad in (lengths * 0, lengths + 1, lengths[:2]):
        with pytest.raises(jaxdepth.InputError, match="lengths"):
            jaxdepth.exit_logits(model, tokens, bad, 1)
    for bad in (tokens - VOCAB, tokens + VOCAB):
        with pytest.raises(jaxdepth.InputError, match="vocabulary"):
            jaxdepth.exit_logits(model, bad, lengths, 1)
    with pytest.raises(jaxdepth.InputError, match="at most 256"):
        jaxdepth.exit_logits(model, np.zeros((1, 257), int), np.array([3]), 1)
    traced = jax.jit(lambda n: jaxdepth.exit_logits(model, tokens, n, 1))(np.array([64, 0, 65]))
    assert np.isnan(traced).all(1).tolist() == [False, True, True]
    traced = jax.jit(lambda t: jaxdepth.exit_logits(model, t, lengths, 1))(
        np.stack([tokens[0], tokens[1], tokens[2] + 99])
    )
    assert np.isnan(traced).all(1).tolist() == [False, False, True]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_low_precision_stays_close(dtype):
    raw = raw_config()
    full = model_of(raw)
    low = jax.tree.map(lambda leaf: leaf.astype(dtype), full)
    actual = jaxdepth.exit_logits(low, *prompts(), 4)
    assert actual.dtype == jnp.float32
    expected = np.asarray(jaxdepth.exit_logits(full, *prompts(), 4))
    assert np.abs(np.asarray(actual) - expected).max() < 0.05 * np.abs(expected).max()


@pytest.mark.parametrize("window", [None, 1, 3, 7])
def test_attention_equals_a_loop(window):
    rng = np.random.default_rng(0)
    q, k, v = (rng.standard_normal((2, 7, n, 4)).astype(np.float32) for n in (4, 2, 2))
    actual = attend(*map(jnp.asarray, (q, k, v)), window)
    for b in range(2):
        for t in range(7):
            first = 0 if window is None else max(0, t - window + 1)
            for head in range(4):
                keys, values = k[b, first : t + 1, head // 2], v[b, first : t + 1, head // 2]
                scores = np.exp(keys @ q[b, t, head] / 2.0)
                assert np.allclose(actual[b, t, head], scores @ values / scores.sum(), atol=1e-5)


# The cost, without a clock


def compiled_text(function, *args) -> str:
    return jax.jit(function).lower(*args).compile().as_text()


@pytest.mark.parametrize("depth", [6, 24])
def test_all_exits_cost_one_pass(depth):
    model = model_of(raw_config(num_hidden_layers=depth, vocab_size=40))
    tokens, lengths = prompts()
    tokens = tokens % 40
    exits = jnp.arange(1, depth + 1)
    head = 2 * len(lengths) * 64 * 40  # one unembedding of one position per prompt
    one = compiled_matmul_flops(
        compiled_text(jaxdepth.exit_logits, model, tokens, lengths, exits[0])
    )
    every = compiled_matmul_flops(compiled_text(VMAPPED, model, tokens, lengths, exits))
    assert one - head == forward_flops(model, tokens)
    assert every - depth * head <= 1.02 * (one - head)


def forward_flops(model, tokens) -> int:
    """Matrix products of the layers, by arithmetic."""
    c, (B, S) = model.config, tokens.shape
    heads, width = c.num_attention_heads * c.head_dim, c.num_key_value_heads * c.head_dim
    weights = c.hidden_size * (2 * heads + 2 * width + 3 * c.intermediate_size)
    return c.num_hidden_layers * 2 * B * S * (weights + 2 * S * heads)


def test_masking_the_stream_would_cost_every_layer_for_every_exit(model):
    """The counter sees what the design avoids: an exit that stops the stream is batched."""

    def masked(model, tokens, lengths, exit):
        inputs = model.position_inputs(tokens.shape[1])

        def layer(h, step):
            block, number = step
            return jnp.where(number <= exit, block(h, *inputs)[0], h), None

        steps = (model.layers, jnp.arange(1, 5))
        h, _ = jax.lax.scan(layer, model.embed_tokens(tokens), steps)
        return model.unembed(h[jnp.arange(len(tokens)), lengths - 1], exit)

    tokens, lengths = map(jnp.asarray, prompts())
    exits = jnp.arange(1, 5)
    assert np.allclose(
        jax.vmap(masked, in_axes=(None, None, None, 0))(model, tokens, lengths, exits),
        VMAPPED(model, tokens, lengths, exits),
        atol=1e-5,
    )
    one = compiled_matmul_flops(compiled_text(masked, model, tokens, lengths, exits[0]))
    every = compiled_matmul_flops(
        compiled_text(
            jax.vmap(masked, in_axes=(None, None, None, 0)), model, tokens, lengths, exits
        )
    )
    assert every > 3.5 * one


def test_the_counter_equals_an_unrolled_twin():
    w = jnp.ones((5, 16, 16))
    x = jnp.ones((3, 16))

    def scanned(x, w):
        return jax.lax.scan(lambda h, m: (jnp.tanh(h @ m), None), x, w)[0]

    def unrolled(x, w):
        for m in w:
            x = jnp.tanh(x @ m)
        return x

    def nested(x, w):
        return jax.lax.fori_loop(0, 7, lambda _, h: scanned(h, w), x)

    single = 2 * 3 * 16 * 16
    assert compiled_matmul_flops(compiled_text(unrolled, x, w)) == 5 * single
    assert compiled_matmul_flops(compiled_text(scanned, x, w)) == 5 * single
    assert compiled_matmul_flops(compiled_text(nested, x, w)) == 35 * single


def test_the_counter_refuses_what_it_cannot_know():
    def until_small(x, w):
        return jax.lax.while_loop(lambda h: h.sum() > 1, lambda h: jnp.tanh(h @ w), x)

    with pytest.raises(ValueError, match="trip count"):
        compiled_matmul_flops(compiled_text(until_small, jnp.ones((3, 16)), jnp.ones((16, 16))))
    with pytest.raises(ValueError, match="ENTRY"):
        compiled_matmul_flops("no program")


@pytest.mark.parametrize(
    ("text", "exits"),
    [("all", [1, 2, 3, 4]), ("1", [1]), ("4,1-2", [1, 2, 4]), (" 2 - 3 , 3", [2, 3])],
)
def test_parse_exits(text, exits):
    assert parse_exits(text, 4) == exits


@pytest.mark.parametrize("text", ["", "0", "5", "1-5", "3-2", "a", "1,,2", "-1", "1-2-3", "1.5"])
def test_parse_exits_refuses(text):
    with pytest.raises(jaxdepth.InputError, match="exit"):
        parse_exits(text, 4)
