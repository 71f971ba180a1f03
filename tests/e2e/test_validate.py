"""Inventories with one odd value: playbooks/validate.yml refuses each by file and key, and leaves nothing but its report."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.demo import Playbook

pytestmark = pytest.mark.e2e

# What an operator writes into a file of the inventory -> what the message says. {file} is that file.
ODD: dict[str, tuple[str, str]] = {
    "catalog-that-is-false": (
        "llm_services_custom: no",
        "llm_services_custom: must be a mapping by name, got False (boolean)",
    ),
    "catalog-that-is-a-list": (
        "llm_models_custom: [a]",
        "llm_models_custom: must be a mapping by name, got ['a'] (list)",
    ),
    "key-that-is-a-boolean": (
        "llm_service_keys: {micro-cpu: yes}",
        "llm_service_keys.micro-cpu ({file}:1): must be text in one word of ASCII characters, got boolean (not shown). Quote it",
    ),
    "flag-that-is-no-number": (
        "llm_services_custom: {micro-cpu: {args: {max-model-len: .nan}}}",
        "llm_services.micro-cpu.args ({file}:1): has `max-model-len`, which must be text of one line or a number",
    ),
    "flag-that-is-a-date": (
        "llm_services_custom: {micro-cpu: {args: {seed: 2026-11-25}}}",
        "llm_services.micro-cpu.args ({file}:1): has `seed`, which must be text of one line or a number",
    ),
    "flag-in-a-flag": (
        "llm_services_custom: {micro-cpu: {args: {dtype: --trust-remote-code}}}",
        "llm_services.micro-cpu.args ({file}:1): has `dtype`, which begins with a dash",
    ),
    "revision-that-leaves-its-folder": (
        'llm_models_custom: {smollm2-135m-instruct: {revision: ".."}}',
        "llm_models.smollm2-135m-instruct.revision ({file}:1): must be a branch, tag or commit",
    ),
    "line-end-in-a-build": (
        'llm_images_custom: {vllm-cpu: {sources: [{build: {base: debian-bookworm, packages: ["curl\\nUSER root"]}}]}}',
        "llm_images.vllm-cpu.sources.0.build.packages ({file}:1): item 1 must be the name of a Debian package",
    ),
    "address-that-is-none": (
        "llm_bind_address: everywhere",
        "llm_bind_address ({file}:1): must be an IPv4 or IPv6 address",
    ),
    "volume-without-a-folder": (
        "llm_services_custom: {micro-cpu: {volumes: ['data:/data']}}",
        "llm_services.micro-cpu.volumes ({file}:1): item 1 must be /on/host:/in/container",
    ),
    "gpu-listed-twice": (
        "llm_host_gpus: [{index: 0, model: a, memory: 24g}, {index: 0, model: b, memory: 24g}]",
        "llm_host_gpus.1.index ({file}:1): is 0, which another GPU of this host has. List each GPU once",
    ),
    "unknown-key": (
        "llm_services_custom: {micro-cpu: {gpu: [0]}}",
        "llm_services.micro-cpu.gpu ({file}:1): is not a known key. Did you mean `gpus`?",
    ),
    "name-of-another-script": (
        "llm_services_custom: {名前: {image: vllm-cpu, model: smollm2-135m-instruct, gpus: [], port: 5011}}",
        "llm_services.名前 ({file}:1): its name must be lower case letters",
    ),
}


def everything(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("case", ODD)
def test_an_odd_value_is_refused(playbook: Playbook, inventory: Callable[[str], list[str]], case: str) -> None:
    written, words = ODD[case]
    arguments = inventory(f"{written}\n")
    folder = Path(arguments[1])
    before = everything(folder)
    run = playbook(*arguments, "playbooks/validate.yml").refused()
    file = str(folder / "host_vars" / "localhost" / "mine.yml")
    run.says("localhost: refused, ", "nothing was touched.", words.replace("{file}", file))
    assert (run.rc, run.changed, run.tasks) == (2, 0, ["Judge the declaration"])
    assert everything(folder) == before and list(everything(run.report)) == ["plan.json"]


def test_a_plugin_that_is_no_text_is_refused(playbook: Playbook, inventory: Callable[[str], list[str]]) -> None:
    arguments = inventory("llm_services_custom: {micro-cpu: {plugins: {chat_template: chat.jinja}}}\n")
    file = Path(arguments[1]) / "files" / "chat.jinja"
    file.parent.mkdir()
    file.write_bytes(b"\xff\xfe{{ messages }}")
    run = playbook(*arguments, "playbooks/validate.yml").refused()
    run.says("llm_services.micro-cpu.plugins", f"{file} cannot be read: it is not UTF-8. Save it as text in UTF-8")


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("llm_host_services: [micro-cpu]\nllm_host_services: []\n", "llm_host_services"),
        ("llm_services_custom:\n  micro-cpu: {port: 5011}\n  micro-cpu: {port: 5012}\n", "micro-cpu"),
    ],
)
def test_a_name_that_is_written_twice_is_refused(
    playbook: Playbook, inventory: Callable[[str], list[str]], text: str, name: str
) -> None:
    """By Ansible itself, before any of our code runs; it names the key, and not the file."""
    run = playbook(*inventory(text), "playbooks/validate.yml")
    assert run.rc != 0 and "Traceback" not in run.stdout and everything(run.report) == {}
    run.says(f"Found duplicate mapping key '{name}'")
