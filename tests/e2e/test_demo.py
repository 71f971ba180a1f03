"""The demo as its users meet it: answers, a second run, check mode, tags, verbs, hardening, drift."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from pathlib import Path

import openai
import pytest
from openai.types.chat import ChatCompletionUserMessageParam

from tests.e2e.demo import (
    ENDPOINT,
    KEY_SHAPE,
    MODEL,
    QUESTION,
    ROOT,
    SERVICE,
    WORD,
    Machine,
    Playbook,
    declare,
    request,
)

pytestmark = pytest.mark.e2e

QUESTIONS: list[ChatCompletionUserMessageParam] = [{"role": "user", "content": QUESTION}]


def running_requests(machine: Machine) -> float:
    """How many requests the engine works on just now, by its own count."""
    return metric(machine, "num_requests_running")


def metric(machine: Machine, name: str) -> float:
    """One number of the engine."""
    address = machine.engine().attrs["NetworkSettings"]["Networks"]["llm"]["IPAddress"]
    _, metrics = request(f"http://{address}:8000/metrics")
    found = re.search(rf"^vllm:{name}\{{.*\}} (\S+)$", metrics, re.MULTILINE)
    assert found, metrics[:2000]
    return float(found[1])


# ---------------------------------------------------------------------------------------------------------------------
# Clients.


def test_the_gateway_passes_on_the_right_answer(machine: Machine) -> None:
    assert WORD in machine.answer()


def test_a_streamed_answer_is_whole(machine: Machine) -> None:
    stream = machine.client().chat.completions.create(
        model=MODEL,
        messages=QUESTIONS,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    pieces = [c.choices[0].delta.content for c in chunks if c.choices and c.choices[0].delta.content]
    assert len(pieces) > 3 and WORD in "".join(pieces)
    assert chunks[-1].usage is not None and chunks[-1].usage.completion_tokens >= len(pieces)


def test_pieces_of_a_stream_arrive_while_the_engine_still_writes(machine: Machine) -> None:
    with machine.client().chat.completions.create(
        model=MODEL,
        messages=QUESTIONS,
        max_tokens=1000,
        stream=True,
        extra_body={"ignore_eos": True},  # so that the engine is at work for long
    ) as stream:
        pieces = (c.choices[0].delta.content for c in stream if c.choices and c.choices[0].delta.content)
        assert len([next(pieces) for _ in range(5)]) == 5
        assert running_requests(machine) >= 1, "the answer was complete before its first piece came"


def test_a_client_that_leaves_frees_its_place_at_the_engine(machine: Machine) -> None:
    def written() -> float:
        return metric(machine, "generation_tokens_total")

    before, asked_for = written(), 1800
    stream = machine.client().chat.completions.create(
        model=MODEL, messages=QUESTIONS, max_tokens=asked_for, stream=True, extra_body={"ignore_eos": True}
    )
    next(stream)
    stream.close()
    end = time.monotonic() + 120
    while running_requests(machine):
        assert time.monotonic() < end
        time.sleep(0.1)
    assert written() - before < asked_for, "the engine wrote for nobody"


@pytest.mark.parametrize("path", ["/models", "/chat/completions"])
@pytest.mark.parametrize("header", [None, "Bearer ", "Bearer sk-wrong", "Basic {key}", "Bearer {key}x"])
def test_a_client_without_the_key_is_turned_away(machine: Machine, path: str, header: str | None) -> None:
    headers = {} if header is None else {"Authorization": header.format(key=machine.key)}
    body = None if path == "/models" else {"model": MODEL, "messages": QUESTIONS}
    status, text = request(ENDPOINT + path, headers, body)
    assert status == 401, text


@pytest.mark.parametrize("keyed", [False, True])
@pytest.mark.parametrize(
    "path",
    [
        "/invocations",
        "/tokenize",
        "/metrics",
        "/docs",
        "/openapi.json",
        "/load",
        "//v1/models",
        "/V1/models",
        "/v1",
        "/",
    ],
)
def test_what_the_engine_leaves_open_stays_inside(machine: Machine, path: str, keyed: bool) -> None:
    """The engine guards /v1 only: without a list of paths, /invocations would answer anybody's questions."""
    headers = {"Authorization": f"Bearer {machine.key}"} if keyed else {}
    body = {"model": MODEL, "messages": QUESTIONS} if path == "/invocations" else None
    status, text = request(ENDPOINT.removesuffix("/v1") + path, headers, body)
    assert (status, json.loads(text)["error"]["code"]) == (404, "not_found"), text


