"""Greedy tokens of one exit without a cache: what `jaxdepth.generate` is compared with."""

import numpy as np

import jaxdepth


def slow_twin(model, tokens, length, exit, new_tokens, stops=()) -> list[int]:
    """One prompt, one exit, from scratch for every token, no cache."""
    ids = np.zeros((1, len(tokens) + new_tokens), np.int64)  # one padded shape, one program
    ids[0, :length] = tokens[:length]
    decoded = []
    for end in range(length, length + new_tokens):
        logits = jaxdepth.exit_logits(model, ids, np.array([end]), exit)
        ids[0, end] = int(logits[0].argmax())
        decoded.append(int(ids[0, end]))
        if decoded[-1] in stops:
            break
    return decoded


def spoken(generation, b, e) -> list[int]:
    return generation.tokens[b, e, : generation.lengths[b, e]].tolist()
