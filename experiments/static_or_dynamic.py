"""Is exiting token by token safer than truncating every token at one depth?

Tests C5 (static truncation differs from per-token exit) and C6 (skipping 30-50% of the layers keeps
quality).

    python experiments/static_or_dynamic.py MODEL [--adapter A] [any option of `jaxdepth sweep`]

Runs a grid of exit policies and static truncation on the same prompts at once, calibrates
thresholds on validation prompts, compares policies with static truncation at the same mean depth on
the other prompts, and drafts with every depth. The settings are configs/static_or_dynamic.toml by
default. A study that was stopped goes on with the same command.
"""

import sys
from dataclasses import replace

import numpy as np
import pyarrow as pa

from jaxdepth.cli import guarded
from jaxdepth.commands.parsing import parse
from jaxdepth.commands.printing import print_places
from jaxdepth.depth.exits import parse_exits
from jaxdepth.errors import InputError
from jaxdepth.prompts.datasets import read_prompts
from jaxdepth.runtime.distributed import first_has_file
from jaxdepth.runtime.progress import progress_bar
from jaxdepth.settings_file import revise
from jaxdepth.study.policies.calibration import (
    CALIBRATION,
    CALIBRATION_SCHEMA,
    calibration_findings,
    calibration_rows,
)
from jaxdepth.study.policies.classifier import write_exit_classifier
from jaxdepth.study.policies.figures import draw_policies
from jaxdepth.study.policies.rates import RuleRun, write_policies
from jaxdepth.study.policies.run import dynamic_sweep, parse_rules
from jaxdepth.study.policies.settings import PolicySweep, StaticOrDynamic
from jaxdepth.study.policies.speculation import (
    ACCEPTANCE,
    ACCEPTANCE_SCHEMA,
    acceptance_findings,
    acceptance_rows,
    write_speculation,
)
from jaxdepth.study.policies.summary import print_policies
from jaxdepth.study.run_directory import Run, read_table
from jaxdepth.study.subject import open_subject


def with_classifier(s: StaticOrDynamic) -> StaticOrDynamic:
    """The settings with an exit classifier, fitted on the validation prompts if none is named."""
    needed = any(rule.policy == "classifier" for rule in parse_rules(s.policies.policy))
    if not needed or s.policies.classifier is not None:
        return s
    out = s.sweep.output.out
    path = out.with_name(f"{out.name}_classifier.safetensors")
    if not first_has_file(path):
        sweep = revise(s.sweep, prompts=s.calibration.validation)
        subject = open_subject(sweep, sweep.decoding.exits)
        write_exit_classifier(path, subject, sweep)
    return replace(s, policies=replace(s.policies, classifier=path))


def main() -> int:
    """Runs the study and prints the answers; returns the exit status."""
    s = parse(StaticOrDynamic, sys.argv[1:], "static_or_dynamic", config="static_or_dynamic")
    if s.sweep.prompts.limit is not None or s.sweep.answers.generate_limit is not None:
        raise InputError("of two sets of prompts take the first N by [:N] behind their names")
    s = with_classifier(s)
    calibration, seed = s.calibration, s.sweep.output.seed
    every_prompt = (*calibration.validation, *s.sweep.prompts.prompts)
    everything = PolicySweep(revise(s.sweep, prompts=every_prompt), s.policies)
    run = dynamic_sweep(everything, progress_bar)
    prompts = read_table(run.path, "prompts").to_pylist()
    tuned_on = {p.prompt_id for p in read_prompts(calibration.validation)}
    rules = RuleRun.read(run.path)
    held_out_N = np.array([prompt_id not in tuned_on for prompt_id in rules.ids])
    held_out = rules.some(held_out_N)
    write_policies(run, seed, held_out)
    depth = run.record["facts"]["depth"]
    targets = [share * depth for share in calibration.depths]
    aims = (targets, calibration.risk, calibration.error, seed)
    rows = calibration_rows(rules.some(~held_out_N), held_out, *aims)
    run.write_table(CALIBRATION, pa.Table.from_pylist(rows, CALIBRATION_SCHEMA))
    print_policies(run.path)
    print("\n".join(calibration_findings(read_table(run.path, CALIBRATION).to_pylist())))
    if calibration.draft_depths:
        print("\n".join(speculated(s, run, prompts, tuned_on, depth)))
    print_places(run.path, draw_policies(run.path, held_out.ids))
    return 0


def speculated(s: StaticOrDynamic, run: Run, prompts, tuned_on: set[str], layers: int) -> list[str]:
    """Drafts with every depth on the held-out prompts; what that shows."""
    depths = parse_exits(s.calibration.draft_depths, layers)
    subject = open_subject(s.sweep, s.sweep.decoding.exits)
    write_speculation(run, subject, s.sweep, depths, s.calibration.draft_tokens, progress_bar)
    held_out = [p for p in prompts if p["prompt_id"] not in tuned_on]
    rows = acceptance_rows(run, held_out, layers, s.sweep.output.seed)
    run.write_table(ACCEPTANCE, pa.Table.from_pylist(rows, ACCEPTANCE_SCHEMA))
    return acceptance_findings(rows)


if __name__ == "__main__":
    sys.exit(guarded(main))
