"""Who runs on a host, what is on standby, what has to stop first, and whether two releases fit side by side."""

from typing import Any

import pytest
from ansible.module_utils.llm.declare import parse
from ansible.module_utils.llm.declare.objects import Declared, Service
from ansible.module_utils.llm.fit import rules
from ansible.module_utils.llm.plan import changes, declaration, on_host, placement

from tests import catalogs
from tests.unit.plan.test_plan import converged, errors, host, ids, work

GIB = 2**30


def small(name: str, port: int, **changes: Any) -> dict[str, Any]:
    """A service on half of GPU 2, like no other."""
    args = {"gpu-memory-utilization": 0.5}
    return {
        "image": "vllm-openai",
        "model": "qwen3-1-7b",
        "port": port,
        "hostname": name,
        "gpus": [2],
        "args": args,
        **changes,
    }


def box(services: dict[str, dict[str, Any]], **host_changes: Any) -> Declared:
    """The box with only these services, all listed."""
    raw = catalogs.raw("rtx4090x3", **{"host_services": list(services), **host_changes})
    raw["services"] = services
    declared, findings = parse.parse(raw)
    assert declared is not None, [f.text() for f in findings]
    return declared


@pytest.mark.parametrize(
    ("services", "switch", "runs", "displaced"),
    [
        (None, ["mini-solo"], ("medium-glm", "mini-solo"), {"mini-zwz": "mini-solo"}),
        (None, ["medium"], ("mini-zwz", "medium"), {"medium-glm": "medium"}),
        (None, ["medium", "mini-solo"], ("medium", "mini-solo"), {"medium-glm": "medium", "mini-zwz": "mini-solo"}),
        (["micro", "mini-zwz"], ["micro"], ("micro",), {"mini-zwz": "micro"}),
        (["micro", "mini-zwz"], ["mini-zwz"], ("mini-zwz",), {"micro": "mini-zwz"}),
        (["medium-glm", "medium"], ["medium-glm"], ("medium-glm",), {}),
    ],
)
def test_a_switch_puts_a_service_in_the_place_of_those_it_clashes_with(
    services: Any, switch: list[str], runs: tuple[str, ...], displaced: dict[str, str]
) -> None:
    listed = {"host_services": services} if services else {}
    declared = catalogs.declared("rtx4090x3", switch=switch, **listed)
    placed = placement.place(declared)
    assert placed.running == runs
    assert {s: by.service for s, by in placed.displaced.items()} == displaced
    findings = declaration.judge(declared)
    assert not errors(findings)
    assert all("displaced" in ids(findings, s) for s in displaced)


@pytest.mark.parametrize("first", ["micro", "mini-zwz"])
def test_active_services_that_clash_are_refused_with_the_command_that_chooses(first: str) -> None:
    declared = catalogs.declared("rtx4090x3", host_services=["micro", "mini-zwz"])
    refused = errors(declaration.judge(declared, "ansible-playbook -i inventory/box site.yml"))
    assert len(refused) == 2  # both sides are named
    for text in refused:
        assert f"ansible-playbook -i inventory/box site.yml -e llm_switch={first}" in text
    chosen = catalogs.declared("rtx4090x3", host_services=["micro", "mini-zwz"], switch=[first])
    assert not errors(declaration.judge(chosen))


@pytest.mark.parametrize(
    ("changes", "where", "finding", "says"),
    [
        ({"switch": ["micro"]}, "", "switch-unlisted", "llm_host_services"),
        ({"switch": ["medium", "medium-vl"]}, "medium-vl", "clash-gpus", "llm_switch names both"),
        (
            {"switch": ["medium-coder"], "host_services": ["medium-coder", "medium-glm"]},
            "medium-coder",
            "status-archived",
            "llm_force",
        ),
    ],
)
def test_what_a_switch_cannot_do(changes: dict[str, Any], where: str, finding: str, says: str) -> None:
    found = declaration.judge(catalogs.declared("rtx4090x3", **changes))[where]
    assert any(f.id == finding and f.severity == "error" and says in f.remedy for f in found)


