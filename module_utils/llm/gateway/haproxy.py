"""What the running HAProxy is told and asked through its socket, below the gateway's folder. Standard library.

A few commands over a unix socket need neither a client such as haproxyadmin, which hosts would have to install, nor HAProxy's
Data Plane API, a second daemon with rights over the configuration.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path

SOCKET = "run/haproxy.sock"
IN_CONTAINER = "/usr/local/etc/haproxy"  # where the container finds what lies in `etc/`
CERTIFICATE = "tls/door.pem"  # below `etc/`
SERVES = 2  # operational state of a server


def say(folder: Path, command: str) -> str | None:
    """Answer of the running HAProxy to a command, None when it does not answer."""
    try:
        descriptor = os.open(folder / SOCKET.partition("/")[0], os.O_RDONLY)
    except OSError:
        return None
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(5)
            # By way of /proc: the path of a socket may have 108 characters, and a project's folder can lie deep.
            connection.connect(f"/proc/self/fd/{descriptor}/{SOCKET.rpartition('/')[2]}")
            connection.sendall(command.encode() + b"\n")
            answer = b""
            while piece := connection.recv(65536):
                answer += piece
    except OSError:
        return None
    finally:
        os.close(descriptor)
    return answer.decode("utf-8", "replace").strip()


def worker(folder: Path) -> int | None:
    """Process number of the HAProxy that takes new connections, None while it does not say."""
    answer = say(folder, "show info") or ""
    found = dict(line.split(": ", 1) for line in answer.splitlines() if ": " in line)
    return int(found["Pid"]) if found.get("Stopping", "0") == "0" and found.get("Pid", "").isdigit() else None


def load_map(folder: Path, name: str, text: str) -> bool:
    """Give the running HAProxy another content of a map, all at once: no request meets half of it. False: it did not take it."""
    path = f"{IN_CONTAINER}/maps/{name}"
    version = (say(folder, f"prepare map {path}") or "").rpartition(":")[2].strip()
    if not version.isdigit():
        return False
    if text and say(folder, f"add map @{version} {path} <<\n{text}") != "":
        return False
    return say(folder, f"commit map @{version} {path}") == ""


def server_states(folder: Path) -> dict[str, tuple[str, int, int]]:
    """Address, operational state (2: serves) and administrative state (0: none) of each server, by `backend/server`."""
    found = {}
    for line in (say(folder, "show servers state") or "").splitlines():
        words = line.split()
        if len(words) > 6 and words[0].isdigit():
            found[f"{words[1]}/{words[3]}"] = (words[4], int(words[5]), int(words[6]))
    return found


def shown_certificate(folder: Path, name: str) -> str:
    """SHA-1 of the certificate that new connections get, by its file below `etc/`; "" when HAProxy does not answer."""
    for line in (say(folder, f"show ssl cert {IN_CONTAINER}/{name}") or "").splitlines():
        if line.startswith("SHA1 FingerPrint:"):
            return line.partition(":")[2].strip()
    return ""


def load_certificate(folder: Path, name: str, pem: str) -> str:
    """Give new connections another certificate; those that are open keep theirs. Returns what is wrong, "" when nothing is."""
    path = f"{IN_CONTAINER}/{name}"
    # An empty line ends what is given.
    text = "".join(f"{line}\n" for line in pem.splitlines() if line.strip())
    answer = say(folder, f"set ssl cert {path} <<\n{text}") or "no answer"
    if not answer.startswith("Transaction"):
        return answer
    answer = say(folder, f"commit ssl cert {path}") or "no answer"
    if "Success" not in answer:
        say(folder, f"abort ssl cert {path}")
        return answer
    return ""
