"""`jaxdepth evaluate --with inspect`: tasks of Inspect at every exit, in one pass over prompts.

Each exit is a run of Inspect with a log of its own, as if `inspect eval` had run it. The runs go on
at the same time, so that their requests meet in one batch (queue.py). Inspect resumes what is
unfinished: samples that a log has are not answered again.
"""

import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import inspect_ai
import yaml
from inspect_ai.log import EvalLog
from inspect_ai.model import Model, get_model

from jaxdepth.benchmarks.inspect import provider
from jaxdepth.benchmarks.inspect.engine import Engine, open_engine
from jaxdepth.benchmarks.inspect.results import exit_of, finished_logs, latest, score_rows
from jaxdepth.benchmarks.settings import Evaluate
from jaxdepth.benchmarks.tables import SCORES
from jaxdepth.depth.exits import parse_exits
from jaxdepth.errors import InputError, one_line
from jaxdepth.files import file_digest
from jaxdepth.ranges import check_ranges
from jaxdepth.runtime.log import LOG_FILE
from jaxdepth.runtime.preemption import raise_if_stopped_here
from jaxdepth.runtime.progress import progress_bar
from jaxdepth.settings_file import flatten
from jaxdepth.study.loading import device_provenance, run_date
from jaxdepth.study.run_directory import RUN_FILE, Run

LOGS = "logs"  # in the run directory
# Samples of a task in flight, in batches: the next batch is complete while one is decoded.
_BATCHES_AHEAD = 4
_NO_LIMIT = 1_000_000  # on tasks and connections: an exit that waits keeps rows from being complete
# Paths, devices and memory; and what `_resolved` writes otherwise.
_UNRESOLVED = ("model", "adapter", "out", "mesh", "profile", "memory_gb", "batch_size", "with_")


def run(settings: Evaluate) -> Run:
    """Evaluate every exit, and write the table scores. The logs are in the folder logs.

    Raises:
        InputError: something in the settings, the checkpoint or the tasks is wrong, or samples
            failed.
        Stopped: the process has received SIGTERM; the same command goes on.
    """
    s = settings.evaluating
    check_ranges(settings)
    for task in s.tasks:
        file = task.partition("@")[0]
        if file.endswith(".py") and not Path(file).is_file():
            raise InputError(f"{file}: no such file with tasks")
    task_args = _pairs(settings.inspect.task_args, "task_args")
    roles = {role: str(m) for role, m in _pairs(settings.inspect.model_roles, "roles").items()}
    date = run_date(None, settings.output.out)
    engine = open_engine(settings.model, date, settings.devices.mesh)
    exits = parse_exits(s.exits, engine.depth)
    run = Run.open(
        settings.output.out,
        _resolved(settings, engine, exits),
        {"depth": engine.depth, **device_provenance(engine.loaded.model)},
    )
    if run.finished(SCORES.name):
        return run
    engine.memory_budget = int(s.memory_gb * 2**30)
    engine.queue.batch_size = s.batch_size
    models = [_model(settings, engine, exit_layer) for exit_layer in exits]
    folder = run.path / LOGS
    try:
        logs = _evaluate(settings, engine, models, folder, task_args, roles)
    except BaseException:
        _remove_if_empty(run, folder)
        raise
    rows = [row for log in latest(logs) for row in score_rows(log)]
    run.write_table(SCORES.name, SCORES.from_rows(rows))
    return run


def _evaluate(
    settings: Evaluate,
    engine: Engine,
    models: Sequence[Model],
    folder: Path,
    task_args: dict[str, Any],
    roles: dict[str, str],
) -> list[EvalLog]:
    """Run all exits at once; return their logs, without samples."""
    # Complete rows are those that all unfinished exits ask for.
    logs = latest(finished_logs(folder))
    counts = [sum(exit_of(log) == m.api.exit_layer for log in logs) for m in models]
    most = max(counts)
    unfinished = [m.api.exit_layer for m, count in zip(models, counts, strict=True) if count < most]
    engine.queue.exits = set(unfinished or [m.api.exit_layer for m in models])
    with progress_bar("evaluate", "answers") as engine.queue.report:
        return _run_set(settings, models, folder, task_args, roles)


