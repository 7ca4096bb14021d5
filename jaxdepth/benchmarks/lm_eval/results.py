"""lm-eval's own results: a folder for each exit, as its tools read one for each model."""

import copy
import logging
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lm_eval.loggers import EvaluationTracker

from jaxdepth.errors import InputError
from jaxdepth.study.atomic_files import on_first
from jaxdepth.weights.atomic_folder import atomic_folder

FOLDER = "lm-eval"


def write_results(
    run_path: Path,
    name: str,
    exits: Sequence[int],
    results: Sequence[Mapping[str, Any]],
    with_samples: bool,
    prompting: Mapping[str, Any],
) -> None:
    """Write `lm-eval/NAME-exit-08/results_DATE.json` for every exit, in place of earlier ones.

    Args:
        run_path: the run directory.
        name: of the model.
        exits: of the results.
        results: lm-eval's, with samples.
        with_samples: whether also `samples_TASK_DATE.jsonl` is written, a line for a document.
        prompting: system_instruction, chat_template and fewshot_as_multiturn, as they were used.

    Raises:
        InputError: they cannot be written; what was there before stays.
    """

    def write() -> None:
        target = run_path / FOLDER
        with atomic_folder(target) as folder:
            for exit_layer, result in zip(exits, results, strict=True):
                of_exit = f"{name}-exit-{exit_layer:02d}"
                _write_exit(folder, of_exit, result, with_samples, prompting)
            shutil.rmtree(target, ignore_errors=True)

    on_first(write)


def _write_exit(
    folder: Path,
    name: str,
    result: Mapping[str, Any],
    with_samples: bool,
    prompting: Mapping[str, Any],
) -> None:
    tracker = EvaluationTracker(output_path=str(folder))
    config = tracker.general_config_tracker
    config.log_experiment_args("jaxdepth", {"pretrained": name}, **prompting)
    content = copy.copy(dict(result))
    samples = content.pop("samples")
    logging.getLogger("lm_eval.loggers.evaluation_tracker").setLevel(logging.ERROR)
    tracker.save_results_aggregated(results=content, samples=samples)
    expected = 1
    for task, of_task in samples.items() if with_samples else ():
        tracker.save_results_samples(task_name=task, samples=[dict(s) for s in of_task])
        expected += 1
    # The tracker logs an error where others raise it.
    if len(list((folder / str(config.model_name_sanitized)).glob("*_*.json*"))) != expected:
        raise InputError(f"lm-eval cannot write its results to {folder.parent}: free some space")
