"""`jaxdepth decide`: every prompt thinks, decides and answers at every exit, chunk by chunk.

verdicts.parquet   what each vote decided
texts.parquet      what it thought and answered
cuts.parquet       verdicts after only so much of the thought
forced.parquet     answers after each verdict, whatever was decided
swapped.parquet    verdicts upon another prompt's thought
series.parquet     a second pass over what was judged partial
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from jaxdepth.depth.generation import check_room
from jaxdepth.errors import InputError, at_least
from jaxdepth.model.mistral import Mistral
from jaxdepth.prompts.batches import Batch, make_batches
from jaxdepth.prompts.chat import PromptEncoder
from jaxdepth.refusal.decide import Decided, decide, shown
from jaxdepth.refusal.deliberate import ClosedBy, Rule, margin
from jaxdepth.refusal.protocol import (
    VERDICTS,
    Markers,
    Protocol,
    Verdict,
    open_thoughts,
    read_protocol,
    resolve_markers,
)
from jaxdepth.runtime.progress import ProgressBar, silent
from jaxdepth.study.answers import judge_texts, memory_budget, prompt_seeds, sampling_of
from jaxdepth.study.batched import OnHost, in_parts
from jaxdepth.study.run_directory import Run, read_table
from jaxdepth.study.subject import Subject, open_subject
from jaxdepth.study.verdicts.settings import Decide

VERDICT_TABLE, TEXTS, CUTS, FORCED = "verdicts", "texts", "cuts", "forced"
SWAPPED, SERIES = "swapped", "series"
NAMES = (*VERDICTS, Verdict.ABSTAIN)

_WHERE = [("prompt_id", pa.string()), ("exit", pa.int32()), ("vote", pa.int32())]
_SAYS = [
    ("p_refuse", pa.float32()),  # among the three verdicts
    ("p_partial", pa.float32()),
    ("p_comply", pa.float32()),
    ("label_mass", pa.float32()),  # of the three among all tokens
    ("margin", pa.float32()),
    ("verdict", pa.string()),
]
SCHEMAS = {
    VERDICT_TABLE: pa.schema(
        [
            *_WHERE,
            *_SAYS,
            ("thought_tokens", pa.int32()),
            ("closed_by", pa.string()),
            ("answer_tokens", pa.int32()),
            ("answer_outcome", pa.string()),  # null without an answer
        ]
    ),
    TEXTS: pa.schema(
        [
            *_WHERE,
            ("thought", pa.string()),
            ("answer", pa.string()),
            ("thought_ids", pa.list_(pa.int32())),
        ]
    ),
    CUTS: pa.schema([*_WHERE, ("cut", pa.int32()), *_SAYS]),
    FORCED: pa.schema([*_WHERE, ("forced", pa.string()), ("answer_outcome", pa.string())]),
    SWAPPED: pa.schema([*_WHERE, ("thought_of", pa.string()), *_SAYS]),
    SERIES: pa.schema(
        [*_WHERE, *_SAYS, ("answer_tokens", pa.int32()), ("answer_outcome", pa.string())]
    ),
}


@dataclass(frozen=True)
class Thinker:
    """A subject that thinks, decides and answers under a protocol."""

    settings: Decide
    subject: Subject
    protocol: Protocol
    markers: Markers
    reference: tuple[Mistral, PromptEncoder]

    @property
    def rule(self) -> Rule:
        return rule_of(self.settings)

    def ids(self, instruction: str) -> list[list[int]]:
        """The token ids of all prompts, with the opening of a thought."""
        texts = [p.text for p in self.subject.prompts]
        encoder, close = self.subject.encoder, self.protocol.close
        return open_thoughts(encoder, self.markers, instruction, close, texts)

    def decide(self, batch: Batch, **how) -> Decided:
        """What the prompts of a batch do at every exit."""
        s = self.settings
        settings = {
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
            **settings | how,
        )

    def main_tables(self, batch: Batch) -> OnHost:
        """The tables of `tables` for a batch."""
        s = self.settings
        force = s.interventions.force and self.protocol.answer_tokens > 0
        found = self.decide(batch, cuts=s.interventions.cuts, force=force)
        verdicts, texts, cuts, forced = [], [], [], []
        for b, e, m in self._places(batch):
            where = self._where(batch, b, e, m)
            answer = shown(found, self.markers, b, e, m)
            thought = found.tokens[b, e, m, : found.thought[b, e, m]]
            verdicts.append(
                where
                | self.says(found.logp[b, e, m], found.verdict[b, e, m])
                | {
                    "thought_tokens": len(thought),
                    "closed_by": ClosedBy(found.closed_by[b, e, m]).name.lower(),
                    "answer_tokens": len(answer),
                }
            )
            both = {"thought": self._text(thought), "answer": self._text(answer)}
            texts.append(where | both | {"thought_ids": thought.tolist()})
            cuts += [
                where | {"cut": cut} | self.says(found.cut_logp[b, e, m, c])
                for c, cut in enumerate(s.interventions.cuts)
            ]
            for v, name in enumerate(VERDICTS if force else ()):
                said = found.forced[b, e, m, v, : found.forced_lengths[b, e, m, v]]
                forced.append(where | {"forced": str(name), "answer": self._text(said)})
        judged = self._judge(verdicts, [row["answer"] for row in texts])
        judged_forced = self._judge(forced, [row.pop("answer") for row in forced])

        def on_host() -> list[pa.Table]:
            rows = {VERDICT_TABLE: judged(), TEXTS: texts, CUTS: cuts, FORCED: judged_forced()}
            return [pa.Table.from_pylist(rows[name], SCHEMAS[name]) for name in self.tables]

        return on_host

    @property
    def tables(self) -> tuple[str, ...]:
        """Which tables one pass over the prompts makes."""
        s = self.settings
        wanted = {
            VERDICT_TABLE: True,
            TEXTS: s.texts.keep_text,
            CUTS: bool(s.interventions.cuts),
            FORCED: s.interventions.force and self.protocol.answer_tokens > 0,
        }
        return tuple(name for name, yes in wanted.items() if yes)

    def swapped_table(self, batch: Batch, thoughts: dict, partner: dict[str, str]) -> OnHost:
        """Verdicts of a batch upon the thoughts of its prompts' partners, one vote each."""
        exits, prompts = self.subject.exits, self.subject.prompts
        shape = len(batch.padded_indices), len(exits), 1, self.protocol.thought_tokens
        ids = np.zeros(shape, np.int32)
        lengths = np.zeros(shape[:3], np.int32)
        for b, place in enumerate(batch.padded_indices):
            for e, exit in enumerate(exits):
                given = thoughts[partner[prompts[place].prompt_id], exit]
                ids[b, e, 0, : len(given)], lengths[b, e, 0] = given, len(given)
        found = self.decide(batch, votes=1, answer_tokens=0, thoughts=(ids, lengths))
        rows = []
        for b, e, m in self._places(batch, 1):
            where = self._where(batch, b, e, m)
            rows.append(
                where
                | {"thought_of": partner[where["prompt_id"]]}
                | self.says(found.logp[b, e, m], found.verdict[b, e, m])
            )
        return lambda: [pa.Table.from_pylist(rows, SCHEMAS[SWAPPED])]

    def series_table(self, batch: Batch, again: set[tuple[str, int]]) -> OnHost:
        """The second pass, over the prompts and exits that were judged partial."""
        verdict = (
            VERDICTS.index(Verdict.PARTIAL) if self.settings.thinking.series == "caveat" else None
        )
        found = self.decide(batch, votes=1, thought_tokens=0, verdict=verdict)
        rows, answers = [], []
        for b, e, m in self._places(batch, 1):
            where = self._where(batch, b, e, m)
            if (where["prompt_id"], where["exit"]) not in again:
                continue
            answer = shown(found, self.markers, b, e, m)
            says = self.says(found.logp[b, e, m], found.verdict[b, e, m])
            rows.append(where | says | {"answer_tokens": len(answer)})
            answers.append(self._text(answer))
        judged = self._judge(rows, answers)
        return lambda: [pa.Table.from_pylist(judged(), SCHEMAS[SERIES])]

    def says(self, logp_3: np.ndarray, verdict: int | None = None) -> dict:
        """The columns of one verdict."""
        p = np.asarray(self.rule.probabilities(logp_3))
        verdict = int(self.rule.choose(p)) if verdict is None else verdict
        return {
            **{f"p_{name}": float(x) for name, x in zip(VERDICTS, p, strict=True)},
            "label_mass": float(np.exp(logp_3.astype(np.float64)).sum()),
            "margin": float(margin(p)),
            "verdict": str(NAMES[verdict]),
        }

    def _places(self, batch: Batch, votes: int | None = None):
        return np.ndindex(
            len(batch.indices), len(self.subject.exits), votes or self.settings.thinking.votes
        )

    def _where(self, batch: Batch, b: int, e: int, m: int) -> dict:
        prompt_id = self.subject.prompts[batch.indices[b]].prompt_id
        return {"prompt_id": prompt_id, "exit": self.subject.exits[e], "vote": m}

    def _text(self, ids: np.ndarray) -> str:
        return self.subject.tokenizer.decode(ids.tolist(), skip_special_tokens=True)

    def _judge(self, rows: list[dict], answers: list[str]) -> Callable[[], list[dict]]:
        """Rows with what the answers did; null where none was asked for or the lane abstained."""
        if not self.protocol.answer_tokens or not rows:
            return lambda: rows
        text_of = {p.prompt_id: p.text for p in self.subject.prompts}
        asked = [text_of[row["prompt_id"]] for row in rows]
        judge = judge_texts(self.reference, answers, asked)

        def judged() -> list[dict]:
            for row, found in zip(rows, judge(), strict=True):
                abstained = row.get("verdict") == Verdict.ABSTAIN
                row["answer_outcome"] = None if abstained else str(found.outcome)
            return rows

        return judged


