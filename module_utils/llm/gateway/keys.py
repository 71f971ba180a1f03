"""Keys of clients, and the key between gateway and engines. Pure functions."""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import re
import secrets
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ansible.module_utils.llm.base import tables
from ansible.module_utils.llm.base.spelling import did_you_mean
from ansible.module_utils.llm.declare.values import NAME
from ansible.module_utils.llm.gateway.certificates import moment

NEVER = 253_402_300_799  # the last second of the year 9999
ENGINE_KEYS_FILE = "engine-keys"  # below the gateway's folder; newest first
ENGINE_KEYS = 2  # the newest and the one before it: an engine that was not deployed anew still knows that one


@dataclasses.dataclass(frozen=True)
class ClientKey:
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


def keys_of(document: Mapping[str, Any]) -> list[ClientKey]:
    """Keys of clients.json; ValueError, KeyError or TypeError for what `create` does not make."""
    keys = [ClientKey(**{**entry, "services": tuple(entry["services"])}) for entry in document.get("keys", [])]
    for key in keys:
        if wrong := _wrong(key):
            raise ValueError(f"key {key.id} of client {key.client}: {wrong}")
    return keys


def _wrong(key: ClientKey) -> str:
    """Why a key cannot stand in the gateway's map, whose lines hold a key's fields side by side; "" when it can."""
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


def document(keys: Iterable[ClientKey]) -> dict[str, Any]:
    """Content of clients.json for these keys."""
    return {"keys": [{**dataclasses.asdict(k), "services": list(k.services)} for k in keys]}


def sha256(key: str) -> str:
    """SHA-256 that stands for a key where the key itself is not kept. Keys are long and random, so no slower hash is needed."""
    return hashlib.sha256(key.encode()).hexdigest()


def key_map(keys: Iterable[ClientKey], service_keys: Mapping[str, Iterable[str]], now: float = 0) -> str:
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
    """When a key ends, in seconds since 1970, from `90d`, `12h` or a date."""
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


def create(keys: Sequence[ClientKey], fields: Mapping[str, Any], now: float) -> tuple[list[ClientKey], ClientKey, str]:
    """Add a key: (all keys, the new one, its text, which is kept nowhere)."""
    if any(k.client == fields["client"] and k.state(now) == "valid" for k in keys):
        raise Refused(
            f"`{fields['client']}` has a key already: rotate it (llm_key_do=rotate), revoke it, or choose another name"
        )
    return _with_new(keys, fields, now)


def _with_new(
    keys: Sequence[ClientKey], fields: Mapping[str, Any], now: float
) -> tuple[list[ClientKey], ClientKey, str]:
    text = f"sk-{secrets.token_urlsafe(32)}"
    known = {k.id for k in keys}
    name = next(i for i in iter(lambda: f"k{secrets.token_hex(4)}", "") if i not in known)
    new = ClientKey(id=name, sha256=sha256(text), created=int(now), **fields)
    return [*keys, new], new, text


def rotate(keys: Sequence[ClientKey], client: str, overlap: str, now: float) -> tuple[list[ClientKey], ClientKey, str]:
    """A new key for a client, with the scope, limits and end of its newest; the others go on for `overlap` (24h, 7d)."""
    valid = [k for k in keys if k.client == client and k.state(now) == "valid"]
    if not valid:
        raise Refused(f"`{client}` has no valid key to rotate. {_offer(keys, now)}")
    end = _end(overlap, now) if overlap.strip("0hd") else int(now)
    newest = max(valid, key=lambda k: k.created)
    fields = {f: getattr(newest, f) for f in ("client", "services", "expires", "per_minute", "at_once", "queue")}
    shortened = [dataclasses.replace(k, expires=min(k.expires, end)) if k in valid else k for k in keys]
    return _with_new(shortened, fields, now)


def revoke(keys: Sequence[ClientKey], named: str, now: float) -> list[ClientKey]:
    """Remove the keys of a client, or the one with this id."""
    hit = [k for k in keys if named in (k.client, k.id) and k.state(now) != "revoked"]
    if not hit:
        raise Refused(f"`{named}` is no client and no id of a key. {_offer(keys, now)}")
    return [dataclasses.replace(k, revoked=int(now)) if k in hit else k for k in keys]


def _offer(keys: Iterable[ClientKey], now: float) -> str:
    return f"Clients here: {', '.join(sorted({k.client for k in keys if k.state(now) == 'valid'})) or 'none'}"


def table(keys: Iterable[ClientKey], now: float) -> list[str]:
    """One line a key, for a person."""
    head = ("ID", "CLIENT", "SERVICES", "STATE", "ENDS", "A MINUTE", "AT ONCE", "WAITING")
    rows = []
    for key in sorted(keys, key=lambda k: (k.client, k.created)):
        limits = [str(v) if v else "-" for v in (key.per_minute, key.at_once, key.queue)]
        ends = "never" if key.expires == NEVER else moment(key.expires)
        rows.append([key.id, key.client, ",".join(key.services), key.state(now), ends, *limits])
    return tables.columns(head, rows)


# ---------------------------------------------------------------------------------------------------------------------
# The key between gateway and engines. It is one for all engines of a host, so that a backend of several needs no other.


def front_key(accepted: Iterable[Sequence[str]]) -> str:
    """The key that all engines of a backend accept, the newest if there are several; "" when there is none.

    accepted: keys of each engine, newest first.
    """
    accepted = list(accepted)
    return next((k for k in (accepted[0] if accepted else ()) if all(k in other for other in accepted)), "")


def engine_key_is_old(accepted: Sequence[str], engine_keys: Sequence[str]) -> bool:
    """Whether an engine has keys of the gateway, but not the newest. One without any, from before they existed, is not old."""
    return bool(engine_keys) and engine_keys[0] not in accepted and any(k in accepted for k in engine_keys)


CLIENTS_REMEDY = "Correct it, put it back from a copy, or remove it: all clients then need new keys"
