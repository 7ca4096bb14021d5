"""Tune the arms, let each decide on the same prompts, and fit the probe.

OUT/tune/ARM-SEED          the tuning run of an arm that was not given
OUT/decide/ARM-SEED        its verdicts, as `jaxdepth decide` writes them
OUT/decide/ARM-SEED-votes  sampled votes, forced verdicts and costs of one adapter
OUT/probe                  the probe before any thought
OUT/spoken                 answers of the adapter that is the bar for those after COMPLY
"""

from dataclasses import dataclass, replace
from pathlib import Path

from jaxdepth.depth.exits import parse_exits
from jaxdepth.errors import InputError, listed
from jaxdepth.model.config import read_config
from jaxdepth.ranges import check_ranges
from jaxdepth.runtime.lock import one_at_a_time
from jaxdepth.runtime.progress import ProgressBar, silent
from jaxdepth.settings_file import build, read_settings
from jaxdepth.study.common_tables import GENERATIONS
from jaxdepth.study.comparison.run import run_one
from jaxdepth.study.run_directory import RUN_FILE, Run, read_record
from jaxdepth.study.settings import AdaptedModel, Answers, ExitStudy, Output, Texts
from jaxdepth.study.thinking.arms import (
    ARMS,
    THOUGHT,
    Unit,
    check_adapter,
    parse_unit,
    plan_units,
    training_settings,
)
from jaxdepth.study.thinking.probe import fit_probe
from jaxdepth.study.thinking.settings import ThinkThenDecide
from jaxdepth.study.tuning.run import ADAPTER, tune
from jaxdepth.study.tuning.settings import Optimisation, Tune
from jaxdepth.study.verdicts.run import run_decide
from jaxdepth.study.verdicts.scores import write_verdicts
from jaxdepth.study.verdicts.settings import Decide, Interventions, Thinking
from jaxdepth.study.verdicts.tables import SCORES, SWAPPED, VERDICT_TABLE
from jaxdepth.weights.adapter import check_base, read_adapter
from jaxdepth.weights.checkpoint import read_manifest


@dataclass(frozen=True)
class UnitRun:
    """An arm with one seed: its adapter and its finished run, None where it was not run."""

    unit: Unit
    adapter: str | None
    path: Path | None


@dataclass(frozen=True)
class StudyRuns:
    """What a call has made, and what earlier calls have."""

    units: tuple[UnitRun, ...]
    probe: Path
    votes: Path | None = None
    spoken: Path | None = None


@one_at_a_time(lambda settings: settings.output.out)
def run_arms(settings: ThinkThenDecide, bar: ProgressBar = silent) -> StudyRuns:
    """Run what is asked for, and find what earlier calls finished; an unfinished run is resumed.

    Raises:
        InputError: something in the settings, the recipe, the adapters or the checkpoint is wrong.
    """
    units, given, chosen = _check(settings)
    out = settings.output.out
    probe = fit_probe(settings, _named(bar, "probe")).path
    runs = [_run_unit(settings, unit, given.get(unit), unit in chosen, bar) for unit in units]
    votes, spoken = None, _finished(out / "spoken", GENERATIONS.name)
    first = next((r for r in runs if r.unit.arm == THOUGHT and r.path), None)
    if first and first.path:
        write_verdicts(Run(first.path, read_record(first.path)), settings.output.seed)
        votes = _finished(_votes_path(settings, first.unit), SCORES.name)
        if first.unit in chosen:
            votes = _run_votes(settings, first, bar)
    if settings.measures.spoken and any(r.path for r in runs if r.unit in _answered(settings)):
        spoken = _run_spoken(settings, _named(bar, "spoken"))
    return StudyRuns(tuple(runs), probe, votes, spoken)


def _check(settings: ThinkThenDecide) -> tuple[list[Unit], dict[Unit, str], set[Unit]]:
    """Check the settings before anything is run; returns the plan."""
    m = settings.measures
    check_ranges(settings)
    config = read_config(settings.model.model / "config.json")[0]
    depth, exits = config.num_hidden_layers, settings.decoding.exits
    if depth not in parse_exits(exits, depth):
        raise InputError(f"exits {exits} leave out full depth: add {depth}")
    plan = plan_units(settings.arms)
    for unit in _answered(settings):
        if unit not in plan[0]:
            raise InputError(
                f"answered {unit.name} is not among {listed([u.name for u in plan[0]], 12)}: "
                "name others with --answered"
            )
    # Before hours of tuning: adapters that are not of this base, or not of their arm.
    fingerprint = read_manifest(settings.model.model)["fingerprint"]
    for unit, adapter in plan[1].items():
        check_base(read_adapter(adapter, config), fingerprint, adapter)
        check_adapter(unit, adapter)
    if m.spoken is not None:
        check_base(read_adapter(m.spoken, config), fingerprint, m.spoken)
    return plan


