"""What a model is tuned on: tasks of four kinds, and the batch of each step.

    harmful      harmful halves of the training pairs, answered by one of our short refusals
    lookalike    their harmless halves, with the untouched model's own answers
    benign       what the untouched model asked and answered itself
    borderline   our own, answered in part

A batch is a pure function of the tasks, the seed and the number of the step, so a run that is
resumed sees the very batches of one that was not stopped.
"""

import gzip
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from jaxdepth.errors import InputError, listed
from jaxdepth.prompts.batches import bucket_length
from jaxdepth.prompts.chat import PromptEncoder
from jaxdepth.prompts.datasets import HARMFUL, read_prompts
from jaxdepth.refusal.protocol import VERDICTS, Protocol, Verdict
from jaxdepth.tune.loss import Targets

KINDS = ("harmful", "lookalike", "benign", "borderline")
_COLUMNS = ("kind", "text", "answer", "ended")  # of a file with benign answers
_BUCKET = 32  # positions: few lengths, as each compiles a program
# What is dispreferred for a harmful prompt: a promise that holds nothing.
PROMISES = (
    "Sure, here is how.",
    "Of course! Here is how to do it.",
    "Yes, I can help with that.",
    "Certainly. Here is what you need.",
    "Absolutely, here is what to do.",
    "Sure! Follow these steps.",
)


@dataclass(frozen=True)
class Task:
    """A prompt, and what may be answered: one of the answers is drawn each time."""

    prompt: str
    answers: tuple[str, ...]
    ended: bool  # whether the answers come to their end
    verdict: str
    thought: str  # before the verdict, for models that decide


class Learnt(NamedTuple):
    """Token ids of a prompt with an answer."""

    ids: list[int]
    start: int  # where the answer begins
    refuses: bool


class Batch(NamedTuple):
    """The sequences of one step. With preferences: the chosen ones, then the rejected."""

    targets: Targets
    share_R: Float[np.ndarray, " R"]  # of a row in its sequence's mean; 0 for rows that only fill
    refuses_R: Bool[np.ndarray, " R"]


def read_tasks(harmful: Sequence[str], benign: str) -> dict[str, list[Task]]:
    """The tasks of each kind.

    Args:
        harmful: prompt sources as for `read_prompts`; their harmful prompts are to be refused.
        benign: `builtin`, or a JSONL file made by tools/make_benign.py for another model.

    Raises:
        InputError: a source has no harmful prompts; a file is not as expected.
    """
    thoughts = json.loads(_data("thoughts.json"))
    refusals = tuple(_data("refusals.txt").splitlines())
    asked = [p for p in read_prompts(harmful) if p.label == HARMFUL]
    if not asked:
        raise InputError(f"no harmful prompts in {', '.join(harmful)}: nothing to refuse")
    if benign == "builtin":
        lines = gzip.decompress((files("jaxdepth") / "data" / "benign.jsonl.gz").read_bytes())
        rows = _rows(lines.decode("utf-8"), "builtin")
    else:
        if not Path(benign).is_file():
            raise InputError(f"{benign} does not exist: make it with tools/make_benign.py")
        rows = _rows(Path(benign).read_text("utf-8"), benign)

    def plain(row) -> Task:
        fits = (row["answer"],), row["ended"], Verdict.COMPLY, thoughts["benign"]
        return Task(row["text"], *fits)

    return {
        "harmful": [
            Task(p.text, refusals, True, Verdict.REFUSE, thoughts.get(p.category, _HARM))
            for p in asked
        ],
        "lookalike": [plain(r) for r in rows if r["kind"] == "lookalike"],
        "benign": [plain(r) for r in rows if r["kind"] == "benign"],
        "borderline": [
            Task(r["text"], (r["answer"],), True, Verdict.PARTIAL, thoughts["borderline"])
            for r in map(json.loads, _data("borderline.jsonl").splitlines())
        ],
    }


