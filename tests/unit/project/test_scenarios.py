"""What a change touches, on a small tree and on this one."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[3]

TREE = {
    "ansible.cfg": "",
    "molecule/shared/create.yml": "- name: Make\n  llm_image: {}\n",
    "molecule/store/molecule.yml": "{}\n",
    "molecule/store/converge.yml": "- hosts: all\n  roles:\n    - store\n",
    "molecule/store/tests/test_store.py": "",
    "molecule/store_alternative/molecule.yml": "verifier: {additional_files_or_dirs: [../../store/tests/test_*.py]}\n",
    "molecule/store_alternative/converge.yml": "- import_playbook: ../../playbooks/store.yml\n",
    "molecule/gateway/molecule.yml": "ansible: {playbooks: {prepare: ../store/prepare.yml}}\n",
    "molecule/gateway/converge.yml": "- hosts: all\n  tasks:\n    - include_role:\n        name: gateway\n",
    "molecule/store/prepare.yml": "- hosts: all\n  tasks:\n    - command: ls /srv/x\n",
    "playbooks/store.yml": "- hosts: all\n  tasks:\n    - include_tasks: tasks/refresh.yml\n",
    "playbooks/tasks/refresh.yml": "- name: Look\n  llm_facts: {}\n- include_role:\n    name: store\n",
    "group_vars/all/models.yml": "llm_models: {}\n",
    "roles/store/tasks/main.yml": "- name: Fetch\n  llm_model:\n    name: x\n",
    "roles/store/README.md": "# store\n",
    "roles/gateway/tasks/main.yml": '- name: Open\n  debug: {msg: "{{ x | llm_ports }}"}\n',
    "library/llm_model.py": "from ansible.module_utils.llm.base import files\n",
    "library/llm_facts.py": "from ansible.module_utils.llm.host.read import look\n",
    "library/llm_image.py": "from ansible.module_utils.llm.images import images\n",
    "action_plugins/llm_live.py": "from ansible.module_utils.llm.base.progress import parse\n",
    "filter_plugins/llm.py": 'FILTERS = {"llm_ports": None}\nfrom ansible.module_utils.llm.gateway.http import ports\n',
    "module_utils/llm/base/files.py": (
        'from ansible.module_utils.llm.base import (\n    texts as t,\n)\nPAGE = "page.html.j2"\n'
    ),
    "module_utils/llm/base/page.html.j2": "",
    "module_utils/llm/base/other.html.j2": "",
    **{
        f"module_utils/llm/{name}.py": ""
        for name in (
            *("base/texts", "base/progress", "host/read", "images/images"),
            *("gateway/__init__", "gateway/http/__init__", "gateway/http/ports"),
        )
    },
}
BOTH_STORES = ["store", "store_alternative"]
ALL = ["gateway", *BOTH_STORES]


@pytest.fixture(scope="module")
def script() -> ModuleType:
    """scripts/scenarios.py as a module."""
    place = importlib.util.spec_from_file_location("llm_scenarios", ROOT / "scripts" / "scenarios.py")
    assert place is not None and place.loader is not None
    module = importlib.util.module_from_spec(place)
    place.loader.exec_module(module)
    return module


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A small project."""
    for name, text in TREE.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "action_plugins/llm_model.py").symlink_to("llm_live.py")
    return tmp_path


@pytest.mark.parametrize(
    ("changed", "wanted"),
    [
        ([], []),
        (["docs/architecture.md", "tests/unit/test_x.py"], []),
        (["molecule/store/converge.yml"], ["store"]),
        (["molecule/store/tests/test_store.py"], BOTH_STORES),
        (["molecule/store/prepare.yml"], ["gateway", "store"]),
        (["roles/store/tasks/main.yml"], BOTH_STORES),
        (["roles/store/README.md"], []),
        (["roles/store/tasks/gone.yml"], BOTH_STORES),
        (["library/llm_model.py"], BOTH_STORES),
        (["module_utils/llm/base/files.py"], BOTH_STORES),
        (["module_utils/llm/base/texts.py"], BOTH_STORES),
        (["module_utils/llm/base/page.html.j2"], BOTH_STORES),
        (["module_utils/llm/base/other.html.j2"], []),
        (["action_plugins/llm_model.py"], BOTH_STORES),
        (["action_plugins/llm_live.py"], BOTH_STORES),
        (["module_utils/llm/base/progress.py"], BOTH_STORES),
        (["playbooks/tasks/refresh.yml"], ["store_alternative"]),
        (["module_utils/llm/host/read.py"], ["store_alternative"]),
        (["group_vars/all/models.yml"], ["store_alternative"]),
        (["filter_plugins/llm.py"], ["gateway"]),
        (["module_utils/llm/gateway/http/ports.py"], ["gateway"]),
        (["module_utils/llm/gateway/http/__init__.py"], ["gateway"]),
        (["library/llm_image.py"], []),
        (["molecule/shared/create.yml"], ALL),
        (["ansible.cfg"], ALL),
        (["roles/gateway/tasks/main.yml", "library/llm_facts.py"], ["gateway", "store_alternative"]),
    ],
    ids=str,
)
def test_touched(script: ModuleType, tree: Path, changed: list[str], wanted: list[str]) -> None:
    assert script.touched(tree, changed) == wanted


def test_the_chosen_ones_are_there_and_have_reasons(script: ModuleType) -> None:
    assert set(script.CHOSEN) <= set(script.scenarios(ROOT))
    assert all(reason.strip() for reason in script.CHOSEN.values())


def test_each_scenario_depends_on_its_role_and_on_what_that_needs(script: ModuleType) -> None:
    for scenario in script.scenarios(ROOT):
        role = scenario.removesuffix("_alternative")
        needed = script.needs(ROOT, scenario)
        assert "library/llm_host_facts.py" in needed and "module_utils/llm/host/read.py" in needed, scenario
        assert role == "site" or f"roles/{role}/tasks/main.yml" in needed, scenario


def test_site_depends_on_every_role(script: ModuleType) -> None:
    needed = script.needs(ROOT, "site")
    assert all(f"roles/{p.name}/tasks/main.yml" in needed for p in (ROOT / "roles").iterdir())


def test_usage(script: ModuleType) -> None:
    with pytest.raises(SystemExit, match="Usage"):
        script.main(["everything"])
    assert script.main(["chosen"]).splitlines() == list(script.CHOSEN)
