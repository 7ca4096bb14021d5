"""`jaxdepth probe --against`: two checkpoints side by side, layer by layer.

    base/, against/      the probe of each on the dangerous domain: the prompts
    control/             the same in the control domain
    facts/               knowledge of each at every exit (with --facts)
    against.parquet      paired differences; see `jaxdepth.study.checkpoints.tables`

Prompts, folds and bootstrap resamples are the same for both checkpoints.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from jaxdepth.errors import InputError
from jaxdepth.model.config import read_config
from jaxdepth.prompts.batches import limit_prompts
from jaxdepth.prompts.datasets import read_prompts
from jaxdepth.runtime.lock import one_at_a_time
from jaxdepth.runtime.progress import ProgressBar, silent
from jaxdepth.stats.intervals import resample_counts
from jaxdepth.stats.ranking import auroc
from jaxdepth.stats.resampled import clusters_of
from jaxdepth.study.checkpoints.control import probe_control, two_classes
from jaxdepth.study.checkpoints.knowledge import (
    Question,
    compare_knowledge,
    measure_knowledge,
    read_questions,
)
from jaxdepth.study.checkpoints.paired import Curve, paired_rows, write_paired
from jaxdepth.study.checkpoints.settings import ProbeAgainst
from jaxdepth.study.checkpoints.tables import (
    AGAINST,
    AUROC,
    BASE,
    CONTROL,
    DANGEROUS,
    DANGEROUS_MINUS_CONTROL,
    KNOWLEDGE,
    SIDES,
)
from jaxdepth.study.common_tables import PROMPTS
from jaxdepth.study.probes.evaluate import CONTENT, OWN
from jaxdepth.study.probes.run import probe
from jaxdepth.study.probes.settings import Probe
from jaxdepth.study.probes.tables import PROBE_SCORES
from jaxdepth.study.run_directory import read_frame
from jaxdepth.study.settings import AdaptedModel
from jaxdepth.weights.adapter import adapter_digest, read_adapter
from jaxdepth.weights.checkpoint import MANIFEST, read_manifest


@one_at_a_time(lambda settings: settings.probe.output.out)
def compare_checkpoints(settings: ProbeAgainst, bar: ProgressBar = silent) -> Path:
    """Probe both checkpoints and write how they differ; resume where it was stopped.

    Returns:
        The folder with against.parquet.

    Raises:
        InputError: as for `probe`; the checkpoints are the same or of different depths; there is no
            such checkpoint, adapter, control domain or knowledge set.
    """
    base, comparison = settings.probe, settings.comparison
    if base.probes.run is not None:
        raise InputError("--run is of one model: leave it out with --against")
    assert comparison.against is not None  # or there would be one model to probe
    models = both_models(base.model, comparison.against)
    control = replace(base.prompts, prompts=comparison.control)
    controls = read_prompts(control.prompts, control.columns, needs_columns=False)
    two_classes(limit_prompts(controls, control.limit), "--control")
    questions = None if comparison.facts is None else read_questions(comparison.facts)
    out = base.output.out

    def settings_of(model: AdaptedModel, folder: Path) -> Probe:
        return replace(base, model=model, output=replace(base.output, out=folder))

    sides = {name: settings_of(model, out / name) for name, model in models.items()}
    for name, side in sides.items():
        probe(side, labelled(bar, name))
    for name, model in models.items():
        side = replace(
            settings_of(model, out / CONTROL / name),
            prompts=control,
            probes=replace(base.probes, transfer=()),
        )
        probe_control(side, labelled(bar, f"{CONTROL}, {name}"))
    resamples, seed = base.probes.draws, base.output.seed
    rows = compare_probes(out, resamples, seed)
    if questions is not None:
        knowledge = knowledge_rows(sides, questions, out, resamples, seed, bar)
        rows = pd.concat([rows, knowledge], ignore_index=True)
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


def compare_probes(out: Path, resamples: int, seed: int) -> pd.DataFrame:
    """Rows of `against` for finished probes of both checkpoints in both domains.

    At the positions that both chat templates have. The difference of differences tells what is
    particular to the dangerous domain.
    """
    folders, targets = {DANGEROUS: out, CONTROL: out / CONTROL}, {DANGEROUS: CONTENT, CONTROL: None}
    # Another seed for the other prompts: the two domains are resampled independently.
    curves = {
        (domain, side): auroc_curves(folder / side, targets[domain], resamples, seed + d)
        for d, (domain, folder) in enumerate(folders.items())
        for side in SIDES
    }
    counts = {d: len(read_frame(folder / BASE, PROMPTS)) for d, folder in folders.items()}
    counts[DANGEROUS_MINUS_CONTROL] = sum(counts.values())
    first, *others = curves.values()
    positions = [p for p in first if all(p in other for other in others)]
    if not positions:
        raise InputError("the checkpoints have no position in common: probe at instruction, last")
    parts = []
    for position in positions:
        pairs = {d: [curves[d, side][position] for side in SIDES] for d in folders}
        pairs[DANGEROUS_MINUS_CONTROL] = [
            a - b for a, b in zip(pairs[DANGEROUS], pairs[CONTROL], strict=True)
        ]
        for domain, (base, against) in pairs.items():
            layers = range(len(base.value_X))
            parts.append(
                paired_rows(AUROC, domain, counts[domain], layers, base, against, position=position)
            )
    return pd.concat(parts, ignore_index=True)


def auroc_curves(run_path: Path, target: str | None, resamples: int, seed: int) -> dict[str, Curve]:
    """AUROC of a run's logistic probes on its own prompts at every layer, by position.

    Args:
        run_path: a finished run with probe_scores.
        target: which of its targets; None where there is only one.
        resamples: of the bootstrap of whole pairs.
        seed: of the bootstrap: two runs with the same prompts and seed have the same resamples.
    """
    prompts = read_frame(run_path, PROMPTS)
    counts_RN = resample_counts(prompts["pair_id"].fillna(prompts["prompt_id"]), resamples, seed)
    scores = read_frame(run_path, PROBE_SCORES)
    scores = scores[scores["set"] == OWN]
    if target is not None:
        scores = scores[scores["target"] == target]
    curves = {}
    for position, rows in scores.groupby("position", sort=False):
        # Rows go layer by layer, the prompts in the same order in each.
        score_XN = rows["score"].to_numpy().reshape(-1, len(prompts))
        positive_N, fold_N = (
            rows[name].to_numpy()[: len(prompts)].astype(int) for name in ("positive", "fold")
        )
        curves[position] = Curve(
            auroc(score_XN, positive_N, fold_N),
            np.asarray(auroc(score_XN, positive_N, fold_N, counts_RN)),
            clusters_of(counts_RN),
        )
    return curves


def knowledge_rows(
    sides: dict[str, Probe],
    questions: Sequence[Question],
    out: Path,
    resamples: int,
    seed: int,
    bar: ProgressBar = silent,
) -> pd.DataFrame:
    """Measure the knowledge of both checkpoints; return the rows of `against` about it."""
    paths = {}
    for name, side in sides.items():
        output = replace(side.output, out=out / KNOWLEDGE.name / name)
        run = measure_knowledge(replace(side, output=output), questions, labelled(bar, name))
        paths[name] = run.path
    return compare_knowledge(paths[BASE], paths[AGAINST], resamples, seed)


def labelled(bar: ProgressBar, name: str) -> ProgressBar:
    """A progress bar whose description begins with the name of a checkpoint."""
    return lambda what, unit: bar(f"{name}: {what}", unit)
