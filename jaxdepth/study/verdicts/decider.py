"""A model that thinks, decides and answers under a protocol."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Int

from jaxdepth.errors import InputError
from jaxdepth.prompts.batches import Batch
from jaxdepth.prompts.prompt import check_labelled
from jaxdepth.ranges import check_ranges
from jaxdepth.refusal.decide import Decided, decide
from jaxdepth.refusal.deliberate import Rule
from jaxdepth.refusal.outcome import Judge
from jaxdepth.refusal.protocol import (
    Markers,
    Protocol,
    open_thoughts,
    read_protocol,
    resolve_markers,
)
from jaxdepth.refusal.reference import Reference
from jaxdepth.settings_file import build
from jaxdepth.study.answers import memory_budget, prompt_seeds, sampling_of
from jaxdepth.study.subject import Subject, open_subject
from jaxdepth.study.verdicts.settings import Decide, DecisionRule
from jaxdepth.weights.adapter import settings_of


@dataclass(frozen=True)
class Decider:
    """A subject, the protocol that it decides under, and the judge of its answers."""

    settings: Decide
    subject: Subject
    protocol: Protocol
    markers: Markers
    rule: Rule
    reference: Reference
    judge: Judge | None = None

    @property
    def forces(self) -> bool:
        """Whether an answer is generated after each of the three verdicts."""
        return self.settings.interventions.force and self.protocol.answer_tokens > 0

    def encode(self, instruction: str) -> list[list[int]]:
        """The token ids of all prompts under an instruction, up to where a thought begins."""
        prompts, close = self.subject.prompts, self.protocol.close
        conversations = self.subject.loaded.conversations
        return open_thoughts(conversations, self.markers, instruction, close, prompts)

    def decode_text(self, ids: Int[np.ndarray, " T"]) -> str:
        """The text of token ids, without special tokens."""
        return self.subject.tokenizer.decode(ids.tolist(), skip_special_tokens=True)

    def decide(self, batch: Batch, **changes) -> Decided:
        """Decide on the prompts of a batch at every exit.

        Args:
            batch: some prompts.
            changes: arguments of `refusal.decide.decide` in place of the settings'.
        """
        s = self.settings
        arguments: dict[str, Any] = {
            "thought_tokens": self.protocol.thought_tokens,
            "answer_tokens": self.protocol.answer_tokens,
            "votes": s.thinking.votes,
            "sampling": sampling_of(s.decoding),
        }
        return decide(
            self.subject.model,
            batch.tokens_BS,
            batch.lengths_B,
            self.subject.exits,
            self.markers,
            rule=self.rule,
            seeds_B=prompt_seeds(s.output.seed, self.subject.prompts, batch),
            stop_tokens=self.subject.end_tokens,
            memory_budget=memory_budget(s.decoding),
            **arguments | changes,
        )


def open_decider(settings: Decide, judge: Judge | None = None) -> Decider:
    """Read the protocol and the prompts, and load the model.

    Args:
        settings: see `jaxdepth decide --help`.
        judge: of answers; None is the built-in rule.

    Raises:
        InputError: something in the settings, the protocol, the prompts or the checkpoint is wrong.
    """
    check_settings(settings)
    thinking = settings.thinking
    lengths = thinking.thought_tokens, thinking.answer_tokens
    protocol = choose_protocol(thinking.protocol, settings.model.adapter, *lengths)
    subject = open_subject(settings, settings.decoding.exits)
    prefilled = next((p for p in subject.prompts if p.prefill), None)
    if prefilled is not None:
        raise InputError(
            f"prompt {prefilled.prompt_id} has the start of a reply (a prefill), and under a "
            "protocol every reply starts with a thought or a verdict: leave it out"
        )
    check_labelled(subject.prompts, "decide scores verdicts")
    markers = resolve_markers(protocol, subject.encoder, subject.end_tokens)
    rule, reference = build_rule(settings.decision), subject.reference(settings.texts)
    return Decider(settings, subject, protocol, markers, rule, reference, judge)


def choose_protocol(
    name: str | None,
    adapter: str | None,
    thought_tokens: int | None = None,
    answer_tokens: int | None = None,
) -> Protocol:
    """The protocol of a name; by default that of an adapter that was tuned to decide.

    Args:
        name: as for `read_protocol`, or None.
        adapter: as for `jaxdepth.load`.
        thought_tokens, answer_tokens: in place of the protocol's, where they are given.

    Raises:
        InputError: there is no such protocol or adapter, or it is damaged; a length is negative.
    """
    recorded = settings_of(adapter).get("protocol") if adapter and name is None else None
    if recorded is None:
        protocol = read_protocol("prompted" if name is None else name)
    else:
        protocol = build(Protocol, recorded, f"the protocol of {adapter}")
    given: dict[str, Any] = {"thought_tokens": thought_tokens, "answer_tokens": answer_tokens}
    return replace(protocol, **{name: n for name, n in given.items() if n is not None})


def build_rule(decision: DecisionRule) -> Rule:
    """The rule that chooses a verdict from probabilities; raises InputError if invalid."""
    return Rule(
        decision.verdict_temperature,
        decision.refuse_from,
        decision.caution_from,
        decision.abstain_below,
    )


def check_settings(settings: Decide) -> None:
    """Raise InputError for a setting that is out of range, before anything is loaded."""
    check_ranges(settings)
    build_rule(settings.decision)
    votes, cuts = settings.thinking.votes, settings.interventions.cuts
    if votes > 1 and settings.decoding.temperature == 0:
        raise InputError("several votes at temperature 0 are all alike: set --temperature")
    if len(set(cuts)) < len(cuts):
        raise InputError(f"cuts are {list(cuts)}: expected different ones")
