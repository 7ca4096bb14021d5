"""`jaxdepth serve`: an OpenAI-compatible server of a model that decides before it answers."""

from jaxdepth.errors import InputError
from jaxdepth.serving.settings import Serve


def run(settings: Serve) -> int:
    try:
        from jaxdepth.serving.server.listen import serve
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("jaxdepth"):
            raise
        raise InputError(
            f"jaxdepth serve needs {error.name}: pip install 'jaxdepth[serve]'"
        ) from None
    serve(settings)
    return 0