def test_the_sdk_calls_a_wrong_key_an_authentication_error(machine: Machine) -> None:
    with pytest.raises(openai.AuthenticationError):
        machine.client("sk-wrong").models.list()
    assert [m.id for m in machine.client().models.list()] == [MODEL]


# ---------------------------------------------------------------------------------------------------------------------
# Runs that have nothing to do.


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize("args", [[], ["--tags", SERVICE], ["--check", "--diff"]], ids=["again", "tag", "check"])
def test_a_run_with_nothing_to_do_changes_and_shows_nothing(
    playbook: Playbook, args: list[str], tmp_path: Path
) -> None:
    started, command, timings = tmp_path / "started", tmp_path / "docker", tmp_path / "timings.json"
    # Found before the real one, it writes down that it was started.
    command.write_text(f'#!/bin/sh\necho "$*" >> {started}\nexec {shutil.which("docker")} "$@"\n', encoding="utf-8")
    command.chmod(0o755)
    env = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "LLM_TIMINGS_FILE": str(timings)}
    run = playbook("site.yml", *args, env=env).passed()
    assert run.changed == 0 and not run.shows_diff
    assert not started.exists() and json.loads(timings.read_text(encoding="utf-8"))["modules"] == 1
    assert run.tasks.count("Read the host") == 1 and not [t for t in run.tasks if t.endswith(": Read the host")]


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize(
    ("tag", "names"),
    [("nonsense", (SERVICE, "medium-glm", "services")), ("micro-cpuu", (f"Did you mean `{SERVICE}`?",))],
)
def test_an_unknown_tag_is_refused_with_the_names(playbook: Playbook, tag: str, names: tuple[str, ...]) -> None:
    run = playbook("site.yml", "--tags", tag).refused().says(f"`{tag}` is no service and no stage", *names)
    assert run.tasks == ["Judge the declaration"] and run.count("ok") == 0


@pytest.mark.usefixtures("untouched")
def test_status_shows_declared_and_real(playbook: Playbook, machine: Machine) -> None:
    run = playbook("playbooks/status.yml").passed()
    run.says(f"{SERVICE} to run running (Up ", f" {machine.release} yes 5010 nothing to do ")
    assert run.changed == 0


# ---------------------------------------------------------------------------------------------------------------------
# A fresh host, predicted.


@pytest.mark.usefixtures("untouched")
def test_check_mode_predicts_a_fresh_host_and_touches_nothing(
    playbook: Playbook, machine: Machine, tmp_path: Path
) -> None:
    root = tmp_path / "fresh"
    networks = {n.id for n in machine.docker.networks.list()}
    run = playbook("site.yml", "--check", "--diff", "-e", f"llm_root={root}", *declare(port=5911)).passed()
    assert run.changed >= 5
    # Each stage has something to do, and shows it.
    run.says(f"make the environment {root}/venv", f"+{root}/models/", "release: none -> first deployment")
    run.says(f"+++ after: {root}/services/{SERVICE}/releases/", f"+++ after: {root}/gateway/etc/haproxy.cfg")
    run.says('- "127.0.0.1:5911:5911"', "+ read_only: true")
    assert not root.exists() and {n.id for n in machine.docker.networks.list()} == networks
    assert not KEY_SHAPE.search(run.stdout) and machine.key not in run.stdout


# ---------------------------------------------------------------------------------------------------------------------
# The engine's container.


def test_the_engine_runs_without_rights(machine: Machine) -> None:
    engine = machine.engine()
    assert not engine.attrs["HostConfig"]["PortBindings"] and not any(engine.attrs["NetworkSettings"]["Ports"].values())
    assert list(engine.attrs["NetworkSettings"]["Networks"]) == ["llm"]
    assert machine.docker.networks.get("llm").attrs["Internal"], "the engine has a way out"
    assert engine.attrs["HostConfig"]["ReadonlyRootfs"] and not engine.attrs["HostConfig"]["Privileged"]
    # What the kernel says of its first process counts for more than what was asked for.
    status = Path(f"/proc/{engine.attrs['State']['Pid']}/status").read_text(encoding="utf-8")
    facts = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert facts["Uid"].split() == ["64000"] * 4 and facts["Gid"].split() == ["64000"] * 4
    for capabilities in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(facts[capabilities], 16) == 0, capabilities
    assert facts["NoNewPrivs"] == "1"


@pytest.mark.parametrize(
    ("path", "allowed"), [("/x", False), ("/model/x", False), ("/run/secrets/engine.yml", False), ("/cache/x", True)]
)
def test_the_engine_writes_to_its_caches_only(machine: Machine, path: str, allowed: bool) -> None:
    program = f"f = open({path!r}, 'a'); f.close(); import os; os.path.getsize({path!r}) or os.remove({path!r})"
    code, output = machine.engine().exec_run(["python3", "-c", program])
    assert (code == 0) is allowed, output.decode()
    assert allowed or b"Read-only file system" in output or b"Permission denied" in output


