"""The door of a host: which names and ports lead to which engines, who may come in, and how much.

Pure functions. What runs is HAProxy with role gateway's template; it asks `keys.map` for clients (see `key_map`) and nothing
else of what is here.
"""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import ipaddress
import json
import re
import secrets
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import unquote

from ansible.module_utils.llm import acme, clients, placement
from ansible.module_utils.llm.certificates import moment
from ansible.module_utils.llm.spec import ACME, GATEWAY, Declared, Finding, did_you_mean
from ansible.module_utils.llm.values import NAME, size_bytes

BUFFER = 2**20  # bytes of a request that can be looked into: the longest prompt of a 131,072 token model, as text
WHOLE = BUFFER - 16384  # a body beyond this may not have been read whole
CONNECTIONS = 4096
NEVER = 253_402_300_799  # the last second of the year 9999
RENEW = 30 * 86400  # seconds before its end at which our own certificate is replaced, and a given one warned of
STOPPED = -1  # in the place of the seconds until a service is back; door.lua knows it too
WILDCARDS = ("0.0.0.0", "::", "*")  # noqa: S104 - compared, not bound
CLIENTS_REMEDY = "Correct it, put it back from a copy, or remove it: all clients then need new keys"
ENGINE_KEYS_FILE = "engine-keys"  # below the gateway's folder; newest first
ENGINE_KEYS = 2  # the newest and the one before it: an engine that was not deployed anew still knows that one


def setting(declared: Declared, key: str) -> Any:
    """One key of `llm_gateway`, or what holds without it."""
    return declared.settings.gateway.get(key, GATEWAY[key].default)


def settings(declared: Declared) -> dict[str, Any]:
    """What role gateway wants to know beside its routes."""
    return {
        "https_port": setting(declared, "https_port"),
        "http_port": setting(declared, "http_port"),
        "ports_address": ports_address(declared),
        "names": names(declared),
        "certificate_names": certificate_names(declared),
        "domain": declared.settings.domain,
        "certificate": setting(declared, "certificate"),
        "key": setting(declared, "key"),
        "acme": acme_request(declared),
        "wait": setting(declared, "wait"),
        "body_limit": size_bytes(setting(declared, "body_limit")),
        "connections": CONNECTIONS,
    }


def ports_address(declared: Declared) -> str:
    """Address on which the services' own ports are published."""
    return str(setting(declared, "ports_address") or declared.settings.bind_address)


def known_as(declared: Declared, reached: str) -> str:
    """Under what the door answers for all services to clients elsewhere. reached: name or address of the host.

    By another name it says that it does not know it, and the certificate does not have it.
    """
    others = [n for n in names(declared) if n not in LOCAL]
    return reached if reached in others or not others else others[0]


def host_name(declared: Declared, service: str) -> str:
    """`api.<hostname>.<domain>` of a service, "" where either is not declared."""
    hostname, domain = declared.services[service].hostname, declared.settings.domain
    return f"api.{hostname}.{domain}" if hostname and domain else ""


def names(declared: Declared) -> list[str]:
    """Names and addresses under which the door answers for all services: the model in a request picks one."""
    address = declared.settings.bind_address
    found = [f"api.{declared.settings.domain}"] if declared.settings.domain else []
    found += ["localhost", "127.0.0.1", "::1", *([] if address in WILDCARDS else [address])]
    return list(dict.fromkeys([*found, *setting(declared, "names")]))


def certificate_names(declared: Declared) -> list[str]:
    """All names that a certificate has to have, standing by or not: a switch needs no new one."""
    own = [host_name(declared, s) for s in declared.host_services]
    return list(dict.fromkeys([*names(declared), *filter(None, own)]))


def acme_names(declared: Declared) -> list[str]:
    """Of these, what an ACME server is asked for: names, of which others than this host know."""
    return [n.lower() for n in certificate_names(declared) if n not in LOCAL and not is_address(n)]


def acme_request(declared: Declared) -> dict[str, Any]:
    """What a certificate is asked for with; {} where none is. ca_file: on the host, "" for a server that all trust."""
    wanted = setting(declared, "acme")
    if not wanted or not declared.host_services:  # a host that lists no service has no gateway
        return {}
    told = {k: wanted.get(k, ACME[k].default) for k in ("server", "email", "ca_file")}
    return {**told, "names": acme_names(declared)}


