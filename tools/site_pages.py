"""Write the parts of the documentation site that come from the program itself.

mkdocs loads this file as a hook (mkdocs.yml). A page has a comment such as `<!-- commands -->`, and
the hook replaces it by the markdown of the function with that name, so the reference cannot differ
from the program.
"""

import contextlib
import importlib
import io
import json
import os
import re
from pathlib import Path
from textwrap import fill
from unittest import mock

MARKER = re.compile(r"<!-- (cards|commands|notebook|tables)(?: (\S+))? -->")
DOCS = Path(__file__).parents[1] / "docs"


def on_page_markdown(markdown: str, **_) -> str:
    """Replace each marker of a page by what its function writes; mkdocs calls this."""
    writers = {
        "cards": lambda _: cards_markdown(),
        "commands": lambda _: commands_markdown(),
        "notebook": notebook_markdown,
        "tables": lambda _: tables_markdown(),
    }
    return MARKER.sub(lambda match: writers[match[1]](match[2]), markdown)


def cards_markdown() -> str:
    """Write the card of each adapter in the package, its heading one level down."""
    cards = sorted((DOCS.parent / "jaxdepth" / "data" / "adapters").glob("*.md"))
    return "\n\n".join("#" + card.read_text(encoding="utf-8") for card in cards)


def commands_markdown() -> str:
    """Write each command's `--help` under a heading of its own."""
    from jaxdepth.commands.parsing import COMMANDS

    return "\n\n".join(
        f"## jaxdepth {name}\n\n```text\n{command_help(name)}\n```" for name in COMMANDS
    )


def command_help(name: str) -> str:
    """Return what `jaxdepth NAME --help` prints on a terminal of 100 columns, without colours."""
    from jaxdepth.cli import main

    printed = io.StringIO()
    plain = mock.patch.dict(os.environ, {"COLUMNS": "100", "NO_COLOR": "1"})
    with plain, contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
        main([name, "--help"])
    return "\n".join(fill(line.rstrip(), 100) for line in printed.getvalue().strip().splitlines())


STUDIES = {
    "study.common_tables": "Several studies",
    "study.sweep.tables": "`jaxdepth sweep`",
    "study.policies.tables": "`jaxdepth sweep --policy`",
    "study.verdicts.tables": "`jaxdepth decide`",
    "study.judging.tables": "`jaxdepth judge`",
    "study.probes.tables": "`jaxdepth probe`",
    "study.checkpoints.tables": "`jaxdepth probe --against`",
    "study.tuning.tables": "`jaxdepth tune`",
    "study.comparison.tables": "Comparisons of models",
    "study.thinking.tables": "Think, then decide: arms compared",
    "study.labelling.tables": "`jaxdepth label`",
    "benchmarks.tables": "`jaxdepth evaluate`",
    "benchmarks.lm_eval.tables": "`jaxdepth evaluate --with lm-eval`",
}


def declared_tables() -> dict[str, list]:
    """Return the declared tables of each module that declares some, each table once."""
    from jaxdepth.study.tables import Table

    seen, tables = set(), {}
    for name in STUDIES:
        module = importlib.import_module(f"jaxdepth.{name}")
        own = [value for value in vars(module).values() if isinstance(value, Table)]
        tables[name] = [table for table in own if id(table) not in seen]
        seen |= {id(table) for table in own}
    return tables


def tables_markdown() -> str:
    """Write every column of every table: name, type, unit and meaning."""
    parts = []
    for module, tables in declared_tables().items():
        parts.append(f"## {STUDIES[module]}")
        for table in tables:
            rows = [f"| `{c.name}` | {c.type} | {c.unit} | {c.meaning} |" for c in table.columns]
            head = f"### {table.name}.parquet\n\nA row is {table.rows_are}.\n"
            parts.append(
                "\n".join([head, "| column | type | unit | meaning |", "|---|---|---|---|", *rows])
            )
    return "\n\n".join(parts).replace("||", "\\|\\|")


def notebook_markdown(name: str) -> str:
    """Write the cells of docs/NAME as markdown, without outputs."""
    cells = json.loads((DOCS / name).read_text())["cells"]
    texts = ["".join(cell["source"]) for cell in cells]
    return "\n\n".join(
        f"```python\n{text}\n```" if cell["cell_type"] == "code" else text
        for cell, text in zip(cells, texts, strict=True)
    )
