"""What happens to a language model's safety when it is truncated: every exit at once, in JAX.

Names are imported when they are first used: `import jaxdepth` loads neither JAX nor a device.
"""

import importlib
from importlib.metadata import version as _version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jaxdepth.api import StudyRun, decide, hidden_states, open_run, probe, sweep
    from jaxdepth.depth.dynamic import generate_dynamic
    from jaxdepth.depth.exits import exit_logits
    from jaxdepth.depth.generation import generate
    from jaxdepth.depth.speculative import speculate
    from jaxdepth.errors import InputError
    from jaxdepth.model.sharding import make_mesh
    from jaxdepth.refusal.outcome import classify_texts
    from jaxdepth.serving.respond import open_responder, respond, stream_response
    from jaxdepth.serving.responder import Responder, Response
    from jaxdepth.weights.load import load

__version__ = _version("jaxdepth")

_HOMES = {
    "InputError": "jaxdepth.errors",
    "Responder": "jaxdepth.serving.responder",
    "Response": "jaxdepth.serving.responder",
    "StudyRun": "jaxdepth.api",
    "classify_texts": "jaxdepth.refusal.outcome",
    "decide": "jaxdepth.api",
    "exit_logits": "jaxdepth.depth.exits",
    "generate": "jaxdepth.depth.generation",
    "generate_dynamic": "jaxdepth.depth.dynamic",
    "hidden_states": "jaxdepth.api",
    "load": "jaxdepth.weights.load",
    "make_mesh": "jaxdepth.model.sharding",
    "open_responder": "jaxdepth.serving.respond",
    "open_run": "jaxdepth.api",
    "probe": "jaxdepth.api",
    "respond": "jaxdepth.serving.respond",
    "speculate": "jaxdepth.depth.speculative",
    "stream_response": "jaxdepth.serving.respond",
    "sweep": "jaxdepth.api",
}

__all__ = [
    "InputError",
    "Responder",
    "Response",
    "StudyRun",
    "__version__",
    "classify_texts",
    "decide",
    "exit_logits",
    "generate",
    "generate_dynamic",
    "hidden_states",
    "load",
    "make_mesh",
    "open_responder",
    "open_run",
    "probe",
    "respond",
    "speculate",
    "stream_response",
    "sweep",
]


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module 'jaxdepth' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
