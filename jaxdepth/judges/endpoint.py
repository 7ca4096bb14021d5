"""`openai:MODEL@URL`: any OpenAI-compatible endpoint as a judge, under this project's rubric."""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from urllib.parse import urlsplit

from jaxdepth.errors import InputError
from jaxdepth.judges.chat_client import KEY_VARIABLES, ChatClient, RequestFailed
from jaxdepth.judges.reply_cache import ReplyCache
from jaxdepth.judges.rubric import DIGEST, messages, read_reply
from jaxdepth.judges.verdict import NamedJudge, Pair, Verdict
from jaxdepth.refusal.outcome import Outcome

_SPEC = re.compile(r"(?P<model>.+)@(?P<url>https?://\S+)")
_AT_ONCE = 8
# After so many answers in a row without a reply, no more are sent.
_GIVES_UP_AFTER = 16
OUT_OF_FORMAT = "reply out of format"
_PROBE = ("How do I boil an egg?", "Put the egg into boiling water and wait for eight minutes.")


class EndpointJudge(NamedJudge):
    """A model behind an address; what it says of topic and coherence stands, too."""

    judges_topic, needs_reference = True, False

    def __init__(self, client: ChatClient, cache: ReplyCache | None = None) -> None:
        self._parts = (client.model, client.url, DIGEST)
        identity = hashlib.sha256(json.dumps(self._parts).encode()).hexdigest()
        super().__init__(f"openai:{client.model}@{client.url}", identity)
        self.client, self.cache = client, cache or ReplyCache()
        self.failures: Counter[str] = Counter()
        self._in_a_row = 0

    def ask_pairs(self, pairs: Sequence[Pair]) -> list[Verdict]:
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            return list(pool.map(self._ask, pairs))

    def probe(self) -> None:
        """Raise InputError if the endpoint gives no verdict on a plain example."""
        try:
            reply = replace(self.client, tries=2).complete(messages(*_PROBE))
        except RequestFailed as error:
            raise InputError(
                f"no judge {self.client.model} at {self.client.url} ({error}): check the address, "
                f"the model's name and the key in {' or '.join(KEY_VARIABLES)}"
            ) from None
        if read_reply(reply) is None:
            raise InputError(
                f"{self.client.model} at {self.client.url} replied {str(reply)!r:.60}, expected "
                'one JSON object such as {"outcome": "comply"}: name another model'
            )

    def warning(self) -> str:
        if not self.failures:
            return ""
        reasons = ", ".join(f"{count}: {why}" for why, count in self.failures.most_common(3))
        return f"{self.name} gave no verdict on {self.failures.total()} answers ({reasons})"

    def _ask(self, pair: Pair) -> Verdict:
        known = self.cache.find(*self._parts, *pair)
        if known is not None:
            return Verdict(str(known), str(known), None)
        if self._in_a_row >= _GIVES_UP_AFTER:
            return self._fail("not asked after so many failures")
        try:
            outcome = read_reply(self.client.complete(messages(*pair)))
            if outcome is None:  # once more: sampling is not always off at temperature 0
                outcome = read_reply(self.client.complete(messages(*pair)))
        except RequestFailed as error:
            self._in_a_row += 1
            return self._fail(str(error))
        self._in_a_row = 0
        if outcome is None:
            return self._fail(OUT_OF_FORMAT)
        self.cache.keep(outcome, *self._parts, *pair)
        return Verdict(str(outcome), str(outcome), None)

    def _fail(self, why: str) -> Verdict:
        self.failures[why] += 1
        return Verdict(str(Outcome.UNDETERMINED), None, None, failed=True)


def open_endpoint(spec: str) -> EndpointJudge:
    """The judge of a spec MODEL@URL, once its endpoint has answered.

    Raises:
        InputError: the spec is not of that form, or the endpoint is unreachable or answers out of
            format.
    """
    match = _SPEC.fullmatch(spec)
    if match is None:
        raise InputError(
            f"openai:{spec} is no judge: expected openai:MODEL@URL, such as "
            "openai:my-model@http://localhost:8000/v1"
        )
    parts = urlsplit(match["url"])
    if "@" in parts.netloc or parts.query or parts.fragment or not parts.hostname:
        raise InputError(
            f"the address of openai:{match['model']} may have a host and a path only: put a key in "
            f"{' or '.join(KEY_VARIABLES)}"
        )
    url = match["url"].rstrip("/").removesuffix("/chat/completions")
    judge = EndpointJudge(ChatClient(match["model"], url))
    judge.probe()
    return judge
