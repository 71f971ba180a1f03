"""A Docker engine that ends: in the middle of a run, with its host. It is real; the model's is a stub."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable

import pytest

from tests.e2e.demo import Run
from tests.faults.stub.host import SERVICE, StubHost, differences

pytestmark = pytest.mark.e2e

LONGEST = 300  # seconds after which nothing is waited for any more; no test measures time


@pytest.mark.fault(19, "SIGKILL to Docker while an engine starts; live-restore keeps what runs (engine: stub)")
def test_docker_ends_in_the_middle_of_a_run(host: StubHost, record_property: Callable[[str, object], None]) -> None:
    host.reset()
    host.run("site.yml").passed()
    wanted = host.state()
    host.reset()
    runs: list[Run] = []
    run = threading.Thread(target=lambda: runs.append(host.run("site.yml")))
    run.start()
    end = time.monotonic() + LONGEST
    while not host.client.containers.list(sparse=True, filters={"label": f"llm.service={SERVICE}"}):
        assert run.is_alive() and time.monotonic() < end, runs
        time.sleep(0.05)
    host.stop_docker(signal.SIGKILL)
    run.join()
    runs[0].refused().says("Docker")
    begin = time.monotonic()
    host.start_docker()
    host.run("site.yml").passed()
    record_property("recovery_seconds", time.monotonic() - begin)
    assert differences(wanted, host.state()) == {} and host.status() == 200
    assert host.run("site.yml").passed().changed == 0


@pytest.mark.slow
@pytest.mark.fault(24, "SIGKILL to Docker and every process of its containers, and Docker's start (engine: stub)")
def test_what_ran_before_a_reboot_runs_after_it(host: StubHost, record_property: Callable[[str, object], None]) -> None:
    host.reset()
    host.run("site.yml").passed()
    wanted = host.state()
    host.power_off()
    begin = time.monotonic()
    host.start_docker()
    while host.status() != 200:
        assert time.monotonic() < begin + LONGEST, host.containers()
        time.sleep(0.1)
    record_property("recovery_seconds", time.monotonic() - begin)
    assert differences(wanted, host.state()) == {}
    assert host.run("site.yml").passed().changed == 0
