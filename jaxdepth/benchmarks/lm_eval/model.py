"""One exit of a model as a model of lm-eval.

Text becomes tokens as in lm-eval's own `hf` model: its tasks write chat templates and few-shot
examples into one string, in which control tokens are control tokens. Truncation, stop strings and
the windows of long texts are also that model's.
"""

from collections.abc import Sequence
from datetime import date as Date
from typing import Any

import jinja2
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import handle_stop_sequences, has_bos_prefix, normalize_gen_kwargs
from lm_eval.utils import get_rolling_token_windows, hash_string, make_disjoint_window

from jaxdepth.benchmarks.lm_eval.answers import ExitAnswers, Wanted
from jaxdepth.benchmarks.lm_eval.tables import WINDOWS
from jaxdepth.depth.sampling import Sampling
from jaxdepth.errors import InputError, listed
from jaxdepth.prompts.identity import tokenizer_digest

_MAX_NEW_TOKENS = 256  # lm-eval's default
# What a request may say of decoding; beams, penalties and the like are no part of the engine.
_GENERATION = {"until", "max_gen_toks", "do_sample", "temperature", "top_k", "top_p"}


class ExitLM(TemplateLM):
    """A model truncated to its first layers, for `lm_eval.simple_evaluate(model=...)`.

    The models of several exits share one `ExitAnswers`: the first that is asked has all of them
    answered.
    """

    def __init__(
        self,
        answers: ExitAnswers,
        exit_layer: int,
        max_length: int | None = None,
        date: str | None = None,
        name: str = "jaxdepth",
    ):
        """Take one of the exits that `answers` has.

        Args:
            answers: the model, its tokenizer, and its exits.
            exit_layer: the exit.
            max_length: the maximum of tokens that the model reads; by default all that it can.
            date: the day for a chat template that prints one, as YYYY-MM-DD; by default today.
            name: of the model, for lm-eval's results.

        Raises:
            InputError: the exit is none of those, or the model cannot read that many tokens.
        """
        super().__init__()
        if exit_layer not in answers.exits:
            raise InputError(f"exit {exit_layer} is not among those that run: {answers.exits}")
        limit = answers.model.config.max_position_embeddings
        if max_length is not None and not 2 <= max_length <= limit:
            raise InputError(f"max_length is {max_length}, expected 2 to {limit}")
        self.answers, self.exit_layer = answers, exit_layer
        self.tokenizer: Any = answers.tokenizer
        self.max_length = limit if max_length is None else max_length
        self.date = Date.fromisoformat(date) if date else Date.today()
        self.name = name
        self._place = list(answers.exits).index(exit_layer)

    @property
    def eot_token_id(self) -> int:
        return self.tokenizer.eos_token_id

    @property
    def prefix_token_id(self) -> int:
        """What precedes a text without context: BOS, or EOS where the tokenizer has no BOS."""
        bos, eos = self.tokenizer.bos_token_id, self.tokenizer.eos_token_id
        if bos is None and eos is None:
            raise InputError("this tokenizer has neither BOS nor EOS to put before a text")
        return eos if bos is None else bos

    @property
    def tokenizer_name(self) -> str:
        """Identifies the tokenizer and its chat template in caches of requests."""
        template = str(self.tokenizer.chat_template)
        return tokenizer_digest(self.tokenizer)[:16] + hash_string(template)[:16]

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **kwargs: Any
    ) -> list[int]:
        """Token ids, with the tokenizer's BOS unless the text begins with it or the flag is off."""
        if add_special_tokens is None:
            add_special_tokens = not has_bos_prefix(
                string, self.tokenizer.decode(self.prefix_token_id)
            )
        try:
            return self.tokenizer.encode(string, add_special_tokens=add_special_tokens)
        except TypeError:
            raise InputError(f"a task's text is not valid Unicode: {string[:80]!r}") from None

    def loglikelihood(
        self, requests: list[Instance], disable_tqdm: bool = True
    ) -> list[tuple[float, bool]]:
        for request in requests:
            if not request.args[1]:
                raise InputError(
                    f"task {request.task_name}, document {request.doc_id}: the continuation is "
                    "empty, so there is nothing to score; check the task's choices"
                )
        return super().loglikelihood(requests, disable_tqdm=disable_tqdm)

    def _loglikelihood_tokens(
        self, requests: list[tuple[tuple[str, str], list[int], list[int]]], **kwargs: Any
    ) -> list[tuple[float, bool]]:
        pairs = [self._truncate(texts, *tokens) for texts, *tokens in requests]
        scored = self.answers.score(pairs)
        answers = list(
            zip(
                scored.logprob_NE[:, self._place].tolist(),
                scored.is_greedy_NE[:, self._place].tolist(),
                strict=True,
            )
        )
        for (texts, *_), answer in zip(requests, answers, strict=True):
            self.cache_hook.add_partial("loglikelihood", texts, answer)
        return answers

    def loglikelihood_rolling(
        self, requests: list[Instance], disable_tqdm: bool = True
    ) -> list[float]:
        windows, owners = [], []
        for n, (text,) in enumerate(request.args for request in requests):
            tokens = self.tok_encode(text)
            prefix, length = self.prefix_token_id, self.max_length
            for window in get_rolling_token_windows(tokens, prefix, length, context_len=1):
                windows.append(make_disjoint_window(window))
                owners.append(n)
        sums = [0.0] * len(requests)
        if windows:
            scored = self.answers.score(windows, WINDOWS)
            for n, logprob in zip(owners, scored.logprob_NE[:, self._place].tolist(), strict=True):
                sums[n] += logprob
        for request, logprob in zip(requests, sums, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, logprob)
        return sums

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = True) -> list[str]:
        wanted = [self._wanted(*request.args) for request in requests]
        texts = [texts_E[self._place] for texts_E in self.answers.generate(wanted)]
        for request, text in zip(requests, texts, strict=True):
            self.cache_hook.add_partial("generate_until", request.args, text)
        return texts

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """A conversation as text; where the template refuses a system message, without it."""

        def render(messages: Sequence[dict[str, str]]) -> str:
            return self.tokenizer.apply_chat_template(
                messages,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=not add_generation_prompt,
                strftime_now=self.date.strftime,
            )

        try:
            return render(chat_history)
        except jinja2.TemplateError:
            pass
        try:
            return render([message for message in chat_history if message["role"] != "system"])
        except jinja2.TemplateError as error:
            raise InputError(f"the chat template refuses a conversation ({error})") from None

    def get_model_info(self) -> dict[str, Any]:
        """What lm-eval's results say of the model."""
        config = self.answers.model.config
        return {
            "model_dtype": str(self.answers.model.embed[...].dtype),
            "exit": self.exit_layer,
            "depth": config.num_hidden_layers,
        }

    def _truncate(
        self, texts: tuple[str, str] | None, context: list[int], continuation: list[int]
    ) -> tuple[list[int], list[int]]:
        """A context without what is too long for the model at its start."""
        if not context or not continuation:
            what = "continuation" if context else "context"
            raise InputError(f"a request's {what} has no tokens: {str(texts)[:200]}")
        if len(continuation) > self.max_length:
            raise InputError(
                f"a continuation has {len(continuation)} tokens, more than the {self.max_length} "
                f"that the model reads: {str(texts)[:200]}"
            )
        room = self.max_length + 1 - len(continuation)  # the last token is not read
        return context[-room:], continuation

    def _wanted(self, context: str, gen_kwargs: dict[str, Any]) -> Wanted:
        """A request for a text; lm-eval's own functions resolve its names and stop strings."""
        settings: dict[str, Any] = dict(normalize_gen_kwargs(gen_kwargs, _MAX_NEW_TOKENS))
        unknown = [name for name in sorted(set(settings) - _GENERATION) if settings[name]]
        if unknown:
            raise InputError(
                f"generation with {listed(unknown)} is not supported; a task, or --gen-kwargs, may "
                f"say {listed(sorted(_GENERATION), len(_GENERATION))}"
            )
        new_tokens = settings["max_gen_toks"]
        if not 0 < new_tokens < self.max_length:
            raise InputError(
                f"a task asks for {new_tokens} new tokens, expected 1 to {self.max_length - 1}: "
                "set max_gen_toks with --gen-kwargs"
            )
        eos = self.tokenizer.decode(self.eot_token_id, skip_special_tokens=False)
        stops = handle_stop_sequences(settings["until"], eos=eos)
        prompt = self.tok_encode(context)[new_tokens - self.max_length :]
        if not prompt:
            raise InputError("a task asks for a text after an empty prompt: give it a context")
        temperature = float(settings.get("temperature") or 0) if settings["do_sample"] else 0.0
        if settings["do_sample"] and not temperature > 0:
            raise InputError("a task samples at temperature 0: set one with --gen-kwargs")
        return Wanted(
            tuple(prompt),
            new_tokens,
            tuple(stop for stop in stops if stop),
            Sampling(temperature, settings.get("top_k"), settings.get("top_p")),
        )
