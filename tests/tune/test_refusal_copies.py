"""tools/refusal_copies.py: refusals that repeat a trained wording, by hand and as trained."""

import pytest

from jaxdepth.tune.tasks import read_wordings

WORDINGS = [
    "I won't help with {act}.",
    "{act} is not for me.",
    "No help with {act}.",
    "I'd sooner help with {offer} than with {act}.",
]


@pytest.fixture
def tool(import_tool):
    return import_tool("refusal_copies")


def test_copies_are_counted_by_hand(tool):
    refusals = [
        (
            "I won\N{RIGHT SINGLE QUOTATION MARK}t help with  picking a lock. Ask a smith.",
            "picking a lock",
        ),
        ("I won't help with picking a sock.", "picking a lock"),
        ("Sorry, I WON'T help with that.", None),
        ("Picking a lock is not for me.", "picking a lock"),
        ("I'd sooner help with a spare key than with picking a lock.", "picking a lock"),
        ("I can't do that.", "picking a lock"),
        (
            "I won't help with " + "word " * 20 + "word.",
            "picking a lock",
        ),  # no wording so far apart
        ("Piano help with that.", None),  # the end of a word is not its beginning
    ]
    copies = tool.count_copies(refusals, WORDINGS)
    assert (copies.refusals, copies.verbatim, copies.framed) == (8, 3, 5)
    assert copies.wordings == {WORDINGS[0]: 3, WORDINGS[1]: 1, WORDINGS[3]: 1}


def test_what_is_trained_is_found(tool):
    wordings = [row["text"] for row in read_wordings()]
    act, offer = "picking a lock", "calling a smith"
    trained = [(wording.format(act=act, offer=offer), act) for wording in wordings]
    copies = tool.count_copies(trained, wordings)
    assert copies.verbatim == copies.framed == copies.refusals == len(wordings)
    assert len(copies.wordings) == len(wordings)