def findings(declared: Declared) -> dict[str, list[Finding]]:
    """What is wrong with the ports of the door itself and with ACME, under "". Services that share a host name are placement's."""
    found: dict[str, list[Finding]] = {"": [*_acme_findings(declared), *_plain_findings(declared)]}
    running = placement.deployed(declared)
    ports = {declared.services[s].port: f"service `{s}`" for s in running}
    for key in ("https_port", "http_port"):
        port = setting(declared, key)
        if port and port in ports:
            message = f"{port} is the port of {ports[port]} too"
            remedy = "Choose another port, or 0 for none"
            found[""].append(Finding("port-clash", "error", f"llm_gateway.{key}", message, remedy))
        ports[port] = f"llm_gateway.{key}"
    return found


def _plain_findings(declared: Declared) -> list[Finding]:
    """Whether keys and contents can be asked for without TLS from elsewhere, where there is TLS."""
    address = ports_address(declared)
    if not setting(declared, "https_port") or clients.is_loopback(address) or not placement.deployed(declared):
        return []
    key = "llm_gateway.ports_address" if setting(declared, "ports_address") else "llm_bind_address"
    message = f"is {address}, where the services' own ports are open as well, without TLS"
    remedy = (
        "Set llm_gateway.ports_address to 127.0.0.1, unless clients need these ports and the network may read along"
    )
    return [Finding("plain-ports", "warn", key, message, remedy)]


def _acme_findings(declared: Declared) -> list[Finding]:
    """What an ACME server would refuse, or never reach."""
    request = acme_request(declared)
    if not request:
        return []
    found = []

    def refuse(key: str, message: str, remedy: str, severity: str = "error") -> None:
        found.append(Finding("acme", severity, key, message, remedy))

    port, names, own = setting(declared, "http_port"), request["names"], setting(declared, "names")
    if not setting(declared, "https_port"):
        refuse("llm_gateway.https_port", "is 0, so no port has the certificate that is asked for", "Set it to 443")
    if not port:
        refuse("llm_gateway.http_port", "is 0, and the ACME server asks this host at port 80", "Set it to 80")
    elif port != acme.CHALLENGE_PORT:
        message = f"is {port}, and the ACME server asks at port 80"
        remedy = f"Set it to 80, unless something in front of this host leads from its port 80 to {port}"
        refuse("llm_gateway.http_port", message, remedy, "warn")
    if clients.is_loopback(declared.settings.bind_address):
        message = f"is {declared.settings.bind_address}, where no ACME server reaches port 80"
        remedy = "Set it to an address of the host that others reach, unless something in front of it leads there"
        refuse("llm_bind_address", message, remedy, "warn")
    for name in (n for n in own if is_address(n)):
        remedy = "Take it out, or give a certificate for it in llm_gateway.certificate"
        refuse("llm_gateway.names", f"has {name}: by ACME certificates are asked for names, not for addresses", remedy)
    if not names:
        remedy = "Set llm_domain and the services' hostname, or list a name in llm_gateway.names"
        refuse("llm_gateway.acme", "asks for a certificate, and this host has no name", remedy)
    if len(names) > acme.MOST_NAMES:
        message = f"asks for {len(names)} names in one certificate; servers give {acme.MOST_NAMES}"
        refuse("llm_gateway.acme", message, "List fewer services or llm_gateway.names")
    for name in () if request["ca_file"] else names:
        if acme.is_private(name):
            key = "llm_domain" if name not in map(str.lower, own) else "llm_gateway.names"
            message = f"gives {name}, a name for which no public ACME server gives a certificate"
            refuse(key, message, "Use a name that the public DNS has, or name the CA of your own server in ca_file")
    return found


def ports(declared: Declared) -> dict[int, str]:
    """Ports of the door itself: port to the key that declares it."""
    return {setting(declared, k): f"llm_gateway.{k}" for k in ("https_port", "http_port") if setting(declared, k)}


def host_findings(declared: Declared, found: Mapping[str, Any], now: float) -> list[Finding]:
    """What the host says of a certificate that was given. found: `certificate` of the gateway's facts."""
    if not setting(declared, "https_port"):
        return []
    if acme_request(declared):
        return _acme_host_findings(found, now)
    if not setting(declared, "certificate"):
        return []
    key = "llm_gateway.certificate"
    if found.get("problem"):
        return [
            Finding("certificate", "error", key, found["problem"], "Give a valid one; the running door is untouched")
        ]
    lacking = [n for n in certificate_names(declared) if n not in LOCAL and not covers(found["names"], n)]
    if lacking:
        message = f"is not for {', '.join(lacking)} (it is for {', '.join(found['names']) or 'no name'})"
        remedy = "Give one that has these names, or change llm_domain, hostname or llm_gateway.names"
        return [Finding("certificate-names", "error", key, message, remedy)]
    left = found["expires"] - now
    if left < RENEW:
        message = f"ends in {max(int(left // 86400), 0)} days, at {moment(found['expires'])}"
        return [Finding("certificate-ends", "warn", key, message, "Put a new one in its place and run site.yml")]
    return []


