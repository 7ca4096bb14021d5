"""C4, C7, C8, C9 and C11: where does safety sit, and is it more than one direction?

    python experiments/where_is_safety.py MODEL [--adapter A] [--prompts ...]

Sweeps MODEL, probes it at every layer beside what it did, then ablates the direction of every layer
on other prompts. Runs configs/where_is_safety.toml unless told otherwise. A study that was stopped
goes on with the same command.
"""

import sys

from jaxdepth.cli import guarded, parse, print_places, run_probe, run_sweep
from jaxdepth.runtime.progress import progress_bar
from jaxdepth.study.checkpoints.settings import ProbeAgainst
from jaxdepth.study.probes.ablation import ablate, ablation_findings
from jaxdepth.study.probes.figures import draw_ablation
from jaxdepth.study.probes.settings import Where
from jaxdepth.study.sweep.settings import Sweep


def main() -> int:
    """Runs the study and prints the answers; returns the exit status."""
    s = parse(Where, sys.argv[1:], "where_is_safety", config="where_is_safety")
    shared = {name: getattr(s, name) for name in ("model", "adapter", "limit", "dtype", "seed")}
    shared["prompts"] = s.prompts
    run_sweep(Sweep(out=s.out / "sweep", exits=s.exits, max_new_tokens=s.max_new_tokens, **shared))
    probed = ProbeAgainst(
        out=s.out / "probe",
        run=s.out / "sweep",
        transfer=("+".join(s.transfer),),
        positions=s.positions,
        **shared,
    )
    run_probe(probed)
    run = ablate(s, probed.out, progress_bar)
    print("\n".join(ablation_findings(run.path)))
    print_places(run.path, draw_ablation(run.path))
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))
