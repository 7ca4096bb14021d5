"""Which exit may be deployed, and what does a guard on harm save over static and confident exits?

Tests C5 (static truncation differs from per-token exit): truncation, confidence and guarded exits
of one model on the same prompts.

    python experiments/certified_exit.py MODEL [--adapter A] [any option of `jaxdepth sweep`]

Fits probes for harm to prompts that nothing is reported on, runs all policies on other prompts, and
certifies each policy by itself on half of them: the rule with the fewest layers on harmless prompts
that keeps harmful compliance, over-refusal and loss of quality within the tolerances. The settings
are configs/certified_exit.toml by default. The same command resumes an unfinished study.
"""

import sys
from dataclasses import replace

from jaxdepth.cli import guarded
from jaxdepth.commands.parsing import parse
from jaxdepth.commands.printing import print_places
from jaxdepth.depth.policies import Policy
from jaxdepth.errors import InputError
from jaxdepth.runtime.progress import progress_bar
from jaxdepth.study.certificates.certify import certify
from jaxdepth.study.certificates.settings import CertifiedExit, Certify
from jaxdepth.study.certificates.words import certificate_lines
from jaxdepth.study.policies.choice import write_policies
from jaxdepth.study.policies.figures import draw_policies
from jaxdepth.study.policies.rules import parse_rules
from jaxdepth.study.policies.run import sweep_policies
from jaxdepth.study.policies.settings import PolicySweep
from jaxdepth.study.policies.summary import print_policies
from jaxdepth.study.probes.harm_probes import HARM_PROBES
from jaxdepth.study.probes.run import probe
from jaxdepth.study.probes.settings import Probe, Probes


def main() -> int:
    """Run the study and print what each policy is certified for; return the exit status."""
    s = parse(CertifiedExit, sys.argv[1:], "certified_exit", config="certified_exit")
    if s.policies.probes is not None:
        raise InputError(
            "--probes does not apply: this study fits its own, to the prompts of --fit"
        )
    out = s.sweep.output.out
    fitted = probe(
        Probe(
            model=s.sweep.model,
            prompts=replace(s.sweep.prompts, prompts=s.fit, limit=None),
            probes=Probes(positions=("last",)),
            steering=s.sweep.steering,
            devices=s.sweep.devices,
            output=replace(s.sweep.output, out=out / "probe"),
        ),
        progress_bar,
    )
    sweep = replace(s.sweep, output=replace(s.sweep.output, out=out / "policies"))
    policies = replace(s.policies, probes=fitted.path / HARM_PROBES)
    run = sweep_policies(PolicySweep(sweep=sweep, policies=policies), progress_bar)
    write_policies(run, s.sweep.output.seed)
    print_policies(run.path)
    used = {rule.policy for rule in parse_rules(s.policies.policy)} - {Policy.ORACLE}
    for policy in (policy for policy in Policy if policy in used):
        certificate = certify(
            Certify((run.path,), s.tolerances, policies=(str(policy),), seed=s.sweep.output.seed)
        )
        certificate.write(out / f"certificate_{policy}.json")
        print(f"\n{policy}")
        print("\n".join(certificate_lines(certificate)))
    print_places(run.path, draw_policies(run.path))
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))
