"""Deployments as clients see them: who answers while one release takes the place of another, and what a failure leaves."""

from __future__ import annotations

import threading

import pytest

from tests.e2e.demo import MODEL, QUESTION, SERVICE, WORD, Machine, Playbook, declare, steady

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("restored")]


@pytest.mark.slow
def test_clients_notice_nothing_of_a_deployment_side_by_side(playbook: Playbook, machine: Machine) -> None:
    before, release, gateway = machine.engine(), machine.release, machine.gateway().id
    stream = machine.client().chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": QUESTION}],
        max_tokens=1500,
        stream=True,
        extra_body={"ignore_eos": True},
    )
    finished: list[str | None] = []
    reader = threading.Thread(target=lambda: finished.extend(c.choices[0].finish_reason for c in stream if c.choices))
    reader.start()
    with steady(machine) as answers:
        run = playbook("site.yml", *declare(args={"max-model-len": 1920}, drain=240)).passed()
    reader.join()
    assert [a for a in answers if a.status != 200] == [] and len(answers) > 3
    assert finished[-1] == "length", "the stream that was open was cut"
    assert machine.release != release and machine.engine().id != before.id and machine.gateway().id == gateway
    assert "Take out of service what is in the way" not in run.text


@pytest.mark.slow
def test_where_both_do_not_fit_clients_wait_or_are_sent_away_until_the_new_one_is_proven(
    playbook: Playbook, machine: Machine
) -> None:
    release = machine.release
    with steady(machine) as answers:
        # So much for each is more than the machine has for two.
        run = playbook("site.yml", *declare(limits={"memory": "16g"})).passed()
    # They wait at the gateway, and whoever has waited for long is sent away with 503.
    assert {a.status for a in answers} <= {200, 503}, "cut off"
    assert all(WORD in a.text for a in answers if a.status == 200)
    assert "Let it finish, and stop it" in run.text and machine.release != release
    assert WORD in machine.answer()


@pytest.mark.slow
def test_rollback_returns_to_the_release_before_and_says_how_to_keep_it(playbook: Playbook, machine: Machine) -> None:
    first = machine.release
    playbook("site.yml", *declare(args={"max-model-len": 1984})).passed()
    second = machine.release
    refused = playbook("playbooks/rollback.yml").refused()
    refused.says(f"{SERVICE}: {second} -> {first}")
    run = playbook("playbooks/rollback.yml", "--tags", SERVICE, *declare(args={"max-model-len": 1984})).passed()
    assert (machine.release, machine.service_folder.joinpath("previous").readlink().name) == (first, second)
    run.says("the next site.yml would deploy")
    machine.await_door()
    assert WORD in machine.answer()
    assert playbook("site.yml", "--check").passed().changed == 0, "the declaration is the first release's again"


@pytest.mark.fault(46, "an edited compose.yml beside the container that it made")
def test_an_edited_compose_file_is_written_anew_and_nothing_restarts(playbook: Playbook, machine: Machine) -> None:
    containers, rendered = machine.containers(), machine.compose_file.read_text(encoding="utf-8")
    machine.compose_file.write_text(rendered.replace("pids_limit", "# edited\n    pids_limit", 1), encoding="utf-8")
    predicted = playbook("site.yml", "--check", "--diff").passed()
    predicted.says("file compose.yml: edited or gone -> as rendered", "# edited")
    playbook("site.yml").passed()
    assert machine.compose_file.read_text(encoding="utf-8") == rendered and machine.containers() == containers
    assert playbook("site.yml").passed().changed == 0


def test_a_container_that_an_interrupted_run_left_is_removed(playbook: Playbook, machine: Machine) -> None:
    engine, release = machine.engine(), machine.release
    image = engine.attrs["Image"]
    labels = {"llm.service": SERVICE, "llm.release": "0" * 12}
    machine.docker.containers.create(
        image, ["sleep", "1"], entrypoint=[], name=f"llm-{SERVICE}-00000000", labels=labels
    )
    playbook("site.yml", "--check").passed().says(f"llm-{SERVICE}-00000000")
    playbook("site.yml").passed()
    assert [(c.id, c.labels["llm.release"]) for c in machine.engines()] == [(engine.id, release)]