def _answered(settings: ThinkThenDecide) -> set[Unit]:
    return {parse_unit(name) for name in settings.measures.answered}


def _run_unit(
    settings: ThinkThenDecide, unit: Unit, given: str | None, is_chosen: bool, bar: ProgressBar
) -> UnitRun:
    """Tune and decide, if this call is to; else what an earlier call finished."""
    out, tuned = settings.output.out, settings.output.out / "tune" / unit.name
    adapter = given or (str(tuned / ADAPTER) if (tuned / ADAPTER).is_file() else None)
    path = out / "decide" / unit.name
    if not is_chosen:
        last = SWAPPED if ARMS[unit.arm].thinks and settings.texts.keep_text else VERDICT_TABLE
        return UnitRun(unit, adapter, _finished(path, last.name))
    if given is None and settings.arms.train:
        adapter = _tune(settings, unit, tuned, _named(bar, unit.name))
    if adapter is None:
        return UnitRun(unit, None, None)
    run_decide(_decide_settings(settings, unit, adapter, path), _named(bar, unit.name))
    return UnitRun(unit, adapter, path)


def _tune(settings: ThinkThenDecide, unit: Unit, out: Path, bar: ProgressBar) -> str:
    """Tune one arm, or resume it; returns its adapter."""
    recipe = training_settings(unit, read_settings(Tune, settings.arms.recipe))
    recipe |= {"model": settings.model.model, "dtype": settings.model.dtype, "out": out}
    if settings.arms.steps is not None:
        warmup = recipe.get("warmup", Optimisation().warmup)
        steps = settings.arms.steps
        recipe |= {"steps": steps, "warmup": min(warmup, steps // 10)}
    return str(tune(build(Tune, recipe), bar).path / ADAPTER)


def _decide_settings(settings: ThinkThenDecide, unit: Unit, adapter: str, out: Path) -> Decide:
    """Decide greedily under the adapter's own protocol."""
    m, thinks = settings.measures, ARMS[unit.arm].thinks
    answers = m.answer_tokens if unit in _answered(settings) else 0
    return Decide(
        model=AdaptedModel(**vars(settings.model), adapter=adapter),
        prompts=settings.prompts,
        thinking=Thinking(answer_tokens=answers),
        decoding=settings.decoding,
        interventions=Interventions(
            cuts=m.cuts if thinks else (), swap=thinks, force=False, cost_rounds=0
        ),
        texts=_texts(settings),
        devices=settings.devices,
        output=Output(out, settings.output.seed),
    )


def _run_votes(settings: ThinkThenDecide, first: UnitRun, bar: ProgressBar) -> Path | None:
    """Sample votes, force verdicts and measure costs of the first adapter that thinks."""
    m, path = settings.measures, _votes_path(settings, first.unit)
    if first.adapter is None or not (m.votes and m.votes_limit and m.answer_tokens):
        return None
    decide = _decide_settings(settings, first.unit, first.adapter, path)
    decide = replace(
        decide,
        prompts=replace(settings.prompts, limit=m.votes_limit),
        thinking=Thinking(votes=m.votes, series="redecide", answer_tokens=m.answer_tokens),
        decoding=replace(settings.decoding, temperature=m.vote_temperature),
        interventions=Interventions(cuts=m.cuts),
    )
    write_verdicts(run_decide(decide, _named(bar, "votes")), settings.output.seed)
    return path


def _votes_path(settings: ThinkThenDecide, unit: Unit) -> Path:
    return settings.output.out / "decide" / f"{unit.name}-votes"


def _run_spoken(settings: ThinkThenDecide, bar: ProgressBar) -> Path:
    """Let the adapter that does not decide answer the same prompts at full depth."""
    depth = read_config(settings.model.model / "config.json")[0].num_hidden_layers
    path = settings.output.out / "spoken"
    study = ExitStudy(
        model=settings.model,
        prompts=settings.prompts,
        decoding=replace(settings.decoding, exits=str(depth)),
        answers=Answers(max_new_tokens=settings.measures.answer_tokens),
        texts=_texts(settings),
        devices=settings.devices,
        output=settings.output,
    )
    model = AdaptedModel(**vars(settings.model), adapter=settings.measures.spoken)
    run_one(study, model, path, bar)
    return path


def _texts(settings: ThinkThenDecide) -> Texts:
    """One reference judges the answers of all: the untouched checkpoint, if none is named."""
    reference = settings.texts.reference or settings.model.model
    return replace(settings.texts, reference=reference)


def _finished(path: Path, table: str) -> Path | None:
    """The run directory, if its last table is finished."""
    if not (path / RUN_FILE).is_file():
        return None
    return path if Run(path, read_record(path)).finished(table) else None


def _named(bar: ProgressBar, name: str) -> ProgressBar:
    def named(what: str, unit: str):
        return bar(f"{name}: {what}", unit)

    return named
