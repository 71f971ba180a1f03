"""After a broken driver, an upgrade and a container that lost its GPUs; see ../nvidia_toolkit/stub/README.md for what is real."""

from __future__ import annotations

import json

from testinfra.host import Host

testinfra_hosts = ["ansible://llm-nvidia-trixie"]

UUID = "GPU-00000000-0000-0000-0000-00409000000"


def test_given_packages_are_upgraded_and_held(host: Host) -> None:
    held = host.check_output("apt-mark showhold").split()
    for name in ("nvidia-container-toolkit", "nvidia-container-toolkit-base", "libnvidia-container-tools"):
        assert host.package(name).version == "1.21.0-1"
        assert name in held
    assert not host.file("/etc/apt/sources.list.d/nvidia-container-toolkit.sources").exists


def test_the_specification_is_of_the_new_driver_and_stays_over_a_boot(host: Host) -> None:
    text = host.file("/etc/cdi/nvidia.yaml").content_string
    assert "libcuda.so.590.44.01" in text
    assert "580.159.04" not in text


def test_settings_of_others_are_kept(host: Host) -> None:
    written = json.loads(host.file("/etc/docker/daemon.json").content_string)
    assert written["features"] == {"cdi": True, "buildkit": True}
    assert "nvidia" in written["runtimes"]


def test_the_container_went_through_the_upgrade(host: Host) -> None:
    """It was started once more, by hand, after it had lost its GPUs, and never by the role."""
    assert host.check_output("docker inspect --format '{{.RestartCount}} {{.State.Running}}' holder") == "0 true"
    created = host.check_output("docker inspect --format '{{.Created}}' holder")
    assert created[:19] <= host.file("/srv/stub/started").content_string[:19]
    (line,) = host.check_output("docker exec holder /usr/bin/nvidia-smi -L").splitlines()
    assert f"{UUID}1" in line


def test_persistence_is_on(host: Host) -> None:
    assert "<persistence_mode>Enabled" in host.check_output("nvidia-smi -q -x")


def test_the_proof_is_of_now(host: Host) -> None:
    proof = json.loads(host.file("/opt/llm/state/gpu.json").content_string)
    assert (proof["driver"], proof["toolkit"], proof["runtime"]) == ("590.44.01", "1.21.0-1", "cdi")
