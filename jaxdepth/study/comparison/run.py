"""Sweep a checkpoint as it is and with adapters, and compare them."""

from dataclasses import replace
from pathlib import Path

from jaxdepth.depth.exits import parse_exits
from jaxdepth.errors import InputError
from jaxdepth.model.config import read_config
from jaxdepth.ranges import check_ranges
from jaxdepth.runtime.lock import one_at_a_time
from jaxdepth.runtime.progress import ProgressBar, silent
from jaxdepth.study.atomic_files import parquet, write_once
from jaxdepth.study.comparison.outcomes import Compared
from jaxdepth.study.comparison.settings import Study
from jaxdepth.study.comparison.tables import COMPARED_WINDOWS, COMPARISON
from jaxdepth.study.settings import UNTOUCHED, AdaptedModel, ExitStudy
from jaxdepth.study.sweep.curves import depth_curves
from jaxdepth.study.sweep.rates import write_rates
from jaxdepth.study.sweep.run import sweep
from jaxdepth.study.sweep.settings import sweep_settings
from jaxdepth.study.tuning.run import ADAPTER
from jaxdepth.study.verdicts.run import run_decide
from jaxdepth.study.verdicts.settings import Decide, Interventions, Thinking
from jaxdepth.weights.adapter import brings_tokens


@one_at_a_time(lambda settings: settings.study.output.out)
def run_study(settings: Study, bar: ProgressBar = silent) -> Compared:
    """Sweep the checkpoint as it is and with each adapter, and write what compares them.

    One reference judges the coherence of all: the untouched checkpoint, if none is named.

    Raises:
        InputError: as for `sweep`; or two adapters have one name, answers have no tokens, or exits
            leave out full depth.
    """
    study, runs = settings.study, dict[str, Path]()
    check_ranges(study)
    for adapter in settings.adapters:
        name = model_name(adapter)
        if name in runs:
            raise InputError(f"two of the adapters are called {name}: rename a file")
        runs[name] = study.output.out / name
    if not study.answers.max_new_tokens:
        raise InputError("max_new_tokens is 0: a comparison needs answers, set --max-new-tokens")
    depth = read_config(study.model.model / "config.json")[0].num_hidden_layers
    exits = study.decoding.exits
    if depth not in parse_exits(exits, depth):
        raise InputError(f"exits {exits} leave out full depth: add {depth}")
    for adapter, (name, path) in zip(settings.adapters, runs.items(), strict=True):

        def named(what: str, unit: str, name=name):
            return bar(f"{name}: {what}", unit)

        model = AdaptedModel(**vars(study.model), adapter=None if adapter == UNTOUCHED else adapter)
        run_one(study, model, path, named)
    compared = Compared.read(runs, study.windows)
    for table, content in (
        (COMPARISON, compared.table()),
        (COMPARED_WINDOWS, compared.windows_table()),
    ):
        write_once(study.output.out / f"{table.name}.parquet", parquet(content))
    return compared


def run_one(study: ExitStudy, model: AdaptedModel, out: Path, bar: ProgressBar) -> None:
    """Sweep one model of a study; a model that was tuned to decide first decides, then answers.

    The study's reference judges coherence, or the untouched checkpoint.
    """
    texts = replace(study.texts, reference=study.texts.reference or study.model.model)
    study = replace(study, texts=texts)
    output = replace(study.output, out=out)
    if model.adapter is None or not brings_tokens(model.adapter):
        run = sweep(sweep_settings(study, model, output), bar)
        write_rates(run, depth_curves(run.path, output.seed), study.windows)
        return
    run_decide(
        Decide(
            model=model,
            prompts=study.prompts,
            thinking=Thinking("tuned", answer_tokens=study.answers.max_new_tokens),
            decoding=study.decoding,
            interventions=Interventions(cuts=(), swap=False, force=False, cost_rounds=0),
            texts=texts,
            steering=study.steering,
            devices=study.devices,
            output=output,
        ),
        bar,
    )


def model_name(adapter: str) -> str:
    """The name of a model with an adapter: that of its file, or of the run that made it."""
    path = Path(adapter.removeprefix("builtin:"))
    return path.parent.name if path.name == ADAPTER else path.name.removesuffix(".safetensors")
