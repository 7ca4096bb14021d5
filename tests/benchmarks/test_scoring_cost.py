"""Costs of log-likelihoods at all exits, counted in multiplications, for models as they are."""

import pytest
from tiny_tokenizers import build

from jaxdepth.depth.continuation_batches import make_scoring_batches

# width, MLP, query and key heads times head size, layers, vocabulary
SIZES = {
    "mistral-7b": (4096, 14336, 4096, 1024, 32, 32000),
    "llama-3.1-8b": (4096, 14336, 4096, 1024, 32, 128256),
    "smollm2-135m": (576, 1536, 576, 192, 30, 49152),
}


def multiplications(model: str, requests: list, exits: int, shared: bool) -> int:
    """Of the matmuls with weights, padding included; `shared` passes a context once."""
    D, F, A, C, L, V = SIZES[model]
    contexts = [context for context, _ in requests]
    owners = list(range(len(requests)))
    if shared:
        contexts = list(dict.fromkeys(map(tuple, contexts)))
        owners = [contexts.index(tuple(context)) for context, _ in requests]
    answers = [answer for _, answer in requests]
    total = 0
    for batch in make_scoring_batches(contexts, answers, owners, 16, max(16, 2**22 // V)):
        tokens = batch.prefix_ZS.size + batch.tokens_NT.size
        total += tokens * L * D * (2 * A + 2 * C + 3 * F)
        total += batch.block * batch.blocks * exits * D * V
    return total


@pytest.mark.parametrize("shots", [0, 3])
def test_all_exits_cost_little_more_than_one_pass(import_tool, shots):
    requests = import_tool("scoring_cost").facts_requests(build("chatml").encode, 24, shots)
    for model, over_shared, over_alone in [
        ("mistral-7b", 1.25, 0.5),
        ("llama-3.1-8b", 1.6, 0.6),
        # Its head costs as much as eight of its layers, and is needed at every exit.
        ("smollm2-135m", 3.1, 1.25),
    ]:
        L = SIZES[model][4]
        full, every, alone = (
            multiplications(model, requests, exits, shared)
            for exits, shared in ((1, True), (L, True), (1, False))
        )
        assert every <= over_shared * full, (model, every / full)
        assert every <= over_alone * alone, (model, every / alone)
