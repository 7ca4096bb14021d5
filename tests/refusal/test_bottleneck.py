"""Verdicts that read the thought alone: the closing marker does not attend to the prompt."""

from dataclasses import replace

import jax
import numpy as np
import pytest
from tiny import model_of, prompts, raw_config

from jaxdepth import InputError, load
from jaxdepth.prompts.chat import PromptEncoder
from jaxdepth.refusal.decide import decide
from jaxdepth.refusal.protocol import Markers, read_protocol, resolve_markers
from jaxdepth.tune.packed import Blind, pack, scan_packed

pytestmark = pytest.mark.usefixtures("quick_programs")
EXITS, N, A = [1, 2, 3], 6, 4
MARKERS = Markers((), (90,), (92, 93, 94), ("refuse", "partial", "comply"), "thought")


@pytest.fixture(scope="module")
def model():
    return model_of(raw_config(num_hidden_layers=3, sliding_window=8))


@jax.jit
def every_logits(model, packs):
    h_LND = scan_packed(model, packs, lambda h_ND: h_ND)
    return jax.numpy.stack([model.unembed(h_LND[e - 1], e) for e in EXITS])


def masked_logits(model, ids, length: int, marker: int, exit_layer: int) -> np.ndarray:
    """The slow twin: logits after a whole sequence, of which one place sees no prompt."""
    packs, ((*_, last),) = pack([ids], [Blind(0, marker, length)])
    return np.asarray(every_logits(model, packs)[EXITS.index(exit_layer), last])


def test_the_verdict_is_that_of_the_masked_sequence(model):
    tokens, lengths = prompts()
    asked = {"thought_tokens": N, "answer_tokens": A, "cuts": (2,), "force": True}
    ours = decide(model, tokens, lengths, EXITS, MARKERS, **asked)
    plain = decide(model, tokens, lengths, EXITS, MARKERS._replace(verdict_reads="all"), **asked)
    np.testing.assert_array_equal(ours.thought, plain.thought)
    assert np.abs(ours.logp - plain.logp).max() > 1e-3
    for b, e in np.ndindex(len(lengths), len(EXITS)):
        length, thought = int(lengths[b]), int(ours.thought[b, e, 0])
        ids = [*tokens[b, :length], *ours.tokens[b, e, 0, : ours.lengths[b, e, 0]]]
        marker = length + thought

        def logp_at(ids, marker, length=length, e=e):
            logits = masked_logits(model, ids, length, marker, EXITS[e])
            return np.asarray(jax.nn.log_softmax(logits))[list(MARKERS.verdicts)]

        assert np.abs(ours.logp[b, e, 0] - logp_at(ids[: marker + 1], marker)).max() < 1e-4
        cut = min(2, thought)
        truncated = [*ids[: length + cut], *MARKERS.close]
        assert np.abs(ours.cut_logp[b, e, 0, 0] - logp_at(truncated, length + cut)).max() < 1e-4
        for place in range(marker + 2, len(ids)):  # the answer reads the prompt again
            logits = masked_logits(model, ids[:place], length, marker, EXITS[e])
            assert np.argmax(logits) == ids[place]


def test_a_marker_of_several_tokens_is_refused(tiny_path):
    encoder = PromptEncoder(load(tiny_path)[1])
    prompted = replace(read_protocol("prompted"), verdict_reads="thought")
    with pytest.raises(InputError, match=r"the closing marker is \d+ tokens"):
        resolve_markers(prompted, encoder, ())
    with pytest.raises(InputError, match="thought_tokens is 0: no thought to read"):
        replace(prompted, thought_tokens=0)
