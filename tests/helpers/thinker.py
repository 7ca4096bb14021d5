"""A model set by hand that works out the parity of four bits one token of thought at a time.

Prompt: a sink, four tokens that each hold a bit and its place, and a token that opens the thought.
The token "so far i bits, parity p" asks by attention for bit i + 1 and is followed by "i + 1 bits,
parity p xor that bit". The closing marker asks for "four bits, parity p" and decides by its p;
where there is none it finds the sink, which holds nothing, and gives the same verdict to all.
"""

import numpy as np

from jaxdepth.model.config import ModelConfig
from jaxdepth.model.mistral import Mistral
from jaxdepth.model.parameters import parameter_shapes
from jaxdepth.refusal.protocol import Markers

BITS = 4
# Token ids
SINK, CLOSE, REFUSE, PARTIAL, COMPLY = range(5)
STATE, BIT, VOCAB = 5, 5 + 2 * (BITS + 1), 5 + 2 * (BITS + 1) + 2 * BITS
# Slots of the residual stream
ASKS, ASKS_STATE = 0, BITS  # what a token asks for: bit 0..3, or the final state
HAS, HAS_STATE = BITS + 1, 2 * BITS + 1  # what it can answer
VALUE, PARITY, FOUND, RESULT, WIDTH = *range(2 * BITS + 2, 2 * BITS + 6), 16


def state(done: int, parity: int) -> int:
    """The token: `done` bits seen, of that parity."""
    return STATE + 2 * done + parity


def bit(place: int, value: int) -> int:
    """The token: the bit at that place of the prompt."""
    return BIT + 2 * place + value


def thinker(layers: int = 2) -> tuple[Mistral, Markers]:
    """The model, of which only the first layer does something, and its markers."""
    head_dim, quiet = 64, 16  # channels from there on hardly turn with position
    config = ModelConfig.from_hf(
        {
            "model_type": "mistral",
            "vocab_size": VOCAB,
            "hidden_size": WIDTH,
            "intermediate_size": 8,
            "num_hidden_layers": layers,
            "num_attention_heads": 1,
            "num_key_value_heads": 1,
            "head_dim": head_dim,
            "hidden_act": "silu",
            "rms_norm_eps": 1e-6,
            "rope_theta": 1e20,
            "sliding_window": None,
            "tie_word_embeddings": False,
            "max_position_embeddings": 64,
        }
    )
    arrays = {name: np.zeros(shape, np.float32) for name, shape in parameter_shapes(config).items()}
    for name in ("norm", "layers.attn_norm", "layers.mlp_norm"):
        arrays[name] += 1
    embed, head = arrays["embed"], arrays["head"]
    embed[SINK, HAS_STATE], embed[SINK, -1] = 0.3, 1  # answers, but less than the final state does
    embed[CLOSE, ASKS_STATE] = 1
    for done in range(BITS + 1):
        for parity in (0, 1):
            token, sign = state(done, parity), 2 * parity - 1
            embed[token, PARITY] = sign
            if done < BITS:
                embed[token, ASKS + done] = 1
            else:
                embed[token, HAS_STATE] = 1
            if done:  # it follows the token that asked for the bit before
                head[token, ASKS + done - 1] = 5
                head[token, RESULT] = sign
    for place in range(BITS):
        for value in (0, 1):
            embed[bit(place, value), HAS + place] = 1
            embed[bit(place, value), VALUE] = 2 * value - 1
    head[[REFUSE, PARTIAL, COMPLY], ASKS_STATE] = 5, 4, 5
    head[REFUSE, RESULT], head[COMPLY, RESULT] = 1, -1

    for slot in range(BITS + 1):
        arrays["layers.q"][0, ASKS + slot, quiet + slot] = 50
        arrays["layers.k"][0, HAS + slot, quiet + slot] = 10
    arrays["layers.v"][0, [VALUE, PARITY], 0] = 1
    arrays["layers.o"][0, 0, FOUND] = 1
    # RESULT: -PARITY x FOUND (exclusive or of signs) for a state, FOUND for the closing marker
    gate, up, down = (arrays[f"layers.{name}"][0] for name in ("gate", "up", "down"))
    for unit, sign in enumerate((1, -1)):
        gate[PARITY, unit] = 20 * sign
        up[FOUND, unit] = sign
        down[unit, RESULT] = -0.05
    gate[ASKS_STATE, 2], up[FOUND, 2], down[2, RESULT] = 20, 1, 0.05
    return Mistral(config, arrays), Markers(
        (), (CLOSE,), (REFUSE, PARTIAL, COMPLY), ("refuse", "partial", "comply")
    )


def parity_prompts() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All prompts of four bits: token ids, lengths, and whether their parity is odd."""
    values = (np.arange(2**BITS)[:, None] >> np.arange(BITS)) & 1
    bits = np.array([[bit(p, v) for p, v in enumerate(row)] for row in values])
    ends = np.full((len(values), 1), state(0, 0))
    tokens = np.concatenate([np.full_like(ends, SINK), bits, ends], axis=1)
    return tokens, np.full(len(tokens), BITS + 2), values.sum(axis=1) % 2 == 1
