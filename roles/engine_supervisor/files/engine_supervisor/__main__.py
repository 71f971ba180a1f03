"""Usage: python3 -m engine_supervisor ROOT (the project's folder on the host, with supervisor/config.json)."""

from __future__ import annotations

import json
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping, Set
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ansible.module_utils.llm.base import files, lease
from ansible.module_utils.llm.docker import api as docker_api
from ansible.module_utils.llm.engine import diagnostics
from ansible.module_utils.llm.engine.metrics import parse_metrics

from engine_supervisor import core, host

EVENTS_LARGEST, EVENTS_KEPT = 5 * 2**20, 3
ENDED_WITHIN = 120.0
"""Seconds before now in which the end of a container that was started anew is looked for."""
METRICS = {
    "last_look_timestamp_seconds": "When it last looked at all engines.",
    "verdict": "1 for what it thinks of a service now, 0 for everything else.",
    "recoveries_total": "What it has done about a service.",
    "restarts_total": "Restarts of an engine by others, since it began.",
    "unknown_seconds": "How long it has not known whether an engine lives.",
    "other_authority": "1 for everybody else who restarts engines of this host.",
}
UNITS = Path("/host/systemd/system")
RUNS = ("alive", "gave_up", "let_be")
"""Attributes of a service that outlive this program."""


