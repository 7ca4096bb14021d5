"""The Mistral-family block: config, parameters, RoPE, attention, caches, sharding; no exits.

Arrays name their axes by suffixes (`h_BSD`) and in shape annotations; each letter has one meaning:

    A   query heads times head size, the outputs of `q`
    B   prompts, or sequences
    C   key/value heads times head size, the outputs of `k` and `v`
    D   model width
    E   exits, or in their place exit rules or draft depths
    F   MLP width
    G   query heads that share a key/value head
    H   head size
    I   inputs of any matrix
    J   the embedding and the layers, L + 1: row d is the residual stream after d layers
    K   key/value heads
    L   layers
    M   samples of a prompt and an exit (votes)
    N   items of a list: texts, examples, tokens added to the vocabulary
    O   outputs of any matrix
    P   chosen positions of a sequence
    Q   query heads
    R   rows of a batch: positions that a loss supervises
    S   positions of a sequence; slots of a prompt cache
    T   new tokens; slots of a lane cache
    U   probes of a sequence
    V   vocabulary
    W   tokens of a round of speculative decoding
    X   lanes of a prompt: exit times sample
    Y   tokens that speculative decoding runs in parallel for a prompt: X times W
    Z   caches that lanes share: one for all, or one for the forks of a lane

Sizes that have no letter are words (`stops`, `forks`). Analyses on the host (`stats`, `probing`,
`study`) also use letters for axes of their own, such as bootstrap resamples, and name them there.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

# What public functions take: arrays of a device or of the host, and lists of numbers.
AnyArray = jax.Array | np.ndarray
Ints = Sequence[int] | np.ndarray
if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast as FastTokenizer
else:
    FastTokenizer = Any  # transformers takes seconds to import
