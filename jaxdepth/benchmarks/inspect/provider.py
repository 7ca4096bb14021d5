"""The model provider `jaxdepth/PATH` of Inspect: one exit of a converted checkpoint.

Inspect finds it by the entry point of the package. Models of one checkpoint share its weights; if
several exits of it are evaluated at once, their requests are decoded together.
"""

import asyncio
import hashlib
from collections import Counter
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import tyro
from inspect_ai.log._samples import sample_active
from inspect_ai.model import (
    ChatCompletionChoice,
    ChatMessage,
    ChatMessageAssistant,
    ContentReasoning,
    ContentText,
    GenerateConfig,
    ModelAPI,
    ModelOutput,
    ModelUsage,
    modelapi,
)
from inspect_ai.tool import ToolChoice, ToolInfo

from jaxdepth.benchmarks.inspect.engine import Answer, open_engine
from jaxdepth.benchmarks.inspect.queue import Request
from jaxdepth.benchmarks.inspect.reading import read_chat, read_config
from jaxdepth.depth.exits import check_exits
from jaxdepth.errors import InputError, at_least
from jaxdepth.refusal.thought import answer_after_thought, opens_thought
from jaxdepth.settings_file import build
from jaxdepth.study.settings import AdaptedModel

NAME = "jaxdepth"  # before the path of a model
MAX_TOKENS = 512  # new tokens, where neither the task nor the user says


@dataclass(frozen=True, kw_only=True)
class Provided:
    """The arguments of the provider (`-M NAME=VALUE`), beside the path."""

    model: AdaptedModel
    exit: Annotated[int | None, tyro.conf.arg(metavar="EXIT")] = None
    """Exit that answers; by default all layers."""
    date: str | None = None
    """The day that a chat template is told, if it prints one."""
    mesh: str | None = None
    """Device mesh, such as data=4,model=2."""
    batch_size: int | None = None
    """Conversations that are decoded at once; by default 16."""
    memory_gb: float | None = None
    """Memory for KV caches and logits on each device, in GiB; by default 2."""


@modelapi(name=NAME)
class JaxdepthAPI(ModelAPI):
    """One exit of a checkpoint, as a model of Inspect."""

    def __init__(
        self,
        model_name: str,
        base_url: str | None = None,
        api_key: str | None = None,
        config: GenerateConfig = GenerateConfig(),  # noqa: B008 (as Inspect's)
        **model_args: Any,
    ):
        super().__init__(model_name, base_url, api_key, [], config)
        if base_url is not None:
            raise InputError("base_url: jaxdepth loads a checkpoint of this machine: leave it out")
        provided = build(Provided, {"model": model_name, **model_args}, f"jaxdepth/{model_name}")
        at_least(1, batch_size=provided.batch_size)
        if provided.memory_gb is not None and not provided.memory_gb > 0:
            raise InputError(f"memory_gb is {provided.memory_gb}, expected more than 0")
        self.engine = open_engine(provided.model, provided.date, provided.mesh)
        self.exit_layer = self.engine.depth if provided.exit is None else provided.exit
        check_exits(self.exit_layer, self.engine.depth)
        queue = self.engine.queue
        queue.exits = {*queue.exits, self.exit_layer}
        if provided.batch_size is not None:
            queue.batch_size = provided.batch_size
        if provided.memory_gb is not None:
            self.engine.memory_budget = int(provided.memory_gb * 2**30)
        self._asked: Counter[tuple] = Counter()

    async def generate(
        self,
        input: list[ChatMessage],
        tools: list[ToolInfo],
        tool_choice: ToolChoice,
        config: GenerateConfig,
    ) -> ModelOutput:
        """Answer a conversation.

        Raises:
            InputError: names the message or the setting that is not supported.
        """
        messages = read_chat(input, tools)
        wanted = read_config(config, MAX_TOKENS)
        with self.engine.queue.coming():  # a new form of conversation takes a second to render
            ids = tuple(self.engine.conversations.encode(messages))
        room = self.engine.room(len(ids))
        if room < 1:
            return self._too_long(len(ids))
        request = Request(
            ids,
            min(wanted.max_tokens, room),
            wanted.max_tokens > room,
            wanted.sampling,
            wanted.stops,
            self._seed(ids, wanted.seed) if wanted.sampling.temperature else 0,
        )
        future = self.engine.queue.submit(request, self.exit_layer)
        return self._output(await asyncio.wrap_future(future), len(ids))

    def _seed(self, ids: tuple[int, ...], seed: int) -> int:
        """The seed of a sampled answer: of its sample, its epoch, and how often they have asked.

        All exits have the same, and a run that is resumed goes on with those that are left.
        """
        sample = sample_active()
        place = () if sample is None else (sample.sample.id, sample.epoch)
        digest = hashlib.sha256(repr((seed, place, ids)).encode()).digest()
        here = (None if sample is None else sample.id, digest)
        self._asked[here] += 1
        number = hashlib.sha256(digest + repr(self._asked[here]).encode()).digest()
        return int.from_bytes(number[:4], "big") & 0x7FFFFFFF

    def _output(self, answer: Answer, prompt_tokens: int) -> ModelOutput:
        message = ChatMessageAssistant(
            content=self._content(answer.text), model=self.model_name, source="generate"
        )
        return ModelOutput(
            model=self.model_name,
            choices=[ChatCompletionChoice(message=message, stop_reason=answer.ended)],
            usage=ModelUsage(
                input_tokens=prompt_tokens,
                output_tokens=answer.tokens,
                total_tokens=prompt_tokens + answer.tokens,
            ),
            metadata={"exit": self.exit_layer},
        )

    def _content(self, text: str) -> str | list[ContentReasoning | ContentText]:
        """The text; where it begins with a thought, the thought and what follows it apart."""
        opened = opens_thought(self.engine.loaded.encoder.reply_opening)
        visible = answer_after_thought("<think>\n" + text if opened else text)
        if visible == text:
            return text
        place = text.rfind(visible) if visible else len(text)
        thought = text[:place] if place > 0 else text
        return [ContentReasoning(reasoning=thought.strip()), ContentText(text=visible or "")]

    def _too_long(self, prompt_tokens: int) -> ModelOutput:
        """No answer: the conversation fills what the model can read."""
        output = ModelOutput.from_content(self.model_name, "", stop_reason="model_length")
        output.error = (
            f"the conversation has {prompt_tokens} tokens, this model takes {self.engine.limit}"
        )
        return output

    def max_tokens(self) -> int | None:
        return MAX_TOKENS

    def max_connections(self) -> int:
        """As many conversations as are decoded at once."""
        return self.engine.queue.batch_size

    def connection_key(self) -> str:
        """Each exit has its own connections: otherwise the exits would wait for each other."""
        return f"{id(self.engine)}@{self.exit_layer}"

    def collapse_user_messages(self) -> bool:
        return True

    def collapse_assistant_messages(self) -> bool:
        return True

    def collapse_system_messages(self) -> bool:
        return True

    def auto_reasoning_history(self) -> Literal["none", "all", "last"]:
        return "none"

    async def count_text_tokens(self, text: str) -> int:
        return len(await self.tokenize(text))

    async def tokenize(self, text: str) -> list[int]:
        return self.engine.loaded.encoder.encode_text(text)
