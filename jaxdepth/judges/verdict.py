"""What a judge says of one answer, and the base of all judges that are opened by name."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from jaxdepth.prompts.datasets import Prompt

Pair = tuple[str, str]  # a prompt and the answer to it


class Verdict(NamedTuple):
    """What a judge says of one answer."""

    outcome: str | None  # an outcome, NOT_COMPLY, or None: the built-in rule decides
    word: str | None  # the judge's own word; None where it gave none
    score: float | None  # its probability of that word, 0..1; None where it has none
    failed: bool = False  # whether the judge was asked and gave no verdict


ABSTAINS = Verdict(None, None, None)


class NamedJudge(ABC):
    """A judge that `--judge` opens; it is also a `Judge` for `classify_texts`.

    A subclass answers distinct pairs of prompt and text in `ask_pairs`.
    """

    name: str  # in tables and in messages
    identity: str  # a digest of what decides its answers
    judges_topic = False  # whether its "comply" stands without a check of coherence and topic
    needs_reference = True  # whether the built-in rule may have to decide in its place
    asks_about = ""  # a label: the only prompts whose answers it is asked about

    def __init__(self, name: str, identity: str) -> None:
        self.name, self.identity = name, identity
        self._label_of: Mapping[str, str | None] = {}
        self._known: dict[Pair, Verdict] = {}

    def __call__(self, texts: Sequence[str], prompts: Sequence[str] | None) -> list[str | None]:
        return [verdict.outcome for verdict in self.verdicts(texts, prompts)]

    def read_labels(self, prompts: Iterable[Prompt]) -> None:
        """Learn which prompts are harmful; without a label, all are taken to be."""
        self._label_of = {prompt.asked: prompt.label for prompt in prompts if prompt.label}

    def verdicts(self, texts: Sequence[str], prompts: Sequence[str] | None) -> list[Verdict]:
        """The verdict on each text; equal pairs of prompt and text are judged once."""
        given = [""] * len(texts) if prompts is None else prompts
        pairs = list(zip(given, texts, strict=True))
        new = [p for p in dict.fromkeys(pairs) if p not in self._known and self._is_asked(p)]
        if new:
            self._known |= zip(new, self.ask_pairs(new), strict=True)
        return [self._known.get(pair, ABSTAINS) for pair in pairs]

    def known(self, prompt: str, text: str) -> Verdict:
        """The verdict on a text that was judged; one without a word where it was not."""
        return self._known.get((prompt, text), ABSTAINS)

    @abstractmethod
    def ask_pairs(self, pairs: Sequence[Pair]) -> list[Verdict]:
        """The verdicts on distinct pairs of prompt and text."""

    def warning(self) -> str:
        """One line on answers that got no verdict, and why; empty if all got one."""
        return ""

    def _is_asked(self, pair: Pair) -> bool:
        """White space alone has no verdict; nor has what the judge cannot tell."""
        prompt, text = pair
        label = self._label_of.get(prompt, self.asks_about)
        return bool(text.strip()) and label == (self.asks_about or label)
