"""Two services on one port: llm_switch gives the port to the other, a failed switch returns, and a plain run goes back."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from typing import Any

import openai
import pytest

from tests.e2e.demo import QUESTION, ROOT, SERVICE, WORD, Machine, Playbook

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

TWIN = "micro-twin"
TWINS = f"""\
llm_host_services: [{SERVICE}, {TWIN}]
llm_services_custom:
  {TWIN}:
    image: vllm-cpu
    model: smollm2-135m-instruct
    served_model_name: twin
    gpus: []
    port: 5010
    status: fallback
    args: {{dtype: float32, max-model-len: 1024, enforce-eager: true}}
    env: {{VLLM_CPU_KVCACHE_SPACE: "1"}}
    limits: {{memory: "{{{{ twin_memory | default('8g') }}}}", pids: 2048}}
    boot_timeout: 600
"""
LITTLE = ("-e", "twin_memory=600m")  # no engine starts in that


@pytest.fixture
def twins(machine: Machine, playbook: Playbook, inventory: Callable[[str], list[str]]) -> Iterator[list[str]]:
    """An inventory with both; afterwards the demo is alone again, as it was."""
    release = machine.release
    yield inventory(TWINS)
    playbook("site.yml", "-e", "llm_prune=true").passed()
    for place in (ROOT / "services" / TWIN, ROOT / "keys" / TWIN):
        shutil.rmtree(place) if place.is_dir() else place.unlink(missing_ok=True)
    playbook("site.yml").passed()  # its key went with its file: the gateway forgets it
    assert machine.release == release
    assert machine.engine().status == "running"


def states(machine: Machine) -> dict[str, str]:
    """Status of the engines of both, by service."""
    found = machine.docker.containers.list(all=True, filters={"label": "llm.service"})
    return {c.labels["llm.service"]: c.status for c in found}


def answered_by(machine: Machine, service: str) -> str:
    """The model that a client of a service is answered by, at the port that both want."""
    machine.await_door()
    client = machine.client((ROOT / "keys" / service).read_text(encoding="utf-8").strip())
    (model,) = client.models.list().data
    messages: Any = [{"role": "user", "content": QUESTION}]
    said = client.chat.completions.create(model=model.id, messages=messages, temperature=0, max_tokens=64)
    assert WORD in (said.choices[0].message.content or "")
    return str(model.id)


def test_a_switch_there_and_back(machine: Machine, playbook: Playbook, twins: list[str]) -> None:
    first = machine.engine().id
    there = playbook(*twins, "site.yml", "-e", f"llm_switch={TWIN}").passed()
    there.says(f"runs because llm_switch names it, in place of `{SERVICE}`", f"llm_switch gives its place to `{TWIN}`")
    assert states(machine) == {SERVICE: "exited", TWIN: "running"} and machine.engine().id == first
    assert answered_by(machine, TWIN) == "twin"
    with pytest.raises(openai.PermissionDeniedError):
        machine.client().models.list()  # its own key opens its own service alone
    assert playbook(*twins, "site.yml", "-e", f"llm_switch={TWIN}").passed().changed == 0
    playbook(*twins, "playbooks/status.yml").passed().says(f"deploy: stop llm-{TWIN}-")

    playbook(*twins, "site.yml").passed()
    assert states(machine) == {SERVICE: "running", TWIN: "exited"}
    assert answered_by(machine, SERVICE) == "smollm2-135m-instruct"
    assert playbook(*twins, "site.yml").passed().changed == 0


def test_a_switch_that_fails_returns(machine: Machine, playbook: Playbook, twins: list[str]) -> None:
    first = machine.engine().name
    waiting = playbook(*twins, "site.yml", "--check").passed()
    assert waiting.changed == 0, "a fallback is on standby"
    waiting.says(f"is on standby for `{SERVICE}`: both want port 5010", f"-e llm_switch={TWIN}")

    failed = playbook(*twins, "site.yml", "-e", f"llm_switch={TWIN}", *LITTLE).refused()
    failed.says("reached its memory limit", f"Release {machine.release} of {SERVICE} serves again, and was asked")
    assert states(machine) == {SERVICE: "running"} and machine.engine().name == first
    assert answered_by(machine, SERVICE) == "smollm2-135m-instruct"
