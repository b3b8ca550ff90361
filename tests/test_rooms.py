"""The plan of the house, kept: no room imports a higher one, no circle of imports, no function over a page."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ORDER = (
    {"rules"},
    {"settings", "files", "pruning"},
    {"processes", "data"},
    {"hosts"},
    {"chat", "convert", "plan"},
    {"viz", "lmms_eval", "serving"},
    {"eval"},
    {"train"},
    {"curriculum", "comparison"},
    {"app"},
    {"scripts", "benchmarks"},
)
LEVEL = {room: level for level, rooms in enumerate(ORDER) for room in rooms}
FILES = {
    path: ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for top in ("stts", "scripts", "benchmarks")
    for path in sorted((ROOT / top).rglob("*.py"))
}
MODULES = set(FILES.values())


def imported(path: Path) -> set[str]:
    """The modules of this project that a file imports, anywhere in it; for type checkers, too."""
    package = FILES[path].split(".") if path.name == "__init__.py" else FILES[path].split(".")[:-1]
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*base, *(node.module or "").split(".")]).strip(".")
            names = {f"{base}.{alias.name}" for alias in node.names}
            found |= (names & MODULES) | ({base} if names - MODULES else set())
    return found & MODULES - {FILES[path]}


def room(module: str) -> str:
    parts = module.split(".")
    return parts[1] if parts[0] == "stts" and len(parts) > 1 else parts[0]


def test_lower_rooms_never_import_higher_ones():
    assert {room(module) for module in MODULES} <= LEVEL.keys() | {"stts"}, "a room without a place in ORDER"
    wrong = [
        f"{FILES[path]} imports {other}"
        for path in FILES
        for other in imported(path)
        if "stts" not in (room(FILES[path]), room(other))  # the package's face hands on names of every room
        and room(FILES[path]) != room(other)
        and LEVEL[room(other)] >= LEVEL[room(FILES[path])]
    ]
    assert not wrong, "\n".join(wrong)


def test_no_module_imports_in_a_circle():
    faces = {
        name for path, name in FILES.items() if "__getattr__" in path.read_text()
    }  # they load on first use
    graph = {FILES[path]: imported(path) - faces for path in FILES if FILES[path] not in faces}
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


def test_few_modules_lie_outside_of_rooms():
    assert len(list((ROOT / "stts").glob("*.py"))) <= 4


@pytest.mark.parametrize("statement", ["import stts", "from stts import STTSConfig", "import stts.data"])
def test_importing_the_library_loads_neither_torch_nor_transformers(statement):
    check = "import sys; print(sorted({'torch', 'transformers'} & sys.modules.keys()))"
    out = subprocess.run(
        [sys.executable, "-c", f"{statement}; {check}"], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert out.stdout.strip() == "[]"


def test_functions_are_at_most_sixty_lines_long():
    long = [
        f"{FILES[path]}.{node.name}: {node.end_lineno - node.lineno + 1} lines"
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef) and node.end_lineno - node.lineno >= 60
    ]
    assert not long, "\n".join(long)
