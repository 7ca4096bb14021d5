"""Does safety training sharpen the dangerous domain in a model's hidden states?

Tests C10 (safety training sharpens the dangerous domain).

    python experiments/capability_elicitation.py MODEL [--against ALIGNED] [options of `probe`]

Probes MODEL and the aligned checkpoint (or MODEL with an adapter) on dangerous prompts and on a
control domain, paired by prompt, and reports whether probes improve in the dangerous domain alone.
The settings are configs/capability_elicitation.toml by default; its prompts are new to the built-in
adapters. A run that was stopped resumes with the same command.
"""

import sys

import pandas as pd

from jaxdepth.cli import guarded
from jaxdepth.commands import probe
from jaxdepth.commands.parsing import parse
from jaxdepth.study.checkpoints.paired import mean_of, read_paired
from jaxdepth.study.checkpoints.settings import ProbeAgainst
from jaxdepth.study.checkpoints.summary import expected, main_position
from jaxdepth.study.checkpoints.tables import (
    AUROC,
    BASE,
    CONTROL,
    DANGEROUS,
    DANGEROUS_MINUS_CONTROL,
)

CEILING = 0.98  # an AUROC that leaves no room to sharpen


def verdicts(rows: pd.DataFrame) -> list[str]:
    """What C10 (safety training sharpens the dangerous domain) expects, and whether it is so."""
    position = main_position(rows)
    domains = (DANGEROUS, CONTROL, DANGEROUS_MINUS_CONTROL)
    mean = {domain: mean_of(rows, AUROC, domain, position) for domain in domains}
    lines = [
        "Expected if safety training sharpens the dangerous domain "
        f"(C10, at {position}; supported, refuted, or open where 0 is in the interval):"
    ]
    lines += [
        expected("probes of the dangerous domain improve with safety training", mean[DANGEROUS], 1),
        expected("it gains more than the control domain does", mean[DANGEROUS_MINUS_CONTROL], 1),
    ]
    full = [d for d in (DANGEROUS, CONTROL) if mean[d][BASE] >= CEILING]
    if full:
        lines.append(
            f"  Probes of the base reach an AUROC of {CEILING} or more ({' and '.join(full)}): "
            "there is little room to sharpen, and these prompts cannot refute the claim."
        )
    return lines


def main() -> int:
    """Run the comparison and print the answers; return the exit status."""
    settings = parse(
        ProbeAgainst, sys.argv[1:], "capability_elicitation", config="capability_elicitation"
    )
    status = probe.run(settings)
    if settings.comparison.against is not None:
        print("\n" + "\n".join(verdicts(read_paired(settings.probe.output.out))))
    return status


if __name__ == "__main__":
    sys.exit(guarded(main))
