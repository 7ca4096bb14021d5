"""`jaxdepth sweep --policy`: every token exits by a policy; a grid of policies at once.

dynamic.parquet    every rule's (a policy with a threshold) answer to each prompt, and its outcome
tokens.parquet     the exit that each token took, and what the policy saw there
policies.parquet   depth, agreement and outcomes of every rule, by label
matched.parquet    each rule against static truncation at the same mean depth, paired by prompt

Full depth is always a rule: agreement is measured against it. Depth is counted in layers that were
computed: with late caching also those of earlier tokens that a deeper token makes up for.
"""

from collections.abc import Sequence
from dataclasses import fields

import numpy as np
import pyarrow as pa

from jaxdepth.depth.dynamic import generate_dynamic, layers_computed
from jaxdepth.depth.generation import check_room
from jaxdepth.depth.policies import Caching, ExitRule, Policy
from jaxdepth.errors import InputError, at_least, nearest
from jaxdepth.files import file_digest
from jaxdepth.probing.exit_classifier import read_exit_classifier
from jaxdepth.prompts.batches import Batch, limit_prompts, make_batches
from jaxdepth.refusal.outcome import Judge
from jaxdepth.runtime.progress import ProgressBar, silent
from jaxdepth.study.answers import (
    Answerer,
    agreement,
    memory_budget,
    prompt_seeds,
    sampling_of,
)
from jaxdepth.study.batched import OnHost, in_parts
from jaxdepth.study.common_tables import GENERATIONS
from jaxdepth.study.policies.settings import Policies, PolicySweep
from jaxdepth.study.run_directory import Run
from jaxdepth.study.subject import open_subject
from jaxdepth.study.sweep.run import check_sweep, judge_name

DYNAMIC, TOKENS = "dynamic", "tokens"
_RULE = [("rule", pa.string()), ("policy", pa.string()), ("threshold", pa.float32())]
DYNAMIC_SCHEMA = pa.schema(
    [
        ("prompt_id", pa.string()),
        *_RULE,
        ("mean_exit", pa.float32()),
        ("mean_layers", pa.float32()),  # computed per token
        *[field for field in GENERATIONS.schema if field.name not in ("prompt_id", "exit")],
    ]
)
TOKENS_SCHEMA = pa.schema(
    [
        ("prompt_id", pa.string()),
        ("rule", pa.string()),
        ("sample", pa.int32()),
        ("place", pa.int32()),  # in the answer, from 0
        ("token", pa.int32()),  # null where texts are not kept
        ("exit", pa.int32()),
        ("layers", pa.int32()),  # computed for it, at once or later
        ("score", pa.float32()),  # of the policy, at that exit
        ("confidence", pa.float32()),  # probability of the most probable token there
    ]
)


def dynamic_sweep(
    settings: PolicySweep, bar: ProgressBar = silent, judge: Judge | None = None
) -> Run:
    """Runs `jaxdepth sweep --policy`; goes on where an earlier run was stopped.

    Args:
        settings: see `jaxdepth sweep --help`.
        bar: shows progress; see `jaxdepth.runtime.progress.progress_bar`.
        judge: judges the outcomes of answers in place of the built-in one; see `classify_texts`.

    Raises:
        InputError: something in the settings, the prompts, the checkpoint or the classifier is
            wrong.
    """
    sweep, policies = settings.sweep, settings.policies
    rules = parse_rules(policies.policy, policies.decay, policies.caching)
    check_sweep(sweep)
    at_least(1, max_new_tokens=sweep.answers.max_new_tokens)
    asks_classifier = any(rule.policy == Policy.CLASSIFIER for rule in rules)
    if asks_classifier != (policies.classifier is not None):
        raise InputError("--policy classifier=... and --classifier FILE go together")
    subject = open_subject(sweep, sweep.decoding.exits)
    depth = subject.model.config.num_hidden_layers
    full = ExitRule(Policy.FIXED, depth, caching=Caching(policies.caching))
    rules = list(dict.fromkeys([*rules, full]))
    classifier = None
    if policies.classifier is not None:
        classifier = read_exit_classifier(policies.classifier, subject.loaded.identity)
    prompts = limit_prompts(subject.prompts, sweep.answers.generate_limit)
    ids = [subject.encoder.encode(p.text) for p in prompts]
    check_room(subject.model.config, max(map(len, ids)), sweep.answers.max_new_tokens)
    resolved = subject.resolved(
        command="sweep --policy",
        policy=policies.policy,
        caching=policies.caching,
        decay=policies.decay,
        rules=[name_of(rule) for rule in rules],
        judge=judge_name(judge),
        classifier_sha256=None if classifier is None else file_digest(policies.classifier),
    )
    run = subject.open_run(resolved)
    answerer = Answerer(sweep, subject, subject.reference(sweep.texts.reference), judge)
    batches = make_batches(ids, sweep.prompts.batch_size, subject.model.mesh)

    def rows(batch: Batch) -> OnHost:
        return _rows(answerer, rules, classifier, batch)

    in_parts(run, (DYNAMIC, TOKENS), batches, rows, bar)
    return run


