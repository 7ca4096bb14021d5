"""The documentation: notebooks run, generated pages are complete, claims have their words."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NOTEBOOKS = ROOT / "docs" / "notebooks"


def run_notebook(name: str, **parameters) -> dict:
    """Run a notebook's code cells in order; `parameters` replace those of the cell so tagged.

    The last line of a cell may be an expression, as in a notebook.
    """
    scope = {}
    for cell in json.loads((NOTEBOOKS / name).read_text())["cells"]:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), f"{name}:{cell['id']}", "exec"), scope)
            if "parameters" in cell["metadata"].get("tags", ()):
                assert set(parameters) <= set(scope)
                scope.update(parameters)
    return scope


def test_first_look(tiny_path, tmp_path, quick_programs):
    out = tmp_path / "run"
    small = {"EXITS": "2-4", "PAIRS": 1, "NEW_TOKENS": 3}
    scope = run_notebook("first_look.ipynb", MODEL=str(tiny_path), OUT=str(out), **small)
    assert sorted(scope["answers"]["exit"].unique()) == [2, 3, 4]
    assert len(scope["answers"]) == 2 * 3


def test_exits_as_a_library(tiny_path, quick_programs):
    small = {"EXITS": [2, 4], "NEW_TOKENS": 3}
    scope = run_notebook("exits_as_a_library.ipynb", MODEL=str(tiny_path), **small)
    assert scope["logits_EBV"].shape[0] == scope["depth"] == 4
    assert scope["generation"].tokens.shape == (2, 2, 3)
    norms = scope["norms_L"]
    assert (norms[:2] > 0).all()
    assert (norms[2:] == 0).all()


@pytest.mark.parametrize("name", ["first_look.ipynb", "exits_as_a_library.ipynb"])
def test_notebooks_are_committed_without_outputs(name):
    cells = json.loads((NOTEBOOKS / name).read_text())["cells"]
    assert all(not cell.get("outputs") for cell in cells)


def test_every_command_is_in_the_reference(import_tool):
    from jaxdepth.commands.parsing import COMMANDS

    text = import_tool("site_pages").commands_markdown()
    for name in COMMANDS:
        assert f"## jaxdepth {name}\n" in text
        assert f"usage: jaxdepth {name}" in text


WORDS_FOLLOW = r"\s\([a-z]|: [a-z]|, [a-z]|\s\| \["
PAGES = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "experiments").glob("*.py")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_claim_has_its_words_beside_its_code(page):
    """`C4 (where safety sits)`, `C4: where safety sits` or a table cell; never C4 alone."""
    text = re.sub(r"`[^`]*`", "", page.read_text())
    assert not re.findall(rf"\bC(?:1[0-6]|[1-9])\b(?!{WORDS_FOLLOW})[^\n]{{0,30}}", text)