def test_the_key_is_where_it_belongs_and_nowhere_else(machine: Machine, playbook: Playbook) -> None:
    engine, gateway = machine.engine(), machine.gateway()
    _, environment = engine.exec_run(["env"])
    processes = [p / part for p in Path("/proc").iterdir() if p.name.isdigit() for part in ("cmdline", "environ")]
    places = {
        "inspect": json.dumps([engine.attrs, gateway.attrs]),
        "engine's log": engine.logs().decode(errors="replace"),
        "gateway's log": gateway.logs().decode(errors="replace"),
        "engine's environment": environment.decode(),
        "processes": "\n".join(_read(p).replace("\0", " ") for p in processes),
        "compose file": machine.compose_file.read_text(encoding="utf-8"),
        "a talkative run": playbook("site.yml", "-vvv").passed().stdout,
    }
    # The search is able to find: all these places name the service, the engine's command or its port.
    assert all(any(word in text for word in (MODEL, SERVICE, "VLLM_")) for text in places.values()), places.keys()
    assert [name for name, text in places.items() if machine.key in text] == []

    # What may hold it, and who may read that: clients' key and its copy in the release root, the engine its own.
    owners = {"engine.yml": 64000, "client-key": 0, SERVICE: 0}
    holders = {p for p in ROOT.rglob("*") if p.is_file() and p.stat().st_size < 2**16 and machine.key in _read(p)}
    assert machine.key_file in holders and machine.compose_file.parent / "secrets" / "engine.yml" in holders
    assert {p.parent.name for p in holders - {machine.key_file}} == {"secrets"}
    for holder in holders:
        assert (holder.stat().st_uid, holder.stat().st_mode & 0o777) == (owners[holder.name], 0o400), holder
    assert machine.key_file.parent.stat().st_mode & 0o777 == 0o700


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:  # a process that has ended meanwhile
        return ""


# ---------------------------------------------------------------------------------------------------------------------
# Stop, and drift.


@pytest.mark.usefixtures("restored")
def test_stop_holds_until_the_next_run(playbook: Playbook, machine: Machine) -> None:
    release, name, gateway = machine.release, machine.engine().name, machine.gateway().id
    stopped = playbook("playbooks/stop.yml").passed()
    assert stopped.changed == 2 and machine.engine().status == "exited"  # the gateway, then the engine
    status, text = request(f"{ENDPOINT}/models", {"Authorization": f"Bearer {machine.key}"})
    # Who has to wait for a service is told something else in the end.
    assert (status, json.loads(text)["error"]["message"]) == (503, "this service was stopped and is not serving")
    assert playbook("playbooks/stop.yml").passed().changed == 0
    playbook("playbooks/status.yml").passed().says(f"{SERVICE} to run exited ", "deploy: container: exited -> running")

    playbook("site.yml").passed().says("container: exited -> running", f"{SERVICE}: {ENDPOINT} answers")
    assert (machine.release, machine.engine().name, machine.engine().status) == (release, name, "running")
    assert machine.gateway().id == gateway and WORD in machine.answer()


@pytest.mark.usefixtures("restored")
@pytest.mark.fault(46, "an edited file and a removed container")
def test_drift_is_shown_with_its_reasons_and_repaired(playbook: Playbook, machine: Machine) -> None:
    release, before = machine.release, machine.engine()
    rendered = machine.compose_file.read_text(encoding="utf-8")
    reasons = ("file compose.yml: edited or gone -> as rendered", "container: gone -> running")

    before.remove(force=True)
    predicted = playbook("site.yml", "--check", "--diff").passed().says(reasons[1])
    assert predicted.changed > 0 and not predicted.shows_diff

    machine.compose_file.write_text(rendered.replace("read_only: true", "read_only: false", 1), encoding="utf-8")
    edited = machine.files()
    predicted = playbook("site.yml", "--check", "--diff").passed()
    predicted.says(*reasons, "- read_only: false", "+ read_only: true")
    assert machine.engines() == [] and machine.files() == edited

    run = playbook("site.yml").passed().says(*reasons)
    assert run.changed > 0 and machine.release == release
    assert machine.compose_file.read_text(encoding="utf-8") == rendered
    after = machine.engine()
    assert after.name == before.name and after.id != before.id and after.attrs["HostConfig"]["ReadonlyRootfs"]
    assert WORD in machine.answer()
