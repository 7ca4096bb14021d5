"""A finished run that several modules certify."""

import pytest
from folders.runs import EXITS, make_run


@pytest.fixture(scope="session")
def static_run(tmp_path_factory):
    """Exits 30 to 26 are safe, 24 is not, 22 is once more."""
    return make_run(tmp_path_factory.mktemp("static") / "run", EXITS)
