"""Facts that a model knows, read at every exit from one pass.

Each question is asked in the chat template and the reply opened with `The answer is`. What counts
is the first token of the right answer beside those of the wrong ones: an exit that has the fact
ranks it first. Whether the model would say so is another matter; that is what a sweep is for.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from importlib.resources import files
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa
from jaxtyping import Float, Int

from jaxdepth.depth.exits import exit_logits
from jaxdepth.errors import InputError
from jaxdepth.model.sharding import shard, to_host
from jaxdepth.prompts.batches import Batch, make_batches
from jaxdepth.prompts.chat import PromptEncoder
from jaxdepth.runtime.progress import ProgressBar, silent
from jaxdepth.stats.intervals import resample_counts
from jaxdepth.study.batched import OnHost, in_parts
from jaxdepth.study.checkpoints.paired import MARGIN, RIGHT, Measured, paired_rows
from jaxdepth.study.probes.settings import Probe
from jaxdepth.study.run_directory import Run, read_table
from jaxdepth.study.subject import open_subject

FACTS = "facts"
GENERAL, NEIGHBOURING = "general", "neighbouring"
LEAD = "The answer is"
SCHEMA = pa.schema(
    [
        ("prompt_id", pa.string()),
        ("domain", pa.string()),
        ("category", pa.string()),
        ("exit", pa.int32()),
        ("logprob", pa.float32()),  # of the right answer's first token, nats
        ("margin", pa.float32()),  # above the best wrong answer's, nats
        ("right", pa.bool_()),  # whether the right answer ranks first
    ]
)
# What of a run's settings decides a readout.
_DECIDES = ("model_fingerprint", "adapter_sha256", "dtype", "exits", "batch_size")
_DECIDES += ("steer", "directions_sha256", "direction", "steer_layers", "steer_scale")


@dataclass(frozen=True)
class Fact:
    """A question with one short right answer and wrong ones of the same kind."""

    prompt_id: str
    domain: str  # general, or neighbouring: sounds dangerous and is not
    category: str | None
    question: str
    right: str
    wrong: tuple[str, ...]


def read_facts(name: str) -> list[Fact]:
    """Facts from `builtin:facts`, or a .jsonl file with `question`, `right` and `wrong` in a line.

    Raises:
        InputError: no such file, or a line of it is no fact.
    """
    if name == "builtin:facts":
        text = (files("jaxdepth") / "data" / "facts.jsonl").read_text("utf-8")
    elif Path(name).is_file():
        text = Path(name).read_text("utf-8")
    else:
        raise InputError(f"no facts {name}: expected builtin:facts or a .jsonl file")
    lines = enumerate(text.split("\n"), start=1)
    facts = [_fact(line, f"{name}, line {n}", n) for n, line in lines if line.strip()]
    if not facts:
        raise InputError(f"{name} holds no facts: expected one a line")
    if len({f.prompt_id for f in facts}) < len(facts):
        raise InputError(f"{name}: prompt ids repeat; give each fact its own")
    return facts


def facts_digest(facts: Sequence[Fact]) -> str:
    """SHA-256 over everything that the facts hold."""
    return hashlib.sha256(json.dumps([astuple(f) for f in facts]).encode()).hexdigest()


def encode_fact(encoder: PromptEncoder, fact: Fact) -> tuple[list[int], list[int]] | None:
    """The token ids up to where the answer stands, and each answer's first, the right one's first.

    None where the tokenizer does not tell: the right answer begins with a wrong one's first token.
    """
    lead = encoder.reply(LEAD)
    options = []
    for answer in (fact.right, *fact.wrong):
        ids = encoder.reply(f"{LEAD} {answer}")
        if ids[: len(lead)] != lead or len(ids) == len(lead):
            return None
        options.append(ids[len(lead)])
    if options[0] in options[1:]:
        return None
    return encoder.encode(fact.question) + lead, options


def read_out(settings: Probe, facts: Sequence[Fact], bar: ProgressBar = silent) -> Run:
    """Writes facts.parquet to the run `settings.output.out`: every fact at every exit.

    Facts that the model's tokenizer does not tell are left out.

    Raises:
        InputError: something in the settings or the checkpoint is wrong; no fact can be told.
    """
    subject = open_subject(settings)
    found = [(fact, encode_fact(subject.encoder, fact)) for fact in facts]
    told = [(fact, *encoded) for fact, encoded in found if encoded is not None]
    if not told:
        raise InputError("no fact's answers differ in their first token: use other facts")
    resolved = subject.resolved()
    run = subject.open_run(
        {k: resolved.get(k) for k in _DECIDES}
        | {"command": "facts", "facts_sha256": facts_digest(facts)},
        with_prompts=False,
        left_out=[f.prompt_id for f, e in found if e is None],
    )
    most = max(len(options) for _, _, options in told)
    # A wrong answer more than once changes nothing.
    options_NO = np.array([o + o[-1:] * (most - len(o)) for _, _, o in told])

    def rows(batch: Batch) -> OnHost:
        logprob_BEO = option_logprobs(subject.model, batch, subject.exits, options_NO)
        right_BE, wrong_BE = logprob_BEO[..., 0], logprob_BEO[..., 1:].max(axis=-1)
        made = []
        for b, n in enumerate(batch.indices):
            fact = told[n][0]
            of = {"prompt_id": fact.prompt_id, "domain": fact.domain, "category": fact.category}
            for e, exit in enumerate(subject.exits):
                margin = float(right_BE[b, e] - wrong_BE[b, e])
                made.append(
                    of
                    | {"exit": exit, "logprob": float(right_BE[b, e])}
                    | {"margin": margin, "right": margin > 0}
                )
        return lambda: [pa.Table.from_pylist(made, SCHEMA)]

    mesh = subject.model.mesh
    batches = make_batches([ids for _, ids, _ in told], settings.prompts.batch_size, mesh)
    in_parts(run, (FACTS,), batches, rows, bar)
    return run


def option_logprobs(
    model, batch: Batch, exits: Sequence[int], options_NO: Int[np.ndarray, "N O"]
) -> Float[np.ndarray, "B E O"]:
    """Log-probabilities of each prompt's O tokens as the next one, at every exit."""
    options_BO = options_NO[list(batch.padded_indices)]
    tokens_BS = shard(batch.tokens_BS, "BS", model.mesh)
    lengths_B = shard(batch.lengths_B, "B", model.mesh)
    options_BO = shard(options_BO, "BO", model.mesh)
    found_EBO = _option_logprobs(model, tokens_BS, lengths_B, np.array(exits), options_BO)
    return to_host(found_EBO).swapaxes(0, 1)[: len(batch.indices)]


