"""The gateway as it is declared: names, ports and certificates, what is wrong with them, and whether a host has it so.

Pure functions.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, TypedDict, overload

from ansible.module_utils.llm.base import addresses
from ansible.module_utils.llm.base.spelling import did_you_mean
from ansible.module_utils.llm.declare.facts import (
    AcmeConfig,
    AcmeRequest,
    Certificate,
    ClientKeys,
    Content,
    GatewaySettings,
    Route,
)
from ansible.module_utils.llm.declare.findings import Finding
from ansible.module_utils.llm.declare.objects import Declared
from ansible.module_utils.llm.declare.values import size_bytes
from ansible.module_utils.llm.declare.variables import ACME, GATEWAY, LIVENESS
from ansible.module_utils.llm.gateway import acme, certificates
from ansible.module_utils.llm.gateway import host as gateway_host
from ansible.module_utils.llm.gateway import keys as gateway_keys
from ansible.module_utils.llm.gateway import routes as gateway_routes
from ansible.module_utils.llm.gateway.certificates import moment
from ansible.module_utils.llm.plan import placement, program

BUFFER = 2**20  # bytes of a request that can be looked into: the longest prompt of a 131,072 token model, as text
WHOLE = BUFFER - 16384  # a body beyond this may not have been read whole
CONNECTIONS = 4096
LARGE, COPIES = 1024, 256
"""Large requests at once, and copies of requests that can go to another engine: at most, so that their buffers fit in the
container's memory."""
NEAR = 8  # requests under way at an engine below which it gets all that begin alike; see README of role gateway
WILDCARDS = ("0.0.0.0", "::", "*")  # noqa: S104 - compared, not bound


Port = Literal["https_port", "http_port"]
PORTS: tuple[Port, ...] = ("https_port", "http_port")


class Values(TypedDict):
    """What role gateway's templates and module are filled with, beside the role's own variables; see `values`.

    ports: its own first. buffer, whole: bytes. near: requests at an engine. stalled: service to seconds without a token after which
    its engine gets no new requests.
    """

    https_port: int
    http_port: int
    ports: list[int]
    ports_address: str
    backends: list[gateway_routes.Backend]
    returns: dict[str, int]
    wait: int
    body_limit: int
    connections: int
    buffer: int
    whole: int
    large: int
    copies: int
    near: int
    stalled: dict[str, int]


class Found(TypedDict, total=False):
    """What module llm_host_facts says of a gateway (see declare/facts.Gateway); {} where the host was not read."""

    files: dict[str, str | None]
    loaded: str | None
    id: str
    state: str
    due: list[str]
    certificate: Certificate
    acme: program.Found


@overload
def setting(declared: Declared, key: Literal["https_port", "http_port", "wait"]) -> int: ...
@overload
def setting(declared: Declared, key: Literal["ports_address", "certificate", "key", "body_limit"]) -> str: ...
@overload
def setting(declared: Declared, key: Literal["names"]) -> Sequence[str]: ...
@overload
def setting(declared: Declared, key: Literal["acme"]) -> Content: ...


def setting(declared: Declared, key: str) -> object:
    """One key of `llm_gateway`, or what holds without it."""
    return declared.settings.gateway.get(key, GATEWAY[key].default)


def settings(declared: Declared) -> GatewaySettings:
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


def values(settings: GatewaySettings, routes: Iterable[Route], bind_address: str) -> Values:
    """What role gateway is filled with. settings: {} gives services their ports alone.

    bind_address: where ports are
    published, unless the settings have another address for the services' own.
    """
    routes, domain = list(routes), settings.get("domain", "")
    backends = gateway_routes.backends(routes, domain)
    https_port, http_port = settings.get("https_port", 0), settings.get("http_port", 0)
    return {
        "https_port": https_port,
        "http_port": http_port,
        "ports": [*filter(None, (https_port, http_port)), *(route["port"] for route in routes)],
        "ports_address": settings.get("ports_address") or bind_address,
        "backends": backends,
        "returns": gateway_routes.returns(routes, domain),
        "wait": settings.get("wait", GATEWAY["wait"].default),
        "body_limit": settings.get("body_limit", size_bytes(GATEWAY["body_limit"].default)),
        "connections": settings.get("connections", CONNECTIONS),
        "buffer": BUFFER,
        "whole": WHOLE,
        "large": LARGE,
        "copies": COPIES,
        "near": NEAR,
        "stalled": _stalled(routes, backends),
    }


def _stalled(routes: Iterable[Route], backends: Iterable[gateway_routes.Backend]) -> dict[str, int]:
    """Seconds without a token after which an engine gets no new requests, by service; only of those that share them with others."""
    usual = LIVENESS["progress_timeout"].default
    given = {route["service"]: route.get("progress_timeout", usual) for route in routes}
    return {s["name"]: given[s["name"]] for b in backends if len(b["servers"]) > 1 for s in b["servers"]}


def wanted(texts: Mapping[str, str], routes: Iterable[Route], found: Found) -> program.Wanted:
    """The gateway as it is to be on a host: without routes there is to be none.

    texts: of compose.yml, etc/haproxy.cfg and etc/door.lua, by these names. loaded: the words that module llm_gateway
    writes down for files and container; those after them, for keys and certificate, are in `due` of the facts.
    """
    if not list(routes):
        return {"files": {}, "loaded": "", "good": found.get("state", "absent") == "absent"}
    loaded = [*gateway_host.sums(texts), found.get("id", "")]
    good = (
        (found.get("loaded") or "").split()[:3] == loaded
        and found.get("state") == "running"
        and found.get("files") == program.sums(texts)
        and not found.get("due")
    )
    return {"files": dict(texts), "loaded": " ".join(loaded), "good": good}


