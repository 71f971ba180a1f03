"""Module documentation says exactly what the modules take."""

import importlib
from typing import Any, Literal

import pytest
import yaml
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible.module_utils.llm.plan import changes, deploy, handover

from tests import catalogs

MODULES = sorted(p.stem for p in (catalogs.ROOT / "library").glob("llm_*.py"))
OURS = "ansible.module_utils.llm."
ON_THE_CONTROLLER = {"llm_lock", "llm_plan", "llm_report"}  # documentation only; their action plugins take the options


class Spec(Exception):
    """Carries the argument_spec that a module hands to Ansible."""

    def __init__(self, argument_spec: dict[str, Any], supports_check_mode: bool) -> None:
        self.argument_spec, self.supports_check_mode = argument_spec, supports_check_mode


def spec(name: str, monkeypatch: pytest.MonkeyPatch) -> Spec:
    def stop(argument_spec: dict[str, Any], supports_check_mode: bool = False, **_: Any) -> None:
        raise Spec(argument_spec, supports_check_mode)

    module = importlib.import_module(name)
    monkeypatch.setattr(module, "AnsibleModule", stop)
    with pytest.raises(Spec) as caught:
        module.main()
    return caught.value


@pytest.mark.parametrize("name", MODULES)
def test_documentation_is_complete(name: str) -> None:
    module = importlib.import_module(name)
    documentation = yaml.safe_load(module.DOCUMENTATION)
    assert documentation["module"] == name and documentation["short_description"]
    assert {"check_mode", "diff_mode"} <= set(documentation["attributes"])
    assert all(option["description"] and option["type"] for option in documentation["options"].values())
    assert yaml.safe_load(module.EXAMPLES) and yaml.safe_load(module.RETURN)


def compare(documented: dict[str, Any], taken: dict[str, Any]) -> None:
    """Documented options beside those that are taken, and those below them."""
    assert set(documented) == set(taken)
    for option, value in documented.items():
        for part in ("type", "required", "default", "choices", "elements"):
            assert value.get(part) == taken[option].get(part), (option, part)
        compare(value.get("suboptions", {}), taken[option].get("options", {}))


@pytest.mark.parametrize("name", sorted(set(MODULES) - ON_THE_CONTROLLER))
def test_documented_options_are_the_ones_taken(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    documented = yaml.safe_load(importlib.import_module(name).DOCUMENTATION)
    taken = spec(name, monkeypatch)
    compare(documented["options"], taken.argument_spec)
    claimed = documented["attributes"]["check_mode"]["support"]
    assert taken.supports_check_mode is (claimed == "full")


@pytest.mark.parametrize("part", deploy.ASKED)
def test_what_the_plan_asks_of_a_service_is_what_the_modules_take(
    part: Literal["smoke", "warmup"], monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = spec(f"llm_{part}", monkeypatch).argument_spec["ask"]["options"]
    assert set(deploy.ASKED[part]) == set(taken)
    validator = ArgumentSpecValidator({"ask": {"type": "dict", "options": taken}})
    for inventory in catalogs.HOSTS:
        declared = catalogs.declared(inventory)
        for release in changes.releases(declared, None, {}).values():
            asked = handover.service(declared, release)["ask"][part]
            assert validator.validate({"ask": asked}).error_messages == [], release.service


def test_long_modules_run_live() -> None:
    """A module that reports progress has its action plugin, and the other way round."""
    plugins = {p.stem for p in (catalogs.ROOT / "action_plugins").iterdir() if p.is_symlink()}
    reporting = {
        m for m in MODULES if "progress_file" in yaml.safe_load(importlib.import_module(m).DOCUMENTATION)["options"]
    }
    assert plugins == reporting
