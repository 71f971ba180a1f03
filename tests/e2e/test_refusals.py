"""Bad input is refused with file, key and remedy, before anything is touched."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from tests.e2e.demo import MODEL, SERVICE, Machine, Playbook, declare, model_folder

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("untouched")]

PORT = 5911  # nobody's

# What an operator writes into a file of the inventory -> what the message says. {file} is that file.
DECLARED: dict[str, tuple[str, tuple[str, ...]]] = {
    "missing-key": (
        """\
        llm_services_custom:
          mine: {image: vllm-cpu, model: smollm2-135m-instruct, gpus: []}
        """,
        ("llm_services.mine.port ({file}:2): is missing. Add `port`",),
    ),
    "unknown-key": (
        """\
        llm_services_custom:
          micro-cpu:
            prot: 5011
        """,
        ("llm_services.micro-cpu.prot ({file}:3): is not a known key. Did you mean `port`?",),
    ),
    "mistyped-value": (
        """\
        llm_services_custom:
          micro-cpu:
            port: 5010x
        """,
        ("llm_services.micro-cpu.port ({file}:3): must be a whole number", "got '5010x' (text). Correct `port`"),
    ),
    "mistyped-nested-value": (
        """\
        llm_services_custom:
          micro-cpu:
            limits: {memory: much}
        """,
        ("llm_services.micro-cpu.limits.memory ({file}:3): must be", "got 'much' (text). Correct `memory`"),
    ),
    "mistyped-setting": (
        "llm_accelerator: gpu",
        ("llm_accelerator ({file}:1): must be", "cpu, nvidia", "Correct `llm_accelerator`"),
    ),
    "keys-without-services": (
        "llm_service_keys: [sk-a-secret]",
        ("llm_service_keys ({file}:1): must be a mapping of service to key. Write names of services below it",),
    ),
    "unknown-image": (
        """\
        llm_services_custom:
          micro-cpu: {image: vllm-cpuu}
        """,
        ("llm_services.micro-cpu.image ({file}:2)", "`vllm-cpuu`, which is not declared. Did you mean `vllm-cpu`?"),
    ),
    "unknown-model": (
        """\
        llm_services_custom:
          micro-cpu: {model: smollm2-135m}
        """,
        ("llm_services.micro-cpu.model ({file}:2)", f"`smollm2-135m`, which is not declared. Did you mean `{MODEL}`?"),
    ),
    "unknown-service": (
        "llm_host_services: [micro-cpu, micro-gpu]",
        ("llm_host_services ({file}:1)", "`micro-gpu`, which is not declared. Did you mean `micro-cpu`?"),
    ),
    "owned-flag": (
        """\
        llm_services_custom:
          micro-cpu: {args: {port: 8001}}
        """,
        ("llm_services.micro-cpu.args.port ({file}:2)", "use the service's `port` key. Remove it"),
    ),
    "port-clash": (
        """\
        llm_host_services: [micro-cpu, twin]
        llm_services_custom:
          twin: {image: vllm-cpu, model: smollm2-135m-instruct, gpus: [], port: 5010}
        """,
        (
            "llm_services.twin.port ({file}:3): clashes with `micro-cpu`: both want port 5010. Say which goes first, ",
            "llm_services.micro-cpu.port (group_vars/all/services.yml:",
        ),
    ),
    "gpu-service-on-a-cpu-host": (
        "llm_host_services: [micro-cpu, micro]",
        ("llm_services.micro.gpus (group_vars/all/services.yml:", "the host declares none. Correct it, or add the GPU"),
    ),
}

# The GPU box needs no host to be judged: changes of one service -> what the message says.
BOX: dict[str, tuple[dict[str, object], tuple[str, ...]]] = {
    "gpu-not-declared": (
        {"medium-glm": {"gpus": [0, 7]}},
        ("llm_services.medium-glm.gpus", "wants GPU 7, the host declares 0, 1, 2. Correct it, or add the GPU"),
    ),
    "too-few-gpus": (
        {"medium-glm": {"args": {"tensor-parallel-size": 4}}},
        ("llm_services.medium-glm.args.tensor-parallel-size", "make 4 ranks, and 2 GPUs are given"),
    ),
    "too-many-gpus": (
        {"mini-solo": {"status": "active", "gpus": [1, 2]}},
        ("llm_services.mini-solo.args.tensor-parallel-size", "make 1 ranks, and 2 GPUs are given"),
    ),
    "one-gpu-for-two": (
        {"medium-glm": {"gpus": [0, 2]}},
        ("llm_services.medium-glm.gpus", "clashes with `mini-zwz`: together they reserve more than GPU 2 has"),
    ),
}


@pytest.mark.parametrize("case", DECLARED)
@pytest.mark.fault(8, "an unknown model, image, key or kind of value: refused with file, line and key")
def test_a_wrong_declaration_is_refused(playbook: Playbook, inventory: Callable[[str], list[str]], case: str) -> None:
    written, words = DECLARED[case]
    arguments = inventory(textwrap.dedent(written))
    file = Path(arguments[1]) / "host_vars" / "localhost" / "mine.yml"
    run = playbook(*arguments, "site.yml").refused()
    run.says("refused, ", "nothing was touched.", *(w.replace("{file}", str(file)) for w in words))
    assert run.tasks == ["Judge the declaration"]


@pytest.mark.parametrize("case", BOX)
def test_a_box_is_refused_without_being_asked(playbook: Playbook, case: str) -> None:
    changes, words = BOX[case]
    custom = json.dumps({"llm_services_custom": changes})
    run = playbook("-i", "inventory/rtx4090x3", "playbooks/validate.yml", "-e", custom).refused()
    run.says("rtx4090x3: refused, ", "nothing was touched.", *words)
    assert run.count("unreachable") == 0 and run.tasks == ["Judge the declaration"]
    table, _, problems = run.stdout.partition("rtx4090x3: refused, ")
    row = next(line.split() for line in table.splitlines() if line.startswith(f"{next(iter(changes))} "))
    assert row[-1] == "refuse" and words[0] in " ".join(problems.split()), "first the table, then the problems"
    service = json.loads((run.report / "plan.json").read_text(encoding="utf-8"))["services"][next(iter(changes))]
    assert service["verdict"] == "refuse" and all(f["key"] and f["remedy"] for f in service["findings"])


def host_refused(
    playbook: Playbook, *arguments: str, words: tuple[str, ...], env: Mapping[str, str] | None = None
) -> None:
    """Run a playbook, which must be refused once the host has been looked at and before it is changed."""
    run = playbook(*arguments, env=env).refused().says("refused, 1 problem; nothing was touched.", *words)
    assert run.changed == 0 and [t for t in run.tasks if t != "Leave the host to others"][-1] == "Plan"


@pytest.mark.parametrize("book", ["site.yml", "playbooks/status.yml", "playbooks/stop.yml"])
@pytest.mark.parametrize(
    ("address", "why"),
    [
        (
            "unix:///nonexistent.sock",
            "The Docker daemon does not answer at /nonexistent.sock: there is no such socket.",
        ),
        ("tcp://127.0.0.1:1", "only an engine of the host itself can be used (unix://...)."),
    ],
)
@pytest.mark.fault(20, "no engine answers at an address: site, status and stop say so")
def test_a_docker_engine_that_cannot_be_reached(playbook: Playbook, book: str, address: str, why: str) -> None:
    words = (f"DOCKER_HOST: names {address}, which is of no use: {why} Unset DOCKER_HOST, or correct it",)
    host_refused(playbook, book, words=words, env={"DOCKER_HOST": address})


@pytest.mark.fault(20, "Docker itself was ended: what acts says so, and the next run starts it")
def test_a_docker_engine_that_is_down(
    playbook: Playbook, machine: Machine, record_property: Callable[[str, object], None]
) -> None:
    machine.stop_docker()
    words = (
        "Docker: does not answer, and what runs can be neither seen nor stopped",
        "Start it; `site.yml --tags host`",
    )
    try:
        begin = time.monotonic()
        host_refused(playbook, "playbooks/stop.yml", words=words)
        record_property("refused_seconds", time.monotonic() - begin)
        for book in (("playbooks/rollback.yml", "--tags", SERVICE), ("site.yml", "--tags", "services")):
            host_refused(playbook, *book, words=words)
        playbook("playbooks/status.yml").passed().says(*words)
    finally:
        run = playbook("site.yml").passed()
    assert run.changed > 0 and playbook("site.yml").passed().changed == 0


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 MiB; the model has 260."""
    place = tmp_path / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(place)], check=True)
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_disk_that_is_too_small(playbook: Playbook, small_disk: Path) -> None:
    words = (
        f"llm_root (<CLI option '-e'>): {small_disk} has 0.1 GiB free, this run needs 0.3 GiB (model {MODEL} 0.26 GiB",
        "Free some",
    )
    host_refused(playbook, "site.yml", "-e", f"llm_root={small_disk}", *declare(port=PORT), words=words)
    assert list(small_disk.iterdir()) == []


