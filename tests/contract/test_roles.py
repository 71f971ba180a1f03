"""Every role has the same skeleton, and documents exactly the variables that it has."""

import re
from pathlib import Path
from typing import Any

import pytest

from tests import catalogs

ROLES = sorted(p.name for p in (catalogs.ROOT / "roles").iterdir() if p.is_dir())


def read(role: str, path: str) -> Any:
    return catalogs.read(f"roles/{role}/{path}")


@pytest.mark.parametrize("role", ROLES)
def test_skeleton(role: str) -> None:
    place = catalogs.ROOT / "roles" / role
    for path in ("defaults/main.yml", "meta/main.yml", "meta/argument_specs.yml", "tasks/main.yml", "README.md"):
        assert (place / path).is_file(), path
    assert read(role, "meta/main.yml")["galaxy_info"]["role_name"] == role
    assert len((place / "tasks/main.yml").read_text().splitlines()) < 30


@pytest.mark.parametrize("role", ROLES)
def test_the_readme_gives_an_example_right_after_the_purpose(role: str) -> None:
    text = (catalogs.ROOT / "roles" / role / "README.md").read_text()
    title, *sections = re.split(r"^## ", text, flags=re.MULTILINE)
    assert title.startswith(f"# {role}\n\n") and len(title.splitlines()) < 12, "a few lines on what the role is for"
    assert sections[0].startswith("Example\n") and "```yaml\n" in sections[0]


@pytest.mark.parametrize("role", ROLES)
def test_defaults_are_the_documented_options(role: str) -> None:
    defaults = read(role, "defaults/main.yml")
    options = read(role, "meta/argument_specs.yml")["argument_specs"]["main"]["options"]
    assert set(defaults) == set(options)
    for name, option in options.items():
        assert name.startswith(f"{role}_")
        assert option["description"] and option["type"]
        assert option["default"] == defaults[name], name


@pytest.mark.parametrize("role", ROLES)
def test_internal_names_are_marked(role: str) -> None:
    for path in (catalogs.ROOT / "roles" / role / "vars").glob("*.yml"):
        assert all(name.startswith(f"_{role}_") for name in catalogs.read(str(path.relative_to(catalogs.ROOT))))


def _registered(tasks: Any) -> list[str]:
    found = []
    for task in tasks or []:
        found += [task["register"]] if "register" in task else []
        for part in ("block", "rescue", "always"):
            found += _registered(task.get(part))
    return found


@pytest.mark.parametrize("path", sorted((catalogs.ROOT / "roles").glob("*/tasks/*.yml")), ids=str)
def test_registered_names_are_marked(path: Path) -> None:
    role = path.parent.parent.name
    names = _registered(catalogs.read(str(path.relative_to(catalogs.ROOT))))
    assert all(name.startswith(f"__{role}_") for name in names), names