def think(settings: Decide, bar: ProgressBar = silent) -> tuple[Run, Thinker, Batch]:
    """Runs `jaxdepth decide`: writes the tables above; goes on where an earlier run was stopped.

    Args:
        settings: see `jaxdepth decide --help`.
        bar: shows progress; see `jaxdepth.runtime.progress.progress_bar`.

    Returns:
        The run, what thought in it, and its first batch, for `think_cost`.

    Raises:
        InputError: something in the settings, the protocol, the prompts or the checkpoint is wrong.
    """
    _check(settings)
    protocol = read_protocol(settings.thinking.protocol)
    for name in ("thought_tokens", "answer_tokens"):
        if getattr(settings.thinking, name) is not None:
            protocol = replace(protocol, **{name: getattr(settings.thinking, name)})
    subject = open_subject(settings, settings.decoding.exits)
    markers = resolve_markers(protocol, subject.encoder, subject.end_tokens)
    thinker = Thinker(
        settings, subject, protocol, markers, subject.reference(settings.texts.reference)
    )
    ids = thinker.ids(protocol.instruction)
    new = protocol.thought_tokens + len(markers.close) + 1 + protocol.answer_tokens
    check_room(subject.model.config, max(map(len, ids)), new)
    resolved = subject.resolved(
        command="decide", protocol=vars(protocol), verdict_words=markers.words
    )
    run = subject.open_run(resolved, markers=markers._asdict())
    mesh = subject.model.mesh
    batches = make_batches(ids, settings.prompts.batch_size, mesh)
    in_parts(run, thinker.tables, batches, thinker.main_tables, bar)
    if settings.interventions.swap and settings.texts.keep_text and protocol.thought_tokens:
        _swap(run, thinker, batches, bar)
    if settings.thinking.series != "none":
        _again(run, thinker, bar)
    return run, thinker, batches[0]