def acme_wanted(code: Mapping[str, str], request: AcmeRequest, compose: str, found: Found) -> program.Wanted:
    """The client that gets the certificate by ACME, as it is to be on a host; good when it has brought what is declared, too.

    code, compose: see program.wanted. request: see acme_request.
    """
    config: AcmeConfig = {}
    if compose:
        config = {"server": request["server"], "email": request["email"], "names": request["names"]}
    client = program.wanted(code, config, compose, found.get("acme", {}))
    if not compose:
        return client
    state = found.get("certificate", {}).get("acme", {})
    return {**client, "good": client["good"] and not state.get("ca_differs") and state.get("missing") == ""}


def ports_address(declared: Declared) -> str:
    """Address on which the services' own ports are published."""
    return str(setting(declared, "ports_address") or declared.settings.bind_address)


def known_as(declared: Declared, reached: str) -> str:
    """Under what the gateway answers for all services to clients elsewhere. reached: name or address of the host.

    By another name it says that it does not know it, and the certificate does not have it.
    """
    others = [n for n in names(declared) if n not in addresses.LOCAL]
    return reached if reached in others or not others else others[0]


def host_name(declared: Declared, service: str) -> str:
    """`api.<hostname>.<domain>` of a service, "" where either is not declared."""
    hostname, domain = declared.services[service].hostname, declared.settings.domain
    return f"api.{hostname}.{domain}" if hostname and domain else ""


def names(declared: Declared) -> list[str]:
    """Names and addresses under which the gateway answers for all services: the model in a request picks one."""
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
    return [n.lower() for n in certificate_names(declared) if n not in addresses.LOCAL and not addresses.is_address(n)]


def acme_request(declared: Declared) -> AcmeRequest:
    """With what a certificate is asked for; {} where none is."""
    wanted = setting(declared, "acme")
    if not wanted or not declared.host_services:  # a host that lists no service has no gateway
        return {}
    server, email, ca_file = (str(wanted.get(k, ACME[k].default)) for k in ("server", "email", "ca_file"))
    return {"server": server, "email": email, "ca_file": ca_file, "names": acme_names(declared)}


def findings(declared: Declared) -> dict[str, list[Finding]]:
    """What is wrong with the gateway's own ports and with ACME, under "". Services that share a host name are placement's."""
    found: dict[str, list[Finding]] = {"": [*_acme_findings(declared), *_plain_findings(declared)]}
    running = placement.deployed(declared)
    ports = {declared.services[s].port: f"service `{s}`" for s in running}
    for key in PORTS:
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
    if not setting(declared, "https_port") or addresses.is_loopback(address) or not placement.deployed(declared):
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
    if addresses.is_loopback(declared.settings.bind_address):
        message = f"is {declared.settings.bind_address}, where no ACME server reaches port 80"
        remedy = "Set it to an address of the host that others reach, unless something in front of it leads there"
        refuse("llm_bind_address", message, remedy, "warn")
    for name in (n for n in own if addresses.is_address(n)):
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
    """Ports of the gateway itself: port to the key that declares it."""
    return {setting(declared, k): f"llm_gateway.{k}" for k in PORTS if setting(declared, k)}


def host_findings(declared: Declared, found: Certificate, now: float) -> list[Finding]:
    """What is wrong with the gateway's certificate on the host, where it was given or comes by ACME."""
    if not setting(declared, "https_port"):
        return []
    if acme_request(declared):
        return _acme_host_findings(found, now)
    if not setting(declared, "certificate"):
        return []
    key = "llm_gateway.certificate"
    if found.get("problem"):
        return [
            Finding("certificate", "error", key, found["problem"], "Give a valid one; the running gateway is untouched")
        ]
    lacking = [
        n
        for n in certificate_names(declared)
        if n not in addresses.LOCAL and not certificates.covers(found["names"], n)
    ]
    if lacking:
        message = f"is not for {', '.join(lacking)} (it is for {', '.join(found['names']) or 'no name'})"
        remedy = "Give one that has these names, or change llm_domain, hostname or llm_gateway.names"
        return [Finding("certificate-names", "error", key, message, remedy)]
    left = found["expires"] - now
    if left < certificates.RENEW:
        message = f"ends in {max(int(left // 86400), 0)} days, at {moment(found['expires'])}"
        return [Finding("certificate-ends", "warn", key, message, "Put a new one in its place and run site.yml")]
    return []


def _acme_host_findings(found: Certificate, now: float) -> list[Finding]:
    """What is wrong with the certificate that ACME gives."""
    state = found.get("acme", {})
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


def key_findings(declared: Declared, found: ClientKeys) -> list[Finding]:
    """What is wrong with the clients' keys on the host, a file that people edit.

    A key for a service that is not declared any more is no reason to keep the service from going.
    """
    place = f"{declared.settings.root}/gateway/clients.json"
    if found.get("problem"):
        return [Finding("client-keys", "error", place, found["problem"], gateway_keys.CLIENTS_REMEDY)]
    findings = []
    for entry in found.get("keys", ()):
        if unknown := [s for s in entry["services"] if s != "*" and s not in declared.services]:
            message = f"key {entry['id']} of client {entry['client']} is for `{unknown[0]}`, which is not declared"
            remedy = f"Revoke it (playbooks/keys.yml), or correct it. {did_you_mean(unknown[0], declared.services)}"
            findings.append(Finding("client-scope", "warn", place, message, remedy))
    return findings
