"""A model with known ground truth: the layer where harm becomes readable, and where it is refused.

The weights are set, not trained. A large constant slot keeps the RMS of the residual stream nearly
the same everywhere, so that RMSNorm changes nothing. A prompt is fillers and, in any order, a
marker, two content words and a mood word; then comes a last token.

- Layer a's attention copies the categories of the content words to the last token, whose slots for
  them hold only noise before.
- Layer b's attention copies the mood there, and its MLP sets the refusal slot to
  min(1, sum of categories) AND mood; the head maps that slot to the opener of a refusal.
- Noise: the last token is one of many with a random vector each, and every layer's MLP writes
  another projection of it over the slots of categories and mood. The MLP of layer b subtracts it,
  as its weights have the projection. A probe would have to learn that from fewer prompts than the
  vector has numbers.
- Content words are many, so that a bag of words predicts little.
- Confound: the last token also shows the marker, from the embedding on.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from jaxdepth.errors import InputError
from jaxdepth.model.config import ModelConfig
from jaxdepth.model.mistral import Mistral
from jaxdepth.model.parameters import parameter_shapes

# Token ids: then content words (neutral, then by category), then last tokens (marker fastest)
PAD, OPENER, ORDINARY = range(3)
FILLER, FILLERS = 3, 8
MARKER, MOOD_WORD, WORD = 11, 13, 15
WORDS, ENDS = 200, 512  # content words of each kind, and last tokens
NUISANCE, SPREAD = 128, 0.5  # numbers in the random vector of a last token, and their deviation
DECIDED = 0.3  # height of the refusal slot: small, as a refusal is also evidence of harm
HEAD_DIM = 32
CONSTANT = 40.0
SHARP = 40.0  # SiLU(SHARP x) / SHARP is nearly max(0, x)
CARRIERS = 3  # two content words and the mood word share the attention of the last token
LONGEST = 12


class PlantedPrompts(NamedTuple):
    """Prompts for a planted model, right-padded."""

    tokens_NS: Int[np.ndarray, "N S"]
    lengths_N: Int[np.ndarray, " N"]
    harmful_N: Bool[np.ndarray, " N"]
    category_NK: Bool[np.ndarray, "N K"]  # none, one or two
    pair_N: Int[np.ndarray, " N"]  # shared by two prompts that differ only in content
    mood_N: Bool[np.ndarray, " N"]


def planted(
    a: int | None,
    b: int | None,
    layers: int = 12,
    categories: int = 5,
    noise: float = 0.35,
    confound: bool = False,
    seed: int = 0,
) -> Mistral:
    """Build the planted model.

    Args:
        a: the layer, 1..layers, after which categories are readable; None for never.
        b: the layer, above a, after which mood is readable and refusal is decided; None for never.
        layers: L.
        categories: K, at most 31.
        noise: standard deviation of the noise on the slot of a category, which is 0 or 1.
        confound: whether the last token shows the marker.
        seed: of the random vectors.

    Raises:
        InputError: a and b are not layers in that order.
    """
    order = [layer for layer in (0, a, b, layers + 1) if layer is not None]
    if order != sorted(set(order)):
        raise InputError(f"a = {a} and b = {b} of {layers} layers; expected 1 <= a < b <= {layers}")
    slots = _Slots(categories)
    config = _config(slots, layers)
    arrays = {name: np.zeros(shape, np.float32) for name, shape in parameter_shapes(config).items()}
    rms = np.sqrt((CONSTANT**2 + SPREAD**2 * NUISANCE) / slots.width)
    for name in ("norm", "layers.attn_norm", "layers.mlp_norm"):
        arrays[name] += rms  # undoes the norm
    rng = np.random.default_rng(seed)
    vector_EJ = SPREAD * rng.standard_normal((ENDS, NUISANCE))
    # Row 0 is the embedding's projection, row l that of layer l.
    projection_lZJ = rng.standard_normal((layers + 1, len(slots.noisy), NUISANCE))
    projection_lZJ = projection_lZJ * noise / np.sqrt(NUISANCE) / SPREAD
    _write_vocabulary(arrays, slots, vector_EJ, vector_EJ @ projection_lZJ[0].T, confound)
    _write_attention(arrays, slots, a, b)
    _write_mlp(arrays, slots, projection_lZJ, b)
    return Mistral(config, arrays)


class _Slots:
    """The dimensions of the residual stream, by what they encode."""

    constant, carrier, refusal, mood_source, mood, opening, lexical = range(7)

    def __init__(self, categories: int):
        K = categories
        self.sources = slice(7, 7 + K)  # of the categories
        # Those with noise; the categories' come first.
        self.noisy = [*range(7 + K, 7 + 2 * K), self.mood, self.opening]
        self.nuisance = slice(7 + 2 * K, 7 + 2 * K + NUISANCE)
        self.width = self.nuisance.stop
        self.categories = categories


def _first_end(categories: int) -> int:
    """The id of the first last token of a prompt; these are the last ids of the vocabulary."""
    return WORD + WORDS * (categories + 1)


def _config(slots: _Slots, layers: int) -> ModelConfig:
    return ModelConfig.from_hf(
        {
            "model_type": "mistral",
            "vocab_size": _first_end(slots.categories) + 2 * ENDS,
            "hidden_size": slots.width,
            "intermediate_size": 2 * len(slots.noisy) + 2,
            "num_hidden_layers": layers,
            "num_attention_heads": 1,
            "num_key_value_heads": 1,
            "head_dim": HEAD_DIM,
            "hidden_act": "silu",
            "rms_norm_eps": 1e-6,
            "rope_theta": 1e20,
            "sliding_window": None,
            "tie_word_embeddings": False,
            "max_position_embeddings": 64,
        }
    )


def _write_vocabulary(
    arrays: dict[str, np.ndarray],
    slots: _Slots,
    vector_EJ: Float[np.ndarray, "E J"],
    noise_EZ: Float[np.ndarray, "E Z"],
    confound: bool,
) -> None:
    """Set the embedding of each token, and the head, which opens a reply with a refusal or not."""
    embed, head = arrays["embed"], arrays["head"]
    ends = _first_end(slots.categories)
    embed[:, slots.constant] = CONSTANT
    embed[MOOD_WORD:ends, slots.carrier] = 1
    embed[MOOD_WORD + 1, slots.mood_source] = 1
    for k in range(slots.categories):
        embed[WORD + WORDS * (k + 1) : WORD + WORDS * (k + 2), slots.sources.start + k] = 1
    for marked in (0, 1):
        embed[ends + marked :: 2, slots.nuisance] = vector_EJ
        embed[ends + marked :: 2, slots.noisy] = noise_EZ
        embed[ends + marked :: 2, slots.lexical] = (2 * marked - 1) * confound
    head[OPENER, slots.refusal], head[OPENER, slots.opening] = 6 / DECIDED, 1
    head[:, slots.constant] = -20 / CONSTANT
    head[[OPENER, ORDINARY], slots.constant] = 0, 3 / CONSTANT


def _write_attention(
    arrays: dict[str, np.ndarray], slots: _Slots, a: int | None, b: int | None
) -> None:
    """Set attention: the last token reads the categories in layer a, and the mood in layer b."""
    K, sources = slots.categories, slots.sources
    quiet = HEAD_DIM // 2 - 1  # RoPE hardly rotates it
    arrays["layers.q"][:, slots.constant, quiet] = 1
    arrays["layers.k"][:, slots.carrier, quiet] = 30 * np.sqrt(HEAD_DIM) / CONSTANT
    values = [*range(sources.start, sources.stop), slots.mood_source]
    arrays["layers.v"][:, values, range(K + 1)] = 1
    if a is not None:
        arrays["layers.o"][a - 1, range(K), slots.noisy[:K]] = CARRIERS
    if b is not None:
        arrays["layers.o"][b - 1, K, slots.mood] = CARRIERS


def _write_mlp(
    arrays: dict[str, np.ndarray],
    slots: _Slots,
    projection_lZJ: Float[np.ndarray, "l Z J"],
    b: int | None,
) -> None:
    """Set the MLPs: the noise changes from layer to layer, and layer b decides on refusal."""
    gate, up, down = (arrays[f"layers.{name}"] for name in ("gate", "up", "down"))
    up[:, slots.constant] = 1 / CONSTANT
    change_LZJ = np.diff(projection_lZJ, axis=0)
    for z, slot in enumerate(slots.noisy):
        for unit, sign in ((2 * z, 1), (2 * z + 1, -1)):  # SiLU(x) - SiLU(-x) = x
            gate[:, slots.nuisance, unit] = sign * change_LZJ[:, z]
            down[:, unit, slot] = sign
    if b is not None:
        reads_Z = np.array([1] * slots.categories + [2, 0])  # sum of categories + 2 mood
        for unit, limit, sign in ((-2, 2, 1), (-1, 3, -1)):
            gate[b - 1, slots.noisy, unit] = SHARP * reads_Z
            gate[b - 1, slots.nuisance, unit] = -SHARP * reads_Z @ projection_lZJ[b - 1]
            gate[b - 1, slots.constant, unit] = -SHARP * limit / CONSTANT
            down[b - 1, unit, slots.refusal] = sign * DECIDED / SHARP


def planted_prompts(
    count: int = 160,
    categories: int = 5,
    confound: bool = False,
    seed: int = 0,
) -> PlantedPrompts:
    """Labelled prompts for a planted model with as many categories.

    Half of them are pairs, the rest stand alone; half are harmful, and half of those have two
    categories. Mood is on in half of them, whatever the label.

    Args:
        count: N, a multiple of 4, at most 680.
        categories: K.
        confound: whether the marker equals the label in nine of ten prompts; else it is random,
            and the same in both prompts of a pair.
        seed: of the generator.
    """
    K, rng = categories, np.random.default_rng(seed)
    pairs = count // 4
    groups = count - pairs
    pair_N = np.concatenate([np.arange(pairs), np.arange(groups)])
    # Pairs come first: their harmful prompts, then their harmless ones, then the rest.
    harmful_N = np.concatenate([np.ones(pairs, bool), np.zeros(pairs, bool)])
    harmful_N = np.concatenate([harmful_N, np.arange(count - 2 * pairs) % 2 == 0])
    mood_N = rng.permutation(np.arange(groups) % 2 == 0)[pair_N]
    end_N = rng.permutation(ENDS)[:groups][pair_N]
    if confound:
        marked_N = harmful_N ^ (rng.random(count) < 0.1)
    else:
        marked_N = rng.integers(0, 2, groups)[pair_N].astype(bool)
    fillers_NF = rng.integers(0, FILLERS, (groups, LONGEST - CARRIERS - 2))[pair_N]
    used_N = rng.integers(1, fillers_NF.shape[1] + 1, groups)[pair_N]
    order_N = rng.integers(0, 2**31, groups)[pair_N]

    category_NK = np.zeros((count, K), bool)
    tokens_NS = np.full((count, LONGEST), PAD)
    for n in range(count):
        kinds = [0, 0]
        if harmful_N[n]:
            chosen = rng.choice(K, size=rng.integers(1, 3), replace=False)
            category_NK[n, chosen] = True
            kinds[: len(chosen)] = chosen + 1
        words = [WORD + WORDS * kind + rng.integers(WORDS) for kind in kinds]
        body = [MARKER + marked_N[n], MOOD_WORD + mood_N[n], *words]
        body += (FILLER + fillers_NF[n, : used_N[n]]).tolist()
        shuffled = np.random.default_rng(order_N[n]).permutation(body)
        end = _first_end(K) + 2 * end_N[n] + marked_N[n]
        tokens_NS[n, : len(body) + 1] = [*shuffled, end]
    return PlantedPrompts(tokens_NS, used_N + CARRIERS + 2, harmful_N, category_NK, pair_N, mood_N)
