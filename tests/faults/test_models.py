"""Models that are damaged, cut short or too large: module llm_model against a STAND-IN for a hub, with real files in a folder
of the test. The module and huggingface_hub are those of this machine's host environment; nothing that is deployed is touched.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
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
    """The stand-in, serving acme/tiny (a few kilobytes), acme/large (48 MiB) and two data sets; `say` gives it orders.

    place: folder of what it serves.
    """

    def __init__(self, url: str, place: Path) -> None:
        self.url = url
        self.place = place

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
    (place / "chats/data").mkdir(parents=True)
    (place / "chats/data/train.jsonl").write_text('{"text": "Words."}\n', encoding="utf-8")
    (place / "chats/data/zeros.txt").write_bytes(bytes(100))
    named = {"main": "tiny", "acme/large@main": "large", "datasets/acme/chats@main": "chats"}
    named |= {"datasets/acme/gated@main": "chats"}
    server = stand_in_hub.serve(0, {name: place / folder for name, folder in named.items()})
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield Hub(f"http://127.0.0.1:{server.server_address[1]}", place)
    server.shutdown()
    server.server_close()


@pytest.fixture
def hub(served: Hub) -> Hub:
    """The hub, without orders."""
    served.say()
    return served


Model = Callable[..., tuple[int, dict[str, Any], str]]


def command(tmp_path: Path, module: str, *given: dict[str, Any]) -> list[str]:
    """Run a module as the role does, with each of these arguments, and write its results to result.json."""
    tasks = [
        {"name": "Model", module: arguments, "register": f"found{i}", "ignore_errors": True}
        for i, arguments in enumerate(given)
    ]
    found = ", ".join(f"found{i}" for i in range(len(given)))
    kept = {"content": f"{{{{ [{found}] | to_json }}}}", "dest": f"{tmp_path}/result.json"}
    python = {"ansible_python_interpreter": f"{ROOT}/venv/bin/python"}
    play = {"hosts": "localhost", "connection": "local", "gather_facts": False, "vars": python}
    file = tmp_path / "play.yml"
    file.write_text(json.dumps([{**play, "tasks": [*tasks, {"name": "Results", "copy": kept}]}]), encoding="utf-8")
    return [str(CHECKOUT / ".venv/bin/ansible-playbook"), "-i", "inventory/demo", str(file)]


def ended(tmp_path: Path, argv: list[str]) -> tuple[list[dict[str, Any]], str]:
    """What the module returned each time, and all that was shown."""
    done = subprocess.run(argv, cwd=CHECKOUT, capture_output=True, text=True, check=True, timeout=300)
    found: list[dict[str, Any]] = json.loads((tmp_path / "result.json").read_text(encoding="utf-8"))
    return found, done.stdout


def of_hub(hub: Hub, tmp_path: Path, name: str, **options: Any) -> dict[str, Any]:
    """What llm_model is given for a model of the hub."""
    given = {"name": name, "folder": str(tmp_path / name / "main"), "sources": [{"hub": f"acme/{name}"}]}
    return {**given, "hub_endpoint": hub.url, **options}


@pytest.fixture
def model(hub: Hub, tmp_path: Path) -> Model:
    """Run llm_model for a model of the hub: gives exit code, result and all that was shown."""

    def run(name: str = "tiny", **options: Any) -> tuple[int, dict[str, Any], str]:
        (found,), shown = ended(tmp_path, command(tmp_path, "llm_model", of_hub(hub, tmp_path, name, **options)))
        return int(bool(found.get("failed"))), found, shown

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


def writers(folder: Path) -> list[int]:
    """Processes that have a file below a folder open."""
    found = set()
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if link.readlink().is_relative_to(folder):
                found.add(int(link.parts[2]))
        except OSError:  # ended, or closed, meanwhile
            continue
    return sorted(found)


@pytest.mark.fault(14, "killed (-9) after 30 of 48 MiB: the next run goes on with what had come")
def test_a_download_whose_run_was_killed_goes_on(model: Model, hub: Hub, tmp_path: Path) -> None:
    folder = tmp_path / "large/main"
    hub.say(slow=8 * MIB)
    argv = command(tmp_path, "llm_model", of_hub(hub, tmp_path, "large"))
    with subprocess.Popen(argv, cwd=CHECKOUT, stdout=subprocess.DEVNULL, start_new_session=True) as run:
        try:
            end = time.monotonic() + 180
            while sum(hub.seen()["sent"].values()) < 30 * MIB:
                assert run.poll() is None and time.monotonic() < end, hub.seen()
                time.sleep(0.05)
        finally:
            os.killpg(run.pid, signal.SIGKILL)
            # The module works in the background, and would end itself two minutes later.
            killed = writers(folder.parent)
            for process in killed:
                os.kill(process, signal.SIGKILL)
    assert killed and not folder.exists()
    hub.say()
    failed, found, _ = model("large")
    assert not failed and found["fetched"]["found"] >= 20 * MIB, found
    # What had come lies on the disk but for the last piece of 10 MiB of each file.
    total = sum(p.stat().st_size for p in (hub.place / "large").iterdir())
    assert sum(hub.seen()["sent"].values()) == total - found["fetched"]["found"]
    assert [p.name for p in folder.parent.iterdir()] == ["main"]


def test_the_next_source_begins_on_its_own(model: Model, hub: Hub, tmp_path: Path) -> None:
    """Nothing of what a hub sent before it broke off is in the model that a folder delivers; and nothing of it stays."""
    hub.say(cut=30 * MIB)
    bad = {"archive": str(hub.place / "none.tar")}
    failed, found, _ = model("large", sources=[{"hub": "acme/large"}, bad, {"path": str(hub.place / "tiny")}])
    assert not failed and found["source"] == f"path {hub.place}/tiny", found
    assert "goes on where it stopped" in found["tried"][0] and "no such file" in found["tried"][1]
    folder, origin = tmp_path / "large/main", hub.place / "tiny"
    whole = {p.name: p.read_bytes() for p in folder.iterdir() if p.name != "manifest.json"}
    assert whole == {p.name: p.read_bytes() for p in origin.iterdir()}
    assert [p.name for p in folder.parent.iterdir()] == ["main"]


@pytest.mark.fault(15, "a disk of 24 MiB for 48: the size is asked for first, and nothing is begun")
def test_what_does_not_fit_is_not_begun(model: Model, hub: Hub, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(disk)], check=True)
    try:
        failed, found, _ = model("large", folder=str(disk / "large/main"))
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


DATA_SETS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "gone": (
        {"hub": "acme/gone"},
        ["the data set acme/gone cannot be had from", "(404)", "or name a file on the host"],
    ),
    "gated": ({"hub": "acme/gated"}, ["the data set acme/gated cannot be had from", "(401)", "llm_hub_token"]),
    "no such file": ({"match": "data/test-*"}, ["the data set acme/chats has no file data/test-*", "llm_recipes.w4"]),
    "binary": ({"match": "data/zeros*"}, ["zeros.txt of the data set acme/chats is not text: it has zero bytes"]),
    # All else is well: only then Docker is asked for an image that is not there.
    "good": ({}, ["the container was not started", "`site.yml --tags images` makes it"]),
}


def test_text_of_the_hub_is_fetched_or_what_is_wrong_is_said(model: Model, hub: Hub, tmp_path: Path) -> None:
    failed, fetched, _ = model()
    assert not failed, fetched
    source, folder = tmp_path / "tiny/main", tmp_path / "small/0123456789ab"
    before = {p.name: p.read_bytes() for p in source.iterdir()}
    recipe = {
        "name": "w4",
        "method": "gptq",
        "targets": ["Linear"],
        "ignore": ["lm_head"],
        "group_size": 16,
        "samples": 4,
    }
    recipe |= {"length": 16, "seed": 1, "quality": {"samples": 2, "perplexity": 1.1, "kl": 0.1}}
    given = {
        "name": "small",
        "folder": str(folder),
        "source": {"name": "tiny", "folder": str(source)},
        "image": "localhost:1/none:1",
        "program": str(CHECKOUT / "roles/model_store/files/quantize_model.py"),
        "hub_endpoint": hub.url,
    }
    cases = [
        {**given, "recipe": {**recipe, "dataset": {"hub": "acme/chats", "match": "data/train*", **changes}}}
        for changes, _ in DATA_SETS.values()
    ]
    hub.say()
    found, _ = ended(tmp_path, command(tmp_path, "llm_quantize", *cases))
    for (what, (_, says)), result in zip(DATA_SETS.items(), found, strict=True):
        assert result["failed"] and not [word for word in says if word not in result["msg"]], (what, result["msg"])
    assert list(hub.seen()["sent"]) == ["zeros.txt", "train.jsonl"]
    assert not list(folder.parent.iterdir()) and {p.name: p.read_bytes() for p in source.iterdir()} == before
