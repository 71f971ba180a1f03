"""The modules that run our programs and have a certificate asked for, against a scripted daemon."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llm_acme
import llm_program
import pytest
from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.llm.base import names
from ansible.module_utils.llm.docker import api as docker_api
from ansible.module_utils.llm.gateway import acme, certificates
from ansible.module_utils.llm.host import read as read_host

from tests import catalogs

Run = Callable[..., dict[str, Any]]
FILES = {"compose.yml": "name: llm-x\n", "config.json": "{}", "app/x/__main__.py": "1"}


class Daemon:
    """Docker with one container at most; `done` has what was asked of it, in order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        self.label: str | None = None
        self.runs, self.works, self.refuses, self.unreachable = True, True, "", False
        self.done: list[str] = []
        self.ready = folder / "data/ready"
        monkeypatch.setattr(docker_api, "inspect", self.inspect)
        monkeypatch.setattr(docker_api, "ensure_network", lambda name, **_: self.done.append(f"network {name}"))
        monkeypatch.setattr(docker_api, "post", self.stop)
        monkeypatch.setattr(docker_api, "delete", self.delete)
        monkeypatch.setattr(AnsibleModule, "run_command", self.command)
        monkeypatch.setattr(llm_program, "READY_WITHIN", 0)

    def inspect(self, _name: str) -> dict[str, Any]:
        if self.unreachable:
            raise docker_api.DockerUnreachable("there is no such socket")
        if self.label is None:
            raise docker_api.NotFound("no such container", 404)
        return {"State": {"Running": self.runs}, "Config": {"Labels": {"llm.x": self.label}}}

    def stop(self, path: str) -> None:
        self.done.append(path)
        self.ready.parent.mkdir(exist_ok=True)
        self.ready.write_text("its last words")

    def delete(self, path: str) -> None:
        self.done.append(path)
        self.label = None

    def command(self, argv: list[str], **_options: Any) -> tuple[int, str, str]:
        self.done.append(" ".join(argv[:2]))
        if argv[1] == "logs":
            return 0, "cannot import name\n", ""
        assert not self.ready.exists(), "what is there already would be taken for a sign that it works"
        if self.refuses:
            return 1, "", self.refuses
        self.label, self.runs = "sum", True
        if self.works:
            self.ready.parent.mkdir(exist_ok=True)
            self.ready.write_text("")
        return 0, "", ""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "program"