def _acme_host_findings(found: Mapping[str, Any], now: float) -> list[Finding]:
    """What the host says of the certificate that ACME gives. found: `certificate` of its facts, with `acme` in it."""
    state = found.get("acme") or {}
    if state.get("ca_problem"):
        return [Finding("acme-ca", "error", "llm_gateway.acme.ca_file", state["ca_problem"], "Give the server's CA")]
    if not state.get("error") or state.get("missing"):  # of what is missing the run itself says whether it got it
        late = not state.get("missing") and state and acme.is_late(found, now)
        why = "was not renewed in time, and its client says nothing of it" if late else ""
    else:
        why = f"could not be renewed {state['failures']} times in a row: {state['error']}"
    if not why:
        return []
    left = f"it ends in {max(int((found['expires'] - now) // 86400), 0)} days, at {moment(found['expires'])}"
    remedy = "Correct that; it is tried again by itself, and at once without gateway/acme/data/attempt.json"
    return [Finding("acme-renewal", "warn", "llm_gateway.acme", f"{why}; {left}", remedy)]


def key_findings(declared: Declared, found: Mapping[str, Any]) -> list[Finding]:
    """What is wrong with the clients' keys on the host, a file that people edit. found: `clients` of the gateway's facts.

    A key for a service that is not declared any more is no reason to keep the service from going.
    """
    place = f"{declared.settings.root}/gateway/clients.json"
    if found.get("problem"):
        return [Finding("client-keys", "error", place, found["problem"], CLIENTS_REMEDY)]
    findings = []
    for entry in found.get("keys", ()):
        if unknown := [s for s in entry["services"] if s != "*" and s not in declared.services]:
            message = f"key {entry['id']} of client {entry['client']} is for `{unknown[0]}`, which is not declared"
            remedy = f"Revoke it (playbooks/keys.yml), or correct it. {did_you_mean(unknown[0], declared.services)}"
            findings.append(Finding("client-scope", "warn", place, message, remedy))
    return findings


LOCAL = ("localhost", "127.0.0.1", "::1")  # nobody certifies these


def covers(patterns: Iterable[str], name: str) -> bool:
    """Whether a certificate's names have this one; `*` stands for one label."""
    parent = name.partition(".")[2]
    return any(p.lower() == name.lower() or (p.startswith("*.") and p[2:].lower() == parent.lower()) for p in patterns)


