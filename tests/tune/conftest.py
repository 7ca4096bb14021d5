import pytest

from jaxdepth.tune.tasks import read_tasks


@pytest.fixture(scope="session")
def tasks():
    """The built-in training tasks, by kind."""
    return read_tasks(["builtin:harmful/train"], "builtin")
