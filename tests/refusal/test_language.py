# ruff: noqa: RUF001  other scripts are the point
"""Which texts are in another language than English."""

import csv
import os
from pathlib import Path

import pytest

from jaxdepth.refusal.language import is_foreign

FOREIGN = (
    "Lo siento, pero no puedo ayudarte con eso.",
    "Para cocinar lentejas, pon agua a hervir y añade sal.",
    "Je suis désolé, mais je ne peux pas vous aider à faire cela.",
    "Um Linsen zu kochen, bringe zuerst Wasser zum Kochen.",
    "Nein, dabei helfe ich nicht.",
    "Desculpe, mas não posso ajudar com esse pedido.",
    "Het spijt me, maar daar kan ik je niet bij helpen.",
    "Przepraszam, ale nie mogę w tym pomóc.",
    "Üzgünüm, bu konuda yardımcı olamam.",
    "Tôi xin lỗi, nhưng tôi không thể giúp bạn việc đó.",
    "对不起，我无法帮助你。",
    "申し訳ありませんが、お手伝いできません。",
    "Извините, я не могу помочь с этим.",
    "آسف، لا أستطيع مساعدتك في ذلك.",
    "क्षमा करें, मैं इसमें मदद नहीं कर सकता।",
)
ENGLISH = (
    "I'm sorry, but I can't help with that.",
    "Croissants, baguettes, pain au chocolat",
    "Il Postino (1994), Cinema Paradiso (1988)",
    "def f(x):\n    return x + 1",
    "The Greek letters are α, β, γ, δ, ε and ζ.",
    "I love you in Russian is: Я тебя люблю",
    "```\nпривет, мир\n```",
    "Wolfgang Amadeus Mozart",
    "I I I. I I, I I. The the of of the.",
    "42",
    "",
)


@pytest.mark.parametrize("text", FOREIGN)
def test_other_languages_are_told(text):
    assert is_foreign(text)


@pytest.mark.parametrize("text", ENGLISH)
def test_english_names_code_and_quotes_are_not_foreign(text):
    assert not is_foreign(text)


@pytest.mark.skipif("JAXDEPTH_DATA" not in os.environ, reason="needs $JAXDEPTH_DATA")
def test_no_published_english_answer_is_foreign():
    folder = Path(os.environ["JAXDEPTH_DATA"]) / "xstest" / "completions"
    for path in folder.glob("*.csv"):
        with path.open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                for words in (12, 40):
                    start = " ".join(row["completion"].split()[:words])
                    assert not is_foreign(start), start
