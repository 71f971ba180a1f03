"""Declarations that a real engine refuses or gets wrong: what ran before them runs after them."""

from __future__ import annotations

import datetime
import json
import re
import shutil
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path

import pytest
from ansible.module_utils.llm.engine import history

from tests.e2e.demo import CHECKOUT, POSITIONS, QUESTION, ROOT, SERVICE, WORD, Machine, Playbook, Run, declare, steady

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("restored")]

PATIENCE = 20  # seconds in which a new image must be ready
NEVER = f"""
llm_images_custom:
  never-healthy:
    size_gib: 0.1
    accelerator: cpu
    engine: {{name: vllm, version: "{{{{ llm_images['vllm-cpu'].engine.version }}}}"}}
    accept: "{{{{ llm_images['vllm-cpu'].accept }}}}"
    sources:
      - build:
          base: vllm-cpu
          files:
            /opt/vllm/bin/vllm:
              mode: "0755"
              content: |
                #!/bin/sh
                trap 'exit 143' TERM
                sleep infinity & wait
llm_services_custom:
  {SERVICE}: {{image: never-healthy, boot_timeout: {PATIENCE}, limits: {{memory: 16g}}}}
"""


@pytest.mark.fault(8, "a flag that this engine lacks")
def test_a_flag_that_the_engine_lacks_is_refused_while_the_old_release_serves(
    playbook: Playbook, machine: Machine
) -> None:
    containers, release = machine.containers(), machine.release
    run = playbook("site.yml", *declare(args={"no-such-flag": True})).refused()
    run.says("nothing was stopped", f"llm_services.{SERVICE}.args.no-such-flag: is not a flag of this vLLM. Remove it")
    assert machine.containers() == containers and machine.release == release
    assert WORD in machine.answer()


def test_a_request_that_no_cache_can_hold_is_refused_while_the_old_release_serves(
    playbook: Playbook, machine: Machine
) -> None:
    containers, release = machine.containers(), machine.release
    run = playbook("site.yml", *declare(args={"max-model-len": 100000})).refused()
    run.says(f"llm_services.{SERVICE}.args.max-model-len", "one request of 100,000 tokens does not fit")
    assert machine.containers() == containers and machine.release == release


class Deployments:
    """Deployments that are to fail, beside a client that asks all the time."""

    def __init__(self, playbook: Playbook, machine: Machine, record: Callable[[str, object], None]) -> None:
        self.playbook, self.machine, self.record = playbook, machine, record
        self.release = machine.release

    def roll_back(self, step: str, cause: str, *arguments: str) -> None:
        """Run site.yml: it names step, cause and release, and the release before serves again, or all the time.

        Says how long it did not, and what boots of it were on record.
        """
        machine, release = self.machine, self.release
        on_record = history.boot_record(history.read(ROOT / "state/history" / history.file_name(SERVICE, release)))
        with steady(machine) as answers:
            run = self.playbook(*arguments, "site.yml")
            machine.await_door()
        run.refused().says(f'failed at "{step}"', cause)
        failed = re.search(rf"{SERVICE}: release ([0-9a-f]{{12}}) failed at", run.text)
        assert failed and failed[1] != release and run.count("rescued") == 1
        self.told(run, failed[1], step)
        assert not (machine.service_folder / "releases" / failed[1] / "secrets").exists(), "a copy of the key is left"
        assert machine.release == release
        assert (machine.engine().status, machine.engine().labels["llm.release"]) == ("running", release)
        assert all(WORD in a.text for a in answers if a.status == 200), "answered by a release that had not passed"
        # Whether both fit is for the plan to say, from the memory that is free.
        if f"Release {release} serves on: it was never stopped" in run.text:
            assert {a.status for a in answers} == {200}
            self.record("recovery_seconds", 0)
        else:
            run.says(f"Release {release} of {SERVICE} serves again, and was asked")
            assert {a.status for a in answers} <= {200, 503}, "cut off"
            kept = max((machine.service_folder / "diagnostics").iterdir()) / "cause.json"
            at = datetime.datetime.fromisoformat(json.loads(kept.read_text())["at"].replace("Z", "+00:00")).timestamp()
            back = min([a.at for a in answers if a.status == 200 and a.at > at], default=time.time())
            self.record("recovery_seconds", back - at)
            assert on_record is not None
            self.record("boot_seconds", on_record["slowest"])
        assert WORD in machine.answer()

    def told(self, run: Run, release: str, step: str) -> None:
        """See that reports hold what the release got, and that status names the attempt."""
        verdict = json.loads((run.report / "verdict.json").read_text(encoding="utf-8"))
        checks = {check["id"]: check for check in verdict["services"][SERVICE]["checks"]}
        assert not verdict["ok"] and verdict["host"]["processor"]["cores"] > 0
        if step == "Ask the engine":
            assert checks["models"]["ok"] and not checks["answer"]["ok"]
        else:
            assert [*checks] == ["deployed"] and f'failed at "{step}"' in checks["deployed"]["evidence"]
        cases = ET.parse(run.report / "junit.xml").getroot().iter("testcase")
        passed = {case.get("name"): case.find("failure") is None for case in cases}
        assert passed == {name: check["ok"] for name, check in checks.items()}
        page = (run.report / "report.html").read_text(encoding="utf-8")
        assert "failed</strong>" in page and f"release <code>{release}</code>" in page
        kept = max((self.machine.service_folder / "diagnostics").iterdir())
        at = json.loads((kept / "cause.json").read_text(encoding="utf-8"))["at"]
        status = self.playbook("playbooks/status.yml").passed()
        status.says(f'last attempt {at}, release {release}, failed at "{step}": ', f"diagnostics in {kept}")