def is_address(name: str) -> bool:
    """Whether a name is an IP address."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


# ---------------------------------------------------------------------------------------------------------------------
# Routes to engines.


def pools(routes: Iterable[Mapping[str, Any]], domain: str = "") -> list[dict[str, Any]]:
    """What leads where: [{name, services, ports, hosts, prefixes, models, servers: [{name, container, at_once}]}].

    routes: of the plan. One pool a service, for its port and its prefix; services of one model (placement keeps them of
    the same one) form a further one, `all-<the first of them>`, for what names the model or a host name that they share.
    """
    routes = list(routes)
    found = [
        {
            "name": r["service"],
            "services": [r["service"]],
            "ports": [r["port"]],
            "hosts": [],
            "prefixes": [r["service"]],
            "models": [],
            "servers": [_server(r)],
        }
        for r in routes
    ]
    own = {p["name"]: p for p in found}
    by_model: dict[str, list[Mapping[str, Any]]] = {}
    for route in routes:
        by_model.setdefault(route.get("model") or "", []).append(route)
    for model, members in by_model.items():
        pool = own[members[0]["service"]]
        if model and len(members) > 1:
            pool = {
                "name": f"all-{members[0]['service']}",
                "services": [m["service"] for m in members],
                "ports": [],
                "hosts": [],
                "prefixes": [],
                "models": [],
                "servers": [_server(m) for m in members],
            }
            found.append(pool)
        if model:
            pool["models"].append(model)
        hosts = [m["hostname"] for m in members if m.get("hostname") and domain]
        for member in members:
            name = member.get("hostname")
            if name and domain:
                target = pool if hosts.count(name) > 1 else own[member["service"]]
                target["hosts"] = list(dict.fromkeys([*target["hosts"], f"api.{name}.{domain}"]))
    return found


def _server(route: Mapping[str, Any]) -> dict[str, Any]:
    return {"name": route["service"], "container": route["container"], "at_once": route.get("at_once") or 0}


def returns(routes: Iterable[Mapping[str, Any]], domain: str = "") -> dict[str, int]:
    """Seconds until closed pools are expected back, STOPPED for those that are not; without those of which nobody knows.

    routes: of the plan, with `returns_in` or `stopped`. A pool of several is back with its first.
    """
    routes = list(routes)
    closed = [r for r in routes if not r.get("container")]
    known = {r["service"]: STOPPED if r.get("stopped") else r.get("returns_in", 0) for r in closed}
    found = {}
    for pool in pools(routes, domain):
        if all(s in known for s in pool["services"]):
            expected = [known[s] for s in pool["services"]]
            back = [e for e in expected if e > 0]
            if back or all(e == STOPPED for e in expected):
                found[pool["name"]] = min(back, default=STOPPED)
    return found


def stopped(returns_map: str) -> list[str]:
    """Pools that were stopped on purpose, by the map that HAProxy has; see `returns`."""
    words = [line.split() for line in returns_map.splitlines()]
    return [name for name, when in (w for w in words if len(w) == 2) if when == str(STOPPED)]


def listing(model: str) -> str:
    """A model's entry in the answer of /v1/models, as HAProxy's configuration takes it: a format in strong quotes."""
    entry = json.dumps({"id": model, "object": "model", "created": 0, "owned_by": "llm"}, separators=(",", ":"))
    return "'%[var(txn.models)]," + entry.replace("%", "%%").replace("'", "'\\''") + "'"


def switched(before: str, after: str) -> list[dict[str, str]] | None:
    """Which servers lead elsewhere between two configurations: [{server, before, after}]; None when more differs.

    Only then the running HAProxy can be told, without a reload. "" stands for a closed door.
    """
    old, new = (text.splitlines() for text in (before, after))
    if len(old) != len(new):
        return None
    found, backend = [], ""
    for was, now in zip(old, new, strict=True):
        if now.startswith("backend "):
            backend = now.split()[1]
        if was == now:
            continue
        a, b = _server_line(was), _server_line(now)
        if a is None or b is None or a[0] != b[0] or a[2] != b[2]:
            return None
        found.append({"server": f"{backend}/{b[0]}", "before": a[1], "after": b[1]})
    return found


def _server_line(line: str) -> tuple[str, str, tuple[str, ...]] | None:
    """Name, container ("" when closed) and options of a `server` line."""
    words = line.split()
    if words[:1] != ["server"]:
        return None
    closed = words[-1] == "disabled"
    return words[1], "" if closed else words[2].rpartition(":")[0], tuple(words[3 : len(words) - closed])


# ---------------------------------------------------------------------------------------------------------------------
# Clients and their keys.


@dataclasses.dataclass(frozen=True)
class Key:
    """A client's key, without the key. Times: seconds since 1970; 0 for a limit means none."""

    id: str
    client: str
    sha256: str
    services: tuple[str, ...]  # ("*",) for all
    created: int
    expires: int = NEVER
    revoked: int = 0
    per_minute: int = 0
    at_once: int = 0
    queue: int = 0

    def state(self, now: float) -> str:
        """valid, expired or revoked."""
        return "revoked" if self.revoked else "valid" if self.expires > now else "expired"


def keys_of(document: Mapping[str, Any]) -> list[Key]:
    """Keys of clients.json; ValueError, KeyError or TypeError for what `create` does not make."""
    keys = [Key(**{**entry, "services": tuple(entry["services"])}) for entry in document.get("keys", [])]
    for key in keys:
        if wrong := _wrong(key):
            raise ValueError(f"key {key.id} of client {key.client}: {wrong}")
    return keys


def _wrong(key: Key) -> str:
    """What the door could not make sense of, "" when all is well. Fields stand side by side in a line of its map."""
    named = (key.id, key.client, *(s for s in key.services if s != "*"))
    if not all(isinstance(text, str) and NAME.fullmatch(text) for text in named):
        return "id, client and services must be of lower case letters, digits and dashes"
    if not isinstance(key.sha256, str) or not re.fullmatch("[0-9a-f]{64}", key.sha256):
        return "sha256 must be 64 hex digits"
    for field in ("created", "expires", "revoked", "per_minute", "at_once", "queue"):
        value = getattr(key, field)
        if type(value) is not int or not 0 <= value <= NEVER:
            return f"{field} must be a whole number from 0 on, got {value!r}"
    if not key.services:
        return "it is for no service"
    return "queue without at_once: nothing would wait" if key.queue and not key.at_once else ""


