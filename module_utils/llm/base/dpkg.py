"""Packages of Debian's dpkg: what its status file and names of .deb files say."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TypedDict


class Package(TypedDict):
    """A package that is installed. held: no upgrade replaces it."""

    version: str
    held: bool


def packages(status: str, names: Iterable[str]) -> dict[str, Package]:
    """{name: {version, held}} of those that are installed, of dpkg's status file."""
    wanted = set(names)
    found: dict[str, Package] = {}
    for paragraph in status.split("\n\n"):
        name = re.match(r"Package: (\S+)", paragraph)
        if name is None or name[1] not in wanted:
            continue
        state = re.search(r"^Status: (\S+) \S+ (\S+)$", paragraph, re.MULTILINE)
        version = re.search(r"^Version: (\S+)$", paragraph, re.MULTILINE)
        if state and version and state[2] == "installed":
            found[name[1]] = {"version": version[1], "held": state[1] == "hold"}
    return found


def package_of(file: str) -> tuple[str, str]:
    """Name and version of a .deb file named as apt names it (name_version_arch.deb); a colon may be written as %3a."""
    match = re.fullmatch(r"([a-z0-9][a-z0-9+.-]*)_([^_]+)_[a-z0-9]+\.deb", file.rpartition("/")[2])
    if match is None:
        raise ValueError(f"{file} is not named name_version_architecture.deb")
    return match[1], match[2].replace("%3a", ":")
