"""A loaded model that answers conversations at exits, those of several runs together."""

import weakref
from bisect import bisect_left
from dataclasses import dataclass
from typing import Literal

import jax
import numpy as np

from jaxdepth.benchmarks.inspect.queue import Batch, ExitQueue, Request
from jaxdepth.depth.generation import DEFAULT_BUDGET, generate
from jaxdepth.errors import InputError
from jaxdepth.model.sharding import whole_rows
from jaxdepth.prompts.batches import bucket_length
from jaxdepth.prompts.conversation import ConversationEncoder
from jaxdepth.runtime.preemption import raise_if_stopped_here
from jaxdepth.serving.responder import padded_rows
from jaxdepth.study.answers import decode_reply
from jaxdepth.study.loading import LoadedModel, load_model
from jaxdepth.study.settings import AdaptedModel, Devices

_SHORTEST = 16  # positions that a prompt is padded to a multiple of at least

Ended = Literal["stop", "max_tokens", "model_length"]


@dataclass(frozen=True)
class Answer:
    """The answer of one exit to a conversation."""

    text: str
    ended: Ended
    tokens: int  # that were decoded for it, the end token included


class Engine:
    """A loaded model, and the queue in which requests for its exits meet."""

    def __init__(self, loaded: LoadedModel):
        self.loaded = loaded
        self.conversations = ConversationEncoder(loaded.tokenizer, loaded.encoder)
        self.memory_budget = DEFAULT_BUDGET
        self.queue: ExitQueue[Answer] = ExitQueue(self.answer)

    @property
    def depth(self) -> int:
        """The deepest exit."""
        return self.loaded.model.config.num_hidden_layers

    @property
    def limit(self) -> int:
        """How many tokens of a conversation and its answer the model takes."""
        return self.loaded.model.config.max_position_embeddings

    def room(self, length: int) -> int:
        """How many new tokens there is room for after a prompt of some length, as it is padded."""
        return self.limit - _padded(length, self.limit)

    def answer(self, batch: Batch) -> list[list[Answer]]:
        """Decode a batch: for each request its answer at each exit.

        Raises:
            InputError: a lane alone exceeds the memory budget, or activations are not finite.
            Stopped: the process has received SIGTERM.
        """
        raise_if_stopped_here()
        requests, model = batch.requests, self.loaded.model
        rows = whole_rows(padded_rows(len(requests), self.queue.batch_size), model.mesh)
        length = _padded(max(len(request.ids) for request in requests), self.limit)
        padded = [*requests, *[requests[0]] * (rows - len(requests))]
        tokens_BS = np.zeros((rows, length), np.int32)
        for row, request in enumerate(padded):
            tokens_BS[row, : len(request.ids)] = request.ids
        generation = generate(
            model,
            tokens_BS,
            np.array([len(request.ids) for request in padded]),
            batch.exits,
            requests[0].max_tokens,
            sampling=requests[0].sampling,
            seeds_B=[request.seed for request in padded],
            stop_tokens=self.loaded.end_tokens,
            memory_budget=self.memory_budget,
        )
        answers = []
        for b, request in enumerate(requests):
            of_request = []
            for e, exit_layer in enumerate(batch.exits):
                if not generation.finite[b, e]:
                    raise InputError(
                        f"NaN or infinity in the activations at exit {exit_layer}: choose dtype "
                        "float32, or check the checkpoint"
                    )
                tokens = generation.tokens[b, e, : generation.lengths[b, e]]
                of_request.append(self._read(tokens, request))
            answers.append(of_request)
        return answers

    def _read(self, tokens: np.ndarray, request: Request) -> Answer:
        """The text of an answer before its first stop text, and how it ended."""
        tokenizer, decoded = self.loaded.tokenizer, len(tokens)
        ended: Ended = "model_length" if request.is_shortened else "max_tokens"
        if tokens[-1] in self.loaded.end_tokens:
            tokens, ended = tokens[:-1], "stop"
        text = decode_reply(tokenizer, tokens)
        place = _first_stop(text, request.stops)
        if place is None:
            return Answer(text, ended, decoded)

        def has_stop(count: int) -> bool:
            return _first_stop(decode_reply(tokenizer, tokens[:count]), request.stops) is not None

        needed = bisect_left(range(len(tokens)), True, key=has_stop)
        return Answer(text[:place], "stop", needed)


def _first_stop(text: str, stops: tuple[str, ...]) -> int | None:
    """Where the first of some texts begins, or None."""
    return min((text.find(stop) for stop in stops if stop in text), default=None)


def _padded(length: int, limit: int) -> int:
    """The length that a prompt is padded to: by a quarter at most, so that few programs compile."""
    step = max(_SHORTEST, (1 << (length - 1).bit_length()) // 4)
    padded = bucket_length(length, step)
    return padded if padded < limit else length


_open: weakref.WeakValueDictionary[tuple, Engine] = weakref.WeakValueDictionary()


def open_engine(model: AdaptedModel, date: str | None = None, mesh: str | None = None) -> Engine:
    """The engine of a model, loaded once however many exits of it are asked for.

    Args:
        model: the checkpoint, its precision and its adapter.
        date: that a chat template is told, if it prints one; by default today.
        mesh: devices for a model that is not loaded yet.

    Raises:
        InputError: the checkpoint or the adapter is missing or damaged, or there are several
            processes.
    """
    if jax.process_count() > 1:
        raise InputError("tasks of Inspect are run by one process: start a single one")
    engine = _open.get((model, date))
    if engine is None:
        engine = Engine(load_model(model, Devices(mesh), date))
        # Where the template prints no date, the engine is that of any day.
        for told in (date, engine.loaded.encoder.date):
            _open[model, told] = engine
    return engine
