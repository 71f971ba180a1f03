"""What the supervisor concludes from sequences of looks, and what it does about it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.llm import docker_api
from ansible.module_utils.llm.engine import parse_metrics
from engine_supervisor import core, host

RULES = core.Rules(progress_timeout=90, freeze_timeout=30, boot_timeout=1800, probe_every=900, recover=True)
Looks = list[core.Look]


def seen(at: float, step: float = 1, in_flight: float = 1, **more: object) -> core.Look:
    """A look at a running engine that has come as far as `step`."""
    engines = {"0": core.Work(in_flight, (step,))}
    values = {"status": "running", "run": "a", "scrape": "answered", "engines": engines, **more}
    return core.Look(at=at, **values)  # type: ignore[arg-type]


def verdicts(looks: Looks, rules: core.Rules = RULES) -> list[str]:
    memory = core.Memory()
    return [core.judge(memory, look, rules)[0] for look in looks]


def recorded(name: str) -> dict[str, core.Work]:
    """Engine cores as a real engine told of them."""
    text = (Path(__file__).parent / "data/engine" / name).read_text(encoding="utf-8")
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
def test_what_may_live_is_let_be(looks: Looks) -> None:
    assert not set(verdicts(looks)) & set(core.ACTIONS)


def mixed(answered: Callable[[int], bool], scrape: str = "failed", step: Callable[[int], float] = lambda _: 1) -> Looks:
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
def test_what_looks_without_an_answer_leave_of_progress(looks: Looks, last: str) -> None:
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
