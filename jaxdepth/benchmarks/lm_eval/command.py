"""`jaxdepth evaluate --with lm-eval`: its tasks at every exit, in one run directory."""

import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow as pa
from lm_eval.evaluator import evaluate
from lm_eval.loggers.utils import add_tokenizer_info
from lm_eval.utils import simple_parse_args_string

from jaxdepth.benchmarks.lm_eval.answers import ExitAnswers
from jaxdepth.benchmarks.lm_eval.model import ExitLM
from jaxdepth.benchmarks.lm_eval.results import write_results
from jaxdepth.benchmarks.lm_eval.scores import score_rows
from jaxdepth.benchmarks.lm_eval.tasks import LoadedTasks
from jaxdepth.benchmarks.settings import Evaluate
from jaxdepth.benchmarks.tables import SCORES
from jaxdepth.depth.exits import parse_exits
from jaxdepth.errors import InputError, one_line
from jaxdepth.ranges import check_ranges
from jaxdepth.runtime.progress import ProgressBar, progress_bar
from jaxdepth.settings_file import flatten
from jaxdepth.study.batched import OnHost, in_parts
from jaxdepth.study.loading import LoadedModel, device_provenance, load_model, run_date
from jaxdepth.study.run_directory import Run, read_table
from jaxdepth.study.tables import Table

RESAMPLES = 1000  # of lm-eval's standard errors that have no formula
# Paths and memory: fingerprints and digests stand for them.
_UNRESOLVED = {"model", "adapter", "out", "mesh", "profile", "memory_gb"}
_UNRESOLVED |= {"include_path", "log_samples"}


def run(settings: Evaluate, bar: ProgressBar = progress_bar) -> Run:
    """Evaluate a model on tasks at every exit: tables in the run directory, and lm-eval's results.

    Raises:
        InputError: something in the settings, the tasks or the checkpoint is wrong.
    """
    chosen, options = settings.evaluating, settings.lm_eval
    check_ranges(settings)
    gen_kwargs = _generation(options.gen_kwargs)
    tasks = LoadedTasks(chosen.tasks, options.include_path)
    tasks.configure(options.num_fewshot, gen_kwargs, settings.output.seed)
    date = run_date(None, settings.output.out)
    loaded = load_model(settings.model, settings.devices, date)
    if options.apply_chat_template and not loaded.encoder.has_template:
        raise InputError("this model has no chat template: leave out --apply-chat-template")
    exits = parse_exits(chosen.exits, loaded.model.depth)
    answers = ExitAnswers(
        loaded.model,
        loaded.tokenizer,
        loaded.end_tokens,
        exits,
        chosen.batch_size,
        int(chosen.memory_gb * 2**30),
        settings.output.seed,
    )
    name = settings.model.model.name
    models = [ExitLM(answers, e, options.max_length, date, name) for e in exits]
    directory = _open_run(settings, loaded, exits)
    answers.keep = _keep_in(directory, bar)
    results = evaluate_exits(models, tasks, settings)
    seed = settings.output.seed
    directory.write_table(
        SCORES.name, SCORES.from_rows(score_rows(exits, results, tasks.tasks, seed))
    )
    in_template = options.apply_chat_template
    prompting = {
        "system_instruction": options.system_instruction,
        "chat_template": models[0].chat_template(True) if in_template else None,
        "fewshot_as_multiturn": in_template,
    }
    write_results(directory.path, name, exits, results, options.log_samples, prompting)
    return directory


