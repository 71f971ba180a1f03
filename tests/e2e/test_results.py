"""What a run leaves for people: the page, JUnit and verdict, also when a service gives a wrong answer."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from tests.e2e.demo import QUESTION, SERVICE, Playbook, declare

pytestmark = pytest.mark.e2e


@pytest.mark.usefixtures("machine")
def test_a_failed_check_is_on_the_page_beside_those_that_passed(playbook: Playbook) -> None:
    wrong = declare(smoke={"question": QUESTION, "answer": "Lisbon"})
    run = playbook("playbooks/smoke.yml", *wrong).refused().says("does not hold “Lisbon”", "report.html")
    verdict = json.loads((run.report / "verdict.json").read_text(encoding="utf-8"))
    checks = {check["id"]: check["ok"] for check in verdict["services"][SERVICE]["checks"]}
    assert not verdict["ok"] and checks["models"] and checks["no_key_refused"] and not checks["answer"]
    cases = ET.parse(run.report / "junit.xml").getroot().iter("testcase")
    assert {case.get("name"): case.find("failure") is None for case in cases} == checks
    processor = verdict["host"]["processor"]
    model = next(
        line for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if "model name" in line
    )
    assert model.partition(":")[2].strip() == processor["model"] and processor["cores"] > 0 and processor["features"]
    properties = {p.get("name"): p.get("value") for p in ET.parse(run.report / "junit.xml").getroot().iter("property")}
    assert properties["processor.model"] == processor["model"]
    page = (run.report / "report.html").read_text(encoding="utf-8")
    assert f"of {len(checks)} checks failed" in page and "Lisbon" in page and "smollm2-135m-instruct" in page
    assert f"Processor: {processor['model']}, " in page
    # The host remembers the last verdict too; without a right one every run asks again.
    again = playbook("site.yml").passed()
    assert json.loads((again.report / "verdict.json").read_text(encoding="utf-8"))["ok"]
