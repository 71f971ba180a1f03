"""GPUs as found beside GPUs as declared: what the plan says before anything is stopped."""

import copy
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.llm.declare.objects import Declared
from ansible.module_utils.llm.gpu import host as gpu_host
from ansible.module_utils.llm.gpu import nvidia
from ansible.module_utils.llm.plan import on_host, placement, status
from ansible.module_utils.llm.plan.selection import STAGES

from tests import catalogs, hosts

DATA = Path(__file__).parents[1] / "data" / "nvidia-smi"
BOX: Any = nvidia.parse((DATA / "rtx4090x3-made.xml").read_text(encoding="utf-8"))
MISMATCH = (DATA / "fail-18-mismatch.txt").read_text(encoding="utf-8")


def box(**changes: Any) -> Declared:
    return catalogs.declared("rtx4090x3", **{"host_services": ["medium-glm", "mini-zwz"], **changes})


def facts(**changes: Any) -> Any:
    """Facts of the box with three RTX 4090, with images, models and nothing that runs; changes go into its GPUs."""
    seen = {**gpu_host.nothing(), "devices": ["0000:01:00.0"], "tool": "/usr/bin/nvidia-smi", **copy.deepcopy(BOX)}
    models = {m: hosts.model(present=True) for m in catalogs.declared("rtx4090x3").models}
    return hosts.facts(docker={"version": "28.5.2"}, models=models, gpu={**seen, **changes})


def said(declared: Declared, found: Any, stages: tuple[str, ...] = STAGES) -> set[tuple[str, str, str]]:
    """(service, id, severity) of all findings about GPUs."""
    findings = on_host.look_at_host(declared, found, placement.deployed(declared), stages)
    return {(s, f.id, f.severity) for s, own in findings.items() for f in own if f.id.startswith("gpu-")}


def test_the_box_as_declared_has_no_findings() -> None:
    assert said(box(), facts()) == set()


def test_a_host_that_nobody_asked_about_gpus_has_none() -> None:
    assert said(box(), {**facts(), "gpu": None}) == set()


@pytest.mark.fault(39, "its services are refused, no others", by="simulated")
def test_a_missing_gpu_refuses_the_services_that_use_it_and_no_other() -> None:
    assert said(box(), facts(gpus=BOX["gpus"][:2])) == {("mini-zwz", "gpu-missing", "error")}
    assert said(box(host_services=["medium-glm"]), facts(gpus=BOX["gpus"][:2])) == {("", "gpu-missing", "warn")}


def test_another_model_is_told_and_less_memory_refused() -> None:
    cards = copy.deepcopy(BOX["gpus"])
    cards[0].update(name="NVIDIA GeForce RTX 4080", memory=16 * 2**30)
    assert said(box(), facts(gpus=cards)) == {
        ("medium-glm", "gpu-model", "warn"),
        ("medium-glm", "gpu-memory", "error"),
    }


def test_a_gpu_that_nobody_declared_is_told() -> None:
    declared = box(host_gpus=catalogs.raw("rtx4090x3")["gpus"][:2], host_services=["medium-glm"])
    assert said(declared, facts()) == {("", "gpu-unlisted", "info")}


@pytest.mark.parametrize(("stages", "severity"), [(STAGES, "warn"), (("services",), "error")])
@pytest.mark.fault(
    43, "its services are refused, or left to the stage that mends it; a reboot is asked for", by="recorded"
)
def test_a_driver_that_the_host_stage_will_see_to_is_warned_of_and_else_refused(
    stages: tuple[str, ...], severity: str
) -> None:
    wrong = nvidia.trouble(["0000:01:00.0"], "/usr/bin/nvidia-smi", wsl=False, rc=18, output=MISMATCH)
    found = facts(trouble=wrong, gpus=[])
    assert said(box(), found, stages) == {
        ("medium-glm", "gpu-mismatch", severity),
        ("mini-zwz", "gpu-mismatch", severity),
    }
    findings = on_host.look_at_host(box(), found, ["mini-zwz"], stages)["mini-zwz"]
    assert "Reboot" in findings[0].remedy


def test_a_host_without_gpu_is_refused_when_services_want_one() -> None:
    found = facts(trouble=nvidia.trouble([], "", wsl=False), gpus=[])
    assert ("mini-zwz", "gpu-no-hardware", "error") in said(box(), found)
    assert said(box(host_services=[]), found) == {("", "gpu-no-hardware", "warn")}


def test_a_way_that_the_engine_does_not_know_is_refused() -> None:
    found = facts()
    found["docker"]["version"] = "20.10.24+dfsg1"
    assert said(box(), found) == {("", "gpu-runtime", "error")}
    assert said(box(gpu_runtime="nvidia"), found) == set()


def held(memory_gib: float | None, container: str = "") -> Any:
    cards = copy.deepcopy(BOX["gpus"])
    size = None if memory_gib is None else int(memory_gib * 2**30)
    cards[2]["processes"] = [{"pid": 4242, "name": "python3", "memory": size, "container": container}]
    return facts(gpus=cards)


@pytest.mark.parametrize(("gib", "severity"), [(0.1, "warn"), (None, "warn"), (8, "error")])
@pytest.mark.fault(41, "pid and process are named", by="simulated")
def test_a_stranger_on_a_gpu_is_named_and_refused_where_the_service_would_not_fit(
    gib: float | None, severity: str
) -> None:
    found = held(gib)
    assert said(box(), found) == {("mini-zwz", "gpu-held", severity)}
    assert "python3 (pid 4242" in on_host.look_at_host(box(), found, ["mini-zwz"])["mini-zwz"][0].message


def test_a_service_that_already_runs_is_not_refused_for_a_stranger() -> None:
    found = held(8, container="f" * 64)
    found["containers"] = [{"id": "a" * 64, "service": "mini-zwz", "state": "running", "release": "r", "name": "n"}]
    assert said(box(), found) == {("mini-zwz", "gpu-held", "warn")}


def test_our_own_engines_are_no_strangers() -> None:
    found = held(20, container="a" * 64)
    found["containers"] = [{"id": "a" * 64, "service": "mini-zwz", "state": "running", "release": "r", "name": "n"}]
    assert said(box(), found) == set()


def test_status_shows_the_gpus_of_a_service() -> None:
    shown = status.status(box(), facts(), {}, {})
    assert len(shown["medium-glm"]["gpus"]) == 2
    assert shown["mini-zwz"]["gpus"] == [
        "2: NVIDIA GeForce RTX 4090, 24.0 GiB (GPU-00000000-0000-0000-0000-004090000002), 23.6 GiB free, driver 580.159.04"
    ]
    gone = status.status(box(), facts(gpus=BOX["gpus"][:2]), {}, {})
    assert gone["mini-zwz"]["gpus"] == ["2: not there"]
    broken = status.status(box(), facts(trouble=nvidia.trouble([], "", wsl=False)), {}, {})
    assert broken["mini-zwz"]["gpus"] == ["the host has no NVIDIA GPU"]
