"""Model folders: whole ones pass, and each kind of damage is named for what it is."""

import json
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from ansible.module_utils.llm.models import artifacts


def weights(path: Path, data: bytes = b"\0" * 16) -> None:
    header = json.dumps({"w": {"dtype": "F32", "shape": [4], "data_offsets": [0, len(data)]}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + data)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "model"
    place.mkdir()
    (place / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"]}))
    weights(place / "a.safetensors")
    weights(place / "b.safetensors")
    (place / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"x": "a.safetensors", "y": "b.safetensors"}})
    )
    (place / artifacts.MANIFEST).write_text(artifacts.manifest_text(artifacts.make_manifest(place, {"source": "test"})))
    return place


def test_a_whole_model(folder: Path) -> None:
    state = artifacts.look(folder)
    assert state["present"] and not state["problem"] and state["digest"] and state["bytes"] > 0


def test_the_digest_follows_the_content(folder: Path) -> None:
    first = artifacts.make_manifest(folder, {})["digest"]
    weights(folder / "a.safetensors", b"\1" * 16)
    assert artifacts.make_manifest(folder, {})["digest"] != first


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "truncated": (lambda f: _truncate(f / "a.safetensors"), "its header says"),
    "lfs pointer": (
        lambda f: (f / "a.safetensors").write_text(
            "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
        ),
        "Git LFS pointer",
    ),
    "lfs pointer for a tokenizer": (
        lambda f: (f / "tokenizer.json").write_text(
            "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
        ),
        "tokenizer.json is a Git LFS pointer",
    ),
    "lfs pointer for the configuration": (
        lambda f: (f / "config.json").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"),
        "config.json is a Git LFS pointer",
    ),
    "too long": (lambda f: (f / "a.safetensors").open("ab").write(b"x"), "its header says"),
    "missing shard": (lambda f: (f / "b.safetensors").unlink(), "b.safetensors"),
    "empty file": (lambda f: (f / "a.safetensors").write_bytes(b""), "cut off"),
    "garbage": (lambda f: (f / "a.safetensors").write_bytes(b"\xff" * 64), "no safetensors file"),
    "no config": (lambda f: (f / "config.json").unlink(), "config.json"),
    "no architecture": (lambda f: (f / "config.json").write_text("{}"), "no architecture"),
    "config is a list": (lambda f: (f / "config.json").write_text("[]"), "no JSON mapping"),
    "broken index": (lambda f: (f / "model.safetensors.index.json").write_text("{"), "unreadable"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_named(folder: Path, damage: str) -> None:
    harm, says = DAMAGES[damage]
    harm(folder)
    with pytest.raises(artifacts.Broken, match=says.replace("no JSON", "not a JSON")):
        artifacts.check_folder(folder)
    assert artifacts.look(folder)["problem"]


def test_a_folder_without_manifest_is_not_trusted(folder: Path) -> None:
    (folder / artifacts.MANIFEST).unlink()
    assert "manifest.json" in artifacts.look(folder)["problem"]


def test_an_absent_folder_is_no_problem(tmp_path: Path) -> None:
    assert artifacts.look(tmp_path / "none") == {"present": False, "digest": None, "problem": "", "bytes": 0}
