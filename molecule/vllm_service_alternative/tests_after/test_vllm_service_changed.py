"""Another flag made another release; the one before it is kept, and its container is gone."""

from __future__ import annotations

import json

from testinfra.host import Host

SERVICE = "/opt/llm/services/micro-cpu"


def test_another_release_serves_with_the_new_flag(host: Host) -> None:
    release = host.check_output(f"basename $(readlink {SERVICE}/current)")
    assert release != host.check_output("cat /root/release")
    running = host.check_output("docker ps --quiet --filter label=llm.service=micro-cpu").split()
    assert len(running) == 1
    found = json.loads(host.check_output(f"docker inspect {running[0]}"))[0]
    assert found["Config"]["Labels"]["llm.release"] == release
    assert found["Args"][found["Args"].index("--max-model-len") + 1] == "1024"


def test_the_release_before_is_kept_and_its_container_is_not(host: Host) -> None:
    before = host.check_output("cat /root/release")
    assert host.check_output(f"basename $(readlink {SERVICE}/previous)") == before
    assert host.file(f"{SERVICE}/releases/{before}/compose.yml").exists
    listed = host.check_output(
        "docker ps --all --filter label=llm.service=micro-cpu --format '{{.Label \"llm.release\"}}'"
    )
    assert before not in listed.split() or host.run(f"docker ps --format '{{{{.Names}}}}' | grep {before[:8]}").rc != 0
