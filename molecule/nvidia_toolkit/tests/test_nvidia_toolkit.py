"""Containers of a machine with stubs of GPUs get exactly those that they are given; see stub/README.md for what is real."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from testinfra.host import Host

UUID = "GPU-00000000-0000-0000-0000-00409000000"
PACKAGES = (
    "nvidia-container-toolkit",
    "nvidia-container-toolkit-base",
    "libnvidia-container-tools",
    "libnvidia-container1",
)
# A whole image without a registry: sleep and the libraries that it is linked with, which are those of nvidia-smi as well.
IMAGE = """cd / && \
tar --create --dereference bin/sleep $(ldd /bin/sleep | grep --only-matching '/lib[^ ]*' | cut --characters=2-) \
| docker import - sleeper:test"""


@pytest.fixture(scope="module")
def image(host: Host) -> Iterator[str]:
    host.check_output(IMAGE)
    yield "sleeper:test"
    host.check_output("docker image rm --force sleeper:test")


@pytest.mark.parametrize("name", PACKAGES)
def test_the_pinned_version_is_installed_and_held(host: Host, name: str) -> None:
    assert host.package(name).version == "1.20.1-1"
    assert "1.21.0-1" in host.check_output(f"apt-cache policy {name}"), "the repository has nothing newer to resist"
    assert name in host.check_output("apt-mark showhold").split()


def test_the_repository_is_trusted_by_its_own_key_alone(host: Host) -> None:
    text = host.file("/etc/apt/sources.list.d/nvidia-container-toolkit.sources").content_string
    assert "Signed-By: /etc/apt/keyrings/nvidia-container-toolkit.asc" in text
    assert "http://127.0.0.1:8099/deb/$(ARCH)" in text


def test_the_driver_is_installed_and_held(host: Host) -> None:
    assert host.package("nvidia-smi").version == "580.159.04-1"
    assert {"nvidia-smi", "nvidia-kernel-dkms"} <= set(host.check_output("apt-mark showhold").split())


def test_the_runtime_is_merged_and_loaded(host: Host) -> None:
    written = json.loads(host.file("/etc/docker/daemon.json").content_string)
    assert written["log-opts"] == {"max-size": "12m"}, "settings of others are lost"
    assert written["runtimes"]["nvidia"]["path"] == "nvidia-container-runtime"
    assert "nvidia" in json.loads(host.check_output("docker info --format '{{json .Runtimes}}'"))


def test_the_cdi_specification_names_every_gpu(host: Host) -> None:
    assert host.file("/etc/cdi/nvidia.yaml").exists is False, "the toolkit's own service keeps another one"
    names = host.check_output("nvidia-ctk cdi list").split()
    assert {f"nvidia.com/gpu={UUID}{n}" for n in range(3)} <= set(names)


def test_persistence_is_on_now_and_after_a_boot(host: Host) -> None:
    assert "<persistence_mode>Enabled" in host.check_output("nvidia-smi -q -x")
    assert host.service("llm-gpu-persistence").is_enabled
    assert host.service("llm-gpu-persistence").is_running


@pytest.mark.parametrize(
    ("given", "seen"), [("1", [f"{UUID}1"]), (f"{UUID}2", [f"{UUID}2"]), ("0,2", [f"{UUID}0", f"{UUID}2"])]
)
def test_a_container_sees_the_gpus_that_it_is_given(host: Host, image: str, given: str, seen: list[str]) -> None:
    run = f'docker run --rm --gpus \'"device={given}","capabilities=gpu,utility"\' {image} /usr/bin/nvidia-smi -L'
    assert [line.split("UUID: ")[1].rstrip(")") for line in host.check_output(run).splitlines()] == seen


def test_a_container_without_gpus_sees_none(host: Host, image: str) -> None:
    mount = "--volume /usr/bin/nvidia-smi:/usr/bin/nvidia-smi:ro"
    assert host.run(f"docker run --rm {mount} {image} /usr/bin/nvidia-smi -L").rc == 255


def test_the_proof_is_written_down_and_nothing_else_is_left(host: Host) -> None:
    proof = json.loads(host.file("/opt/llm/state/gpu.json").content_string)
    assert proof["driver"] == "580.159.04"
    assert proof["runtime"] == "nvidia"
    assert proof["gpus"] == [f"{UUID}{n}" for n in range(3)]
    assert "gpu-probe" not in host.check_output("docker image ls")
    assert host.check_output("docker ps --all --quiet") == ""