class Watched:
    """One service: what is remembered of it, and its looks."""

    def __init__(self, supervisor: Supervisor, name: str, wanted: dict[str, Any]) -> None:
        self.supervisor, self.name = supervisor, name
        self.model = str(wanted["model"])
        self.rules = core.Rules(**wanted["rules"])
        self.memory = core.Memory()
        self.verdict, self.waiting = "", ""
        self.recoveries: dict[str, int] = {}
        self.restarts: dict[str, int] = {}
        self.past: list[float] = []
        self.metrics = ""
        # Runs of the container: the one that was seen to run, the one that ended for good, the one that was stopped for good here.
        self.alive, self.gave_up, self.let_be = "", "", ""
        self.stop_failed: float | None = None
        self.policy, self.unsettled = "", ""
        self.probed, self.probing, self.refused = 0.0, False, 0

    def look(self, container: str) -> None:
        """Look once, and act on what is seen."""
        inspected = docker_api.inspect(container)
        state = inspected["State"]
        run = run_of(inspected)
        address = docker_api.container_ip(inspected)
        scraped = ""
        engines: dict[str, core.Work] = {}
        asleep, wakeups = False, None
        if state["Status"] == "running" and address:
            probing = self.probing
            scraped, text = host.scrape(address)
            if scraped == "answered":
                self.metrics = text
                engines, asleep = core.works(parse_metrics(text))
                if probing:
                    engines = core.with_probe(engines)
        if state["Status"] == "paused" or scraped == "timeout":
            wakeups = host.wakeups(state["Pid"])
        remembered = self.alive, self.gave_up, self.let_be
        if self.let_be != run:  # somebody has started it anew
            self.let_be = ""
        if state["Status"] in ("running", "paused", "restarting"):
            self.alive = run
        # What ends while this program is told to end does so with Docker or the host, and is wanted again afterwards.
        elif self.alive == run and not self.supervisor.ended.is_set():
            # Only of an end that this program has seen does Docker still know who brought it about. Over a restart of Docker
            # nobody was told to stop it: it ran at the last look, and ended with everything else.
            self.gave_up = run if host.gave_up(inspected) else ""
            self.alive = ""
        if remembered != (self.alive, self.gave_up, self.let_be):
            self.supervisor.remember()
        self.policy = host.policy(inspected)
        health = (state.get("Health") or {}).get("Status")
        seen = core.Observation(
            at=time.monotonic(),
            status=state["Status"],
            run=run,
            restarts=inspected["RestartCount"],
            scrape=scraped,
            engines=engines,
            asleep=asleep,
            wakeups=wakeups,
            was_ready=health in ("healthy", "unhealthy"),
            gave_up=self.gave_up == run,
            left=self.let_be == run,
            refused=self.refused,
            connected=host.connected(state["Pid"]) if scraped == "answered" else 0,
        )
        verdict, why, by = core.judge(self.memory, seen, self.rules)
        if by:
            self._restarted(inspected, by)
        if verdict != self.verdict:
            # Between work and rest an engine goes all day long.
            if {verdict, self.verdict} != {"busy", "idle"}:
                self.supervisor.event(self.name, "verdict", verdict=verdict, was=self.verdict, why=why)
            self.verdict = verdict
        if verdict == "idle" and not self.probing and core.probe_due(self.memory, seen, self.rules, self.probed):
            self._probe(address, seen.at)
        self._act(verdict, why, inspected)

    def absent(self) -> None:
        """Take note that there is no container to look at."""
        self.verdict = core.GAVE_UP if self.let_be else "stopped"

    def settle(self, staged: str) -> None:
        """Finish or clear a recreation that was cut short, unless a run changes the service. staged: id of the successor."""
        problem = ""
        with lease.no_run_begins(self.supervisor.root / lease.FILE, self.name) as who:
            if who:
                return
            try:
                inspected = docker_api.inspect(staged)
                # A recovery may have ended well since it was listed.
                if inspected["State"]["Status"] == "created" and inspected["Name"].endswith(host.STAGED):
                    self.supervisor.event(self.name, "interrupted", successor=host.settle(inspected))
            except docker_api.NotFound:
                pass
            except docker_api.DockerError as error:  # the engine is looked at all the same
                problem = str(error)
        if problem and problem != self.unsettled:
            self.supervisor.event(self.name, "error", problem=problem)
        self.unsettled = problem

    def _restarted(self, inspected: dict[str, Any], by: str) -> None:
        """Say what started the engine anew, and how it ended before."""
        self.restarts[by] = self.restarts.get(by, 0) + 1
        now = time.time_ns()
        code, oom = docker_api.exits(inspected["Id"], now - int(ENDED_WITHIN * 1e9), now)
        more = {"exit_code": code, "out_of_memory": oom, "restarts": inspected["RestartCount"]}
        self.supervisor.event(self.name, "restarted", by=by, **more)
        self.refused = 0

    def _probe(self, address: str, at: float) -> None:
        """Ask an engine that nobody asks. If it hangs, the request is work in flight, which the next looks judge."""
        self.probed, self.probing = at, True
        key = files.read(self.supervisor.root / "keys" / self.name).strip()

        def ask() -> None:
            status = host.generate(address, self.model, key, 2 * self.rules.progress_timeout)
            # A refusal (a model that completes no text, a key that was changed by hand) is the answer of an engine that lives.
            broken = status == 0 or status >= 500
            if broken or self.refused:
                self.supervisor.event(self.name, "probe", status=status)
            self.refused = self.refused + 1 if broken else 0
            self.probing = False

        threading.Thread(target=ask, daemon=True).start()

    def _act(self, verdict: str, why: str, inspected: dict[str, Any]) -> None:
        """Do what there is to do, or say once why nothing is done."""
        lease_file = self.supervisor.root / lease.FILE
        held = "" if self.rules.recover else "liveness.recover is false"
        if verdict in core.ACTIONS and not held and (who := lease.holder(lease_file, self.name)):
            held = f"{who} changes it"
        action = core.decide(verdict, self.past, time.time(), self.supervisor.most, held, self.stop_failed)
        if action.kind in ("none", "wait"):
            if action.why and self.waiting != f"{verdict} {action.kind}":
                self.supervisor.event(self.name, "waits", verdict=verdict, why=action.why)
            self.waiting = f"{verdict} {action.kind}" if action.why else ""
            return
        place, _ = diagnostics.collect(
            self.supervisor.root / "services" / self.name,
            {
                "service": self.name,
                "release": inspected["Config"]["Labels"]["llm.release"],
                "container": inspected["Name"].lstrip("/"),
                "step": f"supervised: {verdict}",
                "cause": why,
                "verdict": {},
            },
            {"metrics.txt": lambda _: self.metrics, "gpu.txt": host.gpu_state},
        )
        began, problem = time.monotonic(), ""
        with lease.no_run_begins(lease_file, self.name) as who:
            # The diagnostics took time: a run may have begun, or somebody was quicker.
            again = docker_api.inspect(inspected["Id"])
            if who or run_of(again) != run_of(inspected):
                return
            if action.kind != "stop":
                self.past = [*self.past[-20:], time.time()]
            self.recoveries[action.kind] = self.recoveries.get(action.kind, 0) + 1
            self.supervisor.remember()
            try:
                host.RECOVERIES[action.kind](again)
            except docker_api.DockerError as error:
                problem = str(error)
            self._done(action.kind, run_of(again), problem)
        said = {"action": action.kind, "verdict": verdict, "why": "; ".join(w for w in (why, action.why) if w)}
        took = round(time.monotonic() - began, 1)
        self.supervisor.event(self.name, "recovery", **said, diagnostics=place, seconds=took, problem=problem)

    def _done(self, kind: str, run: str, problem: str) -> None:
        """Remember how a recovery of this run of the container went."""
        if kind == "stop":
            self.stop_failed = time.time() if problem else None
        if problem:
            # If it has ended, it did so by this recovery, and by nobody who wants it stopped.
            self.alive, self.gave_up = "", run
        else:
            self.refused = 0
            if kind == "stop":
                self.let_be = run
            else:
                self.memory.ours = True
        self.supervisor.remember()


