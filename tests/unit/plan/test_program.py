"""Programs of ours in containers of their own: what is packed for a host, and when a host has it."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
from ansible.errors import AnsibleFilterError
from ansible.module_utils.llm.plan import program

from tests import catalogs

LIBRARY = {
    "base/a": "from ansible.module_utils.llm.base import b\nimport json\n",
    "base/b": "from ansible.module_utils.llm.base import a  # a circle ends\n",
    "docker/c": "",
}
APP = "app/ansible/module_utils/llm/"
COMPOSE = "labels: {llm.x: LOADED}\n"


@pytest.fixture(scope="module")
def filters() -> Any:
    """The filters of roles and playbooks, by name."""
    found = importlib.util.spec_from_file_location("llm_filters", catalogs.ROOT / "filter_plugins/llm.py")
    assert found is not None and found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module.FilterModule().filters()


@pytest.mark.parametrize(
    ("text", "imported"),
    [
        ("from ansible.module_utils.llm.base import files, lease", {"base", "base/files", "base/lease"}),
        ("from ansible.module_utils.llm.base.files import read", {"base/files", "base/files/read"}),
        ("import ansible.module_utils.llm.base.files", {"base/files"}),
        (
            "def late() -> None:\n    from ansible.module_utils.llm.docker import api as d",
            {"docker", "docker/api"},
        ),
        ("from . import core\nimport json\nfrom ansible.module_utils.llmx import y\n", set()),
    ],
)
def test_what_a_text_imports_of_ours_is_found_however_it_is_written(text: str, imported: set[str]) -> None:
    assert program.imported(text) == imported


def test_a_program_comes_with_what_it_needs_in_the_end_and_nothing_else() -> None:
    own = {"__main__.py": "from ansible.module_utils.llm.base import a\n", "core.py": ""}
    found = program.packed("watch", own, LIBRARY.get)
    assert found == {
        "app/watch/__main__.py": own["__main__.py"],
        "app/watch/core.py": "",
        f"{APP}base/a.py": LIBRARY["base/a"],
        f"{APP}base/b.py": LIBRARY["base/b"],
    }


def wanted(found: program.Found | None = None, compose: str = COMPOSE) -> program.Wanted:
    return program.wanted({"app/x/y.py": "1"}, {"b": 1, "a": [2]}, compose, found or {})


def test_a_program_s_checksum_is_in_its_compose_file_and_covers_all_else() -> None:
    files = wanted()["files"]
    assert set(files) == {"app/x/y.py", "config.json", "compose.yml"}
    assert files["compose.yml"] == COMPOSE.replace("LOADED", wanted()["loaded"])
    assert json.loads(files["config.json"]) == {"a": [2], "b": 1}
    others = [
        program.wanted({"app/x/y.py": "2"}, {"b": 1, "a": [2]}, COMPOSE, {}),
        program.wanted({"app/x/y.py": "1"}, {"b": 2, "a": [2]}, COMPOSE, {}),
        wanted(compose=COMPOSE + "#"),
    ]
    assert len({w["loaded"] for w in (wanted(), *others)}) == 4


SUMS = program.sums(wanted()["files"])
THERE = {"files": SUMS, "state": "running", "loaded": wanted()["loaded"]}


@pytest.mark.parametrize(
    ("found", "compose", "good"),
    [
        (THERE, COMPOSE, True),
        ({}, COMPOSE, False),
        ({**THERE, "state": "exited"}, COMPOSE, False),
        ({**THERE, "loaded": "of before"}, COMPOSE, False),
        ({**THERE, "files": {**SUMS, "app/old.py": "0"}}, COMPOSE, False),
        ({**THERE, "files": {}}, COMPOSE, False),
        ({}, "", True),
        ({"state": "absent", "files": {}, "loaded": ""}, "", True),
        ({"state": "exited", "files": {}, "loaded": ""}, "", False),
        ({"state": "absent", "files": {"app/x/y.py": "0"}, "loaded": ""}, "", False),
    ],
)
def test_a_program_is_good_when_it_runs_as_it_is_declared_or_is_gone_as_it_is(
    found: program.Found, compose: str, good: bool
) -> None:
    assert wanted(found, compose)["good"] is good
    assert bool(wanted(found, compose)["files"]) is bool(compose)


@pytest.mark.parametrize(
    ("folder", "modules"),
    [
        (
            "engine_supervisor/files/engine_supervisor",
            "base/dpkg base/files base/http base/lease base/redact declare/facts docker/api engine/diagnostics engine/metrics",
        ),
        (
            "gateway/files/acme_client",
            "base/dpkg base/files base/lease declare/facts gateway/acme gateway/certificates gateway/haproxy",
        ),
    ],
)
def test_our_programs_come_with_few_modules(filters: Any, folder: str, modules: str) -> None:
    place = catalogs.ROOT / "roles" / folder
    files = filters["llm_program_wanted"](str(place), {}, COMPOSE, {})["files"]
    own = {f"app/{place.name}/{p.name}" for p in place.glob("*.py")}
    assert set(files) == own | {f"{APP}{m}.py" for m in modules.split()} | {"config.json", "compose.yml"}
    assert files[f"app/{place.name}/__main__.py"] == (place / "__main__.py").read_text()


def test_a_folder_without_a_program_is_named(filters: Any, tmp_path: Path) -> None:
    with pytest.raises(AnsibleFilterError, match=f"{tmp_path}: there is no program"):
        filters["llm_program_wanted"](str(tmp_path), {}, COMPOSE, {})