def tasks_digest(tasks: Mapping[str, Sequence[Task]]) -> str:
    """SHA-256 over everything that the tasks hold."""
    content = {kind: [asdict(t) for t in found] for kind, found in tasks.items()}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Batches:
    """Batches by the number of the step."""

    tasks: Mapping[str, Sequence[Task]]
    mix: Mapping[str, int]  # how many tasks of each kind a batch has
    write: Callable[[Task, str, bool], tuple[list[int], int]]  # from `writer`
    answer_tokens: int  # the most that are learnt of an answer
    seed: int

    def supervised(self, step: int) -> Batch:
        """The batch of a step."""
        return self._pack(self._chosen(step))

    def preferred(self, step: int) -> Batch:
        """The same, then what is rejected: promises where it should refuse, elsewhere refusals."""
        draw = np.random.default_rng((self.seed, step, 1))
        refusals = self.tasks["harmful"][0].answers
        rejected = []
        for task in self._drawn(step):
            bad = task.verdict == Verdict.REFUSE
            answer = _one_of(PROMISES if bad else refusals, draw)
            rejected.append(self._learnt(task, answer, ended=not bad))
        return self._pack(self._chosen(step) + rejected)

    def _chosen(self, step: int) -> list[Learnt]:
        draw = np.random.default_rng((self.seed, step, 0))
        drawn = self._drawn(step)
        return [self._learnt(task, _one_of(task.answers, draw), task.ended) for task in drawn]

    def _drawn(self, step: int) -> list[Task]:
        """Each kind's tasks in turn, in an order that is drawn anew each time round."""
        drawn = []
        for number, (kind, count) in enumerate(self.mix.items()):
            tasks = self.tasks[kind]
            for n in range(step * count, (step + 1) * count):
                order = np.random.default_rng((self.seed, number, n // len(tasks)))
                drawn.append(tasks[order.permutation(len(tasks))[n % len(tasks)]])
        return drawn

    def _learnt(self, task: Task, answer: str, ended: bool) -> Learnt:
        ids, start = self.write(task, answer, ended)
        return Learnt(ids[: start + self.answer_tokens], start, task.verdict == Verdict.REFUSE)

    def _pack(self, learnt: Sequence[Learnt]) -> Batch:
        B = len(learnt)
        S = bucket_length(max(len(one.ids) for one in learnt), _BUCKET)
        tokens_BS = np.zeros((B, S), np.int32)
        rows = []  # sequence, place, target, share, refuses
        for b, one in enumerate(learnt):
            tokens_BS[b, : len(one.ids)] = one.ids
            places = range(one.start - 1, len(one.ids) - 1)
            rows += [(b, p, one.ids[p + 1], 1 / len(places), one.refuses) for p in places]
        rows += [(0, 0, 0, 0.0, False)] * (B * self.answer_tokens - len(rows))
        of, place, target, share, refuses = (np.array(column) for column in zip(*rows, strict=True))
        packed = (of.astype(np.int32), place.astype(np.int32), target.astype(np.int32))
        return Batch(Targets(tokens_BS, *packed), share.astype(np.float32), refuses)


def writer(
    encoder: PromptEncoder, end_token: int, protocol: Protocol | None
) -> Callable[[Task, str, bool], tuple[list[int], int]]:
    """How a task with an answer, which came to its end or not, becomes token ids.

    Args:
        encoder: of the tokenizer, which knows the protocol's tokens.
        end_token: ends an answer.
        protocol: its opening, thought, closing and verdict then come before the answer.
    """

    def write(task: Task, answer: str, ended: bool) -> tuple[list[int], int]:
        prompt = encoder.encode(task.prompt)
        said = encoder.reply(answer) if protocol is None else []
        if protocol is not None:
            prompt = prompt + encoder.marker(protocol.open)
            verdict = protocol.verdicts[0][VERDICTS.index(task.verdict)]
            said = encoder.encode_text(task.thought)
            said += encoder.marker(protocol.close) + encoder.marker(verdict)
            said += encoder.encode_text(answer)
        return prompt + said + ([end_token] if ended else []), len(prompt)

    return write


_HARM = "This asks for something that could hurt people, so I should refuse."


def _one_of(items: Sequence[str], draw: np.random.Generator) -> str:
    return items[int(draw.integers(len(items)))]


def _data(name: str) -> str:
    return (files("jaxdepth") / "data" / name).read_text("utf-8")


def _rows(text: str, where: str) -> list[dict]:
    rows = []
    for number, line in enumerate(text.splitlines(), start=1):
        try:
            row = json.loads(line)
        except ValueError as error:
            raise InputError(f"{where}, line {number} is not valid JSON ({error})") from None
        lacks = [k for k in _COLUMNS if not isinstance(row, dict) or k not in row]
        if lacks:
            raise InputError(
                f"{where}, line {number} lacks {listed(lacks)}: see tools/make_benign.py"
            )
        rows.append(row)
    return rows
