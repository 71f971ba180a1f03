"""Certificates by ACME: when one is asked for, with which command, and what came of it. Pure; imports types alone of ours.

The client (roles/gateway/files/acme_client) runs lego in a container. `config` is what the client reads, `found` the certificate
that is there (see certificates.read).
"""

from __future__ import annotations

import json
import re
from typing import Any, TypedDict
from urllib.parse import urlsplit

from ansible.module_utils.llm.declare.facts import AcmeConfig, Certificate

CHALLENGE_PORT = 80  # RFC 8555, 8.3: where the server asks
LISTENER = 8402  # of the client, inside its network, while the server asks
BACKEND = "acme_challenge/acme"  # HAProxy's name for it; no service's name has an underscore
MOST_NAMES = 100  # Let's Encrypt, Rate Limits
PRIVATE = frozenset(
    # RFC 6761, 6762, 7686, 8375, 9476; ICANN keeps `internal` for this. The others were never given away.
    "local localhost internal test example invalid onion home.arpa alt lan home corp intranet localdomain".split()
)
FIRST_PAUSE, PAUSE_GROWS, LONGEST_PAUSE = 300, 4, 6 * 3600
"""Seconds. Let's Encrypt refuses a name after five failures within an hour; these make three."""
CERTIFICATES = "certificates"  # folder that lego makes
FOLDER, DATA = "acme", "acme/data"  # below the gateway's: the client's program and settings; what it alone writes
CA = "ca.pem"  # in FOLDER: a copy of the server's, where it has one of its own
ISSUED = "issued.json"  # there: with what the certificate was got
ATTEMPT = "attempt.json"  # there: the last attempt


class Issued(TypedDict, total=False):
    """With what the certificate that is there was got; {} where none was."""

    server: str
    names: list[str]


class Attempt(TypedDict, total=False):
    """An attempt to get a certificate. at, next: when it was and the next one is due, in seconds since 1970; {} where none was.

    error: "" where it got one. failures: in a row. asking: it goes on.
    """

    at: int
    error: str
    failures: int
    next: int
    asking: bool


NO_ATTEMPT: Attempt = {"error": "", "failures": 0, "next": 0}


def is_private(name: str) -> bool:
    """Whether no public server can give a certificate for a name."""
    labels = name.lower().split(".")
    return len(labels) < 2 or not {labels[-1], ".".join(labels[-2:])}.isdisjoint(PRIVATE)


def argv(config: AcmeConfig, folder: str) -> list[str]:
    """Lego's command: registers the account when there is none, and asks for a certificate with a new key."""
    wanted = [word for name in config["names"] for word in ("--domains", name)]
    listens = ["--http", "--http.port", f":{LISTENER}"]
    account = ["--accept-tos", "--email", config["email"], "--server", config["server"]]
    return ["lego", "--path", folder, *account, *listens, *wanted, "run"]


def account_file(config: AcmeConfig) -> str:
    """File below the client's folder where lego keeps what the server knows of the account; the account's key lies elsewhere."""
    return f"accounts/{urlsplit(config['server']).netloc.replace(':', '_')}/{config['email']}/account.json"


def account_is_lost(output: str) -> bool:
    """Whether the server does not know the account any more (RFC 8555, 6.7), by what lego said."""
    return "urn:ietf:params:acme:error:accountDoesNotExist" in output


def patience(config: AcmeConfig) -> float:
    """Seconds after which lego is ended: it has one name proven after the other, and asks every 5 seconds whether one is."""
    return 120.0 + 12 * len(config["names"])


def certificate_files(config: AcmeConfig) -> tuple[str, str]:
    """Certificate with its chain, and key, below the client's folder."""
    name = config["names"][0]
    return f"{CERTIFICATES}/{name}.crt", f"{CERTIFICATES}/{name}.key"


def missing(config: AcmeConfig, issued: Issued, found: Certificate) -> str:
    """Why the certificate that is there is not the declared one, "" when it is."""
    if not issued:
        return "there is none"
    if issued.get("server") != config["server"]:
        return "it is of another server"
    if sorted(issued.get("names", ())) != sorted(config["names"]):
        return "it is for other names"
    return found["problem"]


def due(config: AcmeConfig, issued: Issued, found: Certificate, now: float) -> str:
    """Why a certificate has to be asked for now, "" when none has."""
    return missing(config, issued, found) or ("it ends soon" if now >= renewed_from(found) else "")


def renewed_from(found: Certificate) -> float:
    """When a certificate is renewed, in seconds since 1970: as the last third of its time begins (the last 30 of 90 days)."""
    return found["expires"] - (found["expires"] - found["begins"]) / 3


def is_late(found: Certificate, now: float) -> bool:
    """Whether a certificate should have been renewed long ago, whatever the ACME client says: less than a quarter of it is left."""
    return now >= found["expires"] - (found["expires"] - found["begins"]) / 4


def pause(failures: int) -> int:
    """Seconds until the next attempt, after so many in a row that failed."""
    return min(FIRST_PAUSE * PAUSE_GROWS ** (min(failures, 20) - 1), LONGEST_PAUSE) if failures > 0 else 0


def issued(text: str) -> Issued:
    """What the client wrote down with a certificate; {} for no file or a damaged one."""
    found: Issued = _mapping(text)
    return found


def attempt(text: str) -> Attempt:
    """What the client wrote down of its last attempt; {} for no file or a damaged one."""
    found: Attempt = _mapping(text)
    return found


def _mapping(text: str) -> Any:
    """A JSON mapping, {} for any other text. What its keys hold is taken for what the client writes."""
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def reason(output: str) -> str:
    """The one line of a failed lego's output that a person needs."""
    lines = [re.sub(r"^\d{4}/\d\d/\d\d \d\d:\d\d:\d\d ", "", line).strip() for line in output.splitlines()]
    lines = [line for line in lines if line]
    last = next((n for n in reversed(range(len(lines))) if lines[n].startswith(("Could not", "[FATAL]"))), -1)
    told = " ".join(lines[last:] if last >= 0 else lines[-1:])
    return told[:600] or "it said nothing"
