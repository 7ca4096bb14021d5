"""Where does safety sit, and is it more than one direction?

Tests C4 (where safety sits), C7 (harmfulness is readable before refusal), C8 (refusal jumps at two
thirds of the depth), C9 (refusal is a sum or an OR of categories) and C11 (the behaviour layer is
thin).

    python experiments/where_is_safety.py MODEL [--adapter A] [--prompts ...]

Sweeps MODEL, probes every layer and compares with what the model did, then ablates the direction of
every layer on other prompts. The default settings are configs/where_is_safety.toml. The same
command resumes a study that was stopped.
"""

import sys
from dataclasses import replace

from jaxdepth.cli import guarded
from jaxdepth.commands.parsing import parse
from jaxdepth.commands.printing import print_places
from jaxdepth.commands.probe import run_probe
from jaxdepth.commands.sweep import run_sweep
from jaxdepth.runtime.progress import progress_bar
from jaxdepth.study.probes.ablation import ablate, ablation_findings
from jaxdepth.study.probes.figures import draw_ablation
from jaxdepth.study.probes.settings import Probe, Probes, Where
from jaxdepth.study.settings import Answers, Decoding
from jaxdepth.study.sweep.settings import Sweep


def main() -> int:
    """Run the study and print the answers; return the exit status."""
    s = parse(Where, sys.argv[1:], "where_is_safety", config="where_is_safety")
    out = s.output.out
    sweep = Sweep(
        model=s.model,
        prompts=s.prompts,
        decoding=Decoding(s.exits),
        answers=Answers(s.max_new_tokens),
        devices=s.devices,
        output=replace(s.output, out=out / "sweep"),
    )
    run_sweep(sweep)
    probe = Probe(
        model=s.model,
        prompts=s.prompts,
        probes=Probes(
            transfer=("+".join(s.transfer),), positions=s.positions, run=sweep.output.out
        ),
        devices=s.devices,
        output=replace(s.output, out=out / "probe"),
    )
    run_probe(probe)
    run = ablate(s, probe.output.out, progress_bar)
    print("\n".join(ablation_findings(run.path)))
    print_places(run.path, draw_ablation(run.path))
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))
