"""What is read from the host and done on it: Docker, metrics, processes, files."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ansible.module_utils.llm.base import files, http
from ansible.module_utils.llm.docker import api as docker_api

PORT = 8000
SCRAPE_TIMEOUT = 5.0
STOP_GRACE = 5
"""Seconds: an engine that hangs finishes nothing, and clients wait."""
STOPPED_WITHIN = 120
"""Seconds after its successor was made within which a recreation stops a container: Docker answers, or is given up, by then."""
STAGED = "-new"
"""Ends the name of a successor until it stands in the other one's place."""
GPU_TIMEOUT = 10
RIVALS = ("watchtower", "autoheal", "ouroboros")
"""Words in names of containers that restart others, and in labels that ask them to."""
_ESTABLISHED = "01"
_STARTS_OURS = re.compile(r"^Exec\w+\s*=.*\bllm-[\w-]+", re.MULTILINE)


def scrape(address: str) -> tuple[str, str]:
    """(answered, refused, timeout or failed; text) of an engine's metrics."""
    try:
        answer = http.get(address, PORT, "/metrics", SCRAPE_TIMEOUT)
        return ("answered" if answer.status == 200 else "failed"), answer.text
    except ConnectionRefusedError:
        return "refused", ""
    except TimeoutError:
        return "timeout", ""
    except OSError:
        return "failed", ""


def generate(address: str, model: str, key: str, timeout: float) -> int:
    """HTTP status of a short generation, 0 without one. More than 16 tokens: a few can come from one step."""
    body = {"model": model, "prompt": "One, two, three,", "max_tokens": 24, "temperature": 0, "ignore_eos": True}
    try:
        return http.post(address, PORT, "/v1/completions", body, timeout, {"Authorization": f"Bearer {key}"}).status
    except OSError:
        return 0


def gpu_state(inspected: Mapping[str, Any]) -> str:
    """What nvidia-smi says inside the engine's container, of its own GPUs; OSError with the reason when it says nothing."""
    # It hangs when a GPU has fallen off its bus.
    argv = ["timeout", "-k", "1", str(GPU_TIMEOUT), "nvidia-smi", "-q"]
    try:
        code, text = docker_api.execute(inspected["Id"], argv, timeout=GPU_TIMEOUT + 5)
    except docker_api.DockerError as error:
        raise OSError(str(error)) from error
    if code:
        raise OSError(f"nvidia-smi in the container ended with {code}: {text.strip()[:300]}")
    return text


def connected(first: int, proc: Path = Path("/proc")) -> int:
    """Connections to the engine's port that are open, in the network of a container; first: its first process."""
    rows = [line.split() for line in files.read(proc / str(first) / "net" / "tcp").splitlines()[1:]]
    return sum(row[1].endswith(f":{PORT:04X}") and row[3] == _ESTABLISHED for row in rows)


def wakeups(first: int, proc: Path = Path("/proc")) -> int | None:
    """Grows whenever the API server's main thread gets the processor; None when that cannot be read.

    first: process number of the container's first process, which is an init with the server below it, or the server.
    """
    try:
        below = [p for p in proc.iterdir() if p.name.isdigit() and _parent(p) == first]
        return sum(_ran(process) for process in below or [proc / str(first)])
    except (OSError, ValueError, IndexError):
        return None


