"""Nothing here reloads systemd, which detaches GPUs from running containers (runc's device rules are written anew)."""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import catalogs

PLAYS = [
    *sorted((catalogs.ROOT / "roles").glob("*/*/*.yml")),
    *sorted((catalogs.ROOT / "playbooks").rglob("*.yml")),
]
PROGRAMS = [
    *sorted((catalogs.ROOT / "library").glob("*.py")),
    *sorted((catalogs.ROOT / "module_utils" / "llm").rglob("*.py")),
    *sorted((catalogs.ROOT / "roles").glob("*/files/**/*.py")),
]
SERVICE_MODULES = {"systemd", "systemd_service", "service", "sysvinit"}
RELOADS = ("daemon-reload", "daemon-reexec")


def mappings(found: Any) -> Iterator[dict[str, Any]]:
    if isinstance(found, dict):
        yield found
    for item in found.values() if isinstance(found, dict) else found if isinstance(found, list) else ():
        yield from mappings(item)


def asked(task: dict[str, Any]) -> str:
    """What a task does that reloads systemd, "" when it does nothing of the kind."""
    for key, value in task.items():
        module = key.rpartition(".")[2]
        if module in SERVICE_MODULES and isinstance(value, dict):
            if value.get("daemon_reload") or value.get("daemon_reexec"):
                return f"{key}: daemon_reload"
            if "enabled" in value:
                return f"{key}: enabled, which calls `systemctl enable`"
        if module in ("command", "shell"):
            words = str(value).replace(",", " ").replace("'", " ").split()
            if any(r in words for r in RELOADS):
                return f"{key}: {value}"
            if "systemctl" in words and "enable" in words and "--no-reload" not in words:
                return f"{key}: {value}"
    return ""


def words(tree: ast.AST) -> Iterator[list[str]]:
    """The text constants of every list and tuple: argument lists are such."""
    for node in ast.walk(tree):
        if isinstance(node, ast.List | ast.Tuple):
            yield [n.value for n in ast.walk(node) if isinstance(n, ast.Constant) and isinstance(n.value, str)]


def programs(source: str) -> list[list[str]]:
    """Argument lists in a program that reload systemd."""
    return [
        argv
        for argv in words(ast.parse(source))
        if any(r in argv for r in RELOADS) or ({"systemctl", "enable"} <= set(argv) and "--no-reload" not in argv)
    ]


@pytest.mark.parametrize("path", PLAYS, ids=lambda p: str(p.relative_to(catalogs.ROOT)))
@pytest.mark.fault(42, "no task of ours reloads systemd", by="simulated")
def test_no_task_reloads_systemd(path: Path) -> None:
    found = catalogs.read(str(path.relative_to(catalogs.ROOT)))
    assert [reason for task in mappings(found) if (reason := asked(task))] == []


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda p: str(p.relative_to(catalogs.ROOT)))
def test_no_program_reloads_systemd(path: Path) -> None:
    assert programs(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "task",
    [
        {"ansible.builtin.systemd_service": {"name": "x", "daemon_reload": True}},
        {"ansible.builtin.service": {"name": "x", "enabled": True}},
        {"ansible.builtin.command": {"argv": ["systemctl", "daemon-reload"]}},
        {"ansible.builtin.shell": {"cmd": "systemctl daemon-reload && true"}},
        {"ansible.builtin.command": "systemctl enable x"},
    ],
)
def test_what_would_be_found_in_tasks(task: dict[str, Any]) -> None:
    assert asked(task)


@pytest.mark.parametrize("line", ["run(['systemctl', 'daemon-reload'])", "run(['systemctl', 'enable', 'x'])"])
def test_what_would_be_found_in_programs(line: str) -> None:
    assert programs(line)
    assert not programs("run(['systemctl', 'enable', '--no-reload', 'x'])")
