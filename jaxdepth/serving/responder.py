"""From chats to verdicts and visible answers, at one exit of one model.

Nothing that a lane decodes before its verdict is part of a response. Programs are compiled for
padded shapes: prompts are padded to a power of two of tokens, batches to one of chats.
"""

import functools
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Literal

import jax
import numpy as np
from jaxtyping import Bool

from jaxdepth.depth.exits import check_exits
from jaxdepth.depth.lanes import memory, plan_segments
from jaxdepth.depth.sampling import Sampling
from jaxdepth.errors import InputError
from jaxdepth.model.sharding import whole_rows
from jaxdepth.prompts.conversation import read_messages
from jaxdepth.ranges import check_ranges
from jaxdepth.refusal.decide import shown
from jaxdepth.refusal.deliberate import ABSTAINS, Rule
from jaxdepth.refusal.protocol import (
    VERDICTS,
    Markers,
    Protocol,
    Verdict,
    instruct,
    resolve_markers,
)
from jaxdepth.refusal.thought import opens_thought
from jaxdepth.serving.settings import Respond
from jaxdepth.serving.steps import LanesSoFar, decide_in_steps
from jaxdepth.serving.visible import decode_visible, marker_ids, visible_ids
from jaxdepth.study.loading import LoadedModel, load_model
from jaxdepth.study.verdicts.decider import build_rule, choose_protocol

_DEFAULT_PROMPT_TOKENS = 1024
_SHORTEST = 32  # tokens that a prompt is padded to at least
# Tokens between two looks at the lanes: an answer is shown, and a lane given up, within so many.
STEP_TOKENS = 8

Finish = Literal["stop", "length", "content_filter"]


@dataclass(frozen=True)
class Response:
    """The verdict of a model on a chat, and its visible answer."""

    verdict: Verdict  # refuse, partial, comply or abstain
    probabilities: dict[str, float]  # of refuse, partial and comply; they sum to 1
    text: str  # what a user may see
    finish: Finish | None  # why it ended: None while it goes on; content_filter withheld all of it
    exit: int
    prompt_tokens: int
    visible_tokens: int
    hidden_tokens: int  # of the thought, the markers and the verdict


@dataclass(frozen=True)
class Chat:
    """A chat as token ids, up to where the model's thought begins."""

    ids: tuple[int, ...]
    max_tokens: int  # of the visible answer
    seed: int


@dataclass(frozen=True)
class Responder:
    """A loaded model, its exit, and the protocol that it decides under."""

    settings: Respond
    loaded: LoadedModel
    protocol: Protocol
    markers: Markers
    rule: Rule
    exit_layer: int
    max_prompt_tokens: int

    @functools.cached_property
    def _hidden(self) -> frozenset[int]:
        return marker_ids(self.markers, self.loaded.encoder)

    @property
    def sampling(self) -> Sampling:
        """How thoughts and answers are sampled."""
        s = self.settings.responding
        return Sampling(s.temperature, s.top_k, s.top_p)

    def chat(
        self, messages: object, max_tokens: int | None = None, seed: int | None = None
    ) -> Chat:
        """Encode a chat; nothing that its messages hold becomes a special token.

        Args:
            messages: role and content of each; the protocol's instruction comes before the last.
            max_tokens: maximum length of the visible answer; by default the protocol's.
            seed: of sampling; by default that of the settings.

        Raises:
            InputError: the messages or a number are wrong, the template has no place for the
                messages, or they are too long.
        """
        longest = self.protocol.answer_tokens
        max_tokens = longest if max_tokens is None else max_tokens
        if not 0 <= max_tokens <= longest:
            raise InputError(f"max_tokens is {max_tokens}, expected 0 to {longest}")
        seed = self.settings.responding.seed if seed is None else seed
        if not 0 <= seed < 2**31:
            raise InputError(f"seed is {seed}, expected 0 to 2147483647")
        *earlier, last = read_messages(messages)
        protocol, words = self.protocol, self.markers.words
        text = instruct(protocol.instruction, protocol.close, words, last.content)
        ids = self.loaded.conversations.encode([*earlier, last._replace(content=text)])
        ids += self.markers.open
        if len(ids) > self.max_prompt_tokens:
            raise TooLong(
                f"the chat has {len(ids)} tokens with its template and instruction, expected at "
                f"most {self.max_prompt_tokens}: leave earlier messages out, or shorten them"
            )
        return Chat(tuple(ids), max_tokens, seed)

    def run(
        self, chats: Sequence[Chat], step_tokens: int = STEP_TOKENS
    ) -> Generator[list["Response | NonFinite | None"], Bool[np.ndarray, " chats"] | None, None]:
        """Decode chats together, at most `lanes`; yield their responses so far after every step.

        A response is None before its verdict is decided, and NonFinite once there can be none.
        Chats that are sent as True are given up.
        """
        rows = padded_rows(len(chats), self.settings.responding.lanes)
        rows = whole_rows(rows, self.loaded.model.mesh)
        length = self._padded_length(max(len(chat.ids) for chat in chats))
        tokens_BS = np.zeros((rows, length), np.int32)
        padded = [*chats, *[chats[0]] * (rows - len(chats))]
        for row, chat in enumerate(padded):
            tokens_BS[row, : len(chat.ids)] = chat.ids
        lanes = decide_in_steps(
            self.loaded.model,
            tokens_BS,
            np.array([len(chat.ids) for chat in padded]),
            self.exit_layer,
            self.markers,
            thought_tokens=self.protocol.thought_tokens,
            answer_tokens=self.protocol.answer_tokens,
            answer_tokens_B=np.array([chat.max_tokens for chat in padded]),
            step_tokens=step_tokens,
            sampling=self.sampling,
            rule=self.rule,
            seeds_B=np.array([chat.seed for chat in padded]),
            stop_tokens=self.loaded.end_tokens,
        )
        done = np.arange(rows) >= len(chats)  # rows of padding are
        try:
            so_far = next(lanes)
            while True:
                responses = self._read(so_far, chats)
                cancelled = yield responses
                done[: len(chats)] |= [
                    isinstance(r, NonFinite) or bool(r and r.finish) for r in responses
                ]
                if cancelled is not None:
                    done[: len(chats)] |= cancelled
                so_far = lanes.send(done)
        except StopIteration:
            return

    def _read(
        self, so_far: LanesSoFar, chats: Sequence[Chat]
    ) -> list["Response | NonFinite | None"]:
        decided = so_far.decided
        p_B3 = np.asarray(self.rule.probabilities(decided.logp[:, 0, 0]), np.float64)
        responses: list[Response | NonFinite | None] = []
        for b, chat in enumerate(chats):
            if not decided.finite[b, 0, 0]:
                responses.append(NonFinite())
                continue
            verdict = int(decided.verdict[b, 0, 0])
            if verdict < 0:
                responses.append(None)
                continue
            answer = shown(decided, self.markers, b, 0, 0)
            abstains = verdict == ABSTAINS
            ids, stops = visible_ids(answer, frozenset(self.loaded.end_tokens), self._hidden)
            ended = stops or bool(so_far.ended[b])
            text = decode_visible(self.loaded.tokenizer, ids, is_whole=ended)
            refuses = abstains or VERDICTS[verdict] == Verdict.REFUSE
            finish: Finish | None = None
            if ended:
                finish = "content_filter" if refuses and not text else "stop" if stops else "length"
            responses.append(
                Response(
                    verdict=Verdict.ABSTAIN if abstains else VERDICTS[verdict],
                    probabilities=dict(zip(map(str, VERDICTS), p_B3[b].tolist(), strict=True)),
                    text=text,
                    finish=finish,
                    exit=self.exit_layer,
                    prompt_tokens=len(chat.ids),
                    visible_tokens=len(ids),
                    hidden_tokens=int(decided.lengths[b, 0, 0]) - len(answer),
                )
            )
        return responses

    def _padded_length(self, length: int) -> int:
        return min(max(_SHORTEST, _power_of_two(length)), self.max_prompt_tokens)


