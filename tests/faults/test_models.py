"""Models that are damaged, cut short or too large: module llm_model against a STAND-IN for a hub, with real files in a folder
of the test. The module and huggingface_hub are those of this machine's host environment; nothing that is deployed is touched.
"""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.demo import CHECKOUT, ROOT

pytestmark = [pytest.mark.e2e]

_FILE = CHECKOUT / "molecule/model_store_alternative/files/stand_in_hub.py"
_SPEC = importlib.util.spec_from_file_location("stand_in_hub", _FILE)
assert _SPEC and _SPEC.loader
stand_in_hub: Any = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(stand_in_hub)

SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
MIB = 2**20
NOBODY = "http://127.0.0.1:1"  # nothing listens there


class Hub:
    """The stand-in, serving acme/tiny (a few kilobytes) and acme/large (48 MiB); `say` gives it orders."""

    def __init__(self, url: str) -> None:
        self.url = url

    def say(self, **orders: Any) -> None:
        """Replace what it was told, and forget what happened."""
        body = json.dumps({"cut": None, "slow": None, "wrong": [], "away": False, "xet": None, **orders}).encode()
        urllib.request.urlopen(urllib.request.Request(f"{self.url}/stand-in", body, method="POST")).close()

    def seen(self) -> dict[str, Any]:
        """What happened since."""
        with urllib.request.urlopen(f"{self.url}/stand-in") as answer:
            found: dict[str, Any] = json.loads(answer.read())
        return found


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    """A running hub."""
    place = tmp_path_factory.mktemp("hub")
    for name, kib in (("tiny", "1"), ("large", "24576")):
        maker = str(CHECKOUT / "molecule/shared/files/make_model.py")
        subprocess.run([sys.executable, maker, str(place / name), name, kib], check=True)
    server = stand_in_hub.serve(0, {"main": place / "tiny", "acme/large@main": place / "large"})
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield Hub(f"http://127.0.0.1:{server.server_address[1]}")
    server.shutdown()
    server.server_close()


@pytest.fixture
def hub(served: Hub) -> Hub:
    """The hub, without orders."""
    served.say()
    return served


Model = Callable[..., tuple[int, dict[str, Any], str]]


@pytest.fixture
def model(hub: Hub, tmp_path: Path) -> Model:
    """Run llm_model for a model of the hub: gives exit code, result and all that was shown."""

    def run(name: str = "tiny", folder: Path | None = None, **options: Any) -> tuple[int, dict[str, Any], str]:
        given = {
            "name": name,
            "folder": str(folder or tmp_path / name / "main"),
            "sources": [{"hub": f"acme/{name}"}],
            "hub_endpoint": hub.url,
            **options,
        }
        play = [
            {
                "hosts": "localhost",
                "connection": "local",
                "gather_facts": False,
                "vars": {"ansible_python_interpreter": f"{ROOT}/venv/bin/python"},
                "tasks": [
                    {"name": "Model", "llm_model": given, "register": "found", "ignore_errors": True},
                    {"name": "Result", "copy": {"content": "{{ found | to_json }}", "dest": f"{tmp_path}/result.json"}},
                ],
            }
        ]
        file = tmp_path / "play.yml"
        file.write_text(json.dumps(play), encoding="utf-8")
        done = subprocess.run(
            [str(CHECKOUT / ".venv/bin/ansible-playbook"), "-i", "inventory/demo", str(file)],
            cwd=CHECKOUT,
            capture_output=True,
            text=True,
            check=True,
            timeout=300,
        )
        found = json.loads((tmp_path / "result.json").read_text(encoding="utf-8"))
        return int(bool(found.get("failed"))), found, done.stdout

    return run


