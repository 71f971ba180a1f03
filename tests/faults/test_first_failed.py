"""A first deployment that fails, on a host of its own with a STUB of the engine: what it leaves for people, and for how long."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET

import pytest

from tests.faults.stub.host import SERVICE, StubHost

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

WRONG = {"smoke": {"question": "What is the capital of France?", "answer": "Xyzzy", "slowest": 0}}


@pytest.mark.fault(29, "a first deployment of a STUB that answers wrongly: reports, diagnostics and status tell of it")
def test_a_first_deployment_that_fails_is_told_until_one_succeeds(host: StubHost) -> None:
    host.reset()
    run = host.run("site.yml", changes=WRONG).refused()
    run.says('failed at "Ask the engine"', "does not hold “Xyzzy”", "There was no release to return to.")
    run.says(f"a setting of the service is changed under llm_services_custom.{SERVICE}")
    verdict = json.loads((run.report / "verdict.json").read_text(encoding="utf-8"))
    checks = {check["id"]: check["ok"] for check in verdict["services"][SERVICE]["checks"]}
    assert not verdict["ok"] and checks["models"] and not checks["answer"]
    cases = ET.parse(run.report / "junit.xml").getroot().iter("testcase")
    assert {case.get("name"): case.find("failure") is None for case in cases} == checks
    assert "Xyzzy" in (run.report / "report.html").read_text(encoding="utf-8")

    (kept,) = (host.root / "services" / SERVICE / "diagnostics").iterdir()
    at = json.loads((kept / "cause.json").read_text(encoding="utf-8"))["at"]
    status = host.run("playbooks/status.yml").passed()
    status.says("no container", f"last attempt {at}, release", 'failed at "Ask the engine"', f"diagnostics in {kept}")

    # What never came up has no checks, and the newest attempt is told.
    run = host.run("site.yml", changes={**WRONG, "limits": {"memory": "6m"}}).refused()
    verdict = json.loads((run.report / "verdict.json").read_text(encoding="utf-8"))
    (only,) = verdict["services"][SERVICE]["checks"]
    assert (only["id"], only["ok"]) == ("deployed", False) and only["evidence"].startswith("failed at ")
    newest = max((host.root / "services" / SERVICE / "diagnostics").iterdir())
    status = host.run("playbooks/status.yml").passed().says(f"diagnostics in {newest}")
    assert str(kept) not in status.text

    good = host.run("site.yml").passed()
    assert json.loads((good.report / "verdict.json").read_text(encoding="utf-8"))["ok"]
    assert "last attempt" not in host.run("playbooks/status.yml").passed().text
    assert host.run("site.yml").passed().changed == 0
