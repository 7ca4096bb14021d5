"""Settings of studies for tests, by their flat names."""

from jaxdepth.settings_file import build


def settings_of(cls, model, out, **values):
    """Settings of a command for a model and a run directory."""
    return build(cls, {"model": model, "out": out, **values})
