"""Tasks by name or file, loaded once and asked once for all exits."""

import logging
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from lm_eval.api.task import Task
from lm_eval.tasks import TaskManager

from jaxdepth.errors import InputError, nearest, one_line

# What lm-eval says to everyone who loads a task with a dataset of its own, such as ours.
_NOISE = "Custom kwargs can be passed to"
_HERE = Path(str(files("jaxdepth"))) / "benchmarks" / "lm_eval" / "task_files"


class LoadedTasks(TaskManager):
    """lm-eval's manager of tasks, which loads once what it is asked for."""

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
        paths = [_HERE, *folders]
        super().__init__(include_path=paths, include_defaults=False)
        if not all(name in self.task_index or Path(name).is_file() for name in names):
            super().__init__(include_path=paths)  # lm-eval has thousands of tasks to read
        for name in names:
            if name not in self.task_index and not Path(name).is_file():
                raise InputError(
                    f"no task {name!r}{nearest(name, self.all_tasks)}; expected one of lm-eval's "
                    "(lm-eval ls tasks), facts, or a .yaml file"
                )
        try:
            self._loaded: Any = super().load(list(names))
        except Exception as error:  # a task is somebody's program, and its data may be far away
            raise InputError(
                f"tasks {', '.join(names)} cannot be loaded ({type(error).__name__}: "
                f"{one_line(error)}): their data must be reachable or in the cache of datasets"
            ) from None
        for name, task in self.tasks.items():
            if getattr(task, "UNSAFE_CODE", False):
                raise InputError(
                    f"task {name} runs code that a model writes; that is not supported"
                )
            if getattr(task, "MULTIMODAL", False):
                raise InputError(f"task {name} shows images or sounds; these models read text")

    @property
    def tasks(self) -> dict[str, Task]:
        """The tasks by name, those of groups too."""
        return self._loaded["tasks"]

    def load(self, task_list: Any) -> Any:
        """What was loaded, whatever is asked for: lm-eval asks for the same again."""
        return self._loaded

    def keep_requests(self) -> None:
        """Let the tasks have the requests that they have built, when the next exit runs."""

        def forget_answers(task: Task) -> None:
            for request in task.instances:
                request.resps, request.filtered_resps = [], {}

        for task in self.tasks.values():
            task.build_all_requests = lambda task=task, **_: forget_answers(task)  # type: ignore
