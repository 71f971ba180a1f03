"""A host without GPU, beside the one that has some."""

from __future__ import annotations

from testinfra.host import Host

testinfra_hosts = ["ansible://llm-nvidia-none"]


def test_a_host_without_gpu_is_left_alone(host: Host) -> None:
    for path in ("/opt/llm", "/etc/docker", "/etc/cdi", "/etc/apt/sources.list.d/nvidia-container-toolkit.sources"):
        assert not host.file(path).exists, path
    assert not host.package("nvidia-container-toolkit").is_installed
