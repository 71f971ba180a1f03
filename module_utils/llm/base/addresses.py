"""Names and addresses of hosts: which are local, and how one stands in a URL."""

from __future__ import annotations

import ipaddress


def reached(bind_address: str) -> str:
    """Address at which a host's own programs reach what is published there."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(bind_address, bind_address)  # noqa: S104 - compared, not bound


def in_url(address: str) -> str:
    """A name or an address as it stands before a port."""
    return f"[{address}]" if ":" in address else address


def is_loopback(address: str) -> bool:
    """Whether a name or an address is reached from its own host alone."""
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return address == "localhost"


LOCAL = ("localhost", "127.0.0.1", "::1")  # nobody certifies these


def is_address(name: str) -> bool:
    """Whether a name is an IP address."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