@pytest.fixture
def deployments(playbook: Playbook, machine: Machine, record_property: Callable[[str, object], None]) -> Deployments:
    return Deployments(playbook, machine, record_property)


@pytest.mark.slow
@pytest.mark.fault(
    7, "a flag that every boot dies of, where both do not fit: the release before serves again; starts counted"
)
def test_a_flag_that_no_boot_survives_is_rolled_back(deployments: Deployments, machine: Machine) -> None:
    begin = int(time.time())
    wrong = declare(args={"logits-processors": "nothing.here:Never"}, limits={"memory": "16g"})
    deployments.roll_back("Wait for the engine", "No module named 'nothing'", *wrong)
    events = machine.docker.events(
        since=begin, until=int(time.time()), decode=True, filters={"event": "start", "label": f"llm.service={SERVICE}"}
    )
    failed = [e for e in events if e["Actor"]["Attributes"]["llm.release"] != deployments.release]
    assert 1 <= len(failed) <= 3, failed


@pytest.mark.fault(33, "a memory limit that no boot fits in: named, and not tried for ever")
def test_an_engine_that_does_not_start_is_rolled_back(
    deployments: Deployments, playbook: Playbook, machine: Machine
) -> None:
    gateway = machine.gateway().id
    cause = "The container reached its memory limit and was killed. Raise `limits.memory`"
    deployments.roll_back("Wait for the engine", cause, *declare(limits={"memory": "600m"}))
    assert machine.gateway().id == gateway
    again = playbook("site.yml").passed()
    # It finds what is declared, asks it, and with that the attempt is over.
    assert again.changed == 0 and json.loads((again.report / "verdict.json").read_text(encoding="utf-8"))["ok"]
    assert "last attempt" not in playbook("playbooks/status.yml").passed().text


@pytest.mark.fault(29, "an answer that is not the known one, rolled back")
def test_an_engine_that_answers_wrongly_is_rolled_back(deployments: Deployments) -> None:
    other = {"args": {"max-model-len": 1024}, "warmup": {"prompt_tokens": [50]}}
    wrong = declare(**other, smoke={"question": QUESTION, "answer": "Berlin"})
    deployments.roll_back("Ask the engine", f"is {WORD}.” does not hold “Berlin”", *wrong)


@pytest.mark.slow
@pytest.mark.fault(27, "a chat template for other models, where both releases do not fit: the one before serves again")
def test_a_chat_template_that_is_wrong_is_rolled_back(
    deployments: Deployments, inventory: Callable[[str], list[str]]
) -> None:
    """It is well-formed and leaves nothing out, so that preflight takes it."""
    changes = "{plugins: {chat_template: foreign.jinja}, limits: {memory: 16g}}"
    arguments = inventory(f"llm_services_custom: {{{SERVICE}: {changes}}}\n")
    shutil.copytree(CHECKOUT / "tests/e2e/plugins", Path(arguments[1]) / "files")
    deployments.roll_back("Ask the engine", f"does not hold “{WORD}”", *arguments)


@pytest.mark.slow
@pytest.mark.fault(28, "its command never listens, and both do not fit: the digest before serves again")
def test_an_image_that_never_becomes_healthy_is_rolled_back(
    deployments: Deployments, machine: Machine, inventory: Callable[[str], list[str]]
) -> None:
    image = machine.engine().attrs["Image"]
    try:
        deployments.roll_back("Wait for the engine", "Raise `boot_timeout` of the service", *inventory(NEVER))
    finally:
        for made in machine.docker.images.list(filters={"reference": "llm/never-healthy"}):
            machine.docker.images.remove(made.id)
    assert machine.engine().attrs["Image"] == image


@pytest.mark.slow
@pytest.mark.fault(29, "an engine that computes nonsense, rolled back")
def test_an_engine_that_computes_nonsense_is_caught_by_the_known_answer(deployments: Deployments) -> None:
    """With positions that it was not trained with it boots, says healthy, and answers with nonsense."""
    wrong = declare(args={"hf-overrides": POSITIONS}, warmup={"prompt_tokens": [50]})
    deployments.roll_back("Ask the engine", "the expected answer is nowhere near", *wrong)