def _run_set(
    settings: Evaluate,
    models: Sequence[Model],
    folder: Path,
    task_args: dict[str, Any],
    roles: dict[str, str],
) -> list[EvalLog]:
    s, options = settings.evaluating, settings.inspect
    refuse = _RefuseUnused()
    logging.getLogger(_RefuseUnused.LOGGER).addHandler(refuse)
    try:
        _, logs = inspect_ai.eval_set(
            list(s.tasks),
            log_dir=str(folder),
            model=list(models),
            task_args=task_args,
            model_roles=roles or None,
            limit=s.limit,
            epochs=options.epochs,
            max_tokens=options.max_tokens,
            temperature=options.temperature,
            seed=settings.output.seed,
            max_connections=_NO_LIMIT,
            max_samples=_BATCHES_AHEAD * s.batch_size,
            max_tasks=_NO_LIMIT,
            retry_attempts=0,
            retry_immediate=False,
            ctl_server=False,
            display="none",
            log_level="warning",
        )
    except InputError:
        raise
    except Exception as error:
        message = getattr(error, "message", error)  # Inspect's own errors have one
        raise InputError(f"Inspect cannot run {', '.join(s.tasks)}: {message}") from error
    finally:
        logging.getLogger(_RefuseUnused.LOGGER).removeHandler(refuse)
    raise_if_stopped_here()
    _check(logs)
    return logs


class _RefuseUnused(logging.Handler):
    """Refuses arguments that a task does not have: Inspect warns of them, and goes on."""

    LOGGER = "inspect_ai._eval.registry"

    def emit(self, record: logging.LogRecord) -> None:
        if "not used by task" in record.getMessage():
            raise InputError(
                f"task_args: {record.getMessage()}; leave it out, or evaluate tasks that have it "
                "by themselves"
            )


def _remove_if_empty(run: Run, folder: Path) -> None:
    """Leave nothing of a run in which no exit has begun: a task that is misspelled, for example."""
    if not any(folder.glob("*.eval")):
        shutil.rmtree(folder, ignore_errors=True)
        (run.path / RUN_FILE).unlink()
        (run.path / LOG_FILE).unlink(missing_ok=True)


def _check(logs: Sequence[EvalLog]) -> None:
    """Raise InputError unless all logs are complete, KeyboardInterrupt if someone ended them."""
    if any(log.status == "cancelled" for log in logs):
        raise KeyboardInterrupt
    failed = [log for log in logs if log.status != "success"]
    if failed:
        log = failed[0]
        reason = one_line(Exception(log.error.message)) if log.error else log.status
        raise InputError(
            f"{log.eval.task} failed at {len(failed)} of {len(logs)} exits, first at exit "
            f"{exit_of(log)} ({reason}): mend it and run the same command again, which keeps the "
            "samples that are done"
        )


def _model(settings: Evaluate, engine: Engine, exit_layer: int) -> Model:
    """One exit as a model of Inspect; its log holds what `inspect eval -M` would take."""
    model = settings.model
    given = {"adapter": model.adapter, "dtype": model.dtype, "int8": model.int8 or None}
    given["date"] = engine.loaded.encoder.date  # None where the template prints none
    arguments = {name: value for name, value in given.items() if value is not None}
    return get_model(f"{provider.NAME}/{model.model}", exit=exit_layer, **arguments)


def _resolved(settings: Evaluate, engine: Engine, exits: list[int]) -> dict[str, Any]:
    """The settings that decide the scores, with fingerprints and digests for paths."""
    kept = {k: v for k, v in flatten(settings).items() if k not in _UNRESOLVED}
    files = {task.partition("@")[0] for task in settings.evaluating.tasks}
    return kept | {
        **engine.loaded.resolved,
        "command": "evaluate",
        "library": settings.evaluating.with_,
        "model_name": str(settings.model.model),  # as the logs have it
        "exits": exits,
        "dtype": str(engine.loaded.model.embed[...].dtype),
        "task_files": {f: file_digest(Path(f)) for f in sorted(files) if Path(f).is_file()},
    }


def _pairs(words: Sequence[str], what: str) -> dict[str, Any]:
    """Read NAME=VALUE pairs, values as in YAML."""
    pairs = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not (name and equals):
            raise InputError(f"{what} {word!r}: expected NAME=VALUE")
        try:
            pairs[name] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise InputError(f"{what} {name}: not YAML ({one_line(error)})") from None
    return pairs
