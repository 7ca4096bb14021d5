"""What happens to a language model's safety when it is cut short: every exit at once, in JAX."""

from jaxdepth.depth.dynamic import generate_dynamic
from jaxdepth.depth.exits import exit_logits
from jaxdepth.depth.generation import generate
from jaxdepth.depth.speculative import speculate
from jaxdepth.errors import InputError
from jaxdepth.model.sharding import make_mesh
from jaxdepth.refusal.outcome import classify_texts
from jaxdepth.weights.load import load

__all__ = [
    "InputError",
    "classify_texts",
    "exit_logits",
    "generate",
    "generate_dynamic",
    "load",
    "make_mesh",
    "speculate",
]
