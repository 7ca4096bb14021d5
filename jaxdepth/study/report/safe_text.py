"""Text by strangers, such as prompts, answers and names, made harmless for a page.

HTML is escaped where the page is made (jinja2, or textContent in the browser). Here goes what
escaping leaves: characters that no one sees, that reorder a line, or that move a cursor.
"""

import re

from jaxdepth.errors import visible

MAX_NAME = 120  # characters of a name in a table
# An absolute path, or one from here, up to its last part; alone or behind `=`, `:`.
_FOLDERS = re.compile(r"(^|[=:])\.{0,2}/(?!/)(?:[^/]*/)*")


def tame(text: str) -> str:
    """A text whose unprintable characters are escaped, but for its line breaks."""
    lines = text.replace("\r\n", "\n").replace("\t", "    ").split("\n")
    return "\n".join(line if line.isprintable() else visible(line) for line in lines)


def tame_name(name: object) -> str:
    """A name on one line of bounded length."""
    text = visible(str(name))
    return text if len(text) <= MAX_NAME else f"{text[: MAX_NAME - 1]}…"


def without_folders(name: object) -> str:
    """A name without the folders of one machine: `harmful=/home/me/set.csv` is `harmful=set.csv`.

    Names of built-in sets, of models on a hub, and addresses stay as they are.
    """
    return _FOLDERS.sub(r"\1", str(name))


def chart_text(name: object) -> str:
    """A name in a chart: plotly takes some tags in texts for markup, and $ for mathematics."""
    text = tame_name(name)
    for character, entity in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("$", "&#36;")):
        text = text.replace(character, entity)
    return text


def markdown_text(text: object) -> str:
    """A text that Markdown shows as it is, also in a cell of a table."""
    one_line = visible(" ".join(str(text).split()))
    for character in "\\`*_{}[]()#+!|~$@":
        one_line = one_line.replace(character, f"\\{character}")
    return one_line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
