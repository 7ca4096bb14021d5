"""The rooms of the package: imports run downward, nothing goes in circles, files stay small."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "jaxdepth"
MAX_LINES, MAX_FILES = 400, 15
# From the bottom up: a room imports from rooms in earlier rows, and from itself.
ROOMS = (
    ("errors", "cpu"),
    ("records", "ranges"),
    ("files", "runtime", "stats"),
    ("settings_file",),
    ("model",),
    ("depth",),
    ("prompts",),
    ("refusal", "probing", "weights"),
    ("tune", "judges"),
    ("study",),
    ("serving",),
    ("benchmarks",),
    ("api", "commands"),
    ("__init__", "cli"),
    ("__main__",),
)
LEVEL = {room: level for level, rooms in enumerate(ROOMS) for room in rooms}
# Inside study/: the shared ground, then the studies, which may build on those before them.
STUDIES = ("labelling", "sweep", "prefills", "tuning", "planning", "verdicts", "policies")
STUDIES += ("judging", "probes", "certificates", "comparison", "thinking", "checkpoints")
STUDIES += ("inspection", "report")


def modules() -> dict[str, Path]:
    """Every module of the package by its dotted name."""
    files = {}
    for file in sorted(PACKAGE.rglob("*.py")):
        parts = file.relative_to(ROOT).with_suffix("").parts
        files[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return files


def imports_of(file: Path, known: set[str]) -> set[str]:
    """The modules of the package that a file imports, inside functions too."""
    imported = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("jaxdepth"):
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            imported |= {name if name in known else node.module for name in names}
        elif isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names if alias.name.startswith("jaxdepth")}
    return imported


def room_of(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


@pytest.fixture(scope="module")
def imports() -> dict[str, set[str]]:
    files = modules()
    return {name: imports_of(file, set(files)) for name, file in files.items()}


def test_no_import_runs_upward(imports):
    for module, imported in imports.items():
        for other in imported:
            if other == "jaxdepth":  # its version
                continue
            above, below = room_of(module), room_of(other)
            if above != "__init__":  # names are imported there when they are first used
                assert above == below or LEVEL[below] < LEVEL[above], f"{module} imports {other}"


def test_studies_build_on_those_before_them(imports):
    for module, imported in imports.items():
        for other in imported:
            if room_of(module) == room_of(other) == "study":
                above, below = (study_of(name) for name in (module, other))
                assert above == below or below < above, f"{module} imports {other}"


def study_of(module: str) -> int:
    """The place of a module of study/ in that order: 0 for the shared ground."""
    name = module.split(".")[2] if module.count(".") > 1 else ""
    return STUDIES.index(name) + 1 if name in STUDIES else 0


def test_nothing_imports_in_circles(imports):
    done, path = set(), []

    def visit(module: str) -> None:
        assert module not in path, f"a circle: {' -> '.join([*path, module])}"
        if module in done:
            return
        path.append(module)
        for other in sorted(imports.get(module, ())):
            if module != "jaxdepth" and other != "jaxdepth":
                visit(other)
        path.pop()
        done.add(module)

    for module in imports:
        visit(module)


def test_files_and_folders_stay_small():
    files = [*modules().values(), *(ROOT / "tests").rglob("*.py"), *(ROOT / "tools").glob("*.py")]
    for file in files:
        assert len(file.read_text().splitlines()) <= MAX_LINES, file
    for folder in {file.parent for file in files if file.parent.name != "tools"}:
        in_folder = [file for file in folder.glob("*.py") if file.name != "__init__.py"]
        assert len(in_folder) <= MAX_FILES, folder