@jax.jit
def _option_logprobs(model, tokens_BS, lengths_B, exits_E, options_BO):
    all_exits = jax.vmap(exit_logits, in_axes=(None, None, None, 0))
    logits_EBV = all_exits(model, tokens_BS, lengths_B, exits_E)
    chosen_EBO = jnp.take_along_axis(logits_EBV, options_BO[None], axis=-1)
    return chosen_EBO - jax.nn.logsumexp(logits_EBV, axis=-1, keepdims=True)


def compare_facts(base: Path, against: Path, draws: int, seed: int) -> list[dict]:
    """The rows of `against` for two readouts of the same facts, paired by question.

    Questions that only one of the tokenizers tells are left out.

    Raises:
        InputError: there is no question that both tell.
    """
    tables = [_by_question(path) for path in (base, against)]
    ids = [i for i in tables[0] if i in tables[1]]
    if not ids:
        raise InputError("no fact can be read with the tokenizers of both checkpoints")
    exits = [r["exit"] for r in tables[0][ids[0]]]
    rows = []
    for measure in (RIGHT, MARGIN):
        curves = {}
        for d, domain in enumerate(sorted({tables[0][i][0]["domain"] for i in ids})):
            mine = [i for i in ids if tables[0][i][0]["domain"] == domain]
            counts_RN = resample_counts(mine, draws, seed + d)
            share_RN = counts_RN / counts_RN.sum(axis=1, keepdims=True)
            values = [np.array([[r[measure] for r in t[i]] for i in mine], float) for t in tables]
            pair = [Measured(value_NE.mean(axis=0), share_RN @ value_NE) for value_NE in values]
            at = {"measure": measure, "domain": domain, "n": len(mine)}
            rows += paired_rows(at, exits, *pair)
            curves[domain] = pair
        if {GENERAL, NEIGHBOURING} <= set(curves):
            between = [a - b for a, b in zip(curves[NEIGHBOURING], curves[GENERAL], strict=True)]
            at = {"measure": measure, "domain": f"{NEIGHBOURING} - {GENERAL}", "n": len(ids)}
            rows += paired_rows(at, exits, *between)
    return rows


def _by_question(run_path: Path) -> dict[str, list[dict]]:
    found: dict[str, list[dict]] = {}
    for row in read_table(run_path, FACTS).to_pylist():
        found.setdefault(row["prompt_id"], []).append(row)
    return {i: sorted(rows, key=lambda r: r["exit"]) for i, rows in sorted(found.items())}


def _fact(line: str, where: str, number: int) -> Fact:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise InputError(f"{where} is not valid JSON ({error})") from None
    if not isinstance(row, dict):
        raise InputError(f"{where} holds a {type(row).__name__} where a fact was expected")
    wrong = row.get("wrong")
    texts = [row.get("question"), row.get("right"), *(wrong if isinstance(wrong, list) else [None])]
    if len(texts) < 3 or not all(isinstance(t, str) and t.strip() for t in texts):
        raise InputError(
            f"{where}: expected texts in question and right, and a list of them in wrong"
        )
    return Fact(
        str(row.get("prompt_id") or f"facts-{number:03d}"),
        str(row.get("domain") or GENERAL),
        row.get("category"),
        *texts[:2],
        tuple(texts[2:]),
    )