def run_of(inspected: Mapping[str, Any]) -> str:
    """Another text whenever the container starts anew."""
    return f"{inspected['Id'][:12]} {inspected['State']['StartedAt']}"


def own_name(entry: Mapping[str, Any]) -> str:
    """Name of the container of a service's release, as Docker lists it. entry: any of the release's containers."""
    return f"/llm-{entry['Labels']['llm.service']}-{entry['Labels']['llm.release'][:8]}"


class Supervisor:
    """All services of the host, and what is written about them."""

    def __init__(self, root: Path) -> None:
        self.root, self.folder = root, root / "supervisor"
        config = json.loads((self.folder / "config.json").read_text(encoding="utf-8"))
        self.every, self.most = float(config["interval"]), int(config["recoveries"])
        self.services = {name: Watched(self, name, wanted) for name, wanted in config["services"].items()}
        self.rivals: dict[str, str] = {}
        self.lock = threading.Lock()
        self.ended = threading.Event()
        try:
            kept = json.loads(files.read(self.folder / "state.json") or "{}")
            for name, service in self.services.items():
                service.past = [float(at) for at in kept[name]["past"]] if name in kept else []
                service.recoveries = {k: int(v) for k, v in kept[name]["recoveries"].items()} if name in kept else {}
                for run in RUNS:
                    setattr(service, run, str(kept[name].get(run, "")) if name in kept else "")
        except (ValueError, KeyError, TypeError, AttributeError):
            self.event("", "state", problem="state.json cannot be read; the budgets begin anew")

    def current(self, listed: list[dict[str, Any]]) -> dict[str, str]:
        """Service to the container of its current release; services and containers that are none are left out.

        One that was made and did not start counts by its own name alone: Compose and this program give another one to what is to
        take an engine's place.
        """
        return {
            n: e["Id"]
            for n, e in self._ours(listed)
            if e["State"] != "created" or own_name(e) in (e.get("Names") or [])
        }

    def staged(self, listed: list[dict[str, Any]]) -> dict[str, str]:
        """Service to the successor of its engine that a recovery has made, and has not put in its place."""
        made = [(name, entry) for name, entry in self._ours(listed) if entry["State"] == "created"]
        return {
            name: entry["Id"] for name, entry in made if own_name(entry) + host.STAGED in (entry.get("Names") or [])
        }

    def _ours(self, listed: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
        """Containers of the current releases, each with its service."""
        for entry in listed:
            labels = entry.get("Labels") or {}
            name = labels.get("llm.service", "")
            link = self.root / "services" / name / "current"
            if name in self.services and link.is_symlink() and link.readlink().name == labels.get("llm.release"):
                yield name, entry

    def watch(self) -> None:
        """Look at all services until told to end, or until Docker is gone.

        Docker makes a new socket whenever it starts, and a container keeps the old one: Docker starts this program anew then.
        """
        unanswered = 0
        jobs: dict[str, Future[None]] = {}
        with ThreadPoolExecutor(max_workers=max(1, len(self.services))) as pool:
            while not self.ended.is_set():
                begun = time.monotonic()
                try:
                    listed = docker_api.get("/containers/json?all=1", timeout=10)
                    unanswered = 0
                    self.others(host.rivals(listed, UNITS))
                    busy = {name for name, job in jobs.items() if not job.done()}
                    for service, container, staged in self.due(listed, busy):
                        jobs[service.name] = pool.submit(self.look, service, container, staged)
                except docker_api.DockerError as error:
                    unanswered += 1
                    if unanswered == core.LOOKS:
                        self.event("", "ends", problem=str(error))
                        return
                self.write_metrics()
                self.ended.wait(max(0.5, self.every - (time.monotonic() - begun)))

    def due(self, listed: list[dict[str, Any]], busy: Set[str]) -> list[tuple[Watched, str, str]]:
        """Services to look at, each with its container and a successor that is left of a recreation, "" for what is not there.

        Takes note of services without a container. busy: names of those that are being looked at.
        """
        current, staged = self.current(listed), self.staged(listed)
        found = []
        for name, service in self.services.items():
            if name in busy:
                continue
            if name not in current:
                service.absent()
            if name in current or name in staged:
                found.append((service, current.get(name, ""), staged.get(name, "")))
        return found

    def look(self, service: Watched, container: str, staged: str) -> None:
        """Tidy up after a recreation that was cut short, and look at the container. Never fails."""
        try:
            if staged:
                service.settle(staged)
            if container:
                service.look(container)
        except docker_api.NotFound:  # removed while it was looked at
            return
        except Exception as error:  # noqa: BLE001 - one service must not end the watch over the others
            traceback.print_exc()
            self.event(service.name, "error", problem=f"{type(error).__name__}: {error}")

    def others(self, found: dict[str, str]) -> None:
        """Say once of everybody else who restarts engines."""
        found = {**found, **{name: s.policy for name, s in self.services.items() if s.policy}}
        for name, why in found.items():
            if self.rivals.get(name) != why:
                self.event("", "other-authority", name=name, why=why)
        self.rivals = found

    def event(self, service: str, event: str, **more: Any) -> None:
        """Write one line to events.jsonl, and to the log."""
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        line = json.dumps({"at": stamp, "service": service, "event": event, **more})
        with self.lock:
            print(line, flush=True)
            try:
                path = self.folder / "events.jsonl"
                if path.exists() and path.stat().st_size > EVENTS_LARGEST:
                    for number in range(EVENTS_KEPT - 1, 0, -1):
                        older = path.with_name(f"{path.name}.{number}")
                        if older.exists():
                            older.replace(path.with_name(f"{path.name}.{number + 1}"))
                    path.replace(path.with_name(f"{path.name}.1"))
                with path.open("a", encoding="utf-8") as stream:
                    stream.write(f"{line}\n")
            except OSError as error:
                print(f"events.jsonl: {error}", flush=True)

    def remember(self) -> None:
        """Write down budgets, and which engines run or ended for good: it outlives a restart of this program, and of the host."""
        with self.lock:
            kept = {
                name: {"past": s.past, "recoveries": s.recoveries, **{run: getattr(s, run) for run in RUNS}}
                for name, s in self.services.items()
            }
            try:
                files.write(self.folder / "state.json", json.dumps(kept) + "\n")
            except OSError as error:
                print(f"state.json: {error}", flush=True)

    def write_metrics(self) -> None:
        """Write metrics.prom, in Prometheus' text format. It need not outlive a crash of the machine."""
        now = time.monotonic()
        found: dict[str, list[tuple[str, float]]] = {name: [] for name in METRICS}
        found["last_look_timestamp_seconds"].append(("", time.time()))
        for name, s in self.services.items():
            label, since = f'service="{name}"', s.memory.unknown_since
            found["verdict"] += [(f'{label},verdict="{v}"', v == s.verdict) for v in core.VERDICTS]
            found["recoveries_total"] += [(f'{label},action="{a}"', s.recoveries.get(a, 0)) for a in host.RECOVERIES]
            found["restarts_total"] += [(f'{label},by="{by}"', s.restarts.get(by, 0)) for by in core.OTHERS]
            found["unknown_seconds"].append((label, now - since if since is not None else 0))
        found["other_authority"] += [(f'name="{name}"', 1) for name in sorted(self.rivals)]
        lines = []
        for metric, samples in found.items():
            lines.append(f"# HELP llm_supervisor_{metric} {METRICS[metric]}")
            lines.append(f"# TYPE llm_supervisor_{metric} {'counter' if metric.endswith('_total') else 'gauge'}")
            lines += [f"llm_supervisor_{metric}{{{label}}} {value:.0f}".replace("{}", "") for label, value in samples]
        new = self.folder / ".metrics.prom"
        try:
            new.write_text("\n".join(lines) + "\n", encoding="utf-8")
            new.replace(self.folder / "metrics.prom")
        except OSError as error:
            print(f"metrics.prom: {error}", flush=True)


def main() -> int:
    """Watch until SIGTERM. Exit code 1 when it could not go on."""
    supervisor = Supervisor(Path(sys.argv[1]))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: supervisor.ended.set())
    supervisor.event("", "begun", services=sorted(supervisor.services))
    supervisor.watch()
    return 0 if supervisor.ended.is_set() else 1


if __name__ == "__main__":
    sys.exit(main())
