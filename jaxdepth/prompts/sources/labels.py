"""Harmful or harmless: by a value, and by the words of a file's name."""

import re

from jaxdepth.errors import InputError
from jaxdepth.prompts.prompt import HARMFUL, HARMLESS, UNLABELLED

LABEL_WORDS = {"harmful": HARMFUL, "unsafe": HARMFUL, "malicious": HARMFUL, "toxic": HARMFUL}
LABEL_WORDS |= {"harmless": HARMLESS, "safe": HARMLESS, "benign": HARMLESS, "unharmful": HARMLESS}
_VALUES = {**LABEL_WORDS, "nonharmful": HARMLESS, "notharmful": HARMLESS, "nottoxic": HARMLESS}
_VALUES |= {"nontoxic": HARMLESS, "notsafe": HARMFUL, "nonsafe": HARMFUL}

# Words that say the opposite of the word after them, or that it only seems so.
_DENIES = r"(?:un|non|not|pseudo|seemingly|apparently)"
_NAMES_HARMLESS = re.compile(rf"\b(?:harmless|benign|{_DENIES} ?harmful)\b")
_NAMES_HARMFUL = re.compile(r"\b(?:harmful|malicious)\b")
# What is left of a name and still speaks of harm, or qualifies a word that was understood.
_SPEAKS = r"harm(?:ful|less)|malicious|benign|\b(?:un)?safe\b|\b(?:non)?toxic"
_UNCLEAR = re.compile(
    _SPEAKS
    + r"|\b(?:un|non|not|no|pseudo|seem\w*|apparent\w*|anti|less|almost|nearly|quasi|look\w*|like"
    r"|false\w*|fake|never|hardly|without|dis|de|mis|mixed|both|vs|versus|or|partly|partially)\b"
)
# Sets whose name alone gives the label of all of their prompts.
_SETS = (
    (re.compile(r"\bor ?bench\b(?=.*\btoxic\b)"), HARMFUL),
    (re.compile(r"\b(?:or ?bench|alpaca)\b"), HARMLESS),
    (re.compile(r"\b(?:adv ?bench|harm ?bench|strong ?reject|jailbreak ?bench)\b"), HARMFUL),
)


def read_label(value: object) -> str | None:
    """The label that a value names; None if it names none."""
    if not isinstance(value, str):
        return None
    return _VALUES.get(re.sub(r"[\s_-]+", "", value).lower())


def label_of_name(name: str, where: str) -> str | None:
    """The label that the words of a file's name give; None where they say nothing of it.

    Args:
        name: of a file without its ending, perhaps of its folder too.
        where: the file, for messages.

    Raises:
        InputError: the name speaks of harm, and its words contradict each other or are not
            understood.
    """
    name = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)  # camelCase
    words = re.sub(r"[^a-z]+", " ", name.lower())
    rest, harmless = _NAMES_HARMLESS.subn(" . ", words)
    rest, harmful = _NAMES_HARMFUL.subn(" . ", rest)
    of_set = next((label for pattern, label in _SETS if pattern.search(words)), None)
    if of_set and not (harmless or harmful):
        return of_set
    speaks = re.search(_SPEAKS, words)
    if (harmless and harmful) or (speaks and _UNCLEAR.search(rest)):
        raise InputError(
            f"{where}: its name speaks of harm and does not give one label; write harmful=FILE, "
            f"harmless=FILE or {UNLABELLED}=FILE, or add a label column"
        )
    return HARMLESS if harmless else HARMFUL if harmful else None
