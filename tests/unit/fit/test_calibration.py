"""A boot is measured once and planned by from then on: from the plan's key through the engine's log to the next plan."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llm_engine
import pytest
from ansible.module_utils.llm.declare import parse
from ansible.module_utils.llm.docker import api as docker_api
from ansible.module_utils.llm.engine import boot
from ansible.module_utils.llm.gpu import host as gpu_host
from ansible.module_utils.llm.host import read as read_host

from tests import catalogs, fit_rows
from tests.unit.declare.test_mutations import judge
from tests.unit.engine.test_wait import Script
from tests.unit.plan import test_plan

LOG = (fit_rows.DATA / "q32-tp1.log").read_text(encoding="utf-8")  # vLLM 0.26 on an H100
MEASURED = boot.harvest(LOG.splitlines())
ROW = next(row for row in fit_rows.rows() if row.name == "qwen3-32b AWQ")


def declared(**args: Any) -> dict[str, Any]:
    """Variables of a host with that H100 and that service."""
    entry = next(r for r in json.loads((fit_rows.DATA / "rows.json").read_text())["rows"] if r["row"] == ROW.name)
    models = catalogs.read("group_vars/all/models.yml")["llm_models"]
    return {
        "llm_host_gpus": [{"index": 0, "model": ROW.gpu, "memory": "80 GiB"}],
        "llm_host_services": ["q32"],
        "llm_images": {
            "old": {
                "sources": [{"archive": "/vllm.tar"}],
                "accelerator": "nvidia",
                "engine": {"name": "vllm", "version": ROW.engine},
                "accept": dict.fromkeys(
                    ("GHSA-fpch-3xrf-7q96", "CVE-2026-100650", "CVE-2026-105754", "CVE-2026-105757", "CVE-2026-105760")
                    + ("GHSA-5r3c-5x4v-8gjh",),
                    "a recorded boot",
                ),
            }
        },
        "llm_models": {"qwen3-32b-awq": models["qwen3-32b-awq"]},
        "llm_services": {
            "q32": {
                "image": "old",
                "model": "qwen3-32b-awq",
                "port": 5002,
                "gpus": [0],
                "args": {**entry["args"], **args},
            }
        },
    }


@pytest.fixture
def plan(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """The plan of the service, given the records that lie in a folder of the host."""

    def planned(records: Path, **args: Any) -> dict[str, Any]:
        variables = declared(**args)
        raw = {kind: variables[f"llm_{kind}"] for kind in ("images", "models", "services")}
        typed, findings = parse.parse({**raw, "host_services": ["q32"], "gpus": variables["llm_host_gpus"]})
        assert typed is not None, findings
        gpu = {"index": 0, "uuid": "GPU-0", "name": ROW.gpu, "memory": 80 * 2**30, "free": 79 * 2**30, "processes": []}
        facts = test_plan.host(typed) | {
            "calibration": read_host.records(records),
            "gpu": {**gpu_host.nothing(), "devices": ["0000:01:00.0"], "tool": "/x", "gpus": [gpu]},
        }
        facts["docker"]["version"] = "28.5.2"
        facts["models"]["qwen3-32b-awq"]["config"] = ROW.known.config
        result = judge(variables, tmp_path / "report", facts=facts)
        assert not result.get("failed"), result
        found: dict[str, Any] = result["plan"]["services"]["q32"]
        return found

    return planned


def test_a_boot_is_planned_by_from_then_on(
    plan: Callable[..., dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    run_module: Callable[..., dict[str, Any]],
    tmp_path: Path,
) -> None:
    folder = tmp_path / "calibration"
    before = plan(folder)
    assert before["fit"]["basis"] == "shape" and before["record_folder"] == "/opt/llm/state/calibration"
    assert before["kv_tokens"]["low"] < MEASURED["kv_cache_tokens"] < before["kv_tokens"]["high"]

    # What roles/vllm_service/tasks/gates.yml gives to the module once the container runs.
    script = Script(monkeypatch)
    script.log = [docker_api.LogLine(1, "stderr", line) for line in LOG.splitlines()]
    arguments = {"container": "web", "record_folder": str(folder), "record_key": before["record_key"]}
    booted = run_module(llm_engine, arguments)
    assert booted["changed"] and Path(booted["record"]).parent == folder
    assert run_module(llm_engine, arguments)["changed"] is False

    after = plan(folder)
    assert after["fit"]["basis"] == "calibrated"
    for end in ("low", "high"):
        assert after["kv_tokens"][end] == pytest.approx(MEASURED["kv_cache_tokens"], rel=0.01)
    other = plan(folder, **{"max-num-seqs": 128})
    assert other["fit"]["basis"] == "calibrated" and other["record_key"] != before["record_key"]
    assert other["kv_tokens"]["high"] < before["kv_tokens"]["high"]


def test_the_role_hands_the_plans_key_to_the_module() -> None:
    tasks = catalogs.read("roles/vllm_service/tasks/gates.yml")
    (waits,) = [t["llm_engine"] for t in tasks if "llm_engine" in t]
    assert "record_folder" in waits["record_folder"] and "record_key" in waits["record_key"]