@pytest.mark.fault(13, "refused before anything is touched, with what to add")
def test_a_model_that_is_not_there_offline(
    playbook: Playbook, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    root = tmp_path / "fresh"
    words = (
        f"llm_models.{MODEL} (group_vars/all/models.yml:",
        "is not on the host, and all its sources need the network. Add a `path` or `archive` source",
    )
    begin = time.monotonic()
    host_refused(
        playbook, "site.yml", "-e", f"llm_root={root}", "-e", "llm_offline=true", *declare(port=PORT), words=words
    )
    record_property("refused_seconds", time.monotonic() - begin)
    assert not root.exists()


@pytest.mark.parametrize("file", ["model.safetensors", "tokenizer.json"])
def test_a_truncated_model_file(playbook: Playbook, tmp_path: Path, file: str) -> None:
    original = model_folder()
    folder = tmp_path / original.relative_to("/opt/llm")
    shutil.copytree(original, folder)
    size = (folder / file).stat().st_size
    os.truncate(folder / file, size - 1000)
    words = (
        f"llm_models.{MODEL} (group_vars/all/models.yml:",
        f"the files in {folder} are damaged: {file} has {size - 1000} bytes, expected {size}",
        "`playbooks/verify_models.yml -e llm_repair=true` fetches what is damaged",
    )
    host_refused(playbook, "site.yml", "-e", f"llm_root={tmp_path}", *declare(port=PORT), words=words)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["models"]


def test_a_name_that_a_strangers_container_has(playbook: Playbook, machine: Machine) -> None:
    predicted = playbook("site.yml", "--check", "--diff", *declare(args={"max-model-len": 1111})).passed()
    released = re.search(rf"/{SERVICE}/releases/([0-9a-f]{{12}})/compose.yml", predicted.stdout)
    assert released
    name = f"llm-{SERVICE}-{released[1][:8]}"
    stranger = machine.docker.containers.create(
        machine.engine().attrs["Image"], ["sleep", "1"], entrypoint=[], name=name
    )
    try:
        words = (
            f"llm_services.{SERVICE} ",
            f"container `{name}`",
            "created), which is not of this project",
            "docker rename",
        )
        host_refused(playbook, "site.yml", *declare(args={"max-model-len": 1111}), words=words)
    finally:
        stranger.remove()


@pytest.mark.fault(18, "pid and process are named")
def test_a_port_that_another_process_has(playbook: Playbook) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        words = (
            f"llm_services.{SERVICE}.port",
            f"port {port} is taken by process ",
            f"(pid {os.getpid()}). Stop it, or declare another port",
        )
        host_refused(playbook, "site.yml", *declare(port=port), words=words)
