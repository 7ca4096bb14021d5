"""`jaxdepth sweep --policy`: the exit of every token by a policy; several policies at once.

dynamic.parquet    the answer to each prompt under each rule (a policy with a threshold)
tokens.parquet     the exit of each token, and the policy's score there
policies.parquet   depth, agreement and outcomes of each rule, by label
matched.parquet    each rule against static truncation at the same mean depth, paired by prompt

Full depth is always a rule: agreement is measured against it. Depth is counted in layers that were
computed: with late caching also layers that a token had skipped and a later, deeper token needs.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from jaxdepth.depth.dynamic import DynamicGeneration, generate_dynamic, layers_computed
from jaxdepth.depth.guard import HarmProbe, check_guards
from jaxdepth.depth.policies import Caching, ExitClassifier, ExitRule, Policy
from jaxdepth.errors import InputError, at_least
from jaxdepth.files import file_digest
from jaxdepth.probing.exit_classifier import read_exit_classifier
from jaxdepth.probing.harm_probe import read_harm_probes
from jaxdepth.prompts.batches import Batch, limit_indices
from jaxdepth.prompts.datasets import Prompt
from jaxdepth.refusal.outcome import Judge
from jaxdepth.runtime.lock import one_at_a_time
from jaxdepth.runtime.progress import ProgressBar, silent
from jaxdepth.study.answers import (
    Answerer,
    ReadAnswer,
    agreement_of,
    memory_budget,
    prompt_seeds,
    sampling_of,
    warn_non_finite,
    warn_stops,
)
from jaxdepth.study.batched import OnHost, in_parts
from jaxdepth.study.chosen_judge import choose_judge
from jaxdepth.study.policies.rules import parse_rules, rule_name
from jaxdepth.study.policies.settings import Policies, PolicySweep
from jaxdepth.study.policies.tables import DYNAMIC, TOKENS
from jaxdepth.study.run_directory import Run, check_file
from jaxdepth.study.subject import Subject, open_subject
from jaxdepth.study.sweep.run import check_sweep


class PolicyInputs(NamedTuple):
    """What some policies read besides the model, as `generate_dynamic` takes it."""

    classifier: ExitClassifier | None = None
    probes: Mapping[str, HarmProbe] = {}
    guard_answers: bool = False


@one_at_a_time(lambda settings: settings.sweep.output.out)
def sweep_policies(
    settings: PolicySweep, bar: ProgressBar = silent, judge: Judge | None = None
) -> Run:
    """Run `jaxdepth sweep --policy`; resume an unfinished run.

    Args:
        settings: see `jaxdepth sweep --help`.
        bar: shows progress; see `jaxdepth.runtime.progress.progress_bar`.
        judge: judges the outcomes of answers in place of that of the settings; see
            `classify_texts`.

    Raises:
        InputError: something in the settings, the prompts, the checkpoint or the classifier is
            wrong.
    """
    sweep, policies = settings.sweep, settings.policies
    rules = parse_rules(policies.policy, policies.decay, policies.caching)
    check_sweep(sweep)
    at_least(1, max_new_tokens=sweep.answers.max_new_tokens)
    _check_files(policies, {rule.policy for rule in rules})
    chosen = choose_judge(sweep.texts, judge, sweep.output.out)
    subject = open_subject(sweep, sweep.decoding.exits)
    depth = subject.model.config.num_hidden_layers
    full = ExitRule(Policy.FIXED, depth, caching=Caching(policies.caching))
    rules = list(dict.fromkeys([*rules, full]))
    indices = limit_indices(subject.prompts, sweep.answers.generate_limit)
    prompts = [subject.prompts[index] for index in indices]
    read, read_settings = _read_files(policies, subject, prompts)
    check_guards(rules, subject.exits, read.probes, subject.model.config)
    batches = subject.batches(subject.prompt_ids(), sweep.answers.max_new_tokens, indices)
    resolved = subject.resolved(
        command="sweep --policy",
        policy=policies.policy,
        caching=policies.caching,
        decay=policies.decay,
        rules=[rule_name(rule) for rule in rules],
        **read_settings,
        **chosen.resolved,
    )
    run = subject.open_run(resolved)
    chosen.read_labels(prompts)
    answerer = Answerer(sweep, subject, subject.reference(sweep.texts), chosen.judge)

    def answer(batch: Batch) -> OnHost:
        return answer_batch(answerer, rules, read, batch)

    in_parts(run, (DYNAMIC.name, TOKENS.name), batches, answer, bar)
    chosen.warn(run.path)
    warn_non_finite(run, DYNAMIC)
    warn_stops(run, DYNAMIC, sweep.answers.stop)
    return run


def _check_files(policies: Policies, used: set[Policy]) -> None:
    """Raise InputError for a policy without its file, or a file without its policy."""
    for policy, file, option in (
        (Policy.CLASSIFIER, policies.classifier, "classifier"),
        (Policy.GUARDED, policies.probes, "probes"),
    ):
        if (policy in used) != (file is not None):
            raise InputError(f"--policy {policy}=... and --{option} FILE go together")
    if policies.guard_reads != "prompt" and Policy.GUARDED not in used:
        raise InputError("--guard-reads applies to --policy guarded=... only")


def _read_files(
    policies: Policies, subject: Subject, prompts: list[Prompt]
) -> tuple[PolicyInputs, dict[str, str | None]]:
    """What the policies read besides the model, and the settings that stand for it."""
    read = PolicyInputs()
    resolved: dict[str, str | None] = {"classifier_sha256": None}
    if policies.classifier is not None:
        classifier = read_exit_classifier(policies.classifier, subject.loaded.identity)
        read = read._replace(classifier=classifier)
        resolved["classifier_sha256"] = file_digest(policies.classifier)
    if policies.probes is not None:
        fitted = read_harm_probes(check_file(policies.probes), subject.loaded.identity)
        fitted.check_unseen((p.text for p in prompts), policies.probes)
        reads_answer = policies.guard_reads == "answer"
        read = read._replace(probes=fitted.probes, guard_answers=reads_answer)
        resolved["probes_sha256"] = file_digest(policies.probes)
        resolved["guard_reads"] = policies.guard_reads
    return read, resolved


def answer_batch(
    answerer: Answerer, rules: list[ExitRule], read: PolicyInputs, batch: Batch
) -> OnHost:
    """Answer the prompts of a batch under each rule; the rows of both tables."""
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
        memory_budget=memory_budget(s.decoding),
        **read._asdict(),
    )
    answers, steps = [], []
    for b, r, m in np.ndindex(len(batch.indices), len(rules), s.answers.samples):
        prompt, rule = subject.prompts[batch.indices[b]], rules[r]
        read_r, full = (_read_answer(answerer, generation, b, n, m) for n in (r, -1))
        T = len(read_r.tokens)
        exits_T = generation.exits[b, r, m, :T]
        layers_T = layers_computed(exits_T, rule.caching)
        lane = {"prompt_id": prompt.prompt_id, "rule": rule_name(rule), "sample": m}
        answers.append(
            lane
            | {
                "policy": str(rule.policy),
                "threshold": rule.threshold,
                "mean_exit": exits_T.mean(),
                "mean_layers": layers_T.mean(),
                "agreement": agreement_of(read_r, full),
                "prompt": prompt,
                **read_r.columns(),
            }
        )
        steps.append(
            {name: [value] * T for name, value in lane.items()}
            | {
                "place": range(T),
                "token": read_r.tokens if s.texts.keep_text else [None] * T,
                "exit": exits_T,
                "layers": layers_T,
                "score": generation.scores[b, r, m, :T],
                "confidence": generation.confidence[b, r, m, :T],
            }
        )
    judge = answerer.judge_rows(answers)
    return lambda: [
        DYNAMIC.from_rows(judge()),
        pa.concat_tables(map(TOKENS.from_columns, steps)),
    ]


def _read_answer(
    answerer: Answerer, generation: DynamicGeneration, b: int, r: int, m: int
) -> ReadAnswer:
    """The answer to one prompt under one rule."""
    T = generation.lengths[b, r, m]
    is_finite = bool(np.isfinite(generation.confidence[b, r, m, :T]).all())
    return answerer.read_answer(generation.tokens[b, r, m, :T], is_finite)
