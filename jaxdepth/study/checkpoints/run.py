"""`jaxdepth probe --against`: two checkpoints side by side, layer by layer.

    base/, against/      the probe of each on the dangerous domain: the prompts
    control/             the same in the control domain
    facts/               facts read at every exit (with --facts)
    against.parquet      paired differences; see `jaxdepth.study.checkpoints.paired`

Prompts, folds and bootstrap draws are the same for both checkpoints.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.compute as pc

from jaxdepth.errors import InputError
from jaxdepth.model.config import read_config
from jaxdepth.prompts.batches import limit_prompts
from jaxdepth.prompts.datasets import cluster_of, read_prompts
from jaxdepth.runtime.progress import ProgressBar, silent
from jaxdepth.stats.intervals import resample_counts
from jaxdepth.stats.ranking import auroc
from jaxdepth.study.checkpoints.control import probe_control, two_classes
from jaxdepth.study.checkpoints.facts import FACTS, compare_facts, read_facts, read_out
from jaxdepth.study.checkpoints.paired import AUROC, Measured, paired_rows, write_paired
from jaxdepth.study.checkpoints.settings import ProbeAgainst
from jaxdepth.study.probes.evaluate import CONTENT, OWN
from jaxdepth.study.probes.run import probe
from jaxdepth.study.probes.settings import Probe
from jaxdepth.study.probes.tables import PROBE_SCORES
from jaxdepth.study.run_directory import read_table
from jaxdepth.study.settings import AdaptedModel
from jaxdepth.weights.adapter import adapter_digest, read_adapter
from jaxdepth.weights.checkpoint import MANIFEST, read_manifest

BASE, AGAINST = SIDES = "base", "against"
DANGEROUS, CONTROL = "dangerous", "control"


def compare_checkpoints(settings: ProbeAgainst, bar: ProgressBar = silent) -> Path:
    """Probes both checkpoints and writes how they differ; goes on where it was stopped.

    Returns:
        The folder with against.parquet.

    Raises:
        InputError: as for `probe`; the checkpoints are the same or of different depths; there is no
            such checkpoint, adapter, control domain or facts.
    """
    base, comparison = settings.probe, settings.comparison
    if base.probes.run is not None:
        raise InputError("--run is of one model: leave it out with --against")
    models = both_models(base.model, comparison.against)
    control = replace(base.prompts, prompts=comparison.control)
    two_classes(limit_prompts(read_prompts(control.prompts), control.limit), "--control")
    facts = None if comparison.facts is None else read_facts(comparison.facts)
    out = base.output.out

    def into(folder: Path, model: AdaptedModel) -> Probe:
        return replace(base, model=model, output=replace(base.output, out=folder))

    sides = {name: into(out / name, model) for name, model in models.items()}
    for name, side in sides.items():
        probe(side, named(bar, name))
    for name, model in models.items():
        side = replace(
            into(out / CONTROL / name, model),
            prompts=control,
            probes=replace(base.probes, transfer=()),
        )
        probe_control(side, named(bar, f"{CONTROL}, {name}"))
    resamples, seed = base.probes.draws, base.output.seed
    rows = compare_probes(out, resamples, seed)
    if facts is not None:
        rows += compare_knowledge(sides, facts, out, resamples, seed, bar)
    write_paired(out, rows)
    return out


def both_models(base: AdaptedModel, against: str) -> dict[str, AdaptedModel]:
    """The model of each side: `against` is another checkpoint, or an adapter of the base.

    Raises:
        InputError: there is no such checkpoint or adapter, it is the base itself, or it is of
            another depth.
    """
    if (Path(against) / MANIFEST).is_file():
        other = replace(base, model=Path(against), adapter=None)
    elif against.startswith("builtin:") or Path(against).exists():
        other = replace(base, adapter=against)
    else:
        raise InputError(f"--against {against}: no such checkpoint, adapter file or PEFT folder")
    models = {BASE: base, AGAINST: other}
    identities, depths = [], []
    for model in models.values():
        fingerprint = read_manifest(model.model)["fingerprint"]
        config = read_config(model.model / "config.json")[0]
        digest = None
        if model.adapter is not None:
            read_adapter(model.adapter, config)  # an error now, not after the base was probed
            digest = adapter_digest(model.adapter)
        identities.append((fingerprint, digest))
        depths.append(config.num_hidden_layers)
    if identities[0] == identities[1]:
        raise InputError(f"--against {against} is the base itself: name another checkpoint")
    if depths[0] != depths[1]:
        raise InputError(
            f"{base.model} has {depths[0]} layers, {against} has {depths[1]}: checkpoints are "
            "compared layer by layer, name one of the same depth"
        )
    return models


def compare_probes(out: Path, draws: int, seed: int) -> list[dict]:
    """The rows of `against` for finished probes of both checkpoints in both domains.

    At the positions that both chat templates have. The difference of differences tells what is
    particular to the dangerous domain.
    """
    # Another seed for the other prompts: draws of the two domains are independent.
    curves = {
        (domain, side): aurocs(out / folder / side, target, draws, seed + n)
        for n, (domain, folder, target) in enumerate(
            ((DANGEROUS, ".", CONTENT), (CONTROL, CONTROL, None))
        )
        for side in SIDES
    }
    counts = {
        domain: read_table(out / folder / BASE, "prompts").num_rows
        for domain, folder in ((DANGEROUS, "."), (CONTROL, CONTROL))
    }
    first, *others = curves.values()
    positions = [p for p in first if all(p in other for other in others)]
    if not positions:
        raise InputError("the checkpoints have no position in common: probe at instruction, last")
    rows = []
    for position in positions:
        at = {"measure": AUROC, "position": position}
        pairs = {d: [curves[d, side][position] for side in SIDES] for d in (DANGEROUS, CONTROL)}
        between = [a - b for a, b in zip(pairs[DANGEROUS], pairs[CONTROL], strict=True)]
        pairs[f"{DANGEROUS} - {CONTROL}"] = between
        for domain, pair in pairs.items():
            of = at | {"domain": domain, "n": counts.get(domain, sum(counts.values()))}
            rows += paired_rows(of, range(len(pair[0].value_X)), *pair)
    return rows


def aurocs(run_path: Path, target: str | None, draws: int, seed: int) -> dict[str, Measured]:
    """How well a run's logistic probes tell its own prompts apart, by position; X are layers.

    Args:
        run_path: a finished run with probe_scores.
        target: which of its targets; None where there is only one.
        draws: of the bootstrap of whole pairs.
        seed: of the draws: the same for two runs with the same prompts gives the same draws.
    """
    prompts = read_table(run_path, "prompts").to_pylist()
    counts_RN = resample_counts([cluster_of(p) for p in prompts], draws, seed)
    table = read_table(run_path, PROBE_SCORES.name)
    table = table.filter(pc.equal(table["set"], OWN))
    if target is not None:
        table = table.filter(pc.equal(table["target"], target))
    found = {}
    for position in table["position"].unique().to_pylist():
        here = table.filter(pc.equal(table["position"], position))
        # Rows go layer by layer, the prompts in the same order in each.
        score_XN = here["score"].to_numpy().reshape(-1, len(prompts))
        positive_N, fold_N = (
            here[name].to_numpy()[: len(prompts)].astype(int) for name in ("positive", "fold")
        )
        found[position] = Measured(
            auroc(score_XN, positive_N, fold_N),
            np.asarray(auroc(score_XN, positive_N, fold_N, counts_RN)),
        )
    return found


def compare_knowledge(
    sides: dict[str, Probe], facts, out: Path, draws: int, seed: int, bar: ProgressBar = silent
) -> list[dict]:
    """Reads facts off both checkpoints; the rows of `against` for them."""
    paths = [
        read_out(
            replace(side, output=replace(side.output, out=out / FACTS / name)),
            facts,
            named(bar, name),
        ).path
        for name, side in sides.items()
    ]
    return compare_facts(*paths, draws, seed)


def named(bar: ProgressBar, name: str) -> ProgressBar:
    """A progress bar that says which checkpoint it is about."""
    return lambda what, unit: bar(f"{name}: {what}", unit)