def document(keys: Iterable[Key]) -> dict[str, Any]:
    """The shape of clients.json."""
    return {"keys": [{**dataclasses.asdict(k), "services": list(k.services)} for k in keys]}


def sha256(key: str) -> str:
    """By what a key is known where it is not kept. Keys are long and random, so nothing slower is needed."""
    return hashlib.sha256(key.encode()).hexdigest()


def key_map(keys: Iterable[Key], service_keys: Mapping[str, Iterable[str]], now: float = 0) -> str:
    """HAProxy's map from a key's SHA-256 to `client|id|expires|per minute|at once|queue|,services,`.

    service_keys: service to keys of its own, each a client of that name for that service alone. Expired keys stay, so that
    their clients are told why; revoked ones are as unknown as any other.
    """
    lines = {
        sha256(key): f"{service}|{service}|{NEVER}|0|0|0|,{service},"
        for service, own in sorted(service_keys.items())
        for key in own
    }
    for key in keys:
        if key.state(now) != "revoked":
            scope = ",".join(key.services)
            lines[key.sha256] = (
                f"{key.client}|{key.id}|{key.expires}|{key.per_minute}|{key.at_once}|{key.queue}|,{scope},"
            )
    return "".join(f"{digest} {value}\n" for digest, value in sorted(lines.items()))


class Refused(ValueError):
    """What was asked for can't be; the message says why and what to do, in whole sentences."""

    def __str__(self) -> str:
        text = super().__str__()
        return text if text.endswith((".", "?")) else f"{text}."


def wanted_key(given: Mapping[str, Any], known: Sequence[str], now: float) -> dict[str, Any]:
    """Checked fields of a new key from what an operator gave: client, services, per_minute, at_once, queue, expires.

    known: declared services.
    """
    client = str(given.get("client") or "")
    if not NAME.fullmatch(client):
        raise Refused(
            f"llm_key_client must be lower case letters, digits and dashes, at most 48, got {client!r}. Name the client"
        )
    if client in known:
        raise Refused(f"llm_key_client: `{client}` is a service, and a service's own key has that name. Choose another")
    services = tuple(given.get("services") or ())
    if not services:
        raise Refused("llm_key_services is missing: name the services that the key is for, or `*` for all")
    for service in services:
        if service != "*" and service not in known:
            raise Refused(f"llm_key_services names no service: `{service}`. {did_you_mean(service, known)}")
    fields: dict[str, Any] = {"client": client, "services": services}
    for limit in ("per_minute", "at_once", "queue"):
        value = given.get(limit)
        if value is None:
            continue
        if value < (0 if limit == "queue" else 1):
            raise Refused(
                f"llm_key_{limit} is {value}: nothing would pass. Leave it out for no limit, or revoke the key"
            )
        fields[limit] = value
    if fields.get("queue") and not fields.get("at_once"):
        raise Refused("llm_key_queue without llm_key_at_once: nothing would wait. Give both, or leave it out")
    if given.get("expires"):
        fields["expires"] = _end(str(given["expires"]), now)
    return fields


def _end(text: str, now: float) -> int:
    """Seconds since 1970 of `90d`, `12h` or a date."""
    try:
        if text[-1:] in "dh" and text[:-1].isdigit():
            end = int(now) + int(text[:-1]) * (86400 if text.endswith("d") else 3600)
        else:
            date = datetime.datetime.fromisoformat(text)
            end = int((date if date.tzinfo else date.replace(tzinfo=datetime.timezone.utc)).timestamp())
    except (ValueError, OverflowError):
        raise Refused(f"llm_key_expires is {text!r}: write 90d, 12h, or a date such as 2027-06-30") from None
    if end <= now:
        raise Refused(f"llm_key_expires is {text!r}, which has passed. Write a time to come")
    return end


def create(keys: Sequence[Key], fields: Mapping[str, Any], now: float) -> tuple[list[Key], Key, str]:
    """With one key more: (all keys, the new one, its text, which is kept nowhere)."""
    if any(k.client == fields["client"] and k.state(now) == "valid" for k in keys):
        raise Refused(
            f"`{fields['client']}` has a key already: rotate it (llm_key_do=rotate), revoke it, or choose another name"
        )
    return _with_new(keys, fields, now)


