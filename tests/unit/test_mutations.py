"""Five hundred broken declarations: each is truly valid, or refused with its key and what to do; none ends in a traceback.

They go through the action plugin that every playbook starts with, in this process. A seed decides all, so a failure
comes again; `CASE` is the number to look at.
"""

import copy
import functools
import importlib.util
import json
import math
import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from ansible.module_utils.llm import spec, table
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar

from tests import catalogs

ROOT = Path(__file__).resolve().parents[2]
SEED = 20261125
CASES = 500
LINE = re.compile(r"  - \S.*?(?: \(\S+?\))?: .+\. ?.+")
# Values that nobody means. YAML reads yes, no and on as booleans, .nan and .inf as numbers, 2026-11-25 as a date.
GARBAGE: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    -1,
    10**30,
    -(10**30),
    1.5,
    math.nan,
    math.inf,
    -math.inf,
    "",
    " ",
    "yes",
    "no",
    "on",
    "ünïcödé",
    "名前",
    "a\nb",
    "a\tb",
    "\u202eevil",
    "x" * 5000,
    "../../etc",
    "{{ nothing }}",
    "$HOME",
    "-1",
    "16g",
    "\ud800",
    yaml.safe_load("2026-11-25"),
    yaml.safe_load("2026-11-25 10:00:00"),
    b"bytes",
    [],
    {},
    [None],
    [[]],
    [[["deep"]]],
    {"a": {"b": {"c": [1, {"d": None}]}}},
    {None: None},
    {1: 2},
    {True: "yes"},
    {"": ""},
    ["GPU-"],
    [-1],
    [64],
    [0, 0],
    ["a", "a"],
    [True],
    [math.nan],
)
NAMES: tuple[Any, ...] = (
    True,
    False,
    None,
    0,
    5,
    1.5,
    "",
    "ünïcödé",
    "UPPER",
    "with space",
    "a.b",
    "x" * 49,
    "-a",
    "a\n",
)


def plugin() -> Any:
    place = ROOT / "action_plugins" / "llm_plan.py"
    found = importlib.util.spec_from_file_location("llm_plan_action", place)
    assert found is not None and found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


ACTION = plugin()


def judge(variables: dict[str, Any], folder: Path, **options: Any) -> dict[str, Any]:
    """What task llm_plan returns for a host with these variables."""
    loader = DataLoader()
    task = SimpleNamespace(
        args={"report_dir": str(folder), **options},
        action="llm_plan",
        resolved_action="llm_plan",
        check_mode=False,
        async_val=0,
        diff=False,
        collections=[],
    )
    connection = SimpleNamespace(_shell=SimpleNamespace(tmpdir="none"))
    action = ACTION.ActionModule(task, connection, SimpleNamespace(), loader, Templar(loader, variables), None)
    found: dict[str, Any] = action.run(task_vars={"inventory_hostname": "box", **variables})
    return found


def variables(inventory: str) -> dict[str, Any]:
    """All that an inventory declares, as variables, with something in every kind of place."""
    return copy.deepcopy(_variables(inventory))