def test_a_switch_to_a_service_that_is_kept_stopped_is_refused() -> None:
    found = declaration.judge(box({"a": small("a", 1), "b": small("b", 1, state="stopped")}, switch=["b"]))["b"]
    assert [f.id for f in found if f.severity == "error"] == ["switch-stopped"]


def test_an_unknown_switch_is_refused_with_the_name_that_was_meant() -> None:
    declared, findings = parse.parse(catalogs.raw("rtx4090x3", switch=["mini-sol"]))
    assert declared is None and findings[0].key == "llm_switch" and "`mini-solo`" in findings[0].remedy


def test_a_switch_keeps_a_fallback_back_that_waits_for_the_service_it_displaced() -> None:
    tiny = small("tiny", 3, status="fallback", args={"gpu-memory-utilization": 0.2})
    services = {
        "main": small("main", 1, args={"gpu-memory-utilization": 0.9}),
        "other": small("other", 2, status="fallback"),
        "tiny": tiny,
    }
    assert placement.deployed(box(services, switch=["other"])) == ("other",)
    assert placement.deployed(box(services, host_services=["tiny", "other"])) == ("tiny", "other")


def test_a_switch_displaces_what_fits_beside_each_other_service_but_not_beside_all() -> None:
    thirds = {n: small(n, p, args={"gpu-memory-utilization": 0.4}) for n, p in (("a", 1), ("b", 2), ("c", 3))}
    thirds["c"]["status"] = "fallback"
    assert placement.deployed(box(thirds)) == ("a", "b")
    placed = placement.place(box(thirds, switch=["c"]))
    assert placed.running == ("a", "c") and "no room" in placed.displaced["b"].why
    three = {n: {**s, "status": "active"} for n, s in thirds.items()}
    assert {f.id for s in three for f in declaration.judge(box(three))[s] if f.severity == "error"} == {
        "gpu-overbooked"
    }


def test_a_gpu_is_the_same_by_index_and_by_uuid() -> None:
    gpus = catalogs.raw("rtx4090x3")["gpus"]
    gpus[2] = {**gpus[2], "uuid": "GPU-2"}
    services = {"a": small("a", 1), "b": small("b", 2, gpus=["GPU-2"], args={"gpu-memory-utilization": 0.6})}
    assert "clash-gpus" in ids(declaration.judge(box(services, host_gpus=gpus)), "a")


def test_a_service_that_asks_for_more_than_a_gpu_is_not_told_to_take_its_own_place() -> None:
    greedy = {"greedy": small("greedy", 1, args={"gpu-memory-utilization": 1.4})}
    assert declaration.judge(box(greedy))["greedy"] == []
    (found,) = [f for f in rules.judge(box(greedy), {}, ["greedy"], {}).findings["greedy"] if f.severity == "error"]
    assert (found.id, found.key) == ("range-gpu-memory-utilization", "llm_services.greedy.args.gpu-memory-utilization")
    assert "llm_switch" not in found.remedy
    greedy["greedy"]["status"] = "fallback"
    elsewhere = {"other": small("other", 2, gpus=[0])}
    assert placement.deployed(box({**elsewhere, **greedy})) == ("other", "greedy"), "it waits for nobody on another GPU"


@pytest.mark.parametrize(
    ("one", "other", "clash"),
    [
        ({"hostname": "same"}, {"hostname": "same", "served_model_name": "n"}, {"hostname"}),
        ({"hostname": "same"}, {"hostname": "same"}, set()),
        ({"hostname": "same"}, {"hostname": "same", "model": "n", "served_model_name": "n"}, {"hostname"}),
        ({"hostname": "same"}, {"hostname": "same", "model": "n"}, {"hostname", "served_model_name"}),
        ({}, {"model": "n"}, {"served_model_name"}),
        ({}, {"model": "n", "served_model_name": "n"}, set()),
        ({"hostname": ""}, {"hostname": ""}, set()),
        ({"volumes": ("/data:/data",)}, {"volumes": ("/data/:/x:rw",)}, {"volumes"}),
        ({"volumes": ("/data:/data",)}, {"volumes": ("/data/logs:/x:z,rw",)}, {"volumes"}),
        ({"volumes": ("/data:/data",)}, {"volumes": ("/data:/x:ro",)}, set()),
        ({"volumes": ("/data:/data",)}, {"volumes": ("/database:/x",)}, set()),
        ({"volumes": ("logs:/data",)}, {"volumes": ("logs:/data",)}, {"volumes"}),
        ({"port": 7}, {"port": 7}, {"port"}),
    ],
)
def test_what_two_services_clash_over(one: dict[str, Any], other: dict[str, Any], clash: set[str]) -> None:
    made = [
        Service(n, "i", **{"model": "m", "port": p, "served_model_name": "m", **changes})
        for n, p, changes in (("a", 1, one), ("b", 2, other))
    ]
    declared = box({})
    claims = [placement.claim(declared, s) for s in made]
    assert {c.part for c in placement.clashes(*claims)} == {c.part for c in placement.clashes(*claims[::-1])} == clash


