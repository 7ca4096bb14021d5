import pytest

from jaxdepth.prompts.datasets import read_prompts
from jaxdepth.tune.tasks import read_tasks


@pytest.fixture(scope="session")
def tasks():
    """The built-in training tasks, by kind."""
    return read_tasks(read_prompts(["builtin:harmful/train"]), "builtin")
