"""Certificates in files: what they say, and whether a key belongs to one. Standard library; starts no process.

Not `cryptography`: the facts of a host are read by its own Python, which has no packages of ours. `openssl x509` tells the same
and would cost an unchanged host one more process for each certificate.
"""

from __future__ import annotations

import datetime
import hashlib
import ssl
from collections.abc import Iterable
from pathlib import Path
from typing import TypedDict

from ansible.module_utils.llm.base import files
from ansible.module_utils.llm.declare.facts import Certificate


class GivenCertificate(Certificate, total=False):
    """A certificate that an operator gives. pem: with its key in one text, as HAProxy reads them; "" where there is a problem."""

    pem: str


class _Decoded(TypedDict, total=False):
    subjectAltName: tuple[tuple[str, str], ...]
    notBefore: str
    notAfter: str


def read(path: Path) -> Certificate:
    """The first certificate of a PEM file, of no names and times where `problem` says why it can't be read."""
    try:
        path.read_bytes()
        # The public interface of `ssl` shows a certificate only of a connection; this is what Python tests that with.
        found: _Decoded = ssl._ssl._test_decode_cert(str(path))  # type: ignore[attr-defined]
    except (OSError, ValueError) as error:
        damaged = isinstance(error, (ssl.SSLError, ValueError))
        why = "is no certificate in PEM" if damaged else getattr(error, "strerror", "") or "cannot be read"
        return {"names": [], "begins": 0, "expires": 0, "problem": f"{path}: {why}"}
    named = [value for kind, value in found.get("subjectAltName", ()) if kind in ("DNS", "IP Address")]
    begins, expires = (int(ssl.cert_time_to_seconds(t)) for t in (found["notBefore"], found["notAfter"]))
    return {"names": named, "begins": begins, "expires": expires, "problem": ""}


def fingerprint(pem: str) -> str:
    """SHA-1 of the first certificate of a text, as HAProxy shows it."""
    first = pem[pem.index("-----BEGIN CERTIFICATE") :].partition("-----END CERTIFICATE-----")
    der = ssl.PEM_cert_to_DER_cert(first[0] + first[1])
    return hashlib.sha1(der, usedforsecurity=False).hexdigest().upper()


def given(cert: Path, key: Path, now: float) -> GivenCertificate:
    """A certificate that an operator gives, judged together with its private key; problem: what is wrong with either, by `now`."""
    found: GivenCertificate = {**read(cert), "pem": ""}
    if found["problem"]:
        return found
    try:
        secret = key.read_text(encoding="utf-8")
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key, password="")
    except ssl.SSLError as error:
        why = (
            "does not belong to it"
            if "MISMATCH" in str(error.reason)
            else "is no private key in PEM, or has a password"
        )
        return {**found, "problem": f"the key in {key} {why}"}
    except (OSError, UnicodeDecodeError) as error:
        return {**found, "problem": f"the key in {key} cannot be read: {getattr(error, 'strerror', None) or 'no text'}"}
    if found["expires"] <= now:
        return {**found, "problem": f"{cert} has ended at {moment(found['expires'])}"}
    if found["begins"] > now:
        return {**found, "problem": f"{cert} is not valid before {moment(found['begins'])}, by the host's clock"}
    return {**found, "pem": files.read(cert).rstrip("\n") + "\n" + secret}


def moment(seconds: float) -> str:
    """A time for a person."""
    return datetime.datetime.fromtimestamp(seconds, tz=datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


RENEW = 30 * 86400  # seconds before its end at which our own certificate is replaced, and a given one warned of


def covers(patterns: Iterable[str], name: str) -> bool:
    """Whether a certificate's names have this one; `*` stands for one label."""
    parent = name.partition(".")[2]
    return any(p.lower() == name.lower() or (p.startswith("*.") and p[2:].lower() == parent.lower()) for p in patterns)
