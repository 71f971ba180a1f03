"""The gateway's files on a host. Standard library; starts no process.

Below the gateway's folder: `clients.json` (keys of clients as SHA-256, 0600 root), `engine-keys` (0400 root, newest first),
`ca/` (our own authority), `etc/` (what HAProxy reads, with `maps/` and `tls/` for its user alone), `run/` (its socket).
"""

from __future__ import annotations

import hashlib
import json
import secrets
import socket
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from ansible.module_utils.llm.base import addresses, files
from ansible.module_utils.llm.declare.facts import (
    AcmeRequest,
    AcmeState,
    Certificate,
    GatewaySettings,
    GatewayState,
    ValidKey,
)
from ansible.module_utils.llm.declare.values import NAME
from ansible.module_utils.llm.gateway import acme, certificates, haproxy, routes
from ansible.module_utils.llm.gateway import keys as gateway_keys

COMPOSE, CONFIG, PROGRAM = "compose.yml", "etc/haproxy.cfg", "etc/door.lua"
CLIENTS = "clients.json"
PEM = f"etc/{haproxy.CERTIFICATE}"
MAPS = "etc/maps"
ENGINE_FILE = "secrets/engine.yml"  # below a release
LOGS = "log"  # what containers that are gone had logged


def sums(texts: Mapping[str, str]) -> list[str]:
    """Checksums of the gateway's files, as they are recorded once HAProxy has them; PROGRAM counts as configuration."""
    config = texts[CONFIG] + texts.get(PROGRAM, "")
    return [hashlib.sha256(text.encode()).hexdigest() for text in (texts[COMPOSE], config)]


# ---------------------------------------------------------------------------------------------------------------------
# Keys.


def read_clients(folder: Path) -> tuple[list[gateway_keys.ClientKey], str]:
    """(keys of clients, what is wrong with their file)."""
    text = files.read(folder / CLIENTS)
    try:
        return (gateway_keys.keys_of(json.loads(text)) if text else []), ""
    except ValueError as error:
        return [], "it is no JSON" if isinstance(error, json.JSONDecodeError) else str(error)
    except (KeyError, TypeError, AttributeError) as error:
        return [], f"it is damaged ({type(error).__name__})"


def clients(folder: Path) -> list[gateway_keys.ClientKey]:
    """Keys of clients."""
    keys, problem = read_clients(folder)
    if problem:
        raise gateway_keys.Refused(f"{folder / CLIENTS}: {problem}. {gateway_keys.CLIENTS_REMEDY}")
    return keys


def keep_clients(folder: Path, keys: Iterable[gateway_keys.ClientKey]) -> None:
    """Write the keys of clients."""
    files.write(folder / CLIENTS, json.dumps(gateway_keys.document(keys), indent=1) + "\n", 0o600)


def service_keys(root: Path, backends: Iterable[routes.Backend] = ()) -> dict[str, list[str]]:
    """Keys of the services' own: those that clients use, and those of releases that a route is about to lead to."""
    found: dict[str, list[str]] = {}
    folder = root / "keys"
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if NAME.fullmatch(path.name) and path.is_file() and (key := files.read(path).strip()):
            found.setdefault(path.name, []).append(key)
    for server in (s for p in backends for s in p["servers"]):
        for place in _releases(root, server["name"], server["container"]):
            if key := files.read(place / "secrets" / "client-key").strip():
                found.setdefault(server["name"], []).append(key)
    return {service: list(dict.fromkeys(keys)) for service, keys in found.items()}


def _releases(root: Path, service: str, container: str) -> list[Path]:
    """Folders of the releases whose container this may be: its name ends with the first digits of the release."""
    prefix = f"llm-{service}-"
    if not container.startswith(prefix):
        return []
    return sorted((root / "services" / service / "releases").glob(container[len(prefix) :] + "*"))


