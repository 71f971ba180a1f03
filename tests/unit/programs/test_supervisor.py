"""What the supervisor concludes from sequences of looks, and what it does about it."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qs

import pytest
from ansible.module_utils.llm.base import lease
from ansible.module_utils.llm.docker import api as docker_api
from ansible.module_utils.llm.engine.metrics import parse_metrics
from engine_supervisor import __main__ as supervise
from engine_supervisor import core, host

RULES = core.Rules(progress_timeout=90, freeze_timeout=30, boot_timeout=1800, probe_every=900, recover=True)
Observations = list[core.Observation]


def seen(at: float, step: float = 1, in_flight: float = 1, **more: object) -> core.Observation:
    """A look at a running engine that has come as far as `step`."""
    engines = {"0": core.Work(in_flight, (step,))}
    values = {"status": "running", "run": "a", "scrape": "answered", "engines": engines, **more}
    return core.Observation(at=at, **values)  # type: ignore[arg-type]


def verdicts(looks: Observations, rules: core.Rules = RULES) -> list[str]:
    memory = core.Memory()
    return [core.judge(memory, look, rules)[0] for look in looks]


def recorded(name: str) -> dict[str, core.Work]:
    """Engine cores as a real engine told of them."""
    text = (Path(__file__).parents[1] / "data/engine" / name).read_text(encoding="utf-8")
    found, asleep = core.works(parse_metrics(text))
    assert not asleep
    return found


@pytest.mark.parametrize(
    ("name", "in_flight"),
    [("metrics.txt", 0), ("metrics-busy-1.txt", 2), ("metrics-busy-2.txt", 2), ("metrics-hung.txt", 4)],
)
def test_recorded_metrics_are_read(name: str, in_flight: int) -> None:
    found = recorded(name)
    assert set(found) == {"0"} and len(found["0"].progress) == 3 and found["0"].in_flight == in_flight


def test_recorded_work_is_none_and_a_recorded_hang_is_one() -> None:
    busy = [seen(at, engines=recorded(f"metrics-busy-{1 + at // 60}.txt")) for at in (0, 30, 60, 90)]
    assert verdicts(busy) == ["busy"] * 4
    assert verdicts([seen(at, engines=recorded("metrics-hung.txt")) for at in range(0, 100, 30)])[-1] == "wedged"


def test_work_without_a_token_is_a_hang_after_the_declared_time_and_no_sooner() -> None:
    found = verdicts([seen(at) for at in range(0, 130, 10)])
    assert found[:9] == ["busy"] * 9 and found[9:] == ["wedged"] * 4


@pytest.mark.parametrize(
    "looks",
    [
        [seen(at, step=at) for at in range(0, 2000, 10)],  # saturated
        [seen(at, in_flight=0) for at in range(0, 2000, 10)],  # idle
        [seen(0), seen(50), seen(95, step=2), seen(150, step=2)],  # slow
        [seen(0), seen(5000), seen(5010), seen(5020)],  # the machine slept
        [seen(5000), seen(10), seen(20), seen(30)],  # a clock that went back
        [seen(at, asleep=True) for at in range(0, 2000, 10)],
        [seen(0), *[seen(at, scrape="failed") for at in range(10, 2000, 10)]],  # a failed scrape alone
        [seen(0), *[seen(at, scrape="timeout", wakeups=at) for at in range(10, 2000, 10)]],  # slow, and alive
        [seen(0), *[seen(at, scrape="timeout") for at in range(10, 2000, 10)]],  # nothing known of its processes
        [seen(at, scrape="refused") for at in range(0, 3600, 10)],  # boots
        [seen(0), *[seen(at, status="exited") for at in range(10, 2000, 10)]],  # stopped by somebody
    ],
)
def test_what_may_live_is_let_be(looks: Observations) -> None:
    assert not set(verdicts(looks)) & set(core.ACTIONS)


def mixed(
    answered: Callable[[int], bool], scrape: str = "failed", step: Callable[[int], float] = lambda _: 1
) -> Observations:
    """Five minutes of looks every 5 s at an engine that has work; answered: whether the look of this number has an answer."""
    lost: dict[str, Any] = {"scrape": scrape, "engines": {}, "wakeups": None}
    return [seen(5 * n, step=step(n), **({} if answered(n) else lost)) for n in range(61)]


@pytest.mark.parametrize("scrape", ["failed", "refused", "timeout"])
@pytest.mark.parametrize("every", [2, 3, 6, 12])
def test_a_hang_is_found_although_looks_go_without_an_answer(scrape: str, every: int) -> None:
    some = mixed(lambda n: n % every != every - 1, scrape)
    few = mixed(lambda n: n % every == 0, scrape)
    for looks in (some, few):
        found = list(zip(looks, verdicts(looks), strict=True))
        assert {v for look, v in found if look.scrape == scrape} == {"unknown"}, (
            "a look without an answer concludes nothing"
        )
        # When 90 s have passed, and three looks were answered.
        third = [look.at for look in looks if look.scrape == "answered"][2]
        answered = [(look.at >= max(90, third), v) for look, v in found if look.scrape == "answered"]
        assert answered == [(late, "wedged" if late else "busy") for late, _ in answered] and answered[-1][0]


@pytest.mark.parametrize(
    ("looks", "last"),
    [
        # Its counters move between two answers, however many looks go without one.
        (mixed(lambda n: n % 6 == 0, step=lambda n: n // 6), "busy"),
        (mixed(lambda n: n % 2 == 0, step=lambda n: n // 12), "busy"),
        # The declared time is over, and so few looks were answered.
        (
            [seen(0), *[seen(at, scrape="failed") for at in range(5, 55, 5)], seen(55), seen(56, scrape="failed")],
            "unknown",
        ),
        ([seen(0), seen(50, scrape="failed"), seen(58), seen(100, scrape="failed"), seen(115)], "wedged"),
        ([seen(0), seen(50, scrape="failed"), seen(95, scrape="failed")], "unknown"),
        # Longer than a minute without an answer: nobody saw what went on.
        ([seen(0), seen(5), *[seen(at, scrape="failed") for at in range(10, 95, 5)], seen(95), seen(100)], "busy"),
        # Nothing in flight in between.
        ([seen(0), seen(45), seen(50, scrape="failed"), seen(55, in_flight=0), seen(90), seen(95), seen(100)], "busy"),
        # Started anew.
        ([seen(0), seen(45), seen(50, scrape="refused"), *[seen(at, run="b") for at in range(85, 100, 5)]], "busy"),
        # Somebody paused it.
        ([seen(0), seen(45), seen(50, status="paused", scrape=""), seen(90), seen(95), seen(100)], "busy"),
    ],
)
def test_what_looks_without_an_answer_leave_of_progress(looks: Observations, last: str) -> None:
    found = verdicts(looks)
    assert found[-1] == last and not set(found[:-1]) & set(core.ACTIONS)


def test_one_core_of_several_that_hangs_is_found() -> None:
    looks = [seen(at, engines={"0": core.Work(1, (at,)), "1": core.Work(1, (5,))}) for at in range(0, 100, 10)]
    assert verdicts(looks)[-1] == "wedged"


@pytest.mark.parametrize("status", ["running", "paused"])
def test_a_server_that_does_not_answer_and_does_not_run_is_frozen(status: str) -> None:
    silent = [seen(at, status=status, scrape="timeout", wakeups=7) for at in range(10, 60, 10)]
    assert verdicts([seen(0), *silent]) == ["busy", "unknown", "unknown", "unknown", "frozen", "frozen"]


def test_a_boot_that_takes_twice_its_time_is_none() -> None:
    assert verdicts([seen(at, scrape="refused") for at in (0, 3600, 3601)]) == ["starting", "starting", "not-ready"]


def test_one_that_ended_for_good_is_dead_and_one_that_keeps_ending_loops() -> None:
    assert verdicts([seen(0), seen(10, status="exited", gave_up=True)])[-1] == "dead"
    starts = [seen(at, run=str(at), restarts=at // 10) for at in range(0, 40, 10)]
    ended = seen(40, run="30", restarts=3, status="exited", gave_up=True)
    assert verdicts([*starts, ended])[-1] == "crash-loop"


@pytest.mark.parametrize(
    ("verdict", "past", "held", "kind"),
    [
        ("wedged", [], "", "recreate"),
        ("frozen", [], "", "restart"),
        ("wedged", [9970], "", "wait"),
        ("wedged", [9900], "", "recreate"),
        ("wedged", [9700, 9900], "", "wait"),
        ("wedged", [7000, 8000, 9000], "", "stop"),
        ("wedged", [1000, 2000, 3000], "", "recreate"),
        ("wedged", [99999], "", "wait"),  # written before the clock was set back
        ("wedged", [], "a run", "none"),
        ("crash-loop", [], "", "stop"),
        ("busy", [], "", "none"),
        ("unknown", [], "", "none"),
    ],
)
def test_recoveries_have_a_budget_and_a_pause(verdict: str, past: list[float], held: str, kind: str) -> None:
    assert core.decide(verdict, past, 10000, 3, held).kind == kind


@pytest.mark.parametrize(
    ("verdict", "past", "failed", "kind"),
    [
        ("wedged", [7000, 8000, 9000], 9970, "wait"),
        ("wedged", [7000, 8000, 9000], 9900, "stop"),
        ("wedged", [7000, 8000, 9000], 10100, "stop"),  # the clock was set back
        ("crash-loop", [], 9970, "wait"),
        ("crash-loop", [], 9900, "stop"),
        ("wedged", [], 9970, "recreate"),
        ("gave-up", [7000, 8000, 9000], None, "none"),
    ],
)
def test_a_stop_that_failed_has_a_pause_and_one_that_was_given_up_is_let_be(
    verdict: str, past: list[float], failed: float | None, kind: str
) -> None:
    assert core.decide(verdict, past, 10000, 3, failed=failed).kind == kind


def test_a_hang_that_the_engine_does_not_report_is_found_by_asking() -> None:
    """A core that hung before the request came goes on saying that it has nothing to do."""
    idle = {"0": core.Work(0, (5,)), "1": core.Work(0, (7,))}
    looks = [seen(0, engines=idle), *[seen(at, engines=core.with_probe(idle)) for at in range(10, 120, 10)]]
    assert verdicts(looks)[-3:] == ["idle", "wedged", "wedged"]
    moving = [seen(at, engines=core.with_probe({"0": core.Work(1, (at,))})) for at in range(0, 2000, 10)]
    assert set(verdicts(moving)) == {"busy"}


def test_clients_that_wait_for_an_idle_engine_are_a_reason_to_ask_it() -> None:
    memory, due = core.Memory(), []
    for at in range(0, 60, 5):
        look = seen(at, in_flight=0, connected=1 if at >= 20 else 0)
        core.judge(memory, look, RULES)
        due.append(core.probe_due(memory, look, RULES, probed=-100))
    assert due == [False] * 6 + [True] * 6
    assert not core.probe_due(memory, look, RULES, probed=look.at - 10), "not at every look"
    assert not core.probe_due(memory, look, dataclasses.replace(RULES, probe_every=0), probed=-100)


def test_clients_that_wait_are_seen_although_looks_go_without_an_answer() -> None:
    memory = core.Memory()
    looks = [seen(5 * n, in_flight=0, connected=1, scrape="failed" if n % 2 else "answered") for n in range(5)]
    for look in looks:
        core.judge(memory, look, RULES)
    assert core.probe_due(memory, looks[-1], RULES, probed=-100)


def test_open_connections_to_the_engine_are_counted(tmp_path: Path) -> None:
    (tmp_path / "7/net").mkdir(parents=True)
    rows = [
        "  sl  local_address rem_address   st tx_queue rx_queue",
        "   0: 00000000:1F40 00000000:0000 0A 00000000:00000000",  # it listens
        "   1: 030012AC:1F40 020012AC:8D7E 01 00000000:00000000",  # a client
        "   2: 030012AC:1F40 020012AC:8D80 06 00000000:00000000",  # one that has gone
        "   3: 0100007F:9C40 0100007F:1F41 01 00000000:00000000",  # another port
    ]
    (tmp_path / "7/net/tcp").write_text("\n".join(rows) + "\n")
    assert host.connected(7, tmp_path) == 1 and host.connected(8, tmp_path) == 0


@pytest.mark.fault(42, "every generation fails while its metrics are fine: recreated", by="simulated")
def test_generations_that_fail_inside_the_engine_are_a_hang_at_the_third() -> None:
    assert verdicts([seen(n, in_flight=0, refused=n) for n in range(4)]) == ["idle", "idle", "idle", "wedged"]
    assert core.ACTIONS["wedged"] == "recreate"  # which gives a container its devices anew


@pytest.mark.parametrize(("restarts", "who"), [(1, core.OTHERS[0]), (0, core.OTHERS[1])])
def test_who_restarted_it_is_told_apart(restarts: int, who: str) -> None:
    memory = core.Memory()
    core.judge(memory, seen(0), RULES)
    core.judge(memory, seen(5, status="restarting", restarts=restarts), RULES)
    assert core.judge(memory, seen(10, run="b", restarts=restarts), RULES)[2] == who
    memory.ours = True
    assert core.judge(memory, seen(20, run="c"), RULES)[2] == ""


def test_a_successor_is_made_of_the_same_and_of_the_same_image() -> None:
    inspected = {
        "Id": "0123456789abcdef",
        "Image": "sha256:1",
        "Config": {"Hostname": "0123456789ab", "Image": "llm/x:1", "Labels": {"llm.service": "chat"}},
        "HostConfig": {"ReadonlyRootfs": True},
        "NetworkSettings": {"Networks": {"llm": {"Aliases": ["engine", "0123456789ab"], "IPAddress": "172.18.0.2"}}},
    }
    body = host.successor(inspected, "sha256:1")
    assert body == {
        "Image": "llm/x:1",
        "Labels": {"llm.service": "chat"},
        "HostConfig": {"ReadonlyRootfs": True},
        "NetworkingConfig": {"EndpointsConfig": {"llm": {"Aliases": ["engine"]}}},
    }
    assert host.successor(inspected, "sha256:2")["Image"] == "sha256:1", "its name means another image by now"


def test_others_who_restart_engines_are_named(tmp_path: Path) -> None:
    (tmp_path / "vllm.service").write_text("[Service]\nExecStart=/usr/bin/docker start -a llm-chat-01234567\n")
    (tmp_path / "other.service").write_text("[Service]\nExecStart=/usr/bin/true\n")
    listed: list[dict[str, Any]] = [
        {"Id": "1", "Names": ["/heal"], "Image": "willfarrell/autoheal:1.2", "State": "running"},
        {"Id": "2", "Names": ["/autoheal-old"], "Image": "x", "State": "exited"},
        {"Id": "3", "Names": ["/llm-a-1"], "Image": "x", "State": "running", "Labels": {"llm.service": "a"}},
        {"Id": "4", "Names": ["/llm-b-1"], "Image": "x", "Labels": {"llm.service": "b", "autoheal": "true"}},
    ]
    assert set(host.rivals(listed, tmp_path)) == {"heal", "llm-b-1", "vllm.service"}
    assert host.rivals([], tmp_path / "absent") == {}


@pytest.mark.parametrize(("name", "known"), [("on-failure", True), ("no", True), ("always", False)])
def test_a_policy_that_never_gives_up_is_another_authority(name: str, known: bool) -> None:
    assert (host.policy({"HostConfig": {"RestartPolicy": {"Name": name}}}) == "") is known


@pytest.mark.fault(6, "30 minutes without work, one of its own generations, then a request", by="simulated")
def test_a_long_silence_is_no_hang() -> None:
    idle = {"0": core.Work(0, (5,))}
    looks = [seen(at, engines=idle) for at in range(0, 900, 5)]
    looks += [seen(900, engines=core.with_probe(idle)), seen(905, engines={"0": core.Work(0, (30,))})]
    looks += [seen(at, engines={"0": core.Work(0, (30,))}) for at in range(910, 1800, 5)]
    looks += [seen(1800, step=30), seen(1805, step=31)]
    assert verdicts(looks)[-2:] == ["busy", "busy"] and not set(verdicts(looks)) & set(core.ACTIONS)


@pytest.mark.parametrize(
    ("code", "restarts", "stopped", "gave_up"),
    [
        (0, 0, "", True),  # as vLLM ends when its core has died
        (0, 0, "2026-11-25T15:46:30Z", False),
        (0, 0, "2026-11-25T15:45:33.1Z", True),  # by the restart that it began with
        (1, 3, "", True),
        (137, 3, "2026-11-25T15:46:30Z", False),
        (1, 2, "", False),  # Docker's turn
    ],
)
def test_an_end_that_nobody_repairs_is_told_from_a_stop(
    monkeypatch: pytest.MonkeyPatch, code: int, restarts: int, stopped: str, gave_up: bool
) -> None:
    def events(*_: Any, since: str, until: str, **__: Any) -> Any:
        at = docker_api.parse_time(stopped) / 1e9
        return [{"Action": "kill"}] if float(since) <= at <= float(until) else None

    monkeypatch.setattr(docker_api, "get", events)
    inspected = {
        "Id": "1",
        "RestartCount": restarts,
        "State": {
            "Status": "exited",
            "ExitCode": code,
            "StartedAt": "2026-11-25T15:45:33.289531707Z",
            "FinishedAt": "2026-11-25T15:46:33.289531707Z",
        },
        "HostConfig": {"RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 3}},
    }
    assert host.gave_up(inspected) is gave_up


def test_a_stop_of_this_very_second_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def events(*_: Any, until: str, **__: Any) -> Any:
        return [{"Action": "kill"}] if docker_api.parse_time(stopped) / 1e9 <= float(until) else None

    stopped, ended = "2026-11-25T15:46:33.2Z", "2026-11-25T15:46:33.3Z"
    monkeypatch.setattr(docker_api, "get", events)
    monkeypatch.setattr(time, "time", lambda: docker_api.parse_time(ended) / 1e9 + 0.1)
    inspected = {
        "Id": "1",
        "RestartCount": 0,
        "State": {"Status": "exited", "ExitCode": 0, "StartedAt": "2026-11-25T15:45:33Z", "FinishedAt": ended},
        "HostConfig": {"RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 3}},
    }
    assert not host.gave_up(inspected)


class Killed(BaseException):
    """Stands for the end of the program at this moment."""


class FakeDocker:
    """Stands in for the daemon: containers that are made, started, stopped, renamed and removed.

    broken: calls that are refused (create, start, stop, restart, rename, delete, exec); a restart that is refused has stopped the
    container. killed: the call before which this program ends.
    """

    def __init__(self) -> None:
        self.now = 1_800_000_000
        self.containers: dict[str, dict[str, Any]] = {}
        self.events: list[tuple[str, int]] = []
        self.broken = {"exec"}
        self.killed = ""
        self.made = 0

    def stamp(self) -> str:
        self.now += 1
        return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.now))

    def make(self, name: str, body: dict[str, Any]) -> str:
        self.made += 1
        identity = f"{self.made:012x}{0:052x}"
        state = {
            "Status": "created",
            "StartedAt": "0001-01-01T00:00:00Z",
            "FinishedAt": "0001-01-01T00:00:00Z",
            "Pid": 0,
        }
        self.containers[identity] = {
            "Id": identity,
            "Name": f"/{name}",
            "Created": self.stamp(),
            "Image": "sha256:1",
            "Config": {"Labels": body["Labels"], "Image": body["Image"]},
            "State": {**state, "ExitCode": 0},
            "RestartCount": 0,
            "HostConfig": {"RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 3}},
            "NetworkSettings": {"Networks": {}},
        }
        return identity

    def find(self, name: str) -> dict[str, Any]:
        for identity, found in self.containers.items():
            if name in (identity, found["Name"].lstrip("/")):
                return found
        raise docker_api.NotFound(f"No such container: {name}", 404)

    def start(self, name: str) -> None:
        self.find(name)["State"].update(Status="running", StartedAt=self.stamp())

    def stop(self, name: str) -> None:
        found = self.find(name)
        if found["State"]["Status"] in ("running", "paused"):
            self.events.append((found["Id"], self.now))
            found["State"].update(Status="exited", FinishedAt=self.stamp(), ExitCode=137)

    def names(self) -> dict[str, str]:
        return {c["Name"].lstrip("/"): c["State"]["Status"] for c in self.containers.values()}

    def request(self, method: str, path: str, body: Any = None, *, timeout: float = 60.0) -> bytes:
        assert timeout
        path, _, query = path.partition("?")
        given = {key: values[0] for key, values in parse_qs(query).items()}
        parts = path.strip("/").split("/")
        if path == "/containers/json":
            return json.dumps(
                [
                    {
                        "Id": c["Id"],
                        "Names": [c["Name"]],
                        "State": c["State"]["Status"],
                        "Labels": c["Config"]["Labels"],
                    }
                    for c in self.containers.values()
                ]
            ).encode()
        if path == "/events":
            of = json.loads(given["filters"])["container"]
            since = float(given["since"])
            return b"".join(b'{"Action": "kill"}\n' for i, at in self.events if i in of and at >= since)
        if parts[0] == "images":
            return b'{"Id": "sha256:1"}'
        if method == "GET":
            return json.dumps(self.find(parts[1])).encode() if parts[2] == "json" else b""
        call = "delete" if method == "DELETE" else parts[-1]
        if call != "create":
            self.find(parts[1])
        if call == self.killed:
            raise Killed
        if call == "restart":
            self.stop(parts[1])
        if call in self.broken:
            raise docker_api.DockerError(f"Docker refused {call}: no such device", 500)
        if call == "create":
            return json.dumps({"Id": self.make(given["name"], body)}).encode()
        if call == "delete":
            del self.containers[self.find(parts[1])["Id"]]
        elif call == "rename":
            self.find(parts[1])["Name"] = f"/{given['name']}"
        elif call == "stop":
            self.stop(parts[1])
        else:
            self.start(parts[1])
        return b""


ENGINE = "llm-chat-01234567"


class Watched:
    """A supervisor of one service, whose engine does nothing with the work that it has; its clocks are set by hand."""

    def __init__(self, root: Path, docker: FakeDocker, monkeypatch: pytest.MonkeyPatch, recover: bool = True) -> None:
        self.root, self.docker = root, docker
        self.clock, self.answers = 1000.0, "answered"
        (root / "supervisor").mkdir()
        (root / "state").mkdir()
        (root / "services/chat/releases/0123456789ab").mkdir(parents=True)
        (root / "services/chat/current").symlink_to("releases/0123456789ab")
        rules = {**dataclasses.asdict(RULES), "probe_every": 0, "recover": recover}
        services = {"chat": {"model": "m", "rules": rules}}
        config = {"interval": 5, "recoveries": 3, "services": services}
        (root / "supervisor/config.json").write_text(json.dumps(config))
        labels = {"llm.service": "chat", "llm.release": "0123456789ab"}
        docker.start(docker.make(ENGINE, {"Labels": labels, "Image": "llm/x:1"}))
        monkeypatch.setattr(docker_api, "request", docker.request)
        monkeypatch.setattr(docker_api, "container_ip", lambda _: "172.18.0.2")
        hung = "vllm:num_requests_running 1\nvllm:generation_tokens_total 7\n"
        monkeypatch.setattr(host, "scrape", lambda _: (self.answers, hung if self.answers == "answered" else ""))
        monkeypatch.setattr(host, "wakeups", lambda _: None)
        monkeypatch.setattr(host, "connected", lambda _: 0)
        clocks: dict[str, Any] = {"monotonic": lambda: self.clock, "time": lambda: self.clock + 1_800_000_000}
        clocks["time_ns"] = lambda: int(clocks["time"]() * 1e9)
        monkeypatch.setattr(supervise, "time", SimpleNamespace(**{**vars(time), **clocks}))
        self.begin()

    def begin(self) -> None:
        """The program starts, for the first time or anew."""
        self.supervisor = supervise.Supervisor(self.root)
        self.chat = self.supervisor.services["chat"]

    def look(self, seconds: float = 5) -> str:
        """One look at the service as the watch has it, after some seconds; its verdict."""
        self.clock += seconds
        for due in self.supervisor.due(docker_api.get("/containers/json?all=1"), set()):
            self.supervisor.look(*due)
        return self.chat.verdict

    def until(self, verdict: str, looks: int = 200) -> None:
        """Look until this is the verdict."""
        assert any(self.look() == verdict for _ in range(looks)), f"{verdict} is not reached: {self.chat.verdict}"

    def said(self, event: str) -> list[dict[str, Any]]:
        lines = (self.root / "supervisor/events.jsonl").read_text().splitlines()
        return [e for e in map(json.loads, lines) if e["event"] == event]

    def metric(self, name: str) -> list[str]:
        """Label pairs of a metric that are not 0."""
        self.supervisor.write_metrics()
        lines = (self.root / "supervisor/metrics.prom").read_text().splitlines()
        return [line.partition(" ")[0] for line in lines if line.startswith(name) and not line.endswith(" 0")]


@pytest.fixture
def docker() -> FakeDocker:
    return FakeDocker()


@pytest.fixture
def watched(tmp_path: Path, docker: FakeDocker, monkeypatch: pytest.MonkeyPatch) -> Watched:
    return Watched(tmp_path, docker, monkeypatch)


def test_one_that_was_made_and_does_not_start_is_dead_at_the_third_look() -> None:
    looks = [seen(0), *[seen(at, run="b", status="created", scrape="") for at in (5, 10, 15, 20)]]
    assert verdicts(looks) == ["busy", "starting", "starting", "dead", "dead"]
    moment = [*looks[:3], *[seen(at, run="c") for at in (15, 20)]]
    assert verdicts(moment) == ["busy", "starting", "starting", "busy", "busy"]
    others = [seen(at, run=run, status="created", scrape="") for at, run in ((0, "b"), (5, "b"), (10, "c"), (15, "c"))]
    assert verdicts(others) == ["starting"] * 4


def test_a_hang_becomes_another_container(watched: Watched, docker: FakeDocker) -> None:
    old = docker.find(ENGINE)["Id"]
    watched.until("wedged")
    assert docker.names() == {ENGINE: "running"} and docker.find(ENGINE)["Id"] != old
    assert watched.look() == "busy" and not watched.said("restarted")


def test_a_successor_that_does_not_start_is_tried_again_within_the_budget(watched: Watched, docker: FakeDocker) -> None:
    docker.broken |= {"start", "restart"}
    watched.until("wedged")
    assert docker.names() == {ENGINE: "created"}
    watched.until("dead")
    assert 'llm_supervisor_verdict{service="chat",verdict="dead"}' in watched.metric("llm_supervisor_verdict")
    watched.until("gave-up")
    done = [(e["action"], e["verdict"], bool(e["problem"])) for e in watched.said("recovery")]
    assert done == [
        ("recreate", "wedged", True),
        ("restart", "dead", True),
        ("restart", "dead", True),
        ("stop", "dead", False),
    ]
    assert not watched.said("restarted")


def test_a_successor_that_starts_at_the_second_try_is_at_work_again(watched: Watched, docker: FakeDocker) -> None:
    docker.broken |= {"start"}
    watched.until("wedged")
    watched.until("busy")
    assert docker.names() == {ENGINE: "running"} and not watched.said("restarted")
    assert [e["action"] for e in watched.said("recovery")] == ["recreate", "restart"]


def test_a_restart_that_does_not_start_it_is_tried_again(watched: Watched, docker: FakeDocker) -> None:
    watched.look()
    docker.find(ENGINE)["State"].update(Status="exited", FinishedAt=docker.stamp())
    docker.broken |= {"restart"}
    assert watched.look() == "dead"
    watched.begin()  # which is remembered
    assert watched.look() == "dead"
    docker.broken = {"exec"}
    watched.until("busy")
    assert [bool(e["problem"]) for e in watched.said("recovery")] == [True, False]


def test_a_restart_that_stops_it_and_does_not_start_it_is_no_stop_by_somebody(
    watched: Watched, docker: FakeDocker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host, "wakeups", lambda _: 7)
    watched.look()
    docker.find(ENGINE)["State"]["Status"] = "paused"
    docker.broken |= {"restart"}
    watched.until("frozen")
    assert docker.names() == {ENGINE: "exited"} and watched.look() == "dead"
    docker.broken = {"exec"}
    watched.until("busy")
    assert [(e["action"], bool(e["problem"])) for e in watched.said("recovery")] == [
        ("restart", True),
        ("restart", False),
    ]


def test_generations_that_failed_count_until_a_recovery_is_done(watched: Watched, docker: FakeDocker) -> None:
    docker.broken |= {"create"}
    watched.chat.refused = 3
    watched.until("wedged")
    assert watched.said("recovery") and watched.chat.refused == 3
    docker.broken = {"exec"}
    for _ in range(20):
        watched.look()
    assert len(watched.said("recovery")) == 2 and watched.chat.refused == 0


@pytest.mark.parametrize(
    ("killed", "left", "did"),
    [
        ("stop", {ENGINE: "running", f"{ENGINE}-new": "created"}, "cleared"),
        ("delete", {ENGINE: "exited", f"{ENGINE}-new": "created"}, "finished"),
        ("rename", {f"{ENGINE}-new": "created"}, "finished"),
        ("start", {ENGINE: "created"}, ""),
    ],
)
def test_a_recreation_that_was_cut_short_is_finished_or_cleared(
    watched: Watched, docker: FakeDocker, killed: str, left: dict[str, str], did: str
) -> None:
    watched.look()
    docker.killed = killed
    with pytest.raises(Killed):
        watched.until("wedged")
    assert docker.names() == left
    docker.killed = ""
    watched.begin()
    watched.look()
    assert [e["successor"] for e in watched.said("interrupted")] == ([did] if did else [])
    watched.until("busy")
    assert docker.names() == {ENGINE: "running"}


def test_one_that_somebody_stopped_while_a_successor_was_left_stays_stopped(
    watched: Watched, docker: FakeDocker
) -> None:
    docker.killed = "stop"
    with pytest.raises(Killed):
        watched.until("wedged")
    docker.killed = ""
    docker.now += 3600
    docker.stop(ENGINE)
    watched.begin()
    assert {watched.look(60) for _ in range(10)} == {"stopped"} and docker.names() == {ENGINE: "exited"}


def test_one_that_somebody_started_while_a_successor_was_left_runs_on(watched: Watched, docker: FakeDocker) -> None:
    docker.killed = "stop"
    with pytest.raises(Killed):
        watched.until("wedged")
    docker.killed = ""
    docker.stop(ENGINE)
    docker.start(ENGINE)
    engine = docker.find(ENGINE)["Id"]
    watched.begin()
    assert watched.look() == "busy" and docker.names() == {ENGINE: "running"} and docker.find(ENGINE)["Id"] == engine


def test_what_a_run_changes_is_not_tidied_up(watched: Watched, docker: FakeDocker) -> None:
    docker.killed = "rename"
    with pytest.raises(Killed):
        watched.until("wedged")
    docker.killed = ""
    held = {**lease.FREE, "holder": "me", "run": "r", "services": ["chat"], "expires": time.time() + 600}
    (watched.root / lease.FILE).write_text(json.dumps(held))
    watched.begin()
    assert watched.look() == "stopped" and docker.names() == {f"{ENGINE}-new": "created"}
    (watched.root / lease.FILE).unlink()
    watched.look()
    assert docker.names() == {ENGINE: "created"}


def test_a_successor_that_cannot_be_tidied_up_is_said_once_and_hides_no_engine(
    watched: Watched, docker: FakeDocker
) -> None:
    docker.make(f"{ENGINE}-new", {"Labels": docker.find(ENGINE)["Config"]["Labels"], "Image": "x"})
    docker.broken |= {"delete"}
    assert [watched.look() for _ in range(3)] == ["busy"] * 3
    assert [e["problem"] for e in watched.said("error")] == ["Docker refused delete: no such device"]


def test_what_has_another_name_is_no_engine(watched: Watched, docker: FakeDocker) -> None:
    """Compose makes a container under a name of its own before it removes the old one."""
    found = docker.find(ENGINE)
    made = {"Labels": found["Config"]["Labels"], "Image": "x"}
    other = docker.make(f"0123456789ab_{ENGINE}", made)
    assert watched.look() == "busy"
    del docker.containers[found["Id"]]
    assert watched.look() == "stopped" and watched.supervisor.staged(docker_api.get("/containers/json")) == {}
    docker.find(other)["Name"] = f"/{ENGINE}"
    watched.until("dead", 3)


def given_up(watched: Watched) -> None:
    """Let it hang until the budget is spent."""
    watched.until("gave-up")
    assert [e["action"] for e in watched.said("recovery")] == ["recreate"] * 3 + ["stop"]


def test_one_that_was_given_up_is_so_until_somebody_starts_it(watched: Watched, docker: FakeDocker) -> None:
    given_up(watched)
    firing = ['llm_supervisor_verdict{service="chat",verdict="gave-up"}']
    assert docker.names() == {ENGINE: "exited"} and watched.metric("llm_supervisor_verdict") == firing
    assert {watched.look(600) for _ in range(20)} == {"gave-up"}, "long after the hour of the budget"
    watched.begin()
    assert watched.look() == "gave-up" and watched.metric("llm_supervisor_verdict") == firing
    kept = docker.containers.copy()
    docker.containers.clear()
    assert watched.look() == "gave-up", "a container that was removed serves nobody either"
    docker.containers = kept
    assert watched.look() == "gave-up" and len(watched.said("recovery")) == 4
    docker.start(ENGINE)
    assert watched.look() == "busy"
    docker.stop(ENGINE)
    assert watched.look() == "stopped", "by somebody else"
    docker.containers.clear()
    assert watched.look() == "stopped"


def test_one_that_keeps_ending_is_given_up(watched: Watched, docker: FakeDocker) -> None:
    watched.look()
    for count in (1, 2, 3):
        docker.start(ENGINE)
        docker.find(ENGINE)["RestartCount"] = count
        watched.look()
    docker.find(ENGINE)["State"].update(Status="exited", ExitCode=3, FinishedAt=docker.stamp())
    assert watched.look() == "crash-loop"
    assert watched.look() == "gave-up"
    watched.begin()
    assert watched.look() == "gave-up" and [e["action"] for e in watched.said("recovery")] == ["stop"]


def test_a_stop_that_fails_is_tried_again_after_a_pause(watched: Watched, docker: FakeDocker) -> None:
    for _ in range(3):
        watched.until("wedged")
        watched.until("busy")
    docker.broken |= {"stop"}
    watched.until("wedged")
    docker.broken = {"exec"}
    assert [(e["action"], bool(e["problem"])) for e in watched.said("recovery")][3:] == [("stop", True)]
    assert watched.look() == "wedged" and docker.names() == {ENGINE: "running"}, "not at every look"
    watched.until("gave-up")
    assert [bool(e["problem"]) for e in watched.said("recovery") if e["action"] == "stop"] == [True, False]
    assert watched.said("waits")[-1]["why"].startswith("a stop failed")


def test_a_recovery_that_failed_hides_no_restart_by_somebody_else(watched: Watched, docker: FakeDocker) -> None:
    docker.broken |= {"create"}
    watched.until("wedged")
    assert watched.said("recovery")[0]["problem"] and docker.names() == {ENGINE: "running"}
    docker.start(ENGINE)
    watched.look()
    assert [e["by"] for e in watched.said("restarted")] == [core.OTHERS[1]]


def test_the_start_of_one_that_was_given_up_is_somebody_elses(watched: Watched, docker: FakeDocker) -> None:
    given_up(watched)
    watched.look()
    docker.start(ENGINE)
    watched.look()
    assert [e["by"] for e in watched.said("restarted")] == [core.OTHERS[1]]


def test_what_an_older_program_remembers_is_read(watched: Watched) -> None:
    watched.look()
    state = watched.root / "supervisor/state.json"
    kept = {"chat": {"past": [1.0], "recoveries": {"restart": 2}, "alive": watched.chat.alive}}
    assert watched.chat.alive
    state.write_text(json.dumps(kept))
    watched.begin()
    chat = watched.chat
    assert (chat.past, chat.recoveries, chat.alive, chat.let_be) == ([1.0], {"restart": 2}, kept["chat"]["alive"], "")
    assert watched.look() == "busy" and not watched.said("state")
