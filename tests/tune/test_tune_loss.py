"""Losses at exits: against twins that truncate the model, finite differences, formulas by hand."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from parity_grid import families
from scipy.special import log_softmax
from tiny import VOCAB, hf_tensors, leaves_of, model_of, shaken

from jaxdepth import exit_logits
from jaxdepth.depth.layer_scan import Backward
from jaxdepth.model.mistral import Mistral
from jaxdepth.model.tuned import Form, attach, init_params
from jaxdepth.study.planning.flops import matmul_flops
from jaxdepth.tune import packed
from jaxdepth.tune.loss import (
    Contrast,
    Targets,
    Weights,
    answer_logprobs,
    dpo_loss,
    row_hidden,
    supervised_loss,
)
from jaxdepth.tune.train import Micro, State, make_optimizer, make_step, preference, supervised

pytestmark = pytest.mark.usefixtures("less_optimised")

B, S = 4, 12
LENGTHS = (5, S, 9, S - 3)  # of sequences without padding
STARTS, ENDS = (3, 5, 2, 6), (8, 9, 12, 7)
FORM = Form(layers=(0, 1, 2, 3), rank=2)


@pytest.fixture(scope="module")
def model():
    return model_of(families()["qwen2.5-window"] | {"sliding_window": 4})


@pytest.fixture(scope="module")
def targets() -> Targets:
    rng = np.random.default_rng(3)
    tokens_BS = rng.integers(0, VOCAB, (B, S)).astype(np.int32)
    rows = [
        (b, p, tokens_BS[b, p + 1]) for b in range(B) for p in range(STARTS[b] - 1, ENDS[b] - 1)
    ]
    rows += [(0, 0, 0)] * 3  # rows that only fill
    return Targets(tokens_BS, *(np.array(c, np.int32) for c in zip(*rows, strict=True)))


@pytest.fixture(scope="module")
def weights(targets) -> Weights:
    """Some text, some distillation, nothing on the rows that fill."""
    rng = np.random.default_rng(4)
    text, distill = rng.random((2, 3, len(targets.target_R))).astype(np.float32)
    text[:, -3:], distill[:, -3:] = 0, 0
    return Weights(text[-1], np.array([1, 3], np.int32), text[:-1], distill[:-1])


@pytest.fixture(scope="module")
def params(model):
    """Factors of which neither is zero."""
    return shaken(init_params(model, FORM, 0, jax.random.key(0)), 0.1)


def logp_by_row(model, targets, exit: int) -> np.ndarray:
    """(R, V): each row from a prompt of its own that ends there, at one exit."""
    prompts_RS = targets.tokens_BS[targets.sequence_R]
    logits_RV = exit_logits(model, prompts_RS, targets.place_R + 1, exit)
    return log_softmax(np.asarray(logits_RV, np.float64), axis=-1)


def loss_by_row(model, targets, weights) -> float:
    full_RV = logp_by_row(model, targets, 4)
    rows = np.arange(len(weights.full_R))
    total = -(weights.full_R * full_RV[rows, targets.target_R]).sum()
    for exit, text_R, distill_R in zip(*weights[1:4], strict=True):
        logp_RV = logp_by_row(model, targets, int(exit))
        total -= (text_R * logp_RV[np.arange(len(text_R)), targets.target_R]).sum()
        total += (distill_R * (np.exp(full_RV) * (full_RV - logp_RV)).sum(axis=1)).sum()
    return total


@pytest.mark.parametrize("remat", [False, True])
def test_all_exits_at_once_equal_each_by_itself(model, targets, weights, params, remat):
    tuned = attach(model, params, FORM)
    loss, parts = supervised_loss(tuned, targets, weights, distill=True, backward=Backward(remat))
    assert float(loss) == pytest.approx(loss_by_row(tuned, targets, weights), rel=1e-5)
    for e in range(2):
        alone = Weights(None, *(part[e : e + 1] for part in weights[1:4]))
        one, _ = supervised_loss(tuned, targets, alone, distill=True)
        assert float(one) == pytest.approx(float(parts.text_E[e] + parts.distill_E[e]), rel=1e-5)
    none = Weights(weights.full_R, *(part[:0] for part in weights[1:4]))
    full, _ = supervised_loss(tuned, targets, none, distill=False)
    assert float(full) == pytest.approx(float(parts.full), rel=1e-5)
    assert float(loss) == pytest.approx(float(parts.total), rel=1e-6)
    plain, without = supervised_loss(tuned, targets, weights, distill=False)
    assert float(plain) == pytest.approx(float(parts.full + parts.text_E.sum()), rel=1e-6)
    assert not without.distill_E.any()


def as_packed(targets, shape=None) -> Targets:
    """The same rows over the packed sequences, of which most have a beginning in common."""
    sequences = [row[:n].tolist() for row, n in zip(targets.tokens_BS, LENGTHS, strict=True)]
    packs, places = packed.pack(sequences)
    for row, at in zip(sequences, places, strict=True):
        assert packs.tokens_N[at].tolist() == row
    rows = zip(targets.sequence_R, targets.place_R, strict=True)
    packed_R = np.array([places[b][place] for b, place in rows], np.int32)
    if shape is not None:
        packs, new_N = packed.pad(packs, shape)
        packed_R = new_N[packed_R]
    return targets._replace(packed=packs, packed_R=packed_R)


@pytest.mark.parametrize("family", ["qwen2.5-window", "ministral"])
def test_packed_sequences_equal_padded_ones(family, targets, monkeypatch):
    """A window shorter than the sequences; layers with a window and without; other beginnings."""
    monkeypatch.setattr(packed, "_TRUNK", 1)
    monkeypatch.setattr(packed, "_ROW", 1)  # the longest alone, others in rows together
    monkeypatch.setattr(packed, "_COUNT", 1)
    model = model_of(families()[family] | {"sliding_window": 4})
    tokens_BS = targets.tokens_BS.copy()
    tokens_BS[:, :3] = tokens_BS[0, :3]
    tokens_BS[1, 2] += 1  # leaves the trunk before its end
    place_R = np.minimum(targets.place_R, np.array(LENGTHS)[targets.sequence_R] - 1)
    targets = targets._replace(tokens_BS=tokens_BS, place_R=place_R)
    expected_LRD = row_hidden(model, targets)
    short = as_packed(targets)
    P, R, C = packed.shape_of(short.packed)
    assert P == 3
    assert R < B
    for packs in (short, as_packed(targets, (P + 2, R + 1, C + 3))):
        for remat in (False, True):
            found_LRD = row_hidden(model, packs, backward=Backward(remat))
            np.testing.assert_allclose(found_LRD, expected_LRD, atol=1e-5)


def test_sequences_with_nothing_in_common_and_all_in_common():
    apart, _ = packed.pack([[1, 2], [3, 4], [5]])
    assert packed.shape_of(apart) == (32, 2, 128)
    assert apart.seen_PP.sum() == 32
    assert not apart.seen_RCK[:, :, :32].any()
    alike, places = packed.pack([[1, 2], [1, 2]])
    assert places == [[0, 1], [0, 1]]
    assert packed.shape_of(alike) == (32, 2, 128)


def test_the_base_may_teach(model, targets, weights, params):
    tuned = attach(model, params, FORM)
    taught = weights._replace(base_EN=weights.distill_EN, distill_EN=0 * weights.distill_EN)
    by_base_E = supervised_loss(tuned, targets, taught, distill=False, base=model)[1].distill_E
    full_RV = logp_by_row(model, targets, 4)
    for exit, weight_R, found in zip(weights.exits_E, weights.distill_EN, by_base_E, strict=True):
        logp_RV = logp_by_row(tuned, targets, int(exit))
        kl_R = (np.exp(full_RV) * (full_RV - logp_RV)).sum(axis=1)
        assert float(found) == pytest.approx((weight_R * kl_R).sum(), rel=1e-4, abs=1e-6)


def test_some_rows_stand_for_all(model, targets, weights, params):
    """Each exit at rows of its own: the loss over all rows where the others weigh nothing."""
    tuned = attach(model, params, FORM)
    rows_EN = np.array([[0, 5, 9], [2, 1, 7]], np.int32)
    pick = lambda weight_ER: np.take_along_axis(weight_ER, rows_EN, axis=1)  # noqa: E731
    text_EN, distill_EN = pick(weights.text_EN), pick(weights.distill_EN)
    some = weights._replace(text_EN=text_EN, distill_EN=distill_EN, rows_EN=rows_EN)
    kept_ER = np.zeros(weights.text_EN.shape, np.float32)
    np.put_along_axis(kept_ER, rows_EN, 1, axis=1)
    text_ER, distill_ER = weights.text_EN * kept_ER, weights.distill_EN * kept_ER
    sparse = weights._replace(text_EN=text_ER, distill_EN=distill_ER)
    found, _ = supervised_loss(tuned, targets, some, distill=True)
    expected, _ = supervised_loss(tuned, targets, sparse, distill=True)
    assert float(found) == pytest.approx(float(expected), rel=1e-5)


def test_contrast_within_pairs_by_hand(model, targets, weights, params):
    tuned = attach(model, params, FORM)
    is_opener_V = np.arange(VOCAB) % 7 == 0
    first_P2, weight_EP = (
        np.array([[0, 6], [13, 6]]),
        np.array([[0.5, 1], [0, 2], [1, 1]], np.float32),
    )
    pairs = targets._replace(first_P2=first_P2)
    weighted = weights._replace(contrast_EP=weight_EP[:-1], full_contrast_P=weight_EP[-1])
    contrast = Contrast(is_opener_V, 1.5)
    loss, _ = supervised_loss(tuned, pairs, weighted, distill=False, contrast=contrast)
    plain, _ = supervised_loss(tuned, pairs, weights, distill=False)
    expected = 0.0
    for exit, weight_P in zip((1, 3, 4), weight_EP, strict=True):
        p_R = np.exp(logp_by_row(tuned, targets, int(exit)))[:, is_opener_V].sum(axis=1)
        odds_P2 = np.log(p_R / (1 - p_R))[first_P2]
        expected += (weight_P * np.log1p(np.exp(1.5 - odds_P2[:, 0] + odds_P2[:, 1]))).sum()
    assert float(loss - plain) == pytest.approx(expected, rel=1e-3)


def test_layers_that_are_left_out_pass_the_stream_on(model, targets):
    keep_LB = np.ones((4, B), bool)
    keep_LB[1, 0] = keep_LB[3, 0] = keep_LB[2, 1] = False
    found_LRD = row_hidden(model, targets, keep_LB)
    tensors = hf_tensors(model.config)
    for b in range(B):
        kept = np.flatnonzero(keep_LB[:, b])
        slides = tuple(model.config.sliding_layers[i] for i in kept)
        config = replace(model.config, num_hidden_layers=len(kept), sliding_layers=slides)
        arrays = leaves_of(model.config, tensors)
        arrays = {k: v[kept] if k.startswith("layers.") else v for k, v in arrays.items()}
        fewer = Mistral(config, arrays)
        is_of_b = targets.sequence_R == b
        np.testing.assert_allclose(
            found_LRD[-1][is_of_b], row_hidden(fewer, targets)[-1][is_of_b], atol=1e-5
        )
        if len(kept) < 4:
            assert (
                np.abs(found_LRD[-1][is_of_b] - row_hidden(model, targets)[-1][is_of_b]).max()
                > 0.01
            )


def micro_of(targets, weights, keep_LB=None) -> Micro:
    return Micro(targets, weights, keep_LB)


@pytest.mark.parametrize("kind", ["text", "distill", "dropout", "dpo"])
def test_gradients_equal_finite_differences(model, targets, weights, params, kind):
    """Along random directions, of every loss: a double-sided difference, in float32."""
    keep_LB = np.arange(16).reshape(4, B) % 5 > 0 if kind == "dropout" else None
    loss_of = preference(0.5, 0.3) if kind == "dpo" else supervised(kind == "distill")
    if kind == "dpo":
        weights = weights._replace(text_EN=weights.text_EN + (weights.full_R > 0) * 0.1)

    @jax.jit
    def loss(params):
        tuned = attach(model, params, FORM)
        # Full depth is held fixed where it teaches: so must the difference hold it.
        return loss_of(tuned, model, micro_of(targets, weights, keep_LB))[0]

    if kind == "distill":
        fixed_RV = jnp.asarray(logp_by_row(attach(model, params, FORM), targets, 4), jnp.float32)

        @jax.jit
        def loss_fixed(params):
            tuned = attach(model, params, FORM)
            text, _ = supervised_loss(tuned, targets, weights, distill=False)
            h_LRD = row_hidden(tuned, targets)
            logp_ERV = jax.nn.log_softmax(
                tuned.unembed(h_LRD[weights.exits_E - 1], weights.exits_E), axis=-1
            )
            kl_ER = jnp.sum(jnp.exp(fixed_RV) * (fixed_RV - logp_ERV), axis=-1)
            return text + jnp.sum(weights.distill_EN * kl_ER)
    else:
        loss_fixed = loss
    gradient = jax.grad(loss)(params)
    for seed in range(3):
        keys = jax.random.split(jax.random.key(seed), len(params))
        ways = {n: jax.random.normal(k, params[n].shape) for n, k in zip(params, keys, strict=True)}
        norm = optax.tree.norm(ways)
        ways = {n: way / norm for n, way in ways.items()}
        slope = sum(float(jnp.vdot(gradient[n], ways[n])) for n in params)
        step = 5e-3
        ahead, behind = (
            float(loss_fixed({n: params[n] + sign * step * ways[n] for n in params}))
            for sign in (1, -1)
        )
        assert slope == pytest.approx((ahead - behind) / (2 * step), rel=0.01, abs=0.005)


@pytest.mark.parametrize("packs", [False, True])
def test_frozen_layers_change_no_gradient(model, targets, weights, packs):
    """Of the layers that are trained; in the program the layers below have no backward pass."""
    form = Form(layers=(2, 3), rank=2)
    params = init_params(model, form, 0, jax.random.key(1))
    params = {name: array + 0.05 for name, array in params.items()}
    place_R = np.minimum(targets.place_R, np.array(LENGTHS)[targets.sequence_R] - 1)
    targets = targets._replace(place_R=place_R)
    targets = as_packed(targets) if packs else targets

    def gradient(frozen: int):
        loss_of = supervised(True, Backward(frozen=frozen))

        def loss(params):
            return loss_of(attach(model, params, form), model, micro_of(targets, weights))[0]

        both = jax.jit(jax.value_and_grad(loss))
        return both(params), matmul_flops(both.trace(params).jaxpr)

    (expected, whole), (found, less) = gradient(0), gradient(form.frozen)
    assert form.frozen == 2
    for a, b in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    assert less < 0.9 * whole


def test_what_is_frozen():
    assert Form(layers=(2, 3)).frozen == 2
    assert Form(layers=(2, 3), first_new=100).frozen == 0, "their rows are read by the first layer"
    assert Form(layers=(2,), leaves=("q", "embed"), rank=None).frozen == 0
    assert Form((), (), None, lens_exits=(2,), lens_rank=4).frozen == 0


def test_dpo_is_its_formula():
    chosen, rejected = np.array([-3.0, -10.0, 0.0]), np.array([-5.0, -2.0, 0.0])
    chosen_base, rejected_base = np.array([-4.0, -9.0, 0.0]), np.array([-4.5, -5.0, 1.0])
    actual = dpo_loss(*map(jnp.asarray, (chosen, rejected, chosen_base, rejected_base)), beta=0.5)
    # margins: 1 - -0.5, -1 - 3, 0 - -1
    by_hand = [np.log1p(np.exp(-0.5 * m)) for m in (1.5, -4.0, 1.0)]
    np.testing.assert_allclose(actual, by_hand, rtol=1e-5)


@pytest.mark.parametrize("chosen_weight", [0.0, 0.3])
def test_preferences_by_plain_code(model, targets, weights, params, chosen_weight):
    """Log-probabilities by row and pair by pair, every exit against the base at that exit."""
    tuned = attach(model, params, FORM)
    loss, _ = preference(0.5, chosen_weight)(tuned, model, micro_of(targets, weights))
    counts_R = (weights.full_R > 0).astype(np.float32)
    total = 0.0
    for exit, weight_R in zip((1, 3, 4), (*weights.text_EN, weights.full_R), strict=True):

        def of(one, b, exit=int(exit)):
            picked = (targets.sequence_R == b) & (counts_R > 0)
            return logp_by_row(one, targets, exit)[picked, targets.target_R[picked]].sum()

        for pair in range(B // 2):
            good, bad = pair, pair + B // 2
            margin = of(tuned, good) - of(model, good) - of(tuned, bad) + of(model, bad)
            share = 2 * weight_R[targets.sequence_R == good].sum()
            rows = ((targets.sequence_R == good) & (counts_R > 0)).sum()
            own = -of(tuned, good) / rows  # mean over its tokens
            total += share * (np.log1p(np.exp(-0.5 * margin)) + chosen_weight * own)
    assert float(loss) == pytest.approx(total, rel=1e-4)
    logp_EB = answer_logprobs(tuned, targets, counts_R, weights.exits_E)
    assert logp_EB.shape == (2, B)


def test_accumulated_batches_are_the_mean_of_theirs(model, targets, weights, params):
    """One step over two batches moves as the mean of their gradients does, by plain SGD."""
    other = targets._replace(tokens_BS=targets.tokens_BS[::-1].copy())
    step = make_step(FORM, supervised(True), optax.sgd(1.0))

    def moved(*micros):
        stacked = jax.tree.map(lambda *a: np.stack(a), *micros)
        begun = State(
            jnp.zeros((), jnp.int32), jax.tree.map(jnp.copy, params), optax.sgd(1.0).init(params)
        )
        state, losses = step(begun, model, stacked)
        return jax.tree.map(lambda new, old: new - old, state.params, params), losses

    first, of_first = moved(micro_of(targets, weights))
    second, of_second = moved(micro_of(other, weights))
    both, of_both = moved(micro_of(targets, weights), micro_of(other, weights))
    for name in params:
        np.testing.assert_allclose(both[name], (first[name] + second[name]) / 2, atol=1e-5)
    assert float(of_both.loss) == pytest.approx((float(of_first.loss) + float(of_second.loss)) / 2)
    assert float(of_both.full + of_both.early + of_both.distill) == pytest.approx(
        float(of_both.loss)
    )


def test_the_learning_rate_rises_and_falls():
    from jaxdepth.tune.train import schedule

    rate = schedule(1e-3, 10, 100)
    assert [float(rate(s)) for s in (0, 10, 100)] == pytest.approx([0, 1e-3, 0], abs=1e-9)
    assert float(rate(55)) == pytest.approx(5e-4)
    assert make_optimizer(1e-3, 10, 100, 0.0, 1.0).init({"a": jnp.zeros(1)})
