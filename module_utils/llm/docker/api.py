"""A small client of the Docker Engine API over its unix socket: standard library only.

Not the `docker` package: facts are read on a host that has no packages of ours yet, and the supervisor, a program
in a container, uses this client too. Importing it takes a module 0.11 s of processor time, this one 0.03 s (docker 7, median of 9).

Paths are written without a version, so that the daemon answers in its own: Docker 20.10 knows 1.41 at most, Docker 29
takes 1.44 at least, and the few calls made here are the same in both.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, TypedDict
from urllib.parse import quote, urlencode

DEFAULT_SOCKET = "/var/run/docker.sock"


class DockerError(Exception):
    """The daemon answered with an error: ``status`` is the HTTP status, the text is the daemon's own."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class DockerUnreachable(DockerError):
    """Nobody answers at the socket; the text says why and what to do."""


class NotFound(DockerError):
    """The daemon knows no such container, image or network."""


@dataclass(frozen=True)
class LogLine:
    """One line of a container's log: time in nanoseconds since the epoch, ``stdout`` or ``stderr``, text."""

    at: int
    stream: str
    text: str

    @property
    def seconds(self) -> float:
        """Time in seconds since the epoch."""
        return self.at / 1e9


class Port(TypedDict, total=False):
    """A port of a container, and that of the host where it is published."""

    PrivatePort: int
    PublicPort: int


class Mount(TypedDict, total=False):
    """Something that is mounted in a container. Source: on the host."""

    Type: str
    Source: str
    RW: bool


class Attached(TypedDict, total=False):
    """How a container is attached to a network; IPAddress is "" while it does not run."""

    IPAddress: str


class Attachments(TypedDict, total=False):
    """The networks of a container, by name."""

    Networks: dict[str, Attached] | None


class _Listed(TypedDict):
    Id: str
    ImageID: str
    State: str


class ListedContainer(_Listed, total=False):
    """What is read here of an entry of /containers/json, in Docker's own words. Names begin with a slash."""

    Names: list[str] | None
    Image: str
    Status: str
    Labels: dict[str, str] | None
    Ports: list[Port] | None
    Mounts: list[Mount] | None
    NetworkSettings: Attachments | None


class _Identified(TypedDict):
    Id: str


class ListedImage(_Identified, total=False):
    """What is read here of an entry of /images/json, in Docker's own words. Size: bytes."""

    RepoTags: list[str] | None
    RepoDigests: list[str] | None
    Size: int


class ListedNetwork(TypedDict):
    """What is read here of an entry of /networks, in Docker's own words. Internal: it has no way out."""

    Name: str
    Internal: bool