class TooLong(InputError):
    """A chat has more tokens than the model takes."""


class NonFinite(InputError):
    """A chat has no response, because activations are NaN or infinite."""

    def __init__(self):
        super().__init__(
            "the chat has no answer, because activations are NaN or infinite: load the model with "
            "--dtype float32, or check the checkpoint"
        )


def padded_rows(count: int, lanes: int) -> int:
    """How many rows a batch of some chats is padded to."""
    return min(_power_of_two(count), lanes)


def _power_of_two(number: int) -> int:
    """The smallest power of two that is not below a number."""
    return 1 << max(number - 1, 0).bit_length()


def build_responder(settings: Respond) -> Responder:
    """Read the protocol, and load the model.

    Raises:
        InputError: something in the settings, the protocol, the adapter or the checkpoint is wrong,
            or the lanes exceed the memory.
    """
    s, rule = settings.responding, build_rule(settings.decision)
    check_ranges(settings)
    protocol = choose_protocol(
        s.protocol, settings.model.adapter, s.thought_tokens, s.answer_tokens
    )
    if jax.process_count() > 1:
        raise InputError("chats are answered by one process: start a single one")
    loaded = load_model(settings.model, settings.devices)
    config = loaded.model.config
    exit_layer = config.num_hidden_layers if s.exit is None else s.exit
    check_exits([exit_layer], config.num_hidden_layers)
    if opens_thought(loaded.encoder.reply_opening):
        raise InputError(
            "the chat template opens a thought of the model's own, which would end in its answer: "
            "name a model without one"
        )
    markers = resolve_markers(protocol, loaded.encoder, loaded.end_tokens)
    new_tokens = protocol.thought_tokens + len(markers.close) + 1 + protocol.answer_tokens
    room = config.max_position_embeddings - new_tokens
    longest = s.max_prompt_tokens
    if longest is None:
        longest = min(_DEFAULT_PROMPT_TOKENS, room)
    if not 0 < longest <= room:
        raise InputError(
            f"prompts of {max(longest, 1)} tokens and {new_tokens} new ones are more than the "
            f"{config.max_position_embeddings} that this model takes: lower max_prompt_tokens, "
            "thought_tokens or answer_tokens"
        )
    rows = whole_rows(padded_rows(s.lanes, s.lanes), loaded.model.mesh)
    itemsize = loaded.model.embed[...].dtype.itemsize
    shape = rows, longest, new_tokens, 1, itemsize
    needed = memory(config, plan_segments([exit_layer]), *shape, loaded.model.mesh).total
    if needed > s.memory_gb * 2**30:
        raise InputError(
            f"{rows} lanes need {needed / 2**30:.2f} GiB of caches and logits, memory_gb is "
            f"{s.memory_gb}: lower lanes or max_prompt_tokens, or raise it"
        )
    return Responder(settings, loaded, protocol, markers, rule, exit_layer, longest)
