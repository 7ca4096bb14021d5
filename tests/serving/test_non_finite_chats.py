"""Chats for which activations are NaN or infinite: one clear error, and others are answered."""

from dataclasses import replace

import jax.numpy as jnp
import pytest
from chats.served import NAME, complete, served
from flax import nnx

import jaxdepth
from jaxdepth import InputError

pytestmark = pytest.mark.usefixtures("quick_programs", "prompts_of_one_length")

WHOLE = [{"role": "user", "content": "How do I boil an egg?"}]
BROKEN = [{"role": "user", "content": "Zebras, XYZ!"}]


@pytest.fixture(scope="module")
def broken(responder):
    """The responder with a model for which the token of a Z is NaN."""
    model = nnx.clone(responder.loaded.model)
    ids = {*responder.chat(BROKEN).ids} - {*responder.chat(WHOLE).ids}
    assert ids
    model.embed[...] = model.embed[...].at[jnp.array(sorted(ids))].set(jnp.nan)
    return replace(responder, loaded=replace(responder.loaded, model=model))


def test_a_response_is_refused_in_one_line(broken, responder):
    with pytest.raises(InputError, match=r"no answer, because activations are NaN or infinite"):
        jaxdepth.respond(broken, BROKEN)
    with pytest.raises(InputError, match=r"load the model with --dtype float32"):
        list(jaxdepth.stream_response(broken, BROKEN))
    assert jaxdepth.respond(broken, WHOLE) == jaxdepth.respond(responder, WHOLE)


@pytest.mark.parametrize("streams", [False, True])
def test_the_server_says_so_to_that_client_alone(broken, streams):
    with served(broken) as port:
        body = {"model": NAME, "messages": BROKEN, "stream": streams}
        status, reply = complete(port, body)
        assert status == 500
        assert reply["error"]["code"] == "non_finite"
        assert "activations are NaN or infinite" in reply["error"]["message"]
        assert complete(port, body | {"messages": WHOLE, "stream": False})[0] == 200