def parse_rules(
    policies: Sequence[str], decay: float | None = None, caching: str = Caching.LATE
) -> list[ExitRule]:
    """Rules from `NAME=T1,T2`; the oracle needs no threshold.

    A decay is of those policies that have probabilities for thresholds, and the oracle is always
    late.

    Raises:
        InputError: no such policy, a threshold is missing, no number, or named twice.
    """
    rules = []
    for given in policies:
        name, equals, thresholds = given.partition("=")
        if name not in list(Policy):
            raise InputError(f"no exit policy {name!r}{nearest(name, list(Policy))}")
        policy = Policy(name)
        if policy == Policy.ORACLE and not equals:
            thresholds = "1"
        falls = policy in (Policy.TOP1, Policy.MARGIN, Policy.SATURATION, Policy.CLASSIFIER)
        for threshold in thresholds.split(","):
            try:
                number = float(threshold)
            except ValueError:
                raise InputError(
                    f"policy {given!r}: {threshold!r} is no threshold; write {name}=0.5,0.9"
                ) from None
            late = policy == Policy.ORACLE
            rules.append(
                ExitRule(
                    policy,
                    number,
                    decay if falls else None,
                    Caching.LATE if late else Caching(caching),
                )
            )
    if len(set(rules)) < len(rules):
        raise InputError(f"policies {' '.join(policies)} name a rule twice")
    return rules


def name_of(rule: ExitRule) -> str:
    """What a rule is called in tables and figures."""
    return str(rule.policy) if rule.policy == Policy.ORACLE else f"{rule.policy} {rule.threshold:g}"


def check_static(policies: Policies) -> None:
    """Raises InputError for options that mean nothing without --policy."""
    for field in fields(policies):
        if getattr(policies, field.name) != field.default:
            raise InputError(f"--{field.name} is of exit policies: name some with --policy")


def _rows(answerer: Answerer, rules: list[ExitRule], classifier, batch: Batch) -> OnHost:
    """The rows of both tables for the prompts of a batch."""
    s, subject = answerer.settings, answerer.subject
    generation = generate_dynamic(
        subject.model,
        batch.tokens_BS,
        batch.lengths_B,
        rules,
        subject.exits,
        s.answers.max_new_tokens,
        samples=s.answers.samples,
        sampling=sampling_of(s.decoding),
        seeds_B=prompt_seeds(s.output.seed, subject.prompts, batch),
        stop_tokens=subject.end_tokens,
        classifier=classifier,
        memory_budget=memory_budget(s.decoding),
    )
    answers, steps = [], []
    for b, r, m in np.ndindex(len(batch.indices), len(rules), s.answers.samples):
        prompt, rule = subject.prompts[batch.indices[b]], rules[r]
        T = generation.lengths[b, r, m]
        tokens_T, exits_T = generation.tokens[b, r, m, :T], generation.exits[b, r, m, :T]
        full_T = generation.tokens[b, -1, m, : generation.lengths[b, -1, m]]
        layers_T = layers_computed(exits_T, rule.caching)
        text, ended = answerer.decode_text(tokens_T)
        named = {"prompt_id": prompt.prompt_id, "rule": name_of(rule), "sample": m}
        answers.append(
            named
            | {
                "policy": str(rule.policy),
                "threshold": rule.threshold,
                "mean_exit": exits_T.mean(),
                "mean_layers": layers_T.mean(),
                "text": text,
                "n_tokens": T,
                "ended": ended,
                "agreement": agreement(tokens_T, full_T),
                "prompt": prompt.text,
            }
        )
        steps.append(
            {name: [value] * T for name, value in named.items()}
            | {
                "place": range(T),
                "token": tokens_T if s.texts.keep_text else [None] * T,
                "exit": exits_T,
                "layers": layers_T,
                "score": generation.scores[b, r, m, :T],
                "confidence": generation.confidence[b, r, m, :T],
            }
        )
    judge = answerer.judge_rows(answers)
    return lambda: [
        pa.Table.from_pylist(judge(), DYNAMIC_SCHEMA),
        pa.concat_tables(pa.Table.from_pydict(step, TOKENS_SCHEMA) for step in steps),
    ]
