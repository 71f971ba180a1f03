"""A Docker engine that ends: in the middle of a run, with its host, for want of room. The model's engine is the real one."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable

import pytest

from tests import catalogs
from tests.e2e.demo import Run
from tests.faults.stub.host import RealHost, differences

pytestmark = pytest.mark.e2e

LONGEST = 600  # seconds after which nothing is waited for any more; no test measures time


@pytest.mark.slow
@pytest.mark.fault(19, "SIGKILL to Docker while an engine starts; live-restore keeps what runs")
def test_docker_ends_in_the_middle_of_a_run(
    real_host: RealHost, record_property: Callable[[str, object], None]
) -> None:
    host = real_host
    host.reset()
    host.run("site.yml").passed()
    wanted = host.state()
    host.reset()
    runs: list[Run] = []
    run = threading.Thread(target=lambda: runs.append(host.run("site.yml")))
    run.start()
    end = time.monotonic() + LONGEST
    while not host.client.containers.list(sparse=True, filters={"label": f"llm.service={host.service}"}):
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
@pytest.mark.fault(
    24, "SIGKILL to Docker and every process of its containers, and Docker's start; nothing depends on an order"
)
def test_what_ran_before_a_reboot_runs_after_it(
    real_host: RealHost, record_property: Callable[[str, object], None]
) -> None:
    host = real_host
    host.reset()
    host.run("site.yml").passed()
    wanted = host.state()
    host.power_off()
    begin = time.monotonic()
    host.start_docker()
    while (status := host.status()) != 200:  # whichever is up first: the gateway says 503 until the engine answers
        assert status in (0, 503) and time.monotonic() < begin + LONGEST, (status, host.containers())
        time.sleep(0.1)
    record_property("recovery_seconds", time.monotonic() - begin)
    assert differences(wanted, host.state()) == {}
    assert host.run("site.yml").passed().changed == 0


@pytest.mark.slow
@pytest.mark.fault(16, "fills the file system of Docker's data while an image is built")
def test_a_disk_that_is_full_while_an_image_is_built(tmp_path_factory: pytest.TempPathFactory) -> None:
    with RealHost(tmp_path_factory.mktemp("full"), "full").up(disk_gib=14) as host:
        host.run("site.yml").passed()
        before = host.state()
        free = os.statvfs(host.folder / "docker")
        filler = host.folder / "docker/filler"
        with filler.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, free.f_bavail * free.f_frsize - 2**20)
        place = host.inventory / "host_vars/localhost.yml"
        declared = json.loads(place.read_text(encoding="utf-8"))
        content = {"/usr/local/share/large": {"content": "large" * 2**19}}
        # It says that it is small: what is declared larger than the room that is left is refused before it is begun.
        built = {"size_gib": 0.0001, "sources": [{"build": {"base": host.image, "files": content}}]}
        base = catalogs.read("group_vars/all/images.yml")["llm_images"][host.image]
        declared["llm_images_custom"] = {
            "larger": {**{k: base[k] for k in ("accelerator", "engine", "accept")}, **built}
        }
        place.write_text(json.dumps(declared), encoding="utf-8")
        run = host.run("site.yml", changes={"image": "larger"}).refused()
        run.says("no space left on device", "The disk of Docker's data is full")
        # What it was to be built of may stay.
        assert {n.partition("/")[0] for n in differences(before, host.state())} <= {"images"} and host.status() == 200
        filler.unlink()
        host.run("site.yml", changes={"image": "larger"}).passed()