def socket_path() -> str:
    """Return the daemon's socket: DOCKER_HOST when it names a unix socket, else the usual path."""
    host = os.environ.get("DOCKER_HOST", "")
    return host[len("unix://") :] if host.startswith("unix://") else DEFAULT_SOCKET


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("docker", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.settimeout(self.timeout)
        try:
            sock.connect(self._path)
        except BaseException:
            sock.close()
            raise
        self.sock = sock


def _unreachable(path: str, error: OSError) -> DockerUnreachable:
    if isinstance(error, FileNotFoundError):
        why, remedy = "there is no such socket", "Install and start the Docker engine (role docker_engine)."
    elif isinstance(error, PermissionError):
        why, remedy = "permission denied", "Run as root (`become: true`) or as a member of the group docker."
    elif isinstance(error, ConnectionRefusedError):
        why, remedy = "nobody listens there", "Start the Docker engine: `systemctl start docker`."
    elif isinstance(error, TimeoutError):
        why, remedy = "no answer in time", "Look at the daemon's log: `journalctl -u docker`."
    else:
        why, remedy = str(error) or type(error).__name__, "Look at the daemon's log: `journalctl -u docker`."
    return DockerUnreachable(f"The Docker daemon does not answer at {path}: {why}. {remedy}")


def request(method: str, path: str, body: object | None = None, *, timeout: float = 60.0) -> bytes:
    """Send one request and return the whole answer.

    ``timeout`` (seconds) counts for every read, not for the whole answer. Raises DockerUnreachable, NotFound (404) or
    DockerError (any other status from 400 on), each with the daemon's message.
    """
    where = socket_path()
    connection = _UnixConnection(where, timeout)
    headers = {"Host": "docker"}
    data = None
    if body is not None:
        data = json.dumps(body).encode()
        headers["Content-Type"] = "application/json"
    try:
        connection.request(method, path, body=data, headers=headers)
        answer = connection.getresponse()
        content = answer.read()
    except (OSError, http.client.HTTPException) as error:
        cause = error if isinstance(error, OSError) else OSError(f"broken answer ({type(error).__name__})")
        raise _unreachable(where, cause) from error
    finally:
        connection.close()
    if answer.status >= 400:
        try:
            message = str(json.loads(content)["message"])
        except (ValueError, KeyError, TypeError):
            message = content.decode("utf-8", "replace").strip() or answer.reason
        kind = NotFound if answer.status == 404 else DockerError
        raise kind(f"Docker refused {method} {path.partition('?')[0]}: {message}", answer.status)
    return content


def _parse(content: bytes) -> Any:
    if not content.strip():
        return None
    try:
        return json.loads(content)
    except ValueError:
        # Pulls and loads answer with one JSON document a line.
        return [json.loads(line) for line in content.splitlines() if line.strip()]


def get(path: str, *, timeout: float = 60.0, **query: Any) -> Any:
    """GET a path and return the parsed JSON; ``query`` values that are no strings are sent as JSON."""
    return _parse(request("GET", _with_query(path, query), timeout=timeout))


def post(path: str, body: object | None = None, *, timeout: float = 60.0, **query: Any) -> Any:
    """POST a JSON body and return the parsed JSON, or None for an empty answer."""
    return _parse(request("POST", _with_query(path, query), body, timeout=timeout))


def delete(path: str, *, timeout: float = 60.0, **query: Any) -> Any:
    """DELETE a path and return the parsed JSON, or None for an empty answer."""
    return _parse(request("DELETE", _with_query(path, query), timeout=timeout))


def _with_query(path: str, query: Mapping[str, Any]) -> str:
    if not query:
        return path
    return (
        path
        + "?"
        + urlencode({key: item if isinstance(item, str) else json.dumps(item) for key, item in query.items()})
    )


def inspect(container: str) -> dict[str, Any]:
    """Return everything that the daemon knows about a container (name or id)."""
    found: dict[str, Any] = get(f"/containers/{quote(container, safe='')}/json")
    return found


def containers(labels: Mapping[str, str | None] | None = None, *, running_only: bool = False) -> list[dict[str, Any]]:
    """List containers that carry all given labels; a value of None asks for the label alone."""
    filters = {"label": [key if value is None else f"{key}={value}" for key, value in (labels or {}).items()]}
    found: list[dict[str, Any]] = get("/containers/json", all=not running_only, filters=filters)
    return found


def ensure_network(name: str, *, internal: bool) -> None:
    """Make a bridge network unless it is there; an internal one has no way out."""
    try:
        get(f"/networks/{quote(name, safe='')}")
    except NotFound:
        post("/networks/create", {"Name": name, "Internal": internal, "CheckDuplicate": True})


def container_ip(inspected: Mapping[str, Any], network: str | None = None) -> str:
    """Return the address of an inspected container in a network, or in its only one.

    127.0.0.1 for a container in the host's network. "" when it has no address there (stopped, or not attached).
    """
    if str((inspected.get("HostConfig") or {}).get("NetworkMode")) == "host":
        return "127.0.0.1"
    networks = (inspected.get("NetworkSettings") or {}).get("Networks") or {}
    if network is not None:
        return str((networks.get(network) or {}).get("IPAddress") or "")
    addresses = [str(item.get("IPAddress") or "") for item in networks.values()]
    return addresses[0] if len(addresses) == 1 else ""


def logs(
    container: str, since: int = 0, *, until: int | None = None, tail: int | None = None, timeout: float = 30.0
) -> list[LogLine]:
    """Return the log lines written from ``since`` on (nanoseconds since the epoch) and up to ``until``, oldest first.

    ``tail`` limits them to the last so many. A carriage return ends a line too: progress bars use it.
    """
    query = {"stdout": "1", "stderr": "1", "timestamps": "1", "since": _stamp(since)}
    if until is not None:
        query["until"] = _stamp(until)
    if tail is not None:
        query["tail"] = str(tail)
    path = f"/containers/{quote(container, safe='')}/logs?{urlencode(query)}"
    return parse_logs(request("GET", path, timeout=timeout))


def execute(container: str, argv: Sequence[str], *, timeout: float = 30.0) -> tuple[int, str]:
    """Run a command inside a running container; return its exit code and what it wrote, both streams together.

    ``timeout`` (seconds) counts for every read: a command that may hang needs its own limit, such as coreutils' timeout. A program
    that the container lacks ends with 126 or 127, and the text says so.
    """
    body = {"AttachStdout": True, "AttachStderr": True, "Cmd": list(argv)}
    made = post(f"/containers/{quote(container, safe='')}/exec", body, timeout=timeout)["Id"]
    content = request("POST", f"/exec/{made}/start", {"Detach": False, "Tty": False}, timeout=timeout)
    text = b"".join(part for _, part in _frames(content)).decode("utf-8", "replace")
    return int(get(f"/exec/{made}/json", timeout=timeout)["ExitCode"] or 0), text


def _stamp(at: int) -> str:
    return f"{at // 10**9}.{at % 10**9:09d}"


def parse_logs(content: bytes) -> list[LogLine]:
    """Take the daemon's log answer apart: frames of 8 bytes header and text, or plain text for a container with a tty."""
    return [line for stream, part in _frames(content) for line in _lines(stream, part)]


def _frames(content: bytes) -> list[tuple[str, bytes]]:
    if content[:1] not in (b"\0", b"\1", b"\2"):
        return [("stdout", content)]
    frames = []
    offset = 0
    while offset + 8 <= len(content):
        stream = "stderr" if content[offset] == 2 else "stdout"
        size = int.from_bytes(content[offset + 4 : offset + 8], "big")
        frames.append((stream, content[offset + 8 : offset + 8 + size]))
        offset += 8 + size
    return frames


def _lines(stream: str, content: bytes) -> list[LogLine]:
    lines = []
    for raw in content.decode("utf-8", "replace").split("\n"):
        stamp, _space, text = raw.partition(" ")
        at = parse_time(stamp)
        if at:
            lines += [LogLine(at, stream, part) for part in text.split("\r") if part] or [LogLine(at, stream, "")]
    return lines


def parse_time(stamp: str) -> int:
    """Read Docker's UTC time (``2026-11-23T06:38:10.52390519Z``) as nanoseconds since the epoch; 0 when it is none.

    ``datetime`` alone would lose the nanoseconds, and reading a log further from its last line needs them.
    """
    whole, _dot, fraction = stamp.rstrip("Z").partition(".")
    try:
        seconds = int(datetime.strptime(whole, "%Y-%m-%dT%H:%M:%S").replace(tzinfo=timezone.utc).timestamp())
        return max(0, seconds * 10**9 + int((fraction or "0")[:9].ljust(9, "0")))
    except ValueError:
        return 0


def exits(container: str, since: int, until: int) -> tuple[int | None, bool]:
    """Return the last exit code of a container between two times (nanoseconds), and whether memory ran out in it.

    A restart policy starts a container again within a moment, and its state then says nothing of the run before; the
    daemon's events do. The exit code is None when it did not exit, or too long ago.
    """
    filters = {"type": ["container"], "container": [container], "event": ["die", "oom"]}
    found = get("/events", since=_stamp(since), until=_stamp(until), filters=filters)
    events: list[dict[str, Any]] = found if isinstance(found, list) else [found] if found else []
    code, oom = None, False
    for event in events:
        if event.get("Action") == "oom":
            oom = True
        else:
            code = int(((event.get("Actor") or {}).get("Attributes") or {}).get("exitCode") or 0)
    return code, oom


class LogReader:
    """Reads a container's log piece by piece: every call of ``read`` gives the lines that are new.

    The daemon stamps stdout and stderr independently, so a line can appear a little after one with a later time:
    each read looks back ``overlap`` nanoseconds and leaves out what it has given already.
    """

    def __init__(self, container: str, since: int = 0, *, until: int | None = None, overlap: int = 10**9) -> None:
        self._container = container
        self._since = self._floor = since
        self._until = until
        self._overlap = overlap
        self._given: set[LogLine] = set()

    def read(self) -> list[LogLine]:
        """Return the new lines, oldest first."""
        found = logs(self._container, self._since, until=self._until)
        new = [line for line in found if line not in self._given]
        self._given = set(found)
        if found:
            latest = max(line.at for line in found)
            self._since = max(self._floor, latest - self._overlap)
        return sorted(new, key=lambda line: line.at)
