"""Declarations that a real engine refuses or gets wrong: what ran before them runs after them."""

from __future__ import annotations

import re

import pytest

from tests.e2e.demo import QUESTION, SERVICE, Machine, Playbook, Run, declare

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("restored")]


@pytest.mark.fault(8, "a flag that this engine lacks")
def test_a_flag_that_the_engine_lacks_is_refused_while_the_old_release_serves(
    playbook: Playbook, machine: Machine
) -> None:
    containers, release = machine.containers(), machine.release
    run = playbook("site.yml", *declare(args={"no-such-flag": True})).refused()
    run.says("nothing was stopped", f"llm_services.{SERVICE}.args.no-such-flag: is not a flag of this vLLM. Remove it")
    assert machine.containers() == containers and machine.release == release
    assert "Paris" in machine.answer()


def test_a_request_that_no_cache_can_hold_is_refused_while_the_old_release_serves(
    playbook: Playbook, machine: Machine
) -> None:
    containers, release = machine.containers(), machine.release
    run = playbook("site.yml", *declare(args={"max-model-len": 100000})).refused()
    run.says(f"llm_services.{SERVICE}.args.max-model-len", "one request of 100,000 tokens does not fit")
    assert machine.containers() == containers and machine.release == release


def rolled_back(run: Run, step: str, cause: str, machine: Machine, release: str) -> None:
    """Check that a failed deployment named step, cause and release, and that the release before it serves again."""
    run.refused().says(f'failed at "{step}"', cause)
    # Whether both fit is for the plan to say, from the memory that is free.
    assert re.search(
        rf"Release {release} (serves on: it was never stopped|of {SERVICE} serves again, and was asked)", run.text
    )
    failed = re.search(rf"{SERVICE}: release ([0-9a-f]{{12}}) failed at", run.text)
    assert failed and failed[1] != release and run.count("rescued") == 1
    assert not (machine.service_folder / "releases" / failed[1] / "secrets").exists(), "a copy of the key is left"
    assert machine.release == release
    assert (machine.engine().status, machine.engine().labels["llm.release"]) == ("running", release)
    machine.await_door()
    assert "Paris" in machine.answer()


@pytest.mark.fault(7, "an engine that fails at every boot, rolled back")
@pytest.mark.fault(33, "a memory limit that no boot fits in: named, and not tried for ever")
def test_an_engine_that_does_not_start_is_rolled_back(playbook: Playbook, machine: Machine) -> None:
    release, gateway = machine.release, machine.gateway().id
    run = playbook("site.yml", *declare(limits={"memory": "600m"}))
    cause = "The container reached its memory limit and was killed. Raise `limits.memory`"
    rolled_back(run, "Wait for the engine", cause, machine, release)
    assert machine.gateway().id == gateway
    assert playbook("site.yml").passed().changed == 0


@pytest.mark.fault(29, "an answer that is not the known one, rolled back")
def test_an_engine_that_answers_wrongly_is_rolled_back(playbook: Playbook, machine: Machine) -> None:
    release = machine.release
    other = {"args": {"max-model-len": 1024}, "warmup": {"prompt_tokens": [50]}}
    run = playbook("site.yml", *declare(**other, smoke={"question": QUESTION, "answer": "Berlin"}))
    rolled_back(run, "Ask the engine", "is Paris.” does not hold “Berlin”", machine, release)


@pytest.mark.slow
@pytest.mark.fault(29, "an engine that computes nonsense, rolled back")
def test_an_engine_that_computes_nonsense_is_caught_by_the_known_answer(playbook: Playbook, machine: Machine) -> None:
    """Compiled, the CPU build of vLLM 0.32 boots, says healthy and answers this model's prompts with nonsense."""
    release = machine.release
    run = playbook("site.yml", *declare(args={"enforce-eager": False}, warmup={"prompt_tokens": [50]}))
    rolled_back(run, "Ask the engine", "does not hold “Paris”", machine, release)