@functools.cache
def _variables(inventory: str) -> dict[str, Any]:
    found: dict[str, Any] = {
        f"llm_{kind}": catalogs.read(f"group_vars/all/{kind}.yml")[f"llm_{kind}"]
        for kind in ("images", "models", "recipes", "services")
    }
    found |= catalogs.read(f"inventory/{inventory}/host_vars/{catalogs.HOSTS[inventory]}.yml")
    found |= {
        "llm_force": ["medium-coder"],
        "llm_switch": ["mini-solo"] if inventory == "rtx4090x3" else [],
        "llm_offline": False,
        "llm_prune": False,
        "llm_root": "/opt/llm",
        "llm_bind_address": "127.0.0.1",
        "llm_engine_uid": 64000,
        "llm_service_keys": {"mini-zwz": "sk-of-a-client"},
        "llm_lock": {"images": {}, "models": {}},
    }
    return found


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths of all values below a value."""
    if path:
        yield path
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from places(inner, (*path, key))


def parent(found: Any, path: tuple[Any, ...]) -> Any:
    for key in path[:-1]:
        found = found[key]
    return found


def misspelt(chance: random.Random, word: str) -> str:
    """A word with one letter gone or doubled, or two changed places."""
    at = chance.randrange(len(word) - 1)
    ways = (
        word[:at] + word[at + 1 :],
        word[: at + 1] + word[at:],
        word[:at] + word[at + 1] + word[at] + word[at + 2 :],
    )
    return next((w for w in chance.sample(ways, 3) if w != word), word + "x")


def _replace(chance: random.Random, found: Any, path: tuple[Any, ...]) -> bool:
    parent(found, path)[path[-1]] = copy.deepcopy(chance.choice(GARBAGE))
    return False


def _remove(_: random.Random, found: Any, path: tuple[Any, ...]) -> bool:
    del parent(found, path)[path[-1]]
    return False


def _misspell(chance: random.Random, found: Any, path: tuple[Any, ...]) -> bool:
    holder, key = parent(found, path), path[-1]
    if not isinstance(key, str) or len(key) < 5 or not isinstance(holder, dict) or key.startswith("llm_"):
        return _replace(chance, found, path)
    holder[misspelt(chance, key)] = holder.pop(key)
    # Names of flags, variables, proofs' configurations and entries are the operator's own.
    return path[0] == "llm_services" and len(path) == 3


def _add(chance: random.Random, found: Any, path: tuple[Any, ...]) -> bool:
    value = parent(found, path)[path[-1]]
    entry = copy.deepcopy(chance.choice(GARBAGE))
    if isinstance(value, dict):
        value[chance.choice(NAMES)] = entry
    elif isinstance(value, list):
        value.append(chance.choice([entry, *copy.deepcopy(value)]))
    else:
        parent(found, path)[path[-1]] = [value]
    return False


def _rename(chance: random.Random, found: Any, path: tuple[Any, ...]) -> bool:
    holder = parent(found, path)
    if not isinstance(holder, dict) or holder is found:
        return _add(chance, found, path)
    holder[chance.choice(NAMES)] = holder.pop(path[-1])
    return False


WAYS: tuple[Callable[[random.Random, Any, tuple[Any, ...]], bool], ...] = (_replace, _remove, _misspell, _add, _rename)


def mutated(case: int) -> tuple[dict[str, Any], list[str], bool]:
    """Variables with one to three changes, what was changed, and whether a hint at a key must come."""
    chance = random.Random(SEED + case)
    found = variables(chance.choice(("rtx4090x3", "rtx4090x3", "demo")))
    if chance.random() < 0.3:
        custom = chance.choice(("images", "models", "recipes", "services"))
        name = chance.choice(list(found[f"llm_{custom}"]))
        found[f"llm_{custom}_custom"] = {name: copy.deepcopy(found[f"llm_{custom}"][name])}
    done, hint = [], False
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        variable = chance.choice(list(found))
        path = (variable, *chance.choice([(), *places(found[variable])]))
        way = chance.choice(WAYS) if len(path) > 1 else _replace
        hint = way(chance, found, path) or hint
        done.append(f"{way.__name__} {'.'.join(map(str, path))}")
    return found, done, hint and len(done) == 1


@pytest.mark.fault(45, "500 mutated declarations", by="simulated")
def test_a_mutated_declaration_is_valid_or_refused(tmp_path: Path) -> None:
    refused = 0
    for case in range(CASES):
        found, done, hint = mutated(case)
        said = f"CASE {case}: {done}"
        folder = tmp_path / str(case)
        try:
            result = judge(found, folder)
        except Exception as error:
            raise AssertionError(f"{said} ended in {type(error).__name__}: {error}") from error
        assert [p.name for p in folder.iterdir()] == ["plan.json"], said
        document = json.loads(
            (folder / "plan.json").read_text(encoding="utf-8"), parse_constant=lambda c: pytest.fail(c)
        )
        errors = [f for s in document["services"].values() for f in s["findings"]] + document["findings"]
        errors = [f for f in errors if f["severity"] == "error"]
        if result.get("failed"):
            refused += 1
            lines = result["msg"].splitlines()
            assert re.match(r"box: refused, \d+ problems?; nothing was touched\.", lines[0]), said
            assert len(errors) == len(lines) - 1 > 0, (said, result["msg"])
            assert all(LINE.fullmatch(line) for line in lines[1:]), (said, result["msg"])
            assert all(f["key"] and f["message"] and f["remedy"] for f in errors), said
            assert "sk-of-a-client" not in result["msg"], said
        else:
            assert not errors, said
            assert not hint, f"{said} was accepted"
            valid(result["plan"], said)
        if hint:
            assert "Did you mean" in result["msg"], (said, result["msg"])
    assert refused > CASES // 2  # else the mutations are too tame


def valid(plan: dict[str, Any], said: str) -> None:
    """What an accepted declaration must be able to do: be shown, be written, be run by Compose."""
    json.dumps(plan, allow_nan=False)
    assert all(len(line) <= table.WIDTH for line in plan["table"].splitlines()), said
    for service in plan["services"].values():
        written = yaml.safe_load(service["files"]["compose.yml"])
        engine = written["services"]["engine"]
        assert all(isinstance(word, str) for word in engine["command"]), said
        assert all(isinstance(text, str) for text in engine["environment"].values()), said
        assert 1 <= service["port"] <= 65535 and re.fullmatch(r"llm-[a-z0-9-]+", service["container"]), said


def test_the_declarations_that_are_mutated_are_valid(tmp_path: Path) -> None:
    for inventory in catalogs.HOSTS:
        result = judge(variables(inventory), tmp_path)
        assert not result.get("failed"), result.get("msg")
        valid(result["plan"], inventory)


def test_findings_of_a_name_that_is_no_text_are_refused_by_their_key() -> None:
    declared, findings = spec.parse({"services": {True: {}, 5: {}}, "host_services": ["micro"]})
    assert declared is None
    assert {f.key for f in findings} >= {"llm_services.True", "llm_services.5", "llm_host_services"}
