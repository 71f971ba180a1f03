"""Release hashes and compose files of the catalogs are what they were: a changed one restarts every user's engine.

After a change that is meant to change them: `LLM_WRITE_GOLDEN=1 .venv/bin/pytest tests/contract/test_golden.py`, and the commit
says why.
"""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.llm.plan import compose

from tests import catalogs

GOLDEN = Path(__file__).parent / "golden"
SERVICES = [(inventory, s) for inventory in catalogs.HOSTS for s in catalogs.raw(inventory)["services"]]


@pytest.fixture(scope="module")
def plugin() -> Any:
    """The action plugin, which writes the text of compose files."""
    found = importlib.util.spec_from_file_location("llm_plan_action", catalogs.ROOT / "action_plugins/llm_plan.py")
    assert found is not None and found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def golden(plugin: Any, inventory: str, service: str, door_key: str) -> tuple[str, str]:
    """Hash of a service's release on a host that has image and model, and the text of its compose file."""
    declared = catalogs.declared(inventory, host_services=[service], force=[service])
    known = declared.services[service]
    plugins = {file: f"content of {file}" for file in compose.plugin_files(known)}
    release = compose.release(declared, known, "sha256:" + "a" * 64, "digest", plugins, door_key)
    return release.hash, plugin._compose_text(release)


@pytest.mark.parametrize(("inventory", "service"), SERVICES)
def test_a_release_is_what_it_was(plugin: Any, inventory: str, service: str) -> None:
    hashes, file = GOLDEN / inventory / "hashes.json", GOLDEN / inventory / f"{service}.txt"
    (plain, text), (rotated, _) = (golden(plugin, inventory, service, key) for key in ("", "rotated"))
    if os.environ.get("LLM_WRITE_GOLDEN"):
        file.parent.mkdir(parents=True, exist_ok=True)
        held = json.loads(hashes.read_text(encoding="utf-8")) if hashes.exists() else {}
        hashes.write_text(
            json.dumps({**held, service: [plain, rotated]}, indent=1, sort_keys=True) + "\n", encoding="utf-8"
        )
        file.write_text(text, encoding="utf-8")
    assert file.read_text(encoding="utf-8") == text
    assert json.loads(hashes.read_text(encoding="utf-8"))[service] == [plain, rotated]


def test_every_service_has_golden_data_and_none_is_left_over() -> None:
    found = {(p.parent.name, p.stem) for p in GOLDEN.glob("*/*.txt")}
    assert found == set(SERVICES)
