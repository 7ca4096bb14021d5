"""Is per-token exit safer than truncating every token at one depth?

Tests C5 (static truncation differs from per-token exit) and C6 (skipping 30-50% of the layers keeps
quality).

    python experiments/static_or_dynamic.py MODEL [--adapter A] [any option of `jaxdepth sweep`]

Runs a grid of exit policies and static truncation on the same prompts, calibrates thresholds on
validation prompts, compares policies with static truncation at the same mean depth on the held-out
prompts, and measures self-speculative decoding by draft depth. The settings are
configs/static_or_dynamic.toml by default. The same command resumes an unfinished study.
"""

import sys
from dataclasses import replace

import numpy as np
import pandas as pd

from jaxdepth.cli import guarded
from jaxdepth.commands.parsing import parse
from jaxdepth.commands.printing import print_places
from jaxdepth.depth.exits import parse_exits
from jaxdepth.depth.policies import Policy
from jaxdepth.errors import InputError
from jaxdepth.prompts.datasets import read_prompts
from jaxdepth.runtime.distributed import first_has_file
from jaxdepth.runtime.progress import progress_bar
from jaxdepth.settings_file import revise
from jaxdepth.study.common_tables import PROMPTS
from jaxdepth.study.policies.calibration import calibrate, calibration_findings
from jaxdepth.study.policies.choice import write_policies
from jaxdepth.study.policies.classifier import write_exit_classifier
from jaxdepth.study.policies.figures import draw_policies
from jaxdepth.study.policies.rates import RuleMeans
from jaxdepth.study.policies.rules import parse_rules
from jaxdepth.study.policies.run import sweep_policies
from jaxdepth.study.policies.settings import PolicySweep, StaticOrDynamic
from jaxdepth.study.policies.speculation import (
    acceptance_findings,
    acceptance_rates,
    write_speculation,
)
from jaxdepth.study.policies.summary import print_policies
from jaxdepth.study.policies.tables import ACCEPTANCE, CALIBRATION
from jaxdepth.study.run_directory import Run, read_frame
from jaxdepth.study.subject import open_subject


def with_classifier(s: StaticOrDynamic) -> StaticOrDynamic:
    """The settings with an exit classifier, fitted on the validation prompts if none is named."""
    needs_classifier = any(r.policy == Policy.CLASSIFIER for r in parse_rules(s.policies.policy))
    if not needs_classifier or s.policies.classifier is not None:
        return s
    out = s.sweep.output.out
    path = out.with_name(f"{out.name}_classifier.safetensors")
    if not first_has_file(path):
        sweep = revise(s.sweep, prompts=s.calibration.validation)
        subject = open_subject(sweep, sweep.decoding.exits)
        write_exit_classifier(path, subject, sweep)
    return replace(s, policies=replace(s.policies, classifier=path))


def main() -> int:
    """Run the study and print what it shows; return the exit status."""
    s = parse(StaticOrDynamic, sys.argv[1:], "static_or_dynamic", config="static_or_dynamic")
    if s.sweep.prompts.limit is not None or s.sweep.answers.generate_limit is not None:
        raise InputError(
            "--limit and --generate-limit are ambiguous with two sets of prompts: write [:N] after "
            "the name of a set to take its first N"
        )
    s = with_classifier(s)
    calibration, seed = s.calibration, s.sweep.output.seed
    every_prompt = (*calibration.validation, *s.sweep.prompts.prompts)
    run = sweep_policies(
        PolicySweep(sweep=revise(s.sweep, prompts=every_prompt), policies=s.policies),
        progress_bar,
    )
    prompts = read_frame(run.path, PROMPTS)
    columns = s.sweep.prompts.columns
    validation = read_prompts(calibration.validation, columns, needs_columns=False)
    # By their place: where two sets have files of one name, their ids tell these apart.
    validation_ids = prompts["prompt_id"].tolist()[: len(validation)]
    held_out_prompts = prompts[~prompts["prompt_id"].isin(validation_ids)]
    means = RuleMeans.read(run.path)
    is_held_out_N = ~np.isin(means.ids_N, validation_ids)
    held_out = means.select(is_held_out_N)
    write_policies(run, seed, held_out, choosing=means.select(~is_held_out_N))
    depth = run.record["facts"]["depth"]
    chosen = calibrate(
        means.select(~is_held_out_N),
        held_out,
        [share * depth for share in calibration.depths],
        calibration.risk,
        calibration.error,
        seed,
    )
    run.write_table(CALIBRATION.name, CALIBRATION.from_frame(chosen))
    print_policies(run.path)
    print("\n".join(calibration_findings(read_frame(run.path, CALIBRATION))))
    if calibration.draft_depths:
        print("\n".join(measure_acceptance(s, run, held_out_prompts, depth)))
    print_places(run.path, draw_policies(run.path, held_out.ids_N))
    return 0


def measure_acceptance(
    s: StaticOrDynamic, run: Run, prompts: pd.DataFrame, layers: int
) -> list[str]:
    """Draft with every depth; return what that shows on the held-out prompts."""
    depths = parse_exits(s.calibration.draft_depths, layers)
    subject = open_subject(s.sweep, s.sweep.decoding.exits)
    write_speculation(run, subject, s.sweep, depths, s.calibration.draft_tokens, progress_bar)
    acceptance = acceptance_rates(run, prompts, layers, s.sweep.output.seed)
    run.write_table(ACCEPTANCE.name, ACCEPTANCE.from_frame(acceptance))
    return acceptance_findings(acceptance)


if __name__ == "__main__":
    sys.exit(guarded(main))
