"""Who imports whom in module_utils/llm, and which of it goes to hosts."""

import ast
import re
import sys
from collections import defaultdict
from collections.abc import Iterable
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from ansible.module_utils.llm.plan import program

from tests import catalogs

LIBRARY = catalogs.ROOT / "module_utils" / "llm"
ON_HOSTS = {"base", "docker", "gpu", "models", "images", "engine", "gateway", "host", "clients"}
"""Rooms that modules and programs on hosts may use, with DECLARED of room `declare`. The others plan, on the controller."""
DECLARED = {"declare.objects", "declare.values", "declare.facts", "declare.checks"}
PAGE = catalogs.ROOT / "docs" / "architecture.md"
PICTURE = re.compile(r"<!-- rooms -->\n```mermaid\n(.*?)```\n", re.DOTALL)


def imported(path: Path) -> set[str]:
    """Modules of ours that a program imports, as `room.module`."""
    return {m.replace("/", ".") for m in program.imported(path.read_text()) if (LIBRARY / f"{m}.py").is_file()}


MODULES = {
    ".".join(path.relative_to(LIBRARY).with_suffix("").parts): imported(path)
    for path in LIBRARY.rglob("*.py")
    if path.name != "__init__.py"
}


def shipped(modules: Iterable[str]) -> set[str]:
    """These modules with all that they need, which is what Ansible sends along."""
    todo, found = [*modules], set[str]()
    while todo:
        name = todo.pop()
        if name not in found:
            found.add(name)
            todo += MODULES[name]
    return found


PROGRAMS = sorted([*catalogs.ROOT.glob("library/*.py"), *catalogs.ROOT.glob("roles/*/files/**/*.py")])


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda p: str(p.relative_to(catalogs.ROOT)))
def test_hosts_get_nothing_of_the_planner(path: Path) -> None:
    found = {m for m in shipped(imported(path)) if m.partition(".")[0] not in ON_HOSTS and m not in DECLARED}
    assert not found, f"these are for the controller: {sorted(found)}"


def packages(path: Path) -> set[str]:
    """Packages that a file imports, ours left out."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not f"{node.module}.".startswith("ansible.module_utils.llm."):
            found.add((node.module or "").partition(".")[0])
    return found


BROUGHT = {
    "models.hub": {"huggingface_hub"}
}  # what the project's own environment on a host has, imported where it is used


@pytest.mark.parametrize("name", sorted(MODULES))
def test_hosts_need_nothing_but_python(name: str) -> None:
    needed = packages(LIBRARY / f"{name.replace('.', '/')}.py") - {*sys.stdlib_module_names}
    on_hosts = name.partition(".")[0] in ON_HOSTS or name in DECLARED
    assert needed <= (BROUGHT.get(name, set()) if on_hosts else {"jinja2", "yaml"})


def rooms() -> dict[str, set[str]]:
    """Room to the rooms that it imports from."""
    found: dict[str, set[str]] = defaultdict(set)
    for name, needed in MODULES.items():
        found[name.partition(".")[0]] |= {m.partition(".")[0] for m in needed}
    return {room: others - {room} for room, others in found.items()}


def test_neither_modules_nor_rooms_import_in_a_circle() -> None:
    TopologicalSorter(MODULES).prepare()
    TopologicalSorter(rooms()).prepare()


def test_the_lowest_room_needs_no_other() -> None:
    assert rooms()["base"] == set()


def test_the_picture_shows_the_rooms_as_they_are() -> None:
    arrows = [f"  {below} --> {room}\n" for room, needed in sorted(rooms().items()) for below in sorted(needed)]
    drawn = PICTURE.search(PAGE.read_text())
    wanted = "".join(["graph LR\n", *arrows])
    assert drawn and drawn[1] == wanted, f"docs/architecture.md does not show what is so:\n{wanted}"


def test_every_room_says_what_it_is_for() -> None:
    for room in rooms():
        assert ast.get_docstring(ast.parse((LIBRARY / room / "__init__.py").read_text())), room


TYPED = sorted({p.stem for p in (LIBRARY / "plan").glob("*.py")} - {"__init__"})


def types(body: Iterable[ast.stmt]) -> dict[str, list[ast.expr | None]]:
    """What public functions, methods, fields and aliases say of types, by name."""
    found: dict[str, list[ast.expr | None]] = {}
    for node in body:
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            taken = [a for a in ast.walk(node.args) if isinstance(a, ast.arg)]
            found[node.name] = [*(a.annotation for a in taken), node.returns]
        elif isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{name}": own for name, own in types(node.body).items()}
        elif isinstance(node, ast.AnnAssign):
            found[ast.unparse(node.target)] = [node.annotation]
        elif isinstance(node, ast.Assign):
            found[ast.unparse(node.targets[0])] = [node.value]
    return found


def is_open(annotation: ast.expr | None) -> bool:
    """Whether a type lets through whatever comes."""
    return annotation is not None and any(isinstance(n, ast.Name) and n.id == "Any" for n in ast.walk(annotation))


@pytest.mark.parametrize("path", [*(f"plan/{name}.py" for name in TYPED), "declare/facts.py", "host/read.py"])
def test_what_is_decided_of_a_host_has_types(path: str) -> None:
    found = types(ast.parse((LIBRARY / path).read_text()).body)
    untyped = [name for name, said in found.items() if any(map(is_open, said))]
    assert not untyped, f"module_utils/llm/{path}: say what these take and give: {', '.join(untyped)}"


OTHERS = {"modules", "plugins", "programs", "project", "data"}
"""Folders of unit tests beside the rooms: of library, of plugins, of what roles ship, and of this project's own tools."""


def test_unit_tests_are_in_the_room_of_what_they_test() -> None:
    place = catalogs.ROOT / "tests" / "unit"
    assert {p.name for p in place.iterdir() if p.is_dir() and p.name != "__pycache__"} == {*rooms(), *OTHERS}
    assert [p.name for p in place.glob("test_*.py")] == []
