"""`jaxdepth sweep --policy`: tokens that exit one by one, by a whole grid of policies at once.

dynamic.parquet    what every rule (a policy with a threshold) said to each prompt, and what it did
tokens.parquet     the exit that each token took, and what the policy saw there
policies.parquet   depth, agreement and outcomes of every rule, by label
matched.parquet    each rule against static truncation at the same mean depth, paired by prompt

Full depth is always a rule: agreement is held against it. Depth is counted in layers that were
computed: with late caching also those of earlier tokens that a deeper token makes up for.
"""

from collections.abc import Sequence
from dataclasses import fields

import numpy as np
import pyarrow as pa

from jaxdepth.depth.dynamic import generate_dynamic, layers_computed
from jaxdepth.depth.generation import check_room
from jaxdepth.depth.policies import Caching, ExitRule, Policy
from jaxdepth.depth.sampling import Sampling
from jaxdepth.errors import InputError, at_least, nearest
from jaxdepth.files import file_digest
from jaxdepth.probe.exit_classifier import read_exit_classifier
from jaxdepth.prompts.batches import Batch, limit_prompts, make_batches
from jaxdepth.refusal.outcome import BUILT_IN, Judge
from jaxdepth.runtime.progress import ProgressBar, silent
from jaxdepth.study.answers import SCHEMA as SPOKEN
from jaxdepth.study.answers import Speaker, agreement, lane_seed
from jaxdepth.study.batched import OnHost, in_parts
from jaxdepth.study.policies.settings import PolicySweep
from jaxdepth.study.run_directory import Run
from jaxdepth.study.subject import Subject
from jaxdepth.study.sweep.run import check_sweep

DYNAMIC, TOKENS = "dynamic", "tokens"
_RULE = [("rule", pa.string()), ("policy", pa.string()), ("threshold", pa.float32())]
DYNAMIC_SCHEMA = pa.schema(
    [
        ("prompt_id", pa.string()),
        *_RULE,
        ("mean_exit", pa.float32()),
        ("mean_layers", pa.float32()),  # computed per token
        *[field for field in SPOKEN if field.name not in ("prompt_id", "exit")],
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
_NEEDS_POLICY = ("caching", "decay", "classifier")


def dynamic_sweep(
    settings: PolicySweep, bar: ProgressBar = silent, judge: Judge | None = None
) -> Run:
    """Runs `jaxdepth sweep --policy`; goes on where an earlier run was stopped.

    Args:
        settings: see `jaxdepth sweep --help`.
        bar: shows progress; see `jaxdepth.runtime.progress.progress_bar`.
        judge: says what answers did in place of the built-in detector; see `classify_texts`.

    Raises:
        InputError: something in the settings, the prompts, the checkpoint or the classifier is
            wrong.
    """
    rules = parse_rules(settings.policy, settings.decay, settings.caching)
    check_sweep(settings)
    at_least(1, max_new_tokens=settings.max_new_tokens)
    asks_classifier = any(rule.policy == Policy.CLASSIFIER for rule in rules)
    if asks_classifier != (settings.classifier is not None):
        raise InputError("--policy classifier=... and --classifier FILE go together")
    subject = Subject.open(settings)
    depth = subject.model.config.num_hidden_layers
    full = ExitRule(Policy.FIXED, depth, caching=Caching(settings.caching))
    rules = list(dict.fromkeys([*rules, full]))
    classifier = None
    if settings.classifier is not None:
        classifier = read_exit_classifier(settings.classifier, subject.identity)
    prompts = limit_prompts(subject.prompts, settings.generate_limit)
    ids = [subject.encoder.encode(p.text) for p in prompts]
    check_room(subject.model.config, max(map(len, ids)), settings.max_new_tokens)
    decided = subject.decided(settings) | {
        "command": "sweep --policy",
        "rules": [name_of(rule) for rule in rules],
        "judge": BUILT_IN if judge is None else getattr(judge, "__qualname__", "own"),
        "classifier_sha256": None if classifier is None else file_digest(settings.classifier),
    }
    run = Run.open(settings.out, decided, subject.facts(settings))
    subject.write_prompts(run)
    speaker = Speaker(settings, subject, subject.reference(settings), judge)
    batches = make_batches(ids, settings.batch_size, subject.model.mesh)

    def rows(batch: Batch) -> OnHost:
        return _rows(speaker, rules, classifier, batch)

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


def check_static(settings: PolicySweep) -> None:
    """Raises InputError for settings that mean nothing without --policy."""
    for field in fields(PolicySweep):
        given = getattr(settings, field.name)
        if field.name in _NEEDS_POLICY and given != field.default:
            raise InputError(f"--{field.name} is of exit policies: name some with --policy")


def _rows(speaker: Speaker, rules: list[ExitRule], classifier, batch: Batch) -> OnHost:
    """The rows of both tables for the prompts of a batch."""
    s, subject = speaker.settings, speaker.subject
    found = generate_dynamic(
        subject.model,
        batch.tokens_BS,
        batch.lengths_B,
        rules,
        subject.exits,
        s.max_new_tokens,
        samples=s.samples,
        sampling=Sampling(s.temperature, s.top_k, s.top_p),
        seeds_B=[lane_seed(s.seed, subject.prompts[n].prompt_id) for n in batch.padded_indices],
        stop_tokens=subject.end_tokens,
        classifier=classifier,
        memory_budget=int(s.memory_gb * 2**30),
    )
    said, steps = [], []
    for b, r, m in np.ndindex(len(batch.indices), len(rules), s.samples):
        prompt, rule = subject.prompts[batch.indices[b]], rules[r]
        T = found.lengths[b, r, m]
        tokens_T, exits_T = found.tokens[b, r, m, :T], found.exits[b, r, m, :T]
        full_T = found.tokens[b, -1, m, : found.lengths[b, -1, m]]
        layers_T = layers_computed(exits_T, rule.caching)
        text, ended = speaker.text_of(tokens_T)
        named = {"prompt_id": prompt.prompt_id, "rule": name_of(rule), "sample": m}
        said.append(
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
                "token": tokens_T if s.keep_text else [None] * T,
                "exit": exits_T,
                "layers": layers_T,
                "score": found.scores[b, r, m, :T],
                "confidence": found.confidence[b, r, m, :T],
            }
        )
    judged = speaker.judged(said)
    return lambda: [
        pa.Table.from_pylist(judged(), DYNAMIC_SCHEMA),
        pa.concat_tables(pa.Table.from_pydict(step, TOKENS_SCHEMA) for step in steps),
    ]
