"""Every role has its scenarios, and they differ in nothing but data."""

import re
from pathlib import Path
from typing import Any

import pytest

from tests import catalogs

# client_config writes files where the playbook is started, on no machine: tests/e2e runs it.
ROLES = sorted(p.name for p in (catalogs.ROOT / "roles").iterdir() if p.is_dir() and p.name != "client_config")
SCENARIOS = sorted(p.parent.name for p in (catalogs.ROOT / "molecule").glob("*/molecule.yml"))
STEPS = ["destroy", "syntax", "create", "prepare", "check", "converge", "idempotence"]
OWN = {"ansible", "verifier", "scenario"}
OWN_PLAYBOOKS = {"prepare", "converge", "side_effect"}
SMALLEST = "host_tools_alternative"


def config(scenario: str) -> Any:
    return catalogs.read(f"molecule/{scenario}/molecule.yml")


def hosts(scenario: str) -> set[str]:
    return set(catalogs.read(f"molecule/{scenario}/inventory/hosts.yml")["machines"]["hosts"])


@pytest.mark.parametrize("role", ROLES)
def test_every_role_has_a_default_and_an_alternative(role: str) -> None:
    assert {role, f"{role}_alternative"} <= set(SCENARIOS)


def test_every_scenario_is_that_of_a_role_or_of_the_site() -> None:
    assert {s.removesuffix("_alternative") for s in SCENARIOS} <= {*ROLES, "site"}


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_machines_and_steps_are_shared(scenario: str) -> None:
    """A scenario may bring more steps, never fewer; machines are made in one way."""
    found = config(scenario)
    assert set(found) <= OWN
    assert set(found.get("ansible", {})) <= {"playbooks"}
    assert set(found.get("ansible", {}).get("playbooks", {})) <= OWN_PLAYBOOKS
    assert set(found.get("verifier", {})) <= {"directory", "additional_files_or_dirs"}
    sequence = found.get("scenario", {}).get("test_sequence", [*STEPS, "verify", "destroy"])
    assert sequence[: len(STEPS)] == STEPS and "verify" in sequence and sequence[-1] == "destroy"
    place = catalogs.ROOT / "molecule" / scenario / "inventory/group_vars"
    assert place.is_symlink() and place.readlink() == Path("../../shared/group_vars")


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("step", sorted(OWN_PLAYBOOKS))
def test_own_playbooks_are_named(scenario: str, step: str) -> None:
    """The shared configuration names one for most steps; a file of the scenario that is not named instead is never run."""
    if (catalogs.ROOT / "molecule" / scenario / f"{step}.yml").is_file() and step != "converge":
        assert config(scenario)["ansible"]["playbooks"][step] == f"{step}.yml"


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_every_verify_has_tests(scenario: str) -> None:
    """Molecule passes over a step without tests."""
    place = catalogs.ROOT / "molecule" / scenario
    verifier = config(scenario).get("verifier", {})
    own = place / verifier.get("directory", "tests")
    assert list(own.glob("test_*.py"))
    for pattern in verifier.get("additional_files_or_dirs", []):
        assert list((own / Path(pattern).parent).glob(Path(pattern).name)), pattern
    for step in config(scenario).get("scenario", {}).get("test_sequence", []):
        for folder in step.split()[1:] if step.startswith("verify ") else []:
            assert list((place / folder).rglob("test_*.py")), step


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_what_a_machine_gets_is_said_of_the_machine(scenario: str) -> None:
    """For Ansible, group variables in a hosts file are weaker than the defaults in group_vars: they would do nothing."""
    group = catalogs.read(f"molecule/{scenario}/inventory/hosts.yml")["machines"].get("vars", {})
    assert not set(group) & set(catalogs.read("molecule/shared/group_vars/machines.yml"))


def test_one_scenario_is_small_enough_to_copy() -> None:
    """CONTRIBUTING.md names it: a second scenario of a role repeats neither its playbook nor its tests."""
    place = catalogs.ROOT / "molecule" / SMALLEST
    files = {str(p.relative_to(place)) for p in place.rglob("*") if p.is_file() and p.suffix != ".pyc"}
    assert files == {"inventory/hosts.yml", "molecule.yml", "prepare.yml"}
    assert f"`molecule/{SMALLEST}`" in (catalogs.ROOT / "CONTRIBUTING.md").read_text()


def test_machines_have_names_of_their_own() -> None:
    """Machines are containers of one engine, where the project's own containers may run as well."""
    names = [name for scenario in SCENARIOS for name in sorted(hosts(scenario))]
    assert len(names) == len(set(names))
    assert all(re.fullmatch(r"llm-[a-z-]+", name) for name in names) and "llm-gateway" not in names


@pytest.mark.parametrize("path", sorted((catalogs.ROOT / "molecule").rglob("test_*.py")), ids=lambda p: p.stem)
def test_no_test_is_skipped(path: Path) -> None:
    """Tests for one machine of several are in files of their own, with testinfra_hosts."""
    assert not re.search(r"\bskip(if|_module)?\(|mark\.skip|xfail", path.read_text())
