"""The cache of the test models: what is in it is used, what its sources no longer say is made anew, halves don't stay."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.models import make

IMAGE = "sha256:0123"


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the sources that a test may edit; the cache and the links are the test's own, too."""
    folder = tmp_path / "sources"
    shutil.copytree(make.HERE, folder, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(make, "HERE", folder)
    monkeypatch.setattr(make, "LINKS", tmp_path / "links")
    monkeypatch.setattr(make, "image", lambda: IMAGE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return folder


def stub(monkeypatch: pytest.MonkeyPatch, failing: str = "") -> list[str]:
    """Stub of the training: writes half a model, and the rest unless it is to fail. Gives the families it ran for."""
    ran: list[str] = []

    def command(family: str, folder: Path, image_id: str) -> list[str]:
        assert image_id == IMAGE
        ran.append(family)
        rest = "exit 1" if family == failing else f"touch {folder}/tokenizer.json"
        return ["sh", "-c", f"touch {folder}/config.json; {rest}"]

    monkeypatch.setattr(make, "_command", command)
    return ran


@pytest.mark.usefixtures("sources")
def test_models_are_made_once_and_linked(monkeypatch: pytest.MonkeyPatch) -> None:
    ran = stub(monkeypatch)
    made = make.models()
    assert made == make.models() and sorted(ran) == ["glm", "qwen"]
    for family, place in made.items():
        assert {file.name for file in (make.LINKS / family).iterdir()} == {"config.json", "tokenizer.json"}
        assert (make.LINKS / family).resolve() == place and place.stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize(
    ("file", "again"),
    [
        ("train.py", ["glm", "qwen"]),
        ("conversations.py", ["glm", "qwen"]),
        ("goal.py", ["glm", "qwen"]),
        ("qwen.jinja", ["qwen"]),
        ("make.py", []),
        ("inventory/hosts.yml", []),
    ],
)
def test_what_a_changed_source_decides_is_made_anew(
    sources: Path, monkeypatch: pytest.MonkeyPatch, file: str, again: list[str]
) -> None:
    ran = stub(monkeypatch)
    before = make.models()
    ran.clear()
    with (sources / file).open("a", encoding="utf-8") as edited:
        edited.write("\n")
    after = make.models()
    assert sorted(ran) == again == sorted(family for family in before if before[family] != after[family])


def test_another_image_makes_other_models() -> None:
    assert make.name("glm", IMAGE) != make.name("glm", IMAGE + "4")


@pytest.mark.usefixtures("sources")
def test_a_training_that_fails_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    stub(monkeypatch, failing="glm")
    with pytest.raises(RuntimeError, match="no test model for glm: the lines above"):
        make.models()
    assert [place.name for place in make.store().iterdir()] == [make.name("qwen", IMAGE)]


def test_an_image_that_is_not_there_is_named_with_the_remedy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    docker = tmp_path / "docker"
    docker.write_text("#!/bin/sh\necho no such image >&2\nexit 1\n", encoding="utf-8")
    docker.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setenv("LLM_TEST_ENGINE_IMAGE", "some/engine:1")
    with pytest.raises(RuntimeError, match=r"cannot train in some/engine:1: no such image\. Run `make demo` first"):
        make.image()