def _swap(run: Run, thinker: Thinker, batches: Sequence[Batch], bar: ProgressBar) -> None:
    if run.finished(SWAPPED):
        return
    texts = read_table(run.path, TEXTS).to_pylist()
    thoughts = {(r["prompt_id"], r["exit"]): r["thought_ids"] for r in texts if r["vote"] == 0}
    partner = partners([(p.prompt_id, p.pair_id, p.label) for p in thinker.subject.prompts])
    in_parts(run, (SWAPPED,), batches, lambda b: thinker.swapped_table(b, thoughts, partner), bar)


def partners(prompts: Sequence[tuple[str, str | None, str]]) -> dict[str, str]:
    """Whose thought each prompt (id, pair, label) is given: its pair's other half, else the next.

    The next is the next prompt of the other label, so that the thought speaks for the other verdict
    where it speaks for any; with one label only, the next prompt.
    """
    found = {}
    for place, (name, pair, label) in enumerate(prompts):
        others = [*prompts[place + 1 :], *prompts[:place]] or [prompts[place]]
        halves = [other for other in others if pair and other[1] == pair]
        differ = [other for other in others if other[2] != label]
        found[name] = (halves or differ or others)[0][0]
    return found


def _again(run: Run, thinker: Thinker, bar: ProgressBar) -> None:
    if run.finished(SERIES):
        return
    rows = read_table(run.path, VERDICT_TABLE).to_pylist()
    again = {
        (r["prompt_id"], r["exit"])
        for r in rows
        if r["vote"] == 0 and r["verdict"] == Verdict.PARTIAL
    }
    if not again:
        run.write_table(SERIES, SCHEMAS[SERIES].empty_table())
        return
    names = {name for name, _ in again}
    ids = thinker.ids(thinker.protocol.again)
    places = [n for n, p in enumerate(thinker.subject.prompts) if p.prompt_id in names]
    mesh = thinker.subject.model.mesh
    batches = [
        replace(batch, indices=tuple(places[n] for n in batch.indices))
        for batch in make_batches(
            [ids[n] for n in places], thinker.settings.prompts.batch_size, mesh
        )
    ]
    in_parts(run, (SERIES,), batches, lambda b: thinker.series_table(b, again), bar)


def rule_of(s: Decide) -> Rule:
    """The rule that settings ask for; raises InputError if it makes no sense."""
    return Rule(
        s.decision.verdict_temperature,
        s.decision.refuse_from,
        s.decision.caution_from,
        s.decision.abstain_below,
    )


def _check(settings: Decide) -> None:
    sampling_of(settings.decoding)
    memory_budget(settings.decoding)
    rule_of(settings)
    at_least(1, batch_size=settings.prompts.batch_size, votes=settings.thinking.votes)
    at_least(0, cost_rounds=settings.interventions.cost_rounds)
    if settings.thinking.votes > 1 and settings.decoding.temperature == 0:
        raise InputError("several votes at temperature 0 are all alike: set --temperature")
    if (
        len(set(settings.interventions.cuts)) < len(settings.interventions.cuts)
        or min(settings.interventions.cuts, default=0) < 0
    ):
        raise InputError(
            f"cuts are {list(settings.interventions.cuts)}: expected different ones, 0 or more"
        )
