"""Inventories: whether one was chosen for a run, and files of variables beside it that belong to nobody. Pure functions."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from itertools import chain
from typing import NamedTuple

from ansible.module_utils.llm.base.spelling import nearest
from ansible.module_utils.llm.declare.findings import Finding

# Folders beside an inventory, and what their entries are named after.
KINDS = {"host_vars": "host", "group_vars": "group"}
SUFFIXES = (".yml", ".yaml", ".json")


class Entry(NamedTuple):
    """A file or folder of variables. folder: that of `kind` is in, as a person would write it."""

    folder: str
    kind: str
    name: str
    is_folder: bool = False

    @property
    def path(self) -> str:
        """Path of the file or folder."""
        return f"{self.folder}/{self.kind}/{self.name}"

    @property
    def owner(self) -> str:
        """The host or group that a file of variables is named after; "" for one that Ansible ignores, such as a README.md."""
        if self.is_folder or "." not in self.name:
            return "" if self.name.startswith(".") or self.name.endswith("~") else self.name
        stem = next((self.name.removesuffix(s) for s in SUFFIXES if self.name.endswith(s)), "")
        return "" if stem.startswith(".") else stem


def unchosen(sources: Collection[str], chosen: bool, hosts: Collection[str], known: Collection[str]) -> str:
    """Why a run ends before it begins; "" when somebody chose an inventory, and that has hosts.

    sources: those of the run, which Ansible took by itself unless they were chosen. known: inventories that there are.
    """
    if chosen and hosts:
        return ""
    what = f"There is no host in {', '.join(sources)}" if chosen else "No inventory was chosen"
    here = f" (here: {', '.join(known)})" if known else ""
    return (
        f"{what}, and nothing was started. Name one with -i INVENTORY{here}, "
        "or for all commands that follow with `export ANSIBLE_INVENTORY=INVENTORY`."
    )


def strays(entries: Iterable[Entry], groups: Mapping[str, Collection[str]]) -> list[Finding]:
    """Files of variables that belong to no host and no group. groups: name to its hosts, with `all`."""
    found = []
    for entry in entries:
        known = [*groups.get("all", ())] if KINDS[entry.kind] == "host" else [*groups]
        if not entry.owner or entry.owner in known or entry.name in known:
            continue
        near = nearest(entry.owner, known)
        kind = KINDS[entry.kind]
        message = f"belongs to no {kind} of the inventory, so that none gets what it says"
        remedy = f"Did you mean `{near}`?" if near else f"Name it after a {kind} ({_few(known)}), or remove it"
        found.append(Finding(f"{kind}-vars-stray", "warn", entry.path, message, remedy))
    return found


def undefined(host: str, folders: Iterable[str], entries: Iterable[Entry], strays: Iterable[Finding]) -> Finding:
    """The refusal of a host of which nobody said what it runs. folders: those of the inventories."""
    own = (e.path for e in entries if e.kind == "host_vars" and host in (e.owner, e.name))
    new = (f"{folder}/host_vars/{host}.yml" for folder in folders)
    place = next(chain(own, new), f"host_vars/{host}.yml beside the inventory")
    message, remedy = (
        f"is not defined for host `{host}`",
        f"Write it to {place}; `[]` is for a host that serves nothing",
    )
    if lost := [f.key for f in strays if f.id == "host-vars-stray"]:
        message += f", while {' and '.join(lost)} {'belongs' if len(lost) == 1 else 'belong'} to no host"
        remedy = f"Was the host renamed? Then rename its file. Else write it to {place}; `[]` is for a host that serves nothing"
    return Finding("host-services-undefined", "error", "llm_host_services", message, remedy)


def _few(names: Collection[str]) -> str:
    """Some names for an example."""
    shown = sorted(names)[:5]
    return ", ".join(shown) + (", ..." if len(names) > len(shown) else "")