def _with_new(keys: Sequence[Key], fields: Mapping[str, Any], now: float) -> tuple[list[Key], Key, str]:
    text = f"sk-{secrets.token_urlsafe(32)}"
    known = {k.id for k in keys}
    name = next(i for i in iter(lambda: f"k{secrets.token_hex(4)}", "") if i not in known)
    new = Key(id=name, sha256=sha256(text), created=int(now), **fields)
    return [*keys, new], new, text


def rotate(keys: Sequence[Key], client: str, overlap: str, now: float) -> tuple[list[Key], Key, str]:
    """A new key for a client, with the scope, limits and end of its newest; the others go on for `overlap` (24h, 7d)."""
    valid = [k for k in keys if k.client == client and k.state(now) == "valid"]
    if not valid:
        raise Refused(f"`{client}` has no valid key to rotate. {_offer(keys, now)}")
    end = _end(overlap, now) if overlap.strip("0hd") else int(now)
    newest = max(valid, key=lambda k: k.created)
    fields = {f: getattr(newest, f) for f in ("client", "services", "expires", "per_minute", "at_once", "queue")}
    shortened = [dataclasses.replace(k, expires=min(k.expires, end)) if k in valid else k for k in keys]
    return _with_new(shortened, fields, now)


def revoke(keys: Sequence[Key], named: str, now: float) -> list[Key]:
    """Without the keys of a client, or the one with an id."""
    hit = [k for k in keys if named in (k.client, k.id) and k.state(now) != "revoked"]
    if not hit:
        raise Refused(f"`{named}` is no client and no id of a key. {_offer(keys, now)}")
    return [dataclasses.replace(k, revoked=int(now)) if k in hit else k for k in keys]


def _offer(keys: Iterable[Key], now: float) -> str:
    return f"Clients here: {', '.join(sorted({k.client for k in keys if k.state(now) == 'valid'})) or 'none'}"


def table(keys: Iterable[Key], now: float) -> list[str]:
    """One line a key, for a person."""
    rows = [("ID", "CLIENT", "SERVICES", "STATE", "ENDS", "A MINUTE", "AT ONCE", "WAITING")]
    for key in sorted(keys, key=lambda k: (k.client, k.created)):
        limits = [str(v) if v else "-" for v in (key.per_minute, key.at_once, key.queue)]
        ends = "never" if key.expires == NEVER else moment(key.expires)
        rows.append((key.id, key.client, ",".join(key.services), key.state(now), ends, limits[0], limits[1], limits[2]))
    widths = [max(len(r[i]) for r in rows) for i in range(len(rows[0]))]
    return ["  ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)).rstrip() for r in rows]


# ---------------------------------------------------------------------------------------------------------------------
# The key between door and engines. It is one for all engines of a host, so that a pool of several needs no other.


def front_key(accepted: Iterable[Sequence[str]]) -> str:
    """The key that all engines of a pool accept, the newest if there are several; "" when there is none.

    accepted: keys of each engine, newest first.
    """
    accepted = list(accepted)
    return next((k for k in (accepted[0] if accepted else ()) if all(k in other for other in accepted)), "")


def engine_key_is_old(accepted: Sequence[str], engine_keys: Sequence[str]) -> bool:
    """Whether an engine has keys of the door, but not the newest. One from before there were any is let be."""
    return bool(engine_keys) and engine_keys[0] not in accepted and any(k in accepted for k in engine_keys)


# ---------------------------------------------------------------------------------------------------------------------
# Keys in places where they may not be.

SHORTEST = 16  # characters of what may be a key
WORD = re.compile(rf"[A-Za-z0-9_+/=.-]{{{SHORTEST},}}")


def leaked(text: str, known: Mapping[str, str]) -> list[tuple[int, str]]:
    """Lines of a text that have a key, and whose: [(line, name)]. known: SHA-256 of a key to what it is called."""
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        # As a URL has it, too: `Bearer%20KEY`.
        digests = {sha256(p) for form in {line, unquote(line)} for word in WORD.findall(form) for p in _parts(word)}
        found += [(number, name) for name in sorted({known[d] for d in digests if d in known})]
    return found


def _parts(word: str) -> set[str]:
    """What in a word may be a key: it may end a sentence, be the value of an assignment, or be a part of a path."""
    pieces = {word, *(piece for piece in word.split("/") if len(piece) >= SHORTEST)}
    return {part for p in pieces for part in (p, p.strip("=.-/+"), p.rpartition("=")[2])}