def accepted(engine_file: Path) -> list[str]:
    """Keys that an engine accepts: those of the gateway, newest first, and last its service's own. [] without its file."""
    try:
        return [str(k) for k in json.loads(files.read(engine_file))["api-key"]]
    except (ValueError, KeyError, TypeError):
        return []


def engine_keys(folder: Path) -> list[str]:
    """Keys between gateway and engines, newest first; [] before there is one."""
    return files.read(folder / gateway_keys.ENGINE_KEYS_FILE).split()


def new_engine_key(folder: Path) -> list[str]:
    """Put a new key before the one in use, and forget older ones. Returns them."""
    keys = [f"sk-{secrets.token_urlsafe(32)}", *engine_keys(folder)][: gateway_keys.ENGINE_KEYS]
    files.write(folder / gateway_keys.ENGINE_KEYS_FILE, "".join(f"{k}\n" for k in keys), 0o400)
    return keys


def maps(
    root: Path,
    backends: Sequence[routes.Backend],
    returns: Mapping[str, int],
    leaving: Iterable[routes.Switch] = (),
) -> dict[str, str]:
    """HAProxy's maps: clients, keys of engines and models by backend, and when a closed route opens again.

    leaving: changes (see routes.switched) that are not carried out yet: the engines of before have to accept the keys as well.
    """
    engines = []
    for backend in backends:
        engines_of = [(s["name"], s["container"]) for s in backend["servers"]]
        for change in leaving:
            name, _, service = change["server"].partition("/")
            if name == backend["name"]:
                engines_of.append((service, change["before"]))
        lists = [accepted(place / ENGINE_FILE) for engine in engines_of for place in _releases(root, *engine)]
        if key := gateway_keys.front_key([keys for keys in lists if keys]):
            engines.append(f"{backend['name']} {key}\n")
    return {
        "keys.map": gateway_keys.key_map(clients(root / "gateway"), service_keys(root, backends), time.time()),
        "engines.map": "".join(engines),
        "models.map": "".join(f"{model} {p['name']}\n" for p in backends for model in p["models"]),
        "returns.map": "".join(f"{name} {when}\n" for name, when in sorted(returns.items())),
    }


def digest(text: str) -> str:
    """Digest by which a map or a certificate in use is recognised."""
    return hashlib.sha256(text.encode()).hexdigest()


def refresh_keys(root: Path) -> str:
    """Give the running gateway the keys of now: `applied`, `refused` when it did not take them, "" when there is no need.

    What it did not take is in the file that HAProxy reads when it starts, and counts as not loaded (see `facts`) until a run has
    given them again.
    """
    folder = root / "gateway"
    path = folder / MAPS / "keys.map"
    stamp = folder / "loaded"
    loaded = files.read(stamp).split()
    if not path.exists() or len(loaded) < LOADED:
        return ""
    text = gateway_keys.key_map(clients(folder), service_keys(root), time.time())
    if files.read(path) == text and loaded[KEYS_AT] == digest(text):
        return ""
    # Whatever ends this run in between, and when an answer comes too late: nobody knows what is loaded.
    loaded[KEYS_AT] = "-"
    files.write(stamp, " ".join(loaded) + "\n")
    files.write(path, text, 0o400, path.stat().st_uid)
    if not haproxy.load_map(folder, "keys.map", text):
        return "refused"
    loaded[KEYS_AT] = digest(text)
    files.write(stamp, " ".join(loaded) + "\n")
    return "applied"


LOADED = 5  # words of the file `loaded`: checksums of compose.yml and haproxy.cfg, container, keys, certificate
KEYS_AT, CERTIFICATE_AT = 3, 4


# ---------------------------------------------------------------------------------------------------------------------
# The certificate.


def own_is_due(folder: Path, names: Sequence[str], now: float) -> str:
    """Why our own authority has to issue a certificate anew, "" when it has not."""
    path = folder / PEM
    if not path.exists():
        return "there is none"
    if not (folder / "ca" / "ca.pem").exists():
        return "its authority is gone"
    found = certificates.read(path)
    # Compared as addresses: ::1 is written out in a certificate.
    if {n.upper() for n in found["names"]} != {_as_in_certificate(n) for n in names}:
        return "its names are others"
    if found["problem"] or found["expires"] - now < certificates.RENEW:
        return found["problem"] or f"it ends at {certificates.moment(found['expires'])}"
    return ""


