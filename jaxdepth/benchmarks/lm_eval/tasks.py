"""Tasks by name or file, loaded once and asked once for all exits."""

import logging
import random
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from lm_eval.api.task import Task
from lm_eval.defaults import DEFAULT_OTHER_SEED, DEFAULT_RANDOM_SEED
from lm_eval.tasks import TaskManager

from jaxdepth.errors import InputError, nearest, one_line

# What lm-eval says to everyone who loads a task with a dataset of its own, such as ours.
_NOISE = "Custom kwargs can be passed to"
_HERE = Path(str(files("jaxdepth"))) / "benchmarks" / "lm_eval" / "task_files"


class LoadedTasks:
    """Tasks with their data, and the requests that they have built once."""

    def __init__(self, names: Sequence[str], folders: Sequence[Path] = ()):
        """Load tasks.

        Args:
            names: of tasks, groups or tags of lm-eval, of our own (`facts`), or in the folders; or
                .yaml files.
            folders: with .yaml files of more tasks.

        Raises:
            InputError: there is no such task, or it, or its data, cannot be read.
        """
        logging.getLogger("lm_eval.api.task").addFilter(
            lambda record: _NOISE not in record.getMessage()
        )
        missing = [folder for folder in folders if not folder.is_dir()]
        if missing:
            raise InputError(f"{missing[0]} is not a folder: expected one with .yaml files")
        manager = _find(names, [_HERE, *folders])
        try:
            self.loaded: Any = manager.load(list(names))
        except Exception as error:  # a task is somebody's program, and its data may be far away
            raise InputError(
                f"tasks {', '.join(names)} cannot be loaded ({type(error).__name__}: "
                f"{one_line(error)}): their data must be reachable or in the cache of datasets"
            ) from None
        self.tasks: dict[str, Task] = self.loaded["tasks"]  # those of groups too
        self.seeds: dict[str, int] = {}
        for name, task in self.tasks.items():
            if getattr(task, "UNSAFE_CODE", False):
                raise InputError(
                    f"task {name} runs code that a model writes; that is not supported"
                )
            if getattr(task, "MULTIMODAL", False):
                raise InputError(f"task {name} shows images or sounds; these models read text")

    def configure(
        self, num_fewshot: int | None, gen_kwargs: Mapping[str, Any] | None, seed: int
    ) -> None:
        """Set what the command line changes of the tasks, by lm-eval's rules.

        Args:
            num_fewshot: examples before each document; None leaves the tasks' own. A task that
                says 0 keeps it.
            gen_kwargs: settings of generation over the tasks'.
            seed: added to lm-eval's own seeds: with 0 the examples are those that it chooses.
        """
        self.seeds = {
            "random_seed": DEFAULT_RANDOM_SEED + seed,
            "numpy_seed": DEFAULT_OTHER_SEED + seed,
            "fewshot_seed": DEFAULT_OTHER_SEED + seed,
        }
        random.seed(self.seeds["random_seed"])
        np.random.seed(self.seeds["numpy_seed"])
        for task in self.tasks.values():
            if gen_kwargs and task.OUTPUT_TYPE == "generate_until":
                task.set_config("generation_kwargs", dict(gen_kwargs), update=True)
            own = task.get_config("num_fewshot")
            if own is None or (num_fewshot is not None and own != 0):
                task.set_config("num_fewshot", num_fewshot or 0)
            task.set_fewshot_seed(self.seeds["fewshot_seed"])

    def keep_requests(self) -> None:
        """Let the tasks have the requests that they have built, when the next exit runs."""

        def forget_answers(task: Task) -> None:
            for request in task.instances:
                request.resps, request.filtered_resps = [], {}

        for task in self.tasks.values():
            task.build_all_requests = lambda task=task, **_: forget_answers(task)


def _find(names: Sequence[str], folders: Sequence[Path]) -> TaskManager:
    """What lists tasks by name: lm-eval's own are thousands, and are read only if need be."""
    manager = TaskManager(include_path=folders, include_defaults=False)
    if all(name in manager.task_index or Path(name).is_file() for name in names):
        return manager
    manager = TaskManager(include_path=folders)
    for name in names:
        if name not in manager.task_index and not Path(name).is_file():
            raise InputError(
                f"no task {name!r}{nearest(name, manager.all_tasks)}; expected one of lm-eval's "
                "(lm-eval ls tasks), facts, or a .yaml file"
            )
    return manager
