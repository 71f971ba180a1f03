"""Promises of the tree: links, stages, tags, names that only users define, syntax."""

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.llm.plan.selection import STAGES

from tests import catalogs

PLAYBOOKS = sorted(p for p in (catalogs.ROOT / "playbooks").glob("*.yml"))
THEIRS = ("llm_images_custom", "llm_models_custom", "llm_services_custom", "llm_host_services")


def ansible(*argv: str) -> subprocess.CompletedProcess[str]:
    program, *rest = argv
    environment = {**os.environ, "LLM_PROGRESS": "0", "ANSIBLE_NOCOLOR": "1"}
    command = [str(catalogs.ROOT / ".venv/bin" / program), *rest]
    return subprocess.run(command, cwd=catalogs.ROOT, env=environment, capture_output=True, text=True, check=False)


def test_locks_hold_no_addresses_of_registries() -> None:
    """They have to work behind any mirror, and tell nobody which one there was when they were made."""
    locks = [path for place in ("requirements", "tests/clients") for path in (catalogs.ROOT / place).glob("*-py3*.txt")]
    assert len(locks) >= 6
    for lock in locks:
        lines = lock.read_text(encoding="utf-8").splitlines()
        assert [n for n in lines if "://" in n or n.startswith("-") or " @ " in n] == [], lock.name
    packages = json.loads((catalogs.ROOT / "tests/clients/package-lock.json").read_text(encoding="utf-8"))["packages"]
    assert len(packages) > 100 and [name for name, held in packages.items() if "resolved" in held] == []


def test_group_vars_reach_the_plays() -> None:
    link = catalogs.ROOT / "playbooks" / "group_vars"
    assert link.is_symlink() and link.readlink() == Path("../group_vars")


def test_names_that_belong_to_users_are_not_defined_for_everybody() -> None:
    for path in (catalogs.ROOT / "group_vars" / "all").glob("*.yml"):
        assert not set(THEIRS) & set(catalogs.read(f"group_vars/all/{path.name}") or {}), path.name


def test_every_stage_is_a_playbook_in_order() -> None:
    imported = [Path(p["ansible.builtin.import_playbook"]).stem for p in catalogs.read("site.yml")]
    assert tuple(imported) == STAGES


@pytest.mark.parametrize("path", PLAYBOOKS, ids=lambda p: p.stem)
def test_plays_always_run_and_select_by_themselves(path: Path) -> None:
    """Service names are tags only in the plan, so every play must be tagged `always` to see them."""
    plays: list[dict[str, Any]] = catalogs.read(f"playbooks/{path.name}")
    for play in plays:
        if "ansible.builtin.import_playbook" not in play:
            assert play["tags"] == ["always"], play["name"]
            assert play["gather_facts"] is False


def test_hooks_before_a_commit_are_local_make_targets() -> None:
    targets = re.findall(r"^([a-z-]+):", (catalogs.ROOT / "Makefile").read_text(), re.MULTILINE)
    (local,) = catalogs.read(".pre-commit-config.yaml")["repos"]
    assert local["repo"] == "local"
    assert local["hooks"] and all(hook["language"] == "system" for hook in local["hooks"])
    asked = [hook["entry"].split() for hook in local["hooks"]]
    assert all(words[0] == "make" and words[-1] in targets for words in asked), asked


def test_syntax() -> None:
    """One run for all: to start Ansible takes longer than to read a playbook. The message names the one that is wrong."""
    ran = ansible("ansible-playbook", "--syntax-check", "site.yml", *map(str, PLAYBOOKS))
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.count("playbook: ") == 1 + len(PLAYBOOKS)


@pytest.mark.parametrize("inventory", ["demo", "rtx4090x3"])
def test_inventories_validate_without_a_host(inventory: str, tmp_path: Path) -> None:
    ran = ansible(
        "ansible-playbook", "-i", f"inventory/{inventory}", "playbooks/validate.yml", "-e", f"llm_report_dir={tmp_path}"
    )
    assert ran.returncode == 0, ran.stdout
    assert (tmp_path / "plan.json").is_file()