def stand_in_is_due(folder: Path) -> str:
    """Why our own authority has to issue a certificate to begin with, until ACME gives one; "" when there is any."""
    return "there is none" if not (folder / PEM).exists() else certificates.read(folder / PEM)["problem"]


def acme_certificate(folder: Path, request: AcmeRequest) -> Certificate:
    """The certificate that ACME gave, with what its client did; {} where the plan asks for no name."""
    if not request["names"]:  # the plan refuses that
        return {}
    data = folder / acme.DATA
    found = certificates.read(data / acme.certificate_files(request)[0])
    attempt = acme.attempt(files.read(data / acme.ATTEMPT))
    if attempt.get("asking"):  # what comes of it is not known yet
        attempt = acme.NO_ATTEMPT
    ca_file = request["ca_file"]
    state: AcmeState = {
        "missing": acme.missing(request, acme.issued(files.read(data / acme.ISSUED)), found),
        "error": str(attempt.get("error", "")),
        "failures": int(attempt.get("failures", 0)),
        "ca_differs": bool(ca_file) and files.read(Path(ca_file)) != files.read(folder / acme.FOLDER / acme.CA),
        "ca_problem": certificates.read(Path(ca_file))["problem"] if ca_file else "",
    }
    return {**found, "acme": state}


def _as_in_certificate(name: str) -> str:
    if ":" in name and addresses.is_address(name):
        packed = socket.inet_pton(socket.AF_INET6, name)
        return ":".join(f"{int.from_bytes(packed[i : i + 2], 'big'):X}" for i in range(0, 16, 2))
    return name.upper()


def facts(root: Path, wanted: GatewaySettings, now: float) -> GatewayState:
    """What module llm_host_facts says of the gateway beside its files and its container. wanted: {} when nothing is planned yet."""
    folder = root / "gateway"
    newest = engine_keys(folder)
    current = {p.parent.name: accepted(p / ENGINE_FILE) for p in sorted((root / "services").glob("*/current"))}
    found: GatewayState = {
        "now": int(now),
        "certificate": {},
        "clients": {},
        "due": [],
        "engine_key": gateway_keys.sha256(newest[0])[:16] if len(newest) > 1 else "",
        "old_engine_keys": [s for s, keys in current.items() if gateway_keys.engine_key_is_old(keys, newest)],
        "stopped": routes.stopped(files.read(folder / MAPS / "returns.map")),
    }
    known, problem = read_clients(folder)
    valid: list[ValidKey] = [
        {"id": k.id, "client": k.client, "services": list(k.services)} for k in known if k.state(now) == "valid"
    ]
    found["clients"] = {"keys": valid, "problem": problem}
    loaded = files.read(folder / "loaded").split()
    if wanted.get("https_port"):
        if wanted.get("certificate"):
            given = certificates.given(Path(wanted["certificate"]), Path(wanted["key"]), now)
            pem = given.pop("pem")
            found["certificate"] = given
            if pem and pem != files.read(folder / PEM):
                found["due"].append("certificate: another one was given")
        elif wanted.get("acme"):
            found["certificate"] = acme_certificate(folder, wanted["acme"])
            if why := stand_in_is_due(folder):
                found["due"].append(f"certificate: {why}")
        else:
            if (folder / PEM).exists():
                found["certificate"] = certificates.read(folder / PEM)
            if why := own_is_due(folder, wanted["certificate_names"], now):
                found["due"].append(f"certificate: {why}")
    if len(loaded) == LOADED and not problem:
        text = gateway_keys.key_map(known, service_keys(root), now)
        if digest(text) != loaded[KEYS_AT]:
            found["due"].append("keys: others are to pass than those that do")
    return found