def evaluate_exits(
    models: Sequence[ExitLM], tasks: LoadedTasks, settings: Evaluate
) -> list[dict[str, Any]]:
    """lm-eval's results of every exit; the first exit has the requests of all of them answered."""
    options, results = settings.lm_eval, []
    shared: dict[str, Any] = {
        "limit": settings.evaluating.limit,
        "bootstrap_iters": RESAMPLES,
        "system_instruction": options.system_instruction,
        "apply_chat_template": options.apply_chat_template,
        "fewshot_as_multiturn": options.apply_chat_template,
    }
    config = {
        "model": "jaxdepth",
        "batch_size": settings.evaluating.batch_size,
        **{name: shared[name] for name in ("limit", "bootstrap_iters")},
        "gen_kwargs": list(options.gen_kwargs),
        **tasks.seeds,
    }
    versions = {f"{name}_version": version(name) for name in ("transformers", "lm_eval")}
    with _as_one_line():
        for model in models:
            result: Any = {"date": time.time(), **evaluate(model, tasks.loaded, **shared)}
            arguments = f"pretrained={model.name},exit={model.exit_layer}"
            of_model = {"model_args": arguments, **model.get_model_info()}
            result |= {"config": config | of_model, **versions}
            add_tokenizer_info(result, model)
            results.append(result)
            tasks.keep_requests()
    return results


@contextmanager
def _as_one_line() -> Iterator[None]:
    """Turn lm-eval's errors into one line; let it print beside the results, and not fork."""
    before = os.environ.get("DISABLE_MULTIPROC")
    os.environ["DISABLE_MULTIPROC"] = "1"  # a forked process would hang in JAX's threads
    try:
        with redirect_stdout(sys.stderr):
            yield
    except (InputError, OSError):
        raise
    except Exception as error:
        frames = [
            frame.f_globals["__name__"] for frame, _ in traceback.walk_tb(error.__traceback__)
        ]
        if any(
            name.startswith("jaxdepth.") for name in frames[frames.index("lm_eval.evaluator") :]
        ):
            raise  # a mistake of ours
        raise InputError(
            f"lm-eval cannot evaluate this task ({type(error).__name__}: {one_line(error)})"
        ) from None
    finally:
        if before is None:
            del os.environ["DISABLE_MULTIPROC"]
        else:
            os.environ["DISABLE_MULTIPROC"] = before


def _generation(words: Sequence[str]) -> dict[str, Any] | None:
    """Settings of generation from NAME=VALUE, read as lm-eval reads them."""
    wrong = [word for word in words if "=" not in word]
    if wrong:
        raise InputError(f"--gen-kwargs {wrong[0]!r}: expected NAME=VALUE, such as max_gen_toks=64")
    return simple_parse_args_string(",".join(words)) if words else None


def _keep_in(run: Run, bar: ProgressBar) -> Callable[..., pa.Table]:
    """Keep answers in a run directory, batch by batch."""

    def keep(
        table: Table, digest: str, batches: Sequence[Any], rows: Callable[[Any], OnHost]
    ) -> pa.Table:
        name = f"{table.name}.requests.sha256"
        if not run.has_file(name):
            run.write_file(name, lambda path: path.write_text(digest))
        elif (run.path / name).read_text() != digest:
            raise InputError(
                f"the requests of these tasks are others than when {run.path} began: name another "
                "--out"
            )
        in_parts(run, (table.name,), batches, rows, bar, "requests")
        return read_table(run.path, table)

    return keep


def _open_run(settings: Evaluate, loaded: LoadedModel, exits: list[int]) -> Run:
    of_others = _UNRESOLVED | set(vars(settings.inspect))
    resolved = {k: v for k, v in flatten(settings).items() if k not in of_others}
    resolved |= {
        **loaded.resolved,
        "command": "evaluate",
        "lm_eval": version("lm_eval"),
        "tasks": [
            Path(name).stem if Path(name).is_file() else name for name in settings.evaluating.tasks
        ],
        "exits": exits,
        "dtype": str(loaded.model.embed[...].dtype),
    }
    provenance = {
        "model": str(settings.model.model),
        "adapter": settings.model.adapter,
        "depth": loaded.model.depth,
        **device_provenance(loaded.model),
    }
    return Run.open(settings.output.out, resolved, provenance)
