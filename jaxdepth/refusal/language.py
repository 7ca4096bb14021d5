"""Whether a text is in another language than English, the one that the built-in judge reads."""

import re
import unicodedata
from functools import cache

# Below this confidence a text counts as English: names, code and broken text look like anything.
_MIN_CONFIDENCE = 0.8
_MIN_LETTERS = 2
# Code, addresses and mathematics are in no language.
_NOT_PROSE = re.compile(r"```.*?(?:```|\Z)|`[^`\n]*`|https?://\S+|\$[^$\n]+\$", re.DOTALL)


def is_foreign(text: str) -> bool:
    """Whether a text is clearly in another language: by its script, or by its letter sequences.

    Text in code, addresses and formulas does not count. Sequences are classified by py3langid (Lui
    and Baldwin 2012, ACL demo 25-30).
    """
    prose = _NOT_PROSE.sub(" ", text)
    letters = [c for c in prose if c.isalpha()]
    if len(letters) < _MIN_LETTERS:
        return False
    latin = sum(unicodedata.name(c, "").startswith(("LATIN", "FULLWIDTH LATIN")) for c in letters)
    if latin < len(letters) / 2:
        return True
    language, confidence = _identifier().classify(prose)
    return language != "en" and confidence > _MIN_CONFIDENCE


@cache
def _identifier():
    from py3langid.langid import MODEL_FILE, LanguageIdentifier  # loads its model: half a second

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