def test_two_models_of_one_name_are_no_replicas_of_each_other() -> None:
    one, other = small("a", 1), small("b", 2, model="zwz-8b", served_model_name="qwen3-1-7b")
    found = declaration.judge(box({"a": one, "b": other}))
    for name, beside in (("a", "b"), ("b", "a")):
        (finding,) = [f for f in found[name] if f.severity == "error"]
        assert finding.id == "clash-served-model-name" and finding.key == f"llm_services.{name}.served_model_name"
        assert all(f"`{word}`" in finding.message for word in (beside, "qwen3-1-7b", "zwz-8b"))
    replica = small("b", 2, served_model_name="qwen3-1-7b")
    assert not errors(declaration.judge(box({"a": one, "b": replica})))


@pytest.mark.parametrize("gpus", [[1], [2]], ids=["elsewhere", "on the same GPU"])
def test_a_fallback_of_another_model_may_have_the_name_of_the_one_in_whose_place_it_goes(gpus: list[int]) -> None:
    own = {"args": {"gpu-memory-utilization": 0.9}, "served_model_name": "chat", "hostname": "chat"}
    services = {"a": small("a", 1, **own), "b": small("b", 2, model="zwz-8b", status="fallback", gpus=gpus, **own)}
    for switch, running in (([], ("a",)), (["b"], ("b",))):
        declared = box(services, switch=switch)
        assert placement.deployed(declared) == running and not errors(declaration.judge(declared))


def test_a_displaced_service_that_runs_is_stopped_by_the_one_that_takes_its_place() -> None:
    before = catalogs.declared("rtx4090x3")
    facts = converged(before)
    facts["containers"] = [c for c in facts["containers"] if c["service"] in placement.deployed(before)]
    switched = catalogs.declared("rtx4090x3", switch=["mini-solo"])
    held = next(c["name"] for c in facts["containers"] if c["service"] == "mini-zwz")
    assert placement.displaces(switched, facts, "mini-solo") == [{"service": "mini-zwz", "container": held}]
    assert placement.displaces(switched, facts, "medium-glm") == []
    assert placement.orphans(switched, facts) == []
    assert not errors(on_host.look_at_host(switched, facts, placement.deployed(switched)))
    assert changes.to_stop(switched, facts, switched.host_services, ["mini-solo"]) == []


def test_a_plain_run_goes_back() -> None:
    declared = catalogs.declared("rtx4090x3")
    facts = converged(declared)
    running = {"medium-glm", "mini-solo"}  # mini-zwz gave way to it in an earlier run
    facts["containers"] = [
        {**c, "state": "running" if c["service"] in running else "exited"}
        for c in facts["containers"]
        if c["service"] in {*running, "mini-zwz"}
    ]
    assert list(work(declared, facts)) == ["mini-zwz"]
    assert [d["service"] for d in placement.displaces(declared, facts, "mini-zwz")] == ["mini-solo"]
    assert placement.orphans(declared, facts) == [] and not errors(on_host.look_at_host(declared, facts, ["mini-zwz"]))
    # Were mini-zwz up already, nobody would take its place from mini-solo.
    assert [s["service"] for s in changes.to_stop(declared, facts, declared.host_services)] == ["mini-solo"]
    assert changes.to_stop(declared, facts, ["medium-glm"]) == []