@pytest.fixture
def daemon(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Daemon:
    return Daemon(monkeypatch, folder)


@pytest.fixture
def program(run_module: Run, folder: Path) -> Run:
    def run(check_mode: bool = False, **changed: Any) -> dict[str, Any]:
        own = {"folder": str(folder), "container": "llm-x", "label": "llm.x", "ready": "data/ready"}
        return run_module(llm_program, {**own, "files": FILES, "loaded": "sum", **changed}, check_mode=check_mode)

    return run


def lines(path: Path) -> dict[str, str]:
    return {str(p.relative_to(path)): p.read_text() for p in sorted(path.rglob("*")) if p.is_file()}


def test_a_program_is_started_once_and_then_left_alone(daemon: Daemon, program: Run, folder: Path) -> None:
    shown = program(check_mode=True)
    assert (shown["changed"], shown["action"], len(shown["diff"])) == (True, "started", len(FILES))
    assert not folder.exists() and not daemon.done
    assert program()["action"] == "started" and lines(folder) == {**FILES, "data/ready": ""}
    assert daemon.done == ["network llm", "docker compose"]
    again = program()
    assert (again["changed"], again["action"], len(daemon.done)) == (False, "none", 2)
    assert program(check_mode=True)["changed"] is False


@pytest.mark.parametrize(
    "change",
    [
        lambda d, _: setattr(d, "runs", False),
        lambda d, _: setattr(d, "label", "of before"),
        lambda _, f: (f / "config.json").write_text("edited"),
        lambda _, f: (f / "app/x/old.py").write_text("of before"),
    ],
    ids=["it stands still", "it was started with other files", "a file was edited", "a file is left over"],
)
def test_what_differs_starts_it_anew(daemon: Daemon, program: Run, folder: Path, change: Callable[..., Any]) -> None:
    program()
    daemon.done.clear()
    change(daemon, folder)
    assert program()["action"] == "started" and lines(folder) == {**FILES, "data/ready": ""}
    assert daemon.done == ["network llm", "/containers/llm-x/stop", "/containers/llm-x?force=1", "docker compose"]


def test_it_gets_copies_of_the_host_s_files_and_folders_of_its_own(
    daemon: Daemon, program: Run, folder: Path, tmp_path: Path
) -> None:
    source, place = tmp_path / "ca.pem", tmp_path / "its/own"
    source.write_text("a")
    given = {"copies": {"ca.pem": str(source)}, "writable": {str(place): "0700"}, "uid": os.getuid()}
    assert program(**given)["changed"] and (folder / "ca.pem").read_text() == "a"
    assert place.stat().st_mode & 0o777 == 0o700
    assert not program(**given)["changed"]
    source.write_text("b")
    assert program(**given)["changed"] and (folder / "ca.pem").read_text() == "b"
    assert program(copies={"ca.pem": ""})["changed"] and not (folder / "ca.pem").exists()
    assert daemon.done.count("docker compose") == 3
    said = program(copies={"ca.pem": str(tmp_path / "none")})
    assert said["failed"] and "none: No such file" in said["msg"] and str(folder / "ca.pem") in said["msg"]


def test_one_that_does_not_start_or_does_not_work_fails_with_what_it_says(daemon: Daemon, program: Run) -> None:
    daemon.works = False
    said = program()
    assert said["failed"] and "there is no " in said["msg"] and "cannot import name" in said["msg"]
    daemon.refuses = "no such image"
    assert program(loaded="another")["msg"] == "llm-x does not start: no such image"


def test_what_it_wrote_stays_when_it_is_removed(daemon: Daemon, program: Run, folder: Path) -> None:
    program()
    (folder / "events.jsonl").write_text("kept")
    assert program(check_mode=True, state="absent")["action"] == "removed" and daemon.label == "sum"
    assert program(state="absent")["action"] == "removed"
    assert daemon.label is None and lines(folder) == {"events.jsonl": "kept"}
    assert program(state="absent")["action"] == "none"
    assert read_host.program(folder, [], "", "")["files"] == {}


def test_files_without_a_container_are_removed_too(daemon: Daemon, program: Run, folder: Path) -> None:
    folder.mkdir()
    (folder / "compose.yml").write_text("")
    assert program(state="absent")["action"] == "removed" and lines(folder) == {} and not daemon.done


def test_without_docker_a_start_is_foreseen_and_not_done(daemon: Daemon, program: Run) -> None:
    daemon.unreachable = True
    assert program(check_mode=True)["changed"] and not program(check_mode=True, state="absent")["changed"]
    said = program()
    assert said["failed"] and said["msg"] == "llm-x: there is no such socket"


# ---------------------------------------------------------------------------------------------------------------------
# The certificate.

CONFIG = {"server": "https://s/dir", "email": "a@b.c", "names": ["x.org", "y.org"]}


class Asked:
    """A client that asks, as its files show it; `looks` has what is read of its record, look by look."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        self.record = folder / acme.DATA / acme.ATTEMPT
        self.issued = folder / acme.DATA / acme.ISSUED
        self.record.parent.mkdir(parents=True)
        self.lacking, self.forgot = True, False
        monkeypatch.setattr(certificates, "read", lambda _path: {"problem": "" if not self.lacking else "has ended"})
        monkeypatch.setattr(time, "sleep", self.pass_by)
        monkeypatch.setattr(AnsibleModule, "run_command", lambda *_a, **_k: (0, "silence\n", ""))
        self.steps: list[Callable[[], None]] = []
        self.issued.write_text(json.dumps(CONFIG))

    def pass_by(self, _seconds: float) -> None:
        self.forgot |= not self.record.exists()
        self.steps.pop(0)()

    def note(self, **attempt: Any) -> None:
        self.record.write_text(json.dumps({"error": "", "failures": 0, "next": 0, **attempt}))

    def got(self) -> None:
        self.lacking = False
        self.note()


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Asked:
    return Asked(monkeypatch, folder)


@pytest.fixture
def certificate(run_module: Run, folder: Path) -> Run:
    def run(check_mode: bool = False, **changed: Any) -> dict[str, Any]:
        return run_module(llm_acme, {"folder": str(folder), **CONFIG, **changed}, check_mode=check_mode)

    return run


def test_a_certificate_as_declared_is_asked_for_no_more(client: Asked, certificate: Run) -> None:
    client.lacking = False
    for check_mode in (True, False):
        said = certificate(check_mode)
        assert (said["changed"], said["action"]) == (False, "none")


def test_a_look_says_what_would_be_asked_for_and_asks_nobody(client: Asked, certificate: Run) -> None:
    client.note(error="refused")
    said = certificate(True)
    (diff,) = said["diff"]
    assert (
        said["action"] == "asked" and diff["after"] == "x.org\ny.org\n" and diff["before_header"].endswith("has ended")
    )
    assert acme.attempt(client.record.read_text())["error"] == "refused"


def test_a_client_that_waits_after_a_failure_asks_at_once(client: Asked, certificate: Run) -> None:
    client.note(error="refused", next=10**12)
    client.steps = [lambda: client.note(asking=True), client.got]
    assert certificate()["action"] == "asked" and client.forgot


def test_a_client_that_was_just_started_is_not_made_to_ask_twice(client: Asked, certificate: Run) -> None:
    client.note(asking=True)
    client.steps = [client.got]
    assert certificate(started=True)["action"] == "asked" and not client.forgot


def test_what_the_server_says_is_told(client: Asked, certificate: Run) -> None:
    client.steps = [lambda: client.note(error="no such name", failures=1, next=1_800_000_000)]
    said = certificate()
    assert said["failed"] and "no certificate for x.org, y.org from https://s/dir: no such name" in said["msg"]
    assert "serves with the certificate that it had" in said["msg"]


def test_a_client_that_says_nothing_is_told_of(
    client: Asked, certificate: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(llm_acme, "LED_WITHIN", -1000.0)
    assert client.record.parent.exists()
    assert certificate()["msg"] == "the ACME client does not answer. Its last words: silence\n"


# ---------------------------------------------------------------------------------------------------------------------
# The roles.


@pytest.mark.parametrize(
    ("tasks", "container", "label", "network", "ready"),
    [
        ("engine_supervisor/tasks/run.yml", names.SUPERVISOR, names.SUPERVISOR_LABEL, names.NETWORK, "metrics.prom"),
        ("engine_supervisor/tasks/remove.yml", names.SUPERVISOR, names.SUPERVISOR_LABEL, None, "metrics.prom"),
        ("gateway/tasks/acme.yml", names.ACME, names.ACME_LABEL, names.FRONT_NETWORK, None),
    ],
)
def test_roles_name_what_the_facts_look_for(
    tasks: str, container: str, label: str, network: str | None, ready: str | None
) -> None:
    found = [t["llm_program"] for t in catalogs.read(f"roles/{tasks}") if "llm_program" in t]
    place = f"{acme.DATA}/{acme.ATTEMPT}".removeprefix(f"{acme.FOLDER}/")
    for given in found:
        assert (given["container"], given["label"], given["ready"]) == (container, label, ready or place)
        if "state" not in given and network:
            assert given.get("network", names.NETWORK) == network
        assert set(given.get("copies", ())) <= {acme.CA}
    assert found