DAMAGES: dict[str, tuple[Callable[[Path], object], str, str, str]] = {
    "truncated": (lambda p: p.write_bytes(p.read_bytes()[:-10]), SHARDS[0], "quick", "bytes, expected"),
    "wrong bytes": (
        lambda p: p.write_bytes(p.read_bytes()[:-8] + b"\0" * 8),
        SHARDS[1],
        "deep",
        "other bytes than were verified",
    ),
    "pointer": (
        lambda p: p.write_text(f"version https://git-lfs.github.com/spec/v1\noid sha256:{'a' * 64}\nsize 12345\n"),
        SHARDS[0],
        "quick",
        "Git LFS pointer",
    ),
    "missing": (lambda p: p.unlink(), SHARDS[1], "quick", "is missing"),
}


@pytest.mark.fault(9, "a shard that is too short is named; repair fetches it alone")
@pytest.mark.fault(10, "changed bytes are found by the deep look; repair fetches that file alone")
@pytest.mark.fault(11, "a pointer in the place of weights is called one; repair fetches it")
@pytest.mark.fault(12, "a missing shard is named; repair fetches it alone")
def test_what_is_damaged_is_named_and_fetched_again(model: Model, hub: Hub, tmp_path: Path) -> None:
    folder = tmp_path / "tiny/main"
    failed, found, _ = model()
    assert not failed, found
    whole = {p.name: p.read_bytes() for p in folder.iterdir()}
    for what, (damage, file, depth, says) in DAMAGES.items():
        damage(folder / file)
        if depth == "quick":  # a run that finds it refuses, and says what to do
            failed, found, _ = model()
            assert failed and "llm_repair=true" in found["msg"], what
        hub.say()
        _, found, _ = model(state="repaired", depth=depth)
        verdict = found["verdict"]["tiny"]
        assert found["ok"] and says in verdict["damaged"][file] and verdict["repaired"] == [file], (what, verdict)
        assert list(hub.seen()["sent"]) == [file], what
        assert {p.name: p.read_bytes() for p in folder.iterdir()} == whole, what


@pytest.mark.fault(14, "cut after 30 of 48 MiB: what had come is not sent again, and nothing had the final name")
def test_a_download_that_was_cut_goes_on(model: Model, hub: Hub, tmp_path: Path) -> None:
    folder = tmp_path / "large/main"
    hub.say(cut=30 * MIB)
    failed, found, _ = model("large")
    assert failed and "goes on where it stopped" in found["msg"] and not folder.exists()
    hub.say(slow=3 * MIB)
    failed, found, shown = model("large")
    assert not failed and found["fetched"]["found"] >= 20 * MIB and (folder / SHARDS[0]).stat().st_size > 24 * MIB
    assert sum(hub.seen()["sent"].values()) <= 28 * MIB + 4096
    # Size, speed and time left are shown meanwhile.
    assert re.search(r"download: \d+\.\d MiB of 48\.0 MiB \(\d+ %\), \d+\.\d MiB/s, \d+:\d\d left", shown), shown
    assert [p.name for p in folder.parent.iterdir()] == ["main"]


@pytest.mark.fault(15, "a disk of 24 MiB for 48: the size is asked for first, and nothing is begun")
def test_what_does_not_fit_is_not_begun(model: Model, hub: Hub, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(disk)], check=True)
    try:
        failed, found, _ = model("large", disk / "large/main")
        assert failed and "48.0 MiB are still to be written" in found["msg"], found["msg"]
        assert "24.0 MiB free; nothing was fetched" in found["msg"], found["msg"]
        assert not (disk / "large/main").exists() and not hub.seen()["sent"]
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_the_hub_serves_what_its_fast_storage_does_not(model: Model, hub: Hub, tmp_path: Path) -> None:
    """A proxy may let the hub through, and not the storage of its fast transfer."""
    hub.say(xet=NOBODY)
    failed, found, _ = model()
    assert not failed, found
    assert hub.seen()["xet"] >= 1 and set(hub.seen()["sent"]) >= set(SHARDS)
    assert (tmp_path / "tiny/main/manifest.json").is_file()