def _stat(process: Path) -> list[str]:
    # The name of a process may hold blanks and parentheses.
    return (process / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()


def _parent(process: Path) -> int:
    try:
        return int(_stat(process)[1])
    except (OSError, IndexError):  # it ended meanwhile
        return -1


def _ran(process: Path) -> int:
    thread = process / "task" / process.name
    status = (thread / "status").read_text(encoding="utf-8", errors="replace")
    switches = sum(int(line.split()[1]) for line in status.splitlines() if "voluntary_ctxt_switches" in line)
    ticks = _stat(thread)[11:13]
    return switches + sum(int(t) for t in ticks)


def gave_up(inspected: Mapping[str, Any]) -> bool:
    """Whether a container ended by itself and its restart policy will not start it again; False when somebody stopped it.

    To be asked soon after the end: Docker forgets who stopped what.
    """
    state, policy = inspected["State"], inspected["HostConfig"]["RestartPolicy"]
    if state["Status"] not in ("exited", "dead") or policy["Name"] != "on-failure":
        return False
    # vLLM ends with 0 when its core has died, and Docker takes that for a success.
    if state["ExitCode"] and inspected["RestartCount"] < policy["MaximumRetryCount"]:
        return False
    began, ended = docker_api.parse_time(state["StartedAt"]), docker_api.parse_time(state["FinishedAt"])
    filters = {"container": [inspected["Id"]], "event": ["kill", "stop"]}
    # What stopped it before it began, such as a restart, has nothing to do with this end.
    seconds, nanoseconds = divmod(max(began, ended - 120 * 10**9), 10**9)
    # Not to the second: rounded down, it leaves out what stopped the container just now.
    until = f"{min(ended / 1e9 + 5, time.time()):.9f}"
    return not docker_api.get("/events", filters=filters, since=f"{seconds}.{nanoseconds:09d}", until=until)


def rivals(listed: Iterable[Mapping[str, Any]], units: Path) -> dict[str, str]:
    """Others that restart containers: name to why. listed: Docker's containers; units: folder of systemd's units."""
    found = {}
    for entry in listed:
        name = entry["Names"][0].lstrip("/") if entry.get("Names") else entry["Id"][:12]
        word = next((w for w in RIVALS if w in f"{name} {entry.get('Image', '')}".lower()), "")
        labels = entry.get("Labels") or {}
        if word and entry.get("State") == "running":
            found[name] = f"is a {word}, which restarts containers too"
        elif "llm.service" in labels and any(w in label.lower() for label in labels for w in RIVALS):
            found[name] = "has a label that asks another program to restart it"
    for unit in sorted(units.glob("*.service")):
        if _STARTS_OURS.search(files.read(unit)):
            found[unit.name] = "is a systemd unit that starts containers of this project"
    return found


def policy(inspected: Mapping[str, Any]) -> str:
    """Why Docker's own restart policy of an engine is another authority, "" when it is the one of this project."""
    name = inspected["HostConfig"]["RestartPolicy"]["Name"]
    return f"has Docker's restart policy {name}, which never gives up" if name in ("always", "unless-stopped") else ""


def restart(inspected: Mapping[str, Any]) -> None:
    """Restart a container; one that is frozen is killed after the grace, one that has not run is started."""
    docker_api.post(f"/containers/{inspected['Id']}/restart?t={STOP_GRACE}", timeout=STOPPED_WITHIN)


def stop(inspected: Mapping[str, Any]) -> None:
    """Stop a container, which Docker's restart policy then lets be."""
    docker_api.post(f"/containers/{inspected['Id']}/stop?t={STOP_GRACE}", timeout=STOPPED_WITHIN)


def recreate(inspected: Mapping[str, Any]) -> None:
    """A new container of the same settings in the place of one. It is made first: what cannot be made costs nothing."""
    name, old = inspected["Name"].lstrip("/"), inspected["Id"]
    staged = f"{name}{STAGED}"
    with contextlib.suppress(docker_api.NotFound):  # left when this program was killed here
        docker_api.delete(f"/containers/{staged}?force=1")
    body = successor(inspected, _named(inspected["Config"]["Image"]))
    docker_api.post(f"/containers/create?name={staged}", body)
    stop(inspected)
    docker_api.delete(f"/containers/{old}?force=1")
    docker_api.post(f"/containers/{staged}/rename?name={name}")
    docker_api.post(f"/containers/{name}/start")


def settle(staged: Mapping[str, Any]) -> str:
    """Finish or clear a recreation that was cut short, of which a successor is left; starts nothing. Returns which of the two.

    Where the old container is gone, or was stopped for this successor, the successor takes its place. Where it runs, or was
    stopped later by somebody else, the successor is removed.
    """
    name = staged["Name"].lstrip("/").removesuffix(STAGED)
    with contextlib.suppress(docker_api.NotFound):
        state = docker_api.inspect(name)["State"]
        after = docker_api.parse_time(state["FinishedAt"]) - docker_api.parse_time(staged["Created"])
        if state["Status"] not in ("exited", "dead") or not 0 <= after <= STOPPED_WITHIN * 10**9:
            docker_api.delete(f"/containers/{staged['Id']}?force=1")
            return "cleared"
        docker_api.delete(f"/containers/{name}?force=1")
    docker_api.post(f"/containers/{staged['Id']}/rename?name={name}")
    return "finished"


def successor(inspected: Mapping[str, Any], named: str) -> dict[str, Any]:
    """Body of the call that makes the same container again. named: id of the image that its image's name means by now."""
    own = inspected["Id"][:12]  # Docker's default for what was not given
    config = {k: v for k, v in inspected["Config"].items() if k != "Hostname" or v != own}
    if named != inspected["Image"]:
        config["Image"] = inspected["Image"]
    networks = {
        network: {"Aliases": [a for a in given.get("Aliases") or [] if a != own]}
        for network, given in inspected["NetworkSettings"]["Networks"].items()
    }
    return {**config, "HostConfig": inspected["HostConfig"], "NetworkingConfig": {"EndpointsConfig": networks}}


def _named(image: str) -> str:
    try:
        return str(docker_api.get(f"/images/{image}/json")["Id"])
    except docker_api.NotFound:
        return ""


RECOVERIES = {"restart": restart, "recreate": recreate, "stop": stop}
