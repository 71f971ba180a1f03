"""How a release takes the place of another: routes, predecessors, idle engines, free memory, what can return."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from ansible.module_utils.llm.declare.facts import NO_RELEASES, Ask, Route, Serving
from ansible.module_utils.llm.engine import load
from ansible.module_utils.llm.gpu import memory
from ansible.module_utils.llm.plan import changes, deploy, placement
from ansible.module_utils.llm.plan.types import RollbackPlan, ServicePlan

from tests import catalogs, hosts
from tests.unit.plan.test_plan import converged, work

ROUTES: list[Route] = [
    {"service": "a", "port": 1, "container": "llm-a-1"},
    {"service": "b", "port": 2, "container": "llm-b-1"},
]
METRICS = 'vllm:num_requests_running{{engine="0"}} {}\nvllm:num_requests_waiting{{engine="0"}} {}\n'


def test_doors_change_what_is_behind_a_service_and_nothing_else() -> None:
    assert [r["container"] for r in deploy.routes(ROUTES, {"b": ""})] == ["llm-a-1", ""]
    back: Any = [{"name": "old", "port": 2, "container": "llm-old-1", "more": 1}]
    assert deploy.routes(ROUTES, {}, back)[1] == {"service": "old", "port": 2, "container": "llm-old-1"}


def test_what_is_to_finish_gets_no_new_requests_and_keeps_no_others_from_theirs() -> None:
    plans: dict[str, Serving] = {"a": {"name": "a", "port": 1, "container": "llm-a-2"}}
    kept = {s: {"name": s, "port": port, "container": f"llm-{s}-1"} for s, port in (("b", 2), ("c", 3))}
    releases = {s: hosts.released(serving=kept.get(s)) for s in "bce"}
    closed = deploy.closed(["a", "b", "c", "c", "d", "e"], plans, releases, ROUTES)
    assert [(p["name"], p["port"], p["container"], p["stopped"]) for p in closed] == [
        ("a", 1, "", True),
        ("c", 3, "", True),
    ]


PARIS: Ask = {"smoke": {"model": "m", "answer": "Paris"}, "warmup": {"model": "m"}}


def test_a_predecessor_is_what_was_kept_with_it_or_what_is_declared_now() -> None:
    now: ServicePlan = {"name": "a", "release": "new", "service_folder": "/s/a", "files": {"x": "y"}, "ask": PARIS}
    none: Any = {}  # what playbooks give for a service that the host does not know
    assert deploy.predecessor(now, none) == deploy.predecessor(now, NO_RELEASES) == {}
    kept = {"release": "o", "ask": {**PARIS, "warmup": {"model": "m", "prompt_tokens": [50]}}}
    assert deploy.predecessor(now, hosts.released(current="o", serving=kept)) == kept
    old = deploy.predecessor(now, hosts.released(current="0123456789ab"))
    assert (old["container"], old["folder"]) == ("llm-a-01234567", "/s/a/releases/0123456789ab")
    assert old["ask"] == PARIS and "files" not in old


def test_what_an_older_version_kept_with_a_release_is_asked_as_the_modules_take_it_now() -> None:
    kept = {
        "release": "o",
        "served_model_name": "m",
        "model": "smol",
        "args": {"max-model-len": 2048},
        "accelerator": "cpu",
        "smoke": {"answer": "Paris", "margin": 2.0, "context": 2048, "gone": True},
        "warmup": {"prompt_tokens": [50], "gone": True},
    }
    ask = deploy.predecessor({}, hosts.released(current="o", serving=kept))["ask"]
    smoke = {"model": "m", "args": {"max-model-len": 2048}, "accelerator": "cpu", "catalog_model": "smol"}
    assert ask["smoke"] == {**smoke, "answer": "Paris", "context": 2048}
    assert ask["warmup"] == {"model": "m", "prompt_tokens": [50]}
    assert deploy.ask({"ask": {**ask, "smoke": {**ask["smoke"], "of a later version": 1}}}) == ask


NEW = {"name": "a", "release": "new", "container": "a-new", "side_by_side": True}
OLD = {"name": "a", "release": "old", "container": "a-old"}
OTHER = {"name": "b", "release": "r", "container": "b-r"}
TIGHT = {**NEW, "side_by_side": False}
CASES: dict[str, tuple[tuple[Any, ...], tuple[bool, bool, bool], list[str], list[str], list[Any]]] = {
    # plan, previous, containers, displaced; again, beside, room; before; after; returning
    "the first release": ((NEW, {}, [], []), (False, False, True), [], [], []),
    "both fit": ((NEW, OLD, ["a-old"], []), (False, True, False), [], ["a-old"], [OLD]),
    "both fit, and a run was cut short": (
        (NEW, OLD, ["a-old", "a-new", "a-left"], []),
        (False, True, True),
        ["a-left"],
        ["a-old", "a-left"],
        [OLD],
    ),
    "they don't fit": ((TIGHT, OLD, ["a-old"], []), (False, False, True), ["a-old"], ["a-old"], [OLD]),
    "the new one was started before": (
        (TIGHT, OLD, ["a-new", "a-old"], []),
        (False, False, True),
        ["a-old"],
        ["a-old"],
        [OLD],
    ),
    "the old one is gone": ((NEW, OLD, [], []), (False, False, True), [], [], [OLD]),
    "the current one again": (
        (NEW, {**OLD, **NEW}, ["a-new", "a-left"], []),
        (True, False, True),
        ["a-new", "a-left"],
        ["a-left"],
        [],
    ),
    "another service has to go": (
        (NEW, OLD, ["a-old"], [OTHER]),
        (False, False, True),
        ["b-r", "a-old"],
        ["a-old"],
        [OTHER],
    ),
    "another service has to go for the current one": (
        (NEW, {**OLD, **NEW}, ["a-new"], [OTHER]),
        (True, False, True),
        ["b-r", "a-new"],
        [],
        [OTHER],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_stopped_when_and_what_returns(case: str) -> None:
    given, (again, beside, room), before, after, returning = CASES[case]
    assert deploy.replacement(*given) == {
        "again": again,
        "beside": beside,
        "room": room,
        "before": before,
        "after": after,
        "returning": returning,
    }


@pytest.mark.parametrize(
    ("metrics", "idle"),
    [(METRICS.format(0, 0), True), (METRICS.format(1, 0), False), (METRICS.format(0, 2), False), ("up 1\n", False)],
)
def test_an_engine_is_idle_only_when_it_says_so(metrics: str, idle: bool) -> None:
    assert load.load(metrics).idle is idle and load.load(metrics).text()


def gpu(free: int | None, *processes: tuple[int, str, int | None]) -> Any:
    own = [{"pid": p, "container": c, "memory": m, "name": "python3"} for p, c, m in processes]
    return {"uuid": "GPU-1", "index": 0, "memory": 100, "free": free, "processes": own}


@pytest.mark.parametrize(
    ("after", "waits"),
    [
        (gpu(90), False),
        (gpu(40, (7, "ours", 50)), True),
        (gpu(50), True),
        (gpu(60, (9, "other", 30)), True),
        (gpu(86, (9, "other", 8)), False),
        (gpu(None), False),
    ],
)
def test_memory_is_free_when_process_and_bytes_are_gone(after: Any, waits: bool) -> None:
    before = memory.held([gpu(40, (7, "ours", 50))], ["ours"])
    assert bool(memory.still_held(before, [after])) is waits
    assert memory.held([gpu(40, (7, "ours", 50))], ["another"]) == {} and memory.still_held(before, []) == []


def test_an_edited_compose_file_restarts_nothing_and_a_plugin_does() -> None:
    declared = catalogs.declared("demo")
    for drift, restart in ((["compose.yml"], False), (["compose.yml", "plugins/a.py"], True)):
        facts = converged(declared)
        facts["releases"]["micro-cpu"]["drift"] = drift
        assert deploy.needs_restart(work(declared, facts)["micro-cpu"]) is restart
    facts = converged(declared)
    facts["releases"]["micro-cpu"]["started"] = "one"
    facts["containers"][0]["made_of"] = "another"
    assert deploy.needs_restart(work(declared, facts)["micro-cpu"])


def test_an_engine_must_end_by_itself_before_it_is_killed() -> None:
    service = catalogs.declared("demo").services["micro-cpu"]
    assert deploy.findings(service) == []
    (finding,) = deploy.findings(dataclasses.replace(service, args={"shutdown-timeout": service.stop_grace}))
    assert finding.key == "llm_services.micro-cpu.args.shutdown-timeout"


def test_strays_are_of_releases_that_are_not_current() -> None:
    declared = catalogs.declared("demo")
    facts = converged(declared)
    assert deploy.stale(facts, placement.deployed(declared), []) == []
    facts["containers"].append({**facts["containers"][0], "name": "llm-micro-cpu-0", "release": "0"})
    assert deploy.stale(facts, placement.deployed(declared), []) == [
        {"service": "micro-cpu", "container": "llm-micro-cpu-0"}
    ]
    assert deploy.stale(facts, placement.deployed(declared), ["micro-cpu"]) == []


def test_a_rollback_names_what_it_needs() -> None:
    declared = catalogs.declared("demo")
    facts = converged(declared)
    rendered = changes.releases(declared, facts, {})
    entry = facts["releases"]["micro-cpu"]
    older = {**entry["facts"], "command": [*entry["facts"]["command"], "--seed", "1"]}
    serving = {"release": "0" * 12, "served_model_name": "m"}

    def judge(*named: str) -> RollbackPlan:
        return deploy.rollback(facts["releases"], named, rendered, [])

    assert "none" in judge()["problem"] and "no release before" in judge("micro-cpu")["problem"]
    entry |= {"previous": "0" * 12, "before": {"serving": serving, "facts": older, "missing": ["its image is gone"]}}
    assert "its image is gone" in judge("micro-cpu")["problem"]
    entry["before"]["missing"] = []
    assert f"micro-cpu: {entry['current']} -> {'0' * 12}" in judge()["problem"]
    found = judge("micro-cpu")
    assert found["problem"] == "" and "flag --seed: 1 runs, none is declared" in found["services"][0]["keep"]
    kept = found["services"][0]["plan"]
    assert (kept["release"], kept["side_by_side"], kept["ask"]["warmup"]) == ("0" * 12, False, {"model": "m"})
    entry["before"]["facts"] = rendered["micro-cpu"].facts
    assert "site.yml keeps it" in judge("micro-cpu")["services"][0]["keep"]


def test_a_closed_door_says_when_it_is_expected_to_open() -> None:
    routes: list[Route] = [{"service": "a", "port": 1, "container": "c"}, {"service": "b", "port": 2, "container": ""}]
    plan: Any = {"boot_records": {"r1": {"expected": 40.0}, "r2": {"expected": 65.5}}}
    expected = deploy.expected_back(plan, 30)
    assert expected == 95.5 and deploy.expected_back({}, 30) == 0
    closed, other = deploy.routes(routes, {"a": ""}, (), expected)
    assert closed == {"service": "a", "port": 1, "container": "", "returns_in": 95}
    assert other == routes[1], "nobody knows of one that was never there"
    assert "returns_in" not in deploy.routes(routes, {"a": ""})[0]


def test_a_service_that_is_to_stop_has_a_door_that_says_so() -> None:
    routes: list[Route] = [{"service": "a", "port": 1, "container": "c"}, {"service": "b", "port": 2, "container": "d"}]
    stopping: Serving = {"name": "a", "container": "", "stopped": True, "port": 1, "route": {"port": 1, "model": "m"}}
    closed, other = deploy.routes(routes, {}, [stopping])
    assert closed == {"service": "a", "port": 1, "model": "m", "container": "", "stopped": True}
    assert other == routes[1]


def test_one_that_was_stopped_and_is_being_deployed_is_waited_for() -> None:
    routes: list[Route] = [{"service": s, "port": n, "container": "", "stopped": True} for n, s in enumerate("ab")]
    deploying, other = deploy.routes(routes, {"a": ""}, (), 30)
    assert deploying == {"service": "a", "port": 0, "container": "", "returns_in": 30} and other == routes[1]
    assert deploy.routes(routes, {"a": "c"})[0] == {"service": "a", "port": 0, "container": "c"}
