"""The batch of each step of tuning: tasks as token ids, and what is learned from each.

A batch is a pure function of the tasks, the seed and the number of the step, so a resumed run has
the same batches as one that was not stopped.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from jaxdepth.prompts.batches import bucket_length
from jaxdepth.prompts.chat import PromptEncoder
from jaxdepth.refusal.protocol import VERDICTS, Protocol, Verdict
from jaxdepth.tune import packed
from jaxdepth.tune.loss import Targets
from jaxdepth.tune.tasks import Role, Task

# Lengths and numbers of tokens and rows are rounded up to these, as each compiles a program.
_POSITIONS, _ROWS = 32, 64
# Of sequences that run packed: they are not run as they stand, and their length is only a shape.
_UNPACKED = 256
# Rejected answers to harmful prompts in preference tuning: empty promises.
PROMISES = (
    "Sure, here is how.",
    "Of course! Here is how to do it.",
    "Yes, I can help with that.",
    "Certainly. Here is what you need.",
    "Absolutely, here is what to do.",
    "Sure! Follow these steps.",
)


# Whose thoughts stand before a verdict: the prompt's own; those of another prompt with the same
# verdict; those of any other prompt.
ThoughtsOf = Literal["own", "same_verdict", "any"]


class Written(NamedTuple):
    """A task as token ids."""

    ids: list[int]
    start: int  # place of the reply's first token, the first that is learned
    answer: int  # place of the answer's first token, after a thought and a verdict if there are any
    blind: int | None = None  # place of a token that does not see the prompt


class Example(NamedTuple):
    """Token ids of a prompt with a reply."""

    ids: list[int]
    start: int  # position of the reply's first token
    role: Role
    decides: int  # position of the token that decides what it is: a verdict, or the answer's first
    blind: int | None  # position of a token that does not see the prompt


class Batch(NamedTuple):
    """The sequences of one step. With preferences: the chosen ones, then the rejected."""

    targets: Targets
    share_R: Float[np.ndarray, " R"]  # of a row in its sequence's mean; 0 if it is not learned
    role_R: Int[np.ndarray, " R"]
    decides_R: Bool[np.ndarray, " R"]  # whether it is one of its answer's first, deciding tokens
    pair_P: Float[np.ndarray, " P"]  # 1 for a harmful prompt whose harmless partner is there
    has_early: bool  # whether the mixture has answers for early exits alone


@dataclass(frozen=True)
class Batches:
    """Batches by the number of the step."""

    tasks: Mapping[str, Sequence[Task]]
    mix: Mapping[str, int]  # tasks of each kind in a batch
    write: Callable[[Task, str, bool, str], Written]  # from `writer`
    answer_tokens: int  # max supervised tokens of an answer
    seed: int
    decision_tokens: int = 0  # an answer's first tokens, which decide what it is
    decision_weight: float = 1.0  # of each of them, where that of another token is 1
    paired: bool = False  # look-alikes are those of the harmful prompts of the batch
    more_pairs: int = 0  # further pairs, of which only the first token of a reply is contrasted
    thoughts_of: ThoughtsOf = "own"
    packs: bool = False  # sequences run packed, not padded to the longest

    def supervised(self, step: int) -> Batch:
        """The batch of a step for supervised tuning."""
        tasks = self.step_tasks(step)
        examples, pairs = self._chosen_examples(step, tasks), self._pairs(tasks)
        for pair in self._more_pairs(step):
            pairs.append((len(examples), len(examples) + 1))
            examples += [self._contrasted(prompt) for prompt in pair]
        return self._pack(examples, pairs)

    def preferred(self, step: int) -> Batch:
        """The batch of a step for preference tuning: chosen, then rejected answers.

        Rejected are promises where the model should refuse, refusals elsewhere.
        """
        rng = np.random.default_rng((self.seed, step, 1))
        refusal = self.tasks["harmful"][0]
        tasks, rejected = self.step_tasks(step), []
        for task, thought in zip(tasks, self._thoughts(step, tasks), strict=True):
            to_refuse = task.role is Role.REFUSED
            answer = _one_of(PROMISES, rng) if to_refuse else _words(refusal, rng, act="that")
            rejected.append(self._example(task, answer, not to_refuse, thought))
        return self._pack(self._chosen_examples(step, tasks) + rejected, [])

    def step_tasks(self, step: int) -> list[Task]:
        """The tasks of a step: epochs over each kind's tasks, each epoch shuffled anew."""
        chosen: dict[str, list[Task]] = {}
        for number, (kind, count) in enumerate(self.mix.items()):
            chosen[kind] = self._in_turn(self.tasks[kind] if count else (), number, step, count)
        if self.paired:
            partners = {t.pair_id: t for t in self.tasks["lookalike"] if t.pair_id}
            wanted = [t.pair_id for t in chosen["harmful"] if t.pair_id in partners]
            for n, pair_id in enumerate(wanted[: len(chosen["lookalike"])]):
                chosen["lookalike"][n] = partners[pair_id]
        return [task for of_kind in chosen.values() for task in of_kind]

    def _in_turn(self, items: Sequence, number: int, step: int, count: int) -> list:
        """The items of a step: epochs over them, each shuffled anew by the seed and `number`."""
        chosen = []
        for n in range(step * count, (step + 1) * count):
            rng = np.random.default_rng((self.seed, number, n // len(items)))
            chosen.append(items[rng.permutation(len(items))[n % len(items)]])
        return chosen

    def _more_pairs(self, step: int) -> list[tuple[str, str]]:
        """The harmful and the harmless prompt of each further pair."""
        both = [(t.prompt, t.partner) for t in self.tasks["harmful"] if t.partner]
        return self._in_turn(both, len(self.mix), step, self.more_pairs)

    def _contrasted(self, prompt: str) -> Example:
        """A prompt with a token of a reply, which is not learned."""
        task = Task(prompt, (), False, Verdict.COMPLY, ())
        ids, start, *_ = self.write(task, "No", False, "")
        return Example(ids[: start + 1], start, Role.CONTRAST, start, None)

    def _pairs(self, tasks: Sequence[Task]) -> list[tuple[int, int] | None]:
        """For each harmful prompt of a batch, where it and its harmless partner are."""
        answered = {t.pair_id: n for n, t in enumerate(tasks) if t.role is Role.OTHER and t.pair_id}
        return [
            (n, answered[t.pair_id]) if t.pair_id in answered else None
            for n, t in enumerate(tasks)
            if t.role is Role.REFUSED
        ]

    def _chosen_examples(self, step: int, tasks: Sequence[Task]) -> list[Example]:
        rng = np.random.default_rng((self.seed, step, 0))
        return [
            self._example(task, _words(task, rng), task.ended, thought)
            for task, thought in zip(tasks, self._thoughts(step, tasks), strict=True)
        ]

    def _thoughts(self, step: int, tasks: Sequence[Task]) -> list[str]:
        """A thought for each task; answers are sampled alike whether or not there are any."""
        rng = np.random.default_rng((self.seed, step, 2))
        thinkers = [self._thinker(task, rng) for task in tasks]
        return [_one_of(task.thoughts, rng) if task.thoughts else "" for task in thinkers]

    def _thinker(self, task: Task, rng: np.random.Generator) -> Task:
        """The task whose thought stands before the verdict of another."""
        if self.thoughts_of == "own":
            return task
        learned = [t for kind, count in self.mix.items() if count for t in self.tasks[kind]]
        if self.thoughts_of == "same_verdict":
            learned = [t for t in learned if t.verdict == task.verdict]
        others = [t for t in learned if t.prompt != task.prompt]
        return others[int(rng.integers(len(others)))]

    def _example(self, task: Task, answer: str, ended: bool, thought: str) -> Example:
        ids, start, first, blind = self.write(task, answer, ended, thought)
        decides = first if first == start else first - 1
        return Example(ids[: first + self.answer_tokens], start, task.role, decides, blind)

    def _pack(self, examples: Sequence[Example], pairs: Sequence[tuple[int, int] | None]) -> Batch:
        B = len(examples)
        step = _UNPACKED if self.packs else _POSITIONS
        S = bucket_length(max(len(example.ids) for example in examples), step)
        tokens_BS = np.zeros((B, S), np.int32)
        first_of: list[int] = []
        rows: list[tuple] = []  # sequence, place, target, share, role, decides
        for b, (ids, start, role, verdict, _) in enumerate(examples):
            tokens_BS[b, : len(ids)] = ids
            first_of.append(len(rows))
            places = range(start - 1, len(ids) - 1)
            is_learned = role is not Role.CONTRAST
            since_R = np.arange(len(places)) - (verdict - start)
            decides = (since_R >= 0) & (since_R < self.decision_tokens) & is_learned
            weight = np.where(decides, self.decision_weight, 1.0)
            shares = weight / weight.sum() * is_learned
            # A thought and a verdict stand before what the role is of.
            roles = [Role.DECISION if p < verdict and verdict > start else role for p in places]
            of_rows = zip(places, shares, roles, decides, strict=True)
            rows += [(b, p, ids[p + 1], *of_row) for p, *of_row in of_rows]
        real = len(rows)
        rows += [(0, 0, 0, 0.0, Role.OTHER, False)] * (bucket_length(real, _ROWS) - real)
        columns = [np.array(column) for column in zip(*rows, strict=True)]
        sequence_R, place_R, target_R = (column.astype(np.int32) for column in columns[:3])
        first_P2 = [(first_of[a], first_of[b]) for a, b in (p or (0, 0) for p in pairs)]
        targets = Targets(tokens_BS, sequence_R, place_R, target_R)
        targets = targets._replace(first_P2=np.array(first_P2, np.int32).reshape(-1, 2))
        if self.packs:
            targets = _packed(targets, examples)
        return Batch(
            targets,
            columns[3].astype(np.float32),
            columns[4].astype(np.int32),
            columns[5],
            np.array([float(p is not None) for p in pairs], np.float32),
            bool(self.mix.get("answered")),
        )


def _packed(targets: Targets, examples: Sequence[Example]) -> Targets:
    blind = [
        packed.Blind(b, example.blind, example.start)
        for b, example in enumerate(examples)
        if example.blind is not None
    ]
    of_all, places = packed.pack([example.ids for example in examples], blind)
    rows = zip(targets.sequence_R, targets.place_R, strict=True)
    packed_R = np.array([places[b][place] for b, place in rows], np.int32)
    return targets._replace(packed=of_all, packed_R=packed_R)


def pad_together(batches: Sequence[Batch]) -> list[Batch]:
    """Batches of one shape: padded to the longest."""
    S = max(b.targets.tokens_BS.shape[1] for b in batches)
    R = max(len(b.share_R) for b in batches)
    packs = [b.targets.packed for b in batches if b.targets.packed is not None]
    shape = tuple(map(max, zip(*map(packed.shape_of, packs), strict=True)))

    def rows(array):
        return np.pad(array, (0, R - len(array)))

    def padded(batch: Batch) -> Batch:
        t = batch.targets
        tokens_BS = np.pad(t.tokens_BS, ((0, 0), (0, S - t.tokens_BS.shape[1])))
        targets = Targets(tokens_BS, rows(t.sequence_R), rows(t.place_R), rows(t.target_R))
        targets = targets._replace(first_P2=t.first_P2)
        if t.packed is not None:
            wider, new_N = packed.pad(t.packed, shape)
            targets = targets._replace(packed=wider, packed_R=rows(new_N[t.packed_R]))
        return batch._replace(
            targets=targets,
            share_R=rows(batch.share_R),
            role_R=rows(batch.role_R),
            decides_R=rows(batch.decides_R),
        )

    return [padded(batch) for batch in batches]


def writer(
    encoder_of: Callable[[str | None], PromptEncoder],
    end_token: int,
    protocol: Protocol | None,
    fills: bool = False,
) -> Callable[[Task, str, bool, str], Written]:
    """A function from a task, an answer, whether it ends, and a thought to token ids.

    Without a protocol, or with one that decides at once, the thought is not written.

    Args:
        encoder_of: the encoder for a system prompt, of a tokenizer with the protocol's tokens.
        end_token: ends an answer.
        protocol: if given, its opening, thought, closing and verdict come before the answer.
        fills: write as many full stops as the thought has tokens instead.
    """

    def write(task: Task, answer: str, ended: bool, thought: str) -> Written:
        encoder = encoder_of(task.system)
        prompt = encoder.encode(task.prompt)
        before: list[int] = []
        blind = None
        if protocol is None:
            words = encoder.reply(answer)
        else:
            prompt = prompt + encoder.marker(protocol.open)
            verdict = protocol.verdicts[0][VERDICTS.index(task.verdict)]
            before = encoder.encode_text(thought) if protocol.thought_tokens else []
            if fills:
                before = (encoder.encode_text(" .") * len(before))[: len(before)]
            if protocol.verdict_reads == "thought":
                blind = len(prompt) + len(before)
            before += encoder.marker(protocol.close) + encoder.marker(verdict)
            words = encoder.encode_text(answer)
        ids = prompt + before + words + ([end_token] if ended else [])
        return Written(ids, len(prompt), len(prompt) + len(before), blind)

    return write


def _words(task: Task, rng: np.random.Generator, act: str | None = None) -> str:
    """One of a task's answers; a refusal names what it declines."""
    answer = _one_of(task.answers, rng)
    if task.act is None:
        return answer
    offer = _one_of(task.offers, rng) if "{offer}" in answer else ""
    return answer.replace("{act}", act or task.act).replace("{offer}", offer)


def _one_of(items: Sequence[str], rng: np.random.Generator) -> str:
    return items[int(rng.integers(len(items)))]
