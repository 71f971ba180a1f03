"""Five hundred broken declarations: each is truly valid, or refused with its key and what to do; none ends in a traceback.

They go through the action plugin that every playbook starts with, in this process. A seed decides all, so a failure
comes again; `CASE` is the number to look at.
"""

import copy
import functools
import importlib.util
import ipaddress
import json
import math
import posixpath
import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from ansible.module_utils.llm.base import tables
from ansible.module_utils.llm.declare import parse
from ansible.module_utils.llm.images import images
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar

from tests import catalogs

ROOT = Path(__file__).resolve().parents[3]
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
    "..",
    "/",
    "/a/../b",
    "--trust-remote-code",
    "x; RUN echo",
    "/a:/model",
    "a:b:c:d",
    "01",
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
    {"a": math.nan},
    {"a": yaml.safe_load("2026-11-25")},
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


# What comes out of an accepted declaration, in the words of those who read it: Docker, Compose, the engine's command line.
FLAG = re.compile(r"--[A-Za-z0-9][A-Za-z0-9._-]*")
PATH = re.compile(r"(/[^/\0\n:]+)+")
MEMORY = re.compile(r"(\d+(\.\d+)?) ?([kKmMgGtT])[iI]?[bB]?")
DOCKERFILE = re.compile(r"(FROM|SHELL|ENV|RUN|COPY|USER|CMD|ENTRYPOINT) \S.*| && \S.*|[^ ].*\\")
YAMLISH = {"None", "True", "False", "nan", "inf", "-inf", "", "null"}


def valid(plan: dict[str, Any], said: str) -> None:
    """What an accepted declaration must be able to do: be shown, be written, be run by Compose, with nothing odd in it."""
    json.dumps(plan, allow_nan=False)
    assert all(len(line) <= tables.WIDTH for line in plan["table"].splitlines()), said
    assert plan["table"].replace("\n", "").isprintable(), said
    settings = plan["settings"]
    assert PATH.fullmatch(settings["root"]) and ".." not in settings["root"].split("/"), said
    assert ipaddress.ip_address(settings["bind_address"]), said
    for service in plan["services"].values():
        written = yaml.safe_load(service["files"]["compose.yml"])
        composed(written, f"{settings['root']}/", said)
        assert 1 <= service["port"] <= 65535 and re.fullmatch(r"llm-[a-z0-9-]+", service["container"]), said
        assert re.fullmatch(r"\S+", service["served_model_name"]), said
    for model in plan["models"]:
        inside = f"{settings['root']}/models/{model['name']}/"
        assert model["folder"].startswith(inside), said
        assert re.fullmatch(r"[\w.-]*\w[\w.-]*", model["folder"].removeprefix(inside)), said
        assert model["folder"] == posixpath.normpath(model["folder"]), said
    for image in plan["images"]:
        made(image, said)


def composed(document: dict[str, Any], root: str, said: str) -> None:
    """A compose file whose every value is one that Compose and the engine take for what it says."""
    assert YAMLISH.isdisjoint(map(str, keys(document))), said
    engine = document["services"]["engine"]
    assert reference(engine["image"]), said
    flag = ""
    for word in engine["command"][1:]:
        assert isinstance(word, str) and word.isprintable() and word not in YAMLISH, (said, word)
        if word.startswith("-") and not re.fullmatch(r"-[0-9.].*", word):
            assert FLAG.fullmatch(word), (said, word)
            flag = word
        assert flag, (said, word)
        if word.startswith("{"):
            assert all(isinstance(v, (str, int, float, bool, type(None))) for v in leaves(json.loads(word))), said
    for name, text in engine["environment"].items():
        assert re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII), said
        assert isinstance(text, str) and (text == "" or text.isprintable()), (said, text)
    mounts = [m.split(":") if isinstance(m, str) else [m["source"], m["target"]] for m in engine["volumes"]]
    assert len({m[1] for m in mounts}) == len(mounts), said
    assert all(PATH.fullmatch(p) and posixpath.normpath(p) == p for m in mounts for p in m[:2]), (said, mounts)
    assert all(set(m[2].split(",")) <= {"ro", "rw", "z", "Z"} for m in mounts if len(m) == 3), (said, mounts)
    assert all(m["source"].startswith(root) for m in engine["volumes"] if not isinstance(m, str)), said
    for memory in (engine["shm_size"], engine.get("mem_limit", "1g")):
        found = MEMORY.fullmatch(memory)
        assert found and 2**20 < float(found[1]) * 1024 ** ("kmgt".index(found[3].lower()) + 1) < 2**63, (said, memory)
    devices = engine.get("deploy", {}).get("resources", {}).get("reservations", {}).get("devices", [])
    ids = [i for device in devices for i in device["device_ids"]]
    assert len(set(ids)) == len(ids), (said, ids)
    assert all(re.fullmatch(r"(nvidia\.com/gpu=)?(\d+|GPU-[\w-]+)", i) for i in ids), (said, ids)


def made(image: dict[str, Any], said: str) -> None:
    """An image whose sources Docker, debootstrap and a Dockerfile take for what they say."""
    assert reference(image["ref"]), (said, image["ref"])
    for source in image["sources"]:
        if "pull" in source:
            assert reference(source["pull"]), (said, source)
        if "build" in source:
            lines = images.dockerfile(source["build"], "base", images.Lent()).splitlines()
            assert all(DOCKERFILE.fullmatch(line) and line.isprintable() for line in lines), (said, lines)
            env = next((line for line in lines if line.startswith("ENV ")), "")
            assert not {w.partition("=")[2].strip('"') for w in env.split()[1:]} & {"None", "True", "False", "nan"}, (
                said
            )
    for base in image["bases"]:
        made(base, said)


def reference(text: str) -> bool:
    """Whether Docker takes it for an image (distribution/reference), as far as catalogs need it."""
    name, _, digest = text.partition("@")
    path, _, tag = name.rpartition(":") if ":" in name.rpartition("/")[2] else (name, "", "latest")
    return bool(
        re.fullmatch(r"([a-z0-9._-]+(:\d+)?/)?[a-z0-9]+([._/-]+[a-z0-9]+)*", path)
        and re.fullmatch(r"\w[\w.-]{0,127}", tag, re.ASCII)
        and re.fullmatch(r"(sha256:[0-9a-f]{64})?", digest)
    )


def keys(value: Any) -> Iterator[Any]:
    for path in places(value):
        if isinstance(parent(value, path), dict):
            yield path[-1]


def leaves(value: Any) -> Iterator[Any]:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    if inner is None:
        yield value
    for entry in inner or ():
        yield from leaves(entry)


def test_the_declarations_that_are_mutated_are_valid(tmp_path: Path) -> None:
    for inventory in catalogs.HOSTS:
        result = judge(variables(inventory), tmp_path)
        assert not result.get("failed"), result.get("msg")
        valid(result["plan"], inventory)


def test_findings_of_a_name_that_is_no_text_are_refused_by_their_key() -> None:
    declared, findings = parse.parse({"services": {True: {}, 5: {}}, "host_services": ["micro"]})
    assert declared is None
    assert {f.key for f in findings} >= {"llm_services.True", "llm_services.5", "llm_host_services"}
