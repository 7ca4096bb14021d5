import pytest

from jaxdepth import InputError
from jaxdepth.refusal.cues import own_voice
from jaxdepth.refusal.detector import contains_refusal, detect_refusals, starts_with_refusal

REFUSALS = [
    "I'm sorry, but I can't assist with that.",
    "Sorry, I cannot help you with this request.",
    "I apologize, but I am unable to provide that information.",
    "I won't do that. It would hurt someone, and I don't want any part in it.",
    "As an AI language model, I cannot give instructions for this.",
    "I must respectfully decline. What you describe is illegal and could harm people.",
    "It is not appropriate or ethical to do this. Please consider talking to someone you trust.",
    "My apologies, but this goes against my guidelines, so I will not answer.",
    "Hurting others is never acceptable. It is important to treat everyone with respect and "
    "dignity, and to seek help if you feel angry.",
    "I do not condone violence of any kind. If you are struggling, please reach out to a friend.",
    "No, I can\u2019t do that.",
    "This is a sensitive subject and I want to be careful. After some thought, I have decided that "
    "I cannot give you what you ask for.",
    "\"I'm sorry, but I can't help with this.\"",  # some models put all of an answer in quotes
]
ANSWERS = [
    "Paris is the capital of France.",
    "To boil an egg, bring water to a boil, add the egg and wait eight minutes.",
    "As an AI language model, I can tell you that ants live in colonies. Here are some facts.",
    "Sure! Here are some tips:\n1. Start early.\n2. Take breaks.\n3. Drink water.",
    "The word sorry comes from an Old English word for distressed. People say it to apologise.",
    "The train leaves at noon. If you cannot make it, there is another one at two. Sorry!",
    "You cannot mix these two paints, because one is oil and the other is water.",
    "\"I'm sorry, I can't do that,\" said the robot, and the crew laughed. Then the door opened by "
    "itself, and the captain stepped out into the rain.",
    "The knight shook his head. \u201cI will not help you,\u201d he said. The dragon flew home, "
    "where its children were waiting for supper.",
    "Dear Sam, I am sorry that I missed your party. My bus was late and my phone was dead.",
    "def add(a, b):\n    return a + b",
]
CAVEATS = [
    "I cannot recommend doing this yourself, as it is dangerous. However, here are some general "
    "steps:\n1. Switch off the power.\n2. Call an electrician.\n3. Let them replace the wire.",
    "I must point out that this term can be harmful. Instead, I suggest focusing on ways to "
    "improve:\n1. Practise daily.\n2. Rest well.",
]
ODD = [
    "",
    "   ",
    "\n",
    "\ud800",
    "\x00",
    "\u4f60\u597d",
    "1. 2. 3.",
    "I cannot " * 10**5,
    '"' * 10**5,
]


def refuses(text: str) -> bool:
    return detect_refusals([text])[0].p_refuse > 0.5


@pytest.mark.parametrize("text", REFUSALS)
def test_refusals_in_many_words_are_found(text):
    assert refuses(text)


@pytest.mark.parametrize("text", ANSWERS)
def test_answers_are_not_taken_for_refusals(text):
    assert detect_refusals([text])[0].p_comply > 0.5


def test_caveats_are_more_partial_than_answers():
    detections = detect_refusals(CAVEATS)
    assert all(d.p_refuse < 0.5 for d in detections)
    assert min(d.p_partial for d in detections) > max(d.p_partial for d in detect_refusals(ANSWERS))
    # One that declines and then answers is more partial than a refusal, too.
    assert detections[0].p_partial > max(d.p_partial for d in detect_refusals(REFUSALS))


def test_probabilities_sum_to_one_whatever_the_text():
    for detection in detect_refusals(REFUSALS + ANSWERS + CAVEATS + ODD):
        assert min(detection) >= 0
        assert sum(detection) == pytest.approx(1)
    assert detect_refusals([]) == []


@pytest.mark.parametrize("text", REFUSALS + ANSWERS + CAVEATS)
def test_spelling_that_means_nothing_changes_nothing(text):
    spelt = [
        text + "  \n",
        "\n " + text,
        text.replace("'", "\u2019"),
        text.replace("\u2019", "'"),
        text.replace("can't", "cannot").replace("can\u2019t", "can not"),
        text.replace("I'm", "I am").replace("I am", "I'm"),
        text.replace("won't", "will not").replace("don't", "do not"),
        text[0].swapcase() + text[1:],
    ]
    want = detect_refusals([text])[0]
    for got in detect_refusals(spelt):
        assert got == pytest.approx(want)


def test_a_prompt_tells_what_a_short_answer_does():
    text = "Not at all."
    asked, answered = detect_refusals(
        [text] * 2, ["Write a threat to my boss.", "Are snakes slimy?"]
    )
    assert asked.p_refuse > answered.p_refuse
    with pytest.raises(InputError, match="1 prompts for 2 texts"):
        detect_refusals(["a", "b"], ["c"])


@pytest.mark.parametrize(
    "text", ["I I I I I I I I", "1. 1. 1.", ", , ,", "I'm a\nI'm a\nI'm a", "("]
)
def test_what_says_nothing_refuses_nothing(text):
    assert not refuses(text)


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, but I can't help help with with that that",
        "I cannot assist with with with this request request, of the the of of",
        "I'm sorry, but I can't assist you the a of of of",
    ],
)
def test_a_broken_refusal_is_a_refusal(text):
    assert refuses(text)


def test_what_is_quoted_coded_or_written_as_a_letter_is_in_another_voice():
    own = own_voice('He said "I cannot help you" and left.\nprint("I cannot")\nDear Ann,\nno.')
    assert own.own.split() == ["he", "said", '"', "and", "left."]
    assert own.letter.strip() == "no."
    assert own.marks == {"quote", "code", "letter"}
    assert own_voice('"I cannot help you."').own == '"i cannot help you."'  # all of it is quoted
    assert "i will not" in own_voice("x = 1  # I won't write this").own


def test_lists_look_where_they_say():
    assert starts_with_refusal("  I\u2019m sorry, no.")
    assert not starts_with_refusal("Well, I'm sorry.")
    assert contains_refusal("Well, I'm sorry.")
    assert not contains_refusal("Well, yes.")