def test_an_engine_gives_way_that_still_reserves_what_another_wants() -> None:
    half = {"gpu-memory-utilization": 0.6}
    before = box({"a": small("a", 1, gpus=[0], args=half), "b": small("b", 2, gpus=[1], args=half)})
    facts = converged(before)
    after = box({"a": small("a", 1, gpus=[1], args=half), "b": small("b", 2, gpus=[0], args=half)})
    assert [d["service"] for d in placement.displaces(after, facts, "a")] == ["b"]
    assert [d["service"] for d in placement.displaces(before, facts, "a")] == []


def gpu_facts(declared: Declared, free: float | None) -> Any:
    facts = converged(declared)
    one = {"index": 2, "uuid": "GPU-x", "name": "RTX", "memory": 24 * GIB, "processes": []}
    facts["gpu"] = {"gpus": [{**one, "free": None if free is None else int(free * GIB)}]}
    return facts


@pytest.mark.parametrize(
    ("share", "free", "fits", "why"),
    [
        (0.4, 13.0, True, "reserved to 0.80"),
        (0.5, 11.8, False, "11.8 GiB free, a second engine needs 13.5"),
        (0.6, 20.0, False, "reserved to 1.20"),
        (0.4, None, False, "not known"),
    ],
)
def test_two_releases_on_one_gpu(share: float, free: float | None, fits: bool, why: str) -> None:
    declared = box({"a": small("a", 1, args={"gpu-memory-utilization": share})})
    found = placement.side_by_side(declared, gpu_facts(declared, free), "a")
    assert found.fits is fits and why in found.why


def test_everything_that_runs_counts_and_what_is_unknown_means_no() -> None:
    third = {"gpu-memory-utilization": 0.35}
    declared = box({"a": small("a", 1, args=third), "b": small("b", 2, args=third)})
    facts = gpu_facts(declared, 20)
    assert "reserved to 1.05" in placement.side_by_side(declared, facts, "a").why
    stranger = {"name": "llm-old-1", "service": "old", "release": "1", "state": "running", "image_id": "x"}
    alone = box({"a": small("a", 1, args=third)})
    facts = gpu_facts(alone, 20)
    assert placement.side_by_side(alone, facts, "a").fits
    facts["containers"].append(stranger)
    assert "`llm-old-1`" in placement.side_by_side(alone, facts, "a").why
    facts["containers"] = []
    assert placement.side_by_side(alone, facts, "a").why == "nothing of it runs"
    writing = box({"a": small("a", 1, args=third, volumes=["/data:/data"])})
    assert "`/data`" in placement.side_by_side(writing, gpu_facts(writing, 20), "a").why


@pytest.mark.parametrize(
    ("memory", "limits", "fits", "why"),
    [
        ({"total": 24 * GIB, "available": 12 * GIB}, {"memory": "8g"}, True, "12.0 GiB free"),
        ({"total": 15 * GIB, "available": 12 * GIB}, {"memory": "8g"}, False, "would be 16.0 GiB"),
        ({"total": 24 * GIB, "available": 7 * GIB}, {"memory": "8g"}, False, "7.0 GiB free"),
        ({"total": None, "available": None}, {"memory": "8g"}, False, "not known"),
        ({"total": 24 * GIB, "available": 12 * GIB}, {}, False, "no limits.memory"),
    ],
)
def test_two_releases_on_a_cpu_host(memory: Any, limits: dict[str, Any], fits: bool, why: str) -> None:
    raw = catalogs.raw("demo")
    raw["services"]["micro-cpu"]["limits"] = limits
    declared, _ = parse.parse(raw)
    assert declared is not None
    facts = converged(declared)
    facts["memory"] = memory
    found = placement.side_by_side(declared, facts, "micro-cpu")
    assert found.fits is fits and why in found.why


def test_facts_of_a_host_without_anything_are_enough() -> None:
    declared = catalogs.declared("rtx4090x3")
    for name in declared.host_services:
        assert placement.displaces(declared, host(declared), name) == []
        assert not placement.side_by_side(declared, host(declared), name).fits
