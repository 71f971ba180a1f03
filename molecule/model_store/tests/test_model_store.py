"""A model under its final name is whole, listed, and not to be changed by who serves it."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from testinfra.host import Host


@pytest.fixture
def folder() -> str:
    """Where the scenario declares the model's first revision."""
    return "/opt/llm/models/tiny/v1"


@pytest.fixture
def manifest(host: Host, folder: str) -> dict[str, Any]:
    """The list of files that was written last."""
    found: dict[str, Any] = json.loads(host.file(f"{folder}/manifest.json").content_string)
    return found


def test_every_file_is_listed_with_its_checksum(host: Host, folder: str, manifest: dict[str, Any]) -> None:
    there = set(host.check_output(f"ls {folder}").split()) - {"manifest.json"}
    assert set(manifest["files"]) == there >= {"config.json", "model-00001-of-00002.safetensors", "tokenizer.json"}
    for name, entry in manifest["files"].items():
        content = host.file(f"{folder}/{name}").content
        assert entry["sha256"] == hashlib.sha256(content).hexdigest(), name


def test_engines_can_read_and_not_write(host: Host, folder: str) -> None:
    for path in (folder, f"{folder}/config.json", f"{folder}/model-00001-of-00002.safetensors"):
        assert host.file(path).user == "root"
    assert host.file(folder).mode == 0o755
    assert host.file(f"{folder}/model-00001-of-00002.safetensors").mode == 0o644


def test_nothing_half_done_is_left(host: Host) -> None:
    assert host.check_output("find /opt/llm/models/tiny -name '.*'") == ""
