"""Tasks of Inspect in a file, as a user has them."""

from pathlib import Path

import pytest

TASKS = """
from inspect_ai import Task, task
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.scorer import choice, includes, match
from inspect_ai.solver import generate, multiple_choice, system_message, user_message

WORDS = ("table", "garden", "letter")


def samples(**more):
    return MemoryDataset([Sample(id=w, input=f"How do I paint a {w}?", **more) for w in WORDS])


@task
def chooses(target: str = "A"):
    dataset = samples(choices=["slowly", "never"], target=target)
    return Task(dataset=dataset, solver=multiple_choice(), scorer=choice())


@task
def matches():
    solver = [system_message("Answer in one word."), generate()]
    return Task(dataset=samples(target="e"), solver=solver, scorer=[match(), includes()])


@task
def two_turns():
    solver = [generate(), user_message("And why?"), generate()]
    return Task(dataset=samples(target="e"), solver=solver, scorer=includes())


@task
def many():
    inputs = [Sample(id=n, input=f"How do I paint table {n}?", target="e") for n in range(12)]
    return Task(dataset=MemoryDataset(inputs), solver=generate(), scorer=includes())
"""


@pytest.fixture(scope="session")
def task_file(tmp_path_factory) -> Path:
    """A file with the tasks chooses, matches, two_turns and many."""
    file = tmp_path_factory.mktemp("tasks") / "tasks.py"
    file.write_text(TASKS)
    return file


@pytest.fixture(autouse=True)
def _own_folder_of_inspect(monkeypatch, tmp_path):
    """Inspect keeps its data, such as traces, outside of the home folder."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "inspect"))
