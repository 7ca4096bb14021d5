"""What the columns of published sets hold, and the names that any set's columns may have.

Sources: the files of each set as published; names are in lower case, as rows have them.
"""

import re
from dataclasses import dataclass

from jaxdepth.prompts.prompt import HARMFUL

# Names of columns in order of preference.
PROMPT: tuple[str, ...] = ("prompt", "instruction", "forbidden_prompt", "goal", "text", "question")
PROMPT += ("query", "behavior", "user_prompt")
MESSAGES = ("messages", "conversations", "conversation", "turns", "dialog", "chat")
SYSTEM = ("system", "system_prompt", "system_message")
PREFILL = ("prefill",)
LABEL = ("label", "prompt_harm_label", "harm_label", "prompt_label", "safety_label")
ID = ("prompt_id", "id", "question_id", "behaviorid", "index")
CATEGORY = ("category", "type", "semanticcategory", "subcategory", "risk_area")
PAIR = ("pair_id",)
# A part of the prompt even where it is a word or two, and never read unless a layout says how.
HALVES = frozenset(
    "input context contextstring passage document background history prefix suffix choices options "
    "persona examples few_shot few_shots image images audio video file files attachment".split()
)
# Answers and facts about a prompt, which no prompt needs; every other column of text is refused.
_NO_PART = re.compile(
    r"(?:.*_)?(?:responses?|outputs?|answers?|completions?|targets?|generations?|reply|replies"
    r"|chosen|rejected|references?|solutions?|actions?|outcomes?"
    r"|ids?|index|uuid|hash|sources?|urls?|links?|authors?|licen[cs]e|date|time|timestamp|year"
    r"|languages?|lang|locale|models?|splits?|subset|datasets?|version|style|categor(?:y|ies)"
    r"|subcategor(?:y|ies)|types?|kind|topics?|theme|domain|area|risks?|harms?|hazards?|labels?"
    r"|tags?|scores?|ratings?|levels?|difficulty|severity|agreement|notes?|comments?|explanation"
    r"|rationale|reason|justification|annotators?|annotations?|focus|status|name|meta|metadata"
    r"|info|extra)(?:_?\d+|_[a-z])?|unnamed:_\d+|__index_level_\d+__|functionalcategory"
)

_LIKE_LABEL = re.compile(
    r"(?:is_|prompt_|user_)*(?:harm|harmful|harmless|safe|unsafe|safety|toxic|toxicity|benign"
    r"|malicious)(?:ness)?(?:_label|_class)?"
)


def is_no_part(column: str) -> bool:
    """Whether a column's name says that it is no part of a prompt."""
    return _NO_PART.fullmatch(re.sub(r"[ -]", "_", column)) is not None


def is_like_label(column: str) -> bool:
    """Whether a column's name says that it tells harmful from harmless, in values of its own."""
    return _LIKE_LABEL.fullmatch(re.sub(r"[ -]", "_", column)) is not None


@dataclass(frozen=True)
class Layout:
    """How a published set is recognised, and which columns make its prompts."""

    name: str
    has: tuple[str, ...]  # the columns that recognise it
    prompt: tuple[str, ...] = ()  # joined in this order, empty ones left out
    main: str | None = None  # of these the one that is never empty
    between: str = "\n\n"
    label: str | None = None  # of all of its prompts
    style: str | None = None  # of one prompt there are several rows, told apart by this column
    others: tuple[str, ...] = ()  # no part of the prompt, whatever they hold


# The first that fits counts.
PUBLISHED = (
    # The files in jaxdepth/data: what is asked for, as a phrase, is there for tuning.
    Layout(name="pairs", has=("harmful", "harmless", "act"), others=("act", "harmless_act")),
    Layout(name="look-alikes", has=("text", "act"), prompt=("text",), others=("act",)),
    Layout(
        name="HarmBench",
        has=("behavior", "behaviorid"),
        prompt=("contextstring", "behavior"),
        main="behavior",
        between="\n\n---\n\n",
        label=HARMFUL,
    ),
    # Its harmless half has the same columns: the label is in a file's name.
    Layout(
        name="JailbreakBench",
        has=("goal", "target", "behavior"),
        prompt=("goal",),
        others=("behavior",),
    ),
    Layout(name="AdvBench", has=("goal", "target"), prompt=("goal",), label=HARMFUL),
    Layout(
        name="StrongREJECT",
        has=("forbidden_prompt",),
        prompt=("forbidden_prompt",),
        label=HARMFUL,
    ),
    Layout(name="SORRY-Bench", has=("turns", "prompt_style"), label=HARMFUL, style="prompt_style"),
    Layout(
        name="IFEval",
        has=("prompt", "instruction_id_list"),
        prompt=("prompt",),
        others=("instruction_id_list", "kwargs"),  # what its checker asks of an answer
    ),
    Layout(name="WildGuardTest", has=("prompt", "prompt_harm_label"), prompt=("prompt",)),
    Layout(
        name="Do-Not-Answer",
        has=("question", "risk_area", "types_of_harm"),
        prompt=("question",),
        label=HARMFUL,
    ),
    Layout(
        name="Alpaca",
        has=("instruction", "input"),
        prompt=("instruction", "input"),
        main="instruction",
        others=("text",),  # instruction, input and answer in a template of their own
    ),
    Layout(
        name="Dolly",
        has=("instruction", "context", "response"),
        prompt=("instruction", "context"),
        main="instruction",
    ),
    Layout(
        name="OpenOrca",
        has=("system_prompt", "question", "response"),
        prompt=("question",),
    ),
)


def layout_of(columns: set[str]) -> Layout | None:
    """The published layout that has these columns, if one has."""
    return next((layout for layout in PUBLISHED if set(layout.has) <= columns), None)
