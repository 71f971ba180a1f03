"""Checks of one declared value: is it of the right kind, and can what is rendered of it be run? Pure functions.

Each check returns what is wrong as text, "" when nothing is. What a check accepts is written as it is into command lines,
compose files, Dockerfiles, folder names and settings of the gateway, so a check that is too kind is found there.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import math
import posixpath
import re
import unicodedata
from collections.abc import Callable, Mapping
from typing import Any

Check = Callable[[Any], str]

NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,47}")
FLAG = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9._-]*")
RULE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
COMMIT = re.compile(r"[0-9a-f]{40}")
SIZE = re.compile(r"(\d+(?:\.\d+)?) ?([kmgt])(?:i?b)?", re.IGNORECASE)
SAFE_PATH = re.compile(r"(?:/[A-Za-z0-9_@+-][A-Za-z0-9._@+-]*)+")  # what needs no quotes anywhere
UNITS = {"k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}
SIZES = (6 * 2**20, 2**50)  # Docker refuses a container less than 6 MiB
LARGEST = 2**63  # what the engine, Docker and JSON's readers hold in one number

# [host/]repository[:tag], as docker reads it (module lock names the parts); repositories and branches of the hub.
REFERENCE = (
    r"(?:(?P<host>[A-Za-z0-9.-]+(?::[0-9]+)?|\[[0-9a-fA-F:]+\](?::[0-9]+)?)/)?"
    r"(?P<path>[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*)*)"
    r"(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}))?"
)
REPOSITORY = r"[A-Za-z0-9][A-Za-z0-9._-]*(?:/[A-Za-z0-9][A-Za-z0-9._-]*)?"
BRANCH = r"(?!.*(?:\.\.|//))[A-Za-z0-9](?:[A-Za-z0-9._/-]*[A-Za-z0-9_-])?"

# Mounts of the project inside an engine's container.
TAKEN = ("/model", "/cache", "/plugins", "/run/secrets", "/tmp")  # noqa: S108 - the container's own
_SHARED = tuple(f"{r}{p}" for r in ("", "r") for p in ("shared", "slave", "private"))
MOUNT_OPTIONS = ("ro", "rw", "z", "Z", "cached", "delegated", "consistent", "nocopy", *_SHARED)


def said(value: Any) -> str:
    """A value and its kind, for a message."""
    shown = repr(value if not isinstance(value, str) else str(value))
    return f"{shown if len(shown) <= 60 else shown[:57] + '...'} ({_kind(value)})"


def _kind(value: Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int):
        return "whole number"
    if isinstance(value, float):
        return "number"
    if isinstance(value, str):
        return "text"
    if isinstance(value, Mapping):
        return "mapping"
    return "list" if isinstance(value, (list, tuple)) else type(value).__name__


# ---------------------------------------------------------------------------------------------------------------------
# Texts.


def anything(_: Any) -> str:
    """Accepts any value."""
    return ""


def text(value: Any) -> str:
    """Text of one line: it ends up in places where the next line would be another instruction."""
    if isinstance(value, str) and value.strip() == value != "" and value.isprintable():
        return ""
    return f"must be text of one line, got {said(value)}"


def prose(value: Any) -> str:
    """Text of any number of lines, in any script, without what a terminal would obey."""
    if isinstance(value, str) and value.strip() and not any(map(_obeyed, value)):
        return ""
    return f"must be text, got {said(value)}"


def _obeyed(character: str) -> bool:
    """Control characters, halves of characters, and those that turn the direction of a line."""
    if character in "\n\t":
        return False
    return (
        unicodedata.category(character) in ("Cc", "Cs")
        or character in "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
    )


def why(value: Any) -> str:
    """A reason that somebody declared (`accept`, `reason`): text."""
    return f"must say why, as text, got {said(value)}" if prose(value) else ""


def secret(value: Any) -> str:
    """A key or token. What is wrong with it is said without showing it."""
    if isinstance(value, str) and re.fullmatch(r"[!-~]+", value):
        return ""
    return f"must be text in one word of ASCII characters, got {_kind(value)} (not shown)"


def matching(pattern: str, what: str) -> Check:
    """Text that matches all of a pattern; `what` says it in words."""
    wanted = re.compile(pattern)

    def check(value: Any) -> str:
        return "" if isinstance(value, str) and wanted.fullmatch(value) else f"must be {what}, got {said(value)}"

    return check


def either(empty: str, check: Check) -> Check:
    """Empty text, which stands for `empty`, or what a check accepts."""

    def both(value: Any) -> str:
        problem = "" if value == "" and isinstance(value, str) else check(value)
        return problem.replace("must be ", f"must be empty ({empty}) or ", 1)

    return both


def one_of(*allowed: str) -> Check:
    """A check that accepts one of the given words."""

    def check(value: Any) -> str:
        return (
            ""
            if isinstance(value, str) and value in allowed
            else f"must be one of {', '.join(allowed)}, got {said(value)}"
        )

    return check


def name(value: Any) -> str:
    """A name: lower case letters, digits and dashes, at most 48 (container and host names derive from it)."""
    if isinstance(value, str) and NAME.fullmatch(value):
        return ""
    return f"must be lower case letters, digits and dashes, at most 48, got {said(value)}"


digest = matching(DIGEST.pattern, "sha256: and 64 hex digits")
commit = matching(COMMIT.pattern, "40 hex digits, quoted")
sha256 = matching(r"[0-9a-f]{64}", "64 hex digits in lower case, quoted")
word = matching(r"[A-Za-z0-9][A-Za-z0-9._-]*", "one word of letters, digits, dots, dashes and underscores")
served = matching(r"[A-Za-z0-9][!-~]*", "one word of ASCII characters that begins with a letter or digit")
dotted = matching(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*", "the name of a Python module, as it is imported")
target = matching(
    rf"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*|{SAFE_PATH.pattern}", "the name of a Python module, or an absolute path"
)
version = matching(
    r"\d+(?:\.\d+){0,3}(?:[.-]?(?:a|b|rc|post|dev)\d+)*", 'a version, quoted, such as "0.33.0" or "0.33.1rc1"'
)
reference = matching(rf"{REFERENCE}(?:@{DIGEST.pattern})?", "[host/]repository[:tag][@sha256:...]")
repository = matching(REPOSITORY, "a repository of the hub, owner/name")
branch = matching(BRANCH, "a branch, tag or commit, as quoted text")
url = matching(r"https?://[A-Za-z0-9[][!-~]*", "an address that begins with http:// or https://")
https_url = matching(r"https://[A-Za-z0-9[][!-~]*", "an address that begins with https://")
email_address = matching(r"[A-Za-z0-9][A-Za-z0-9._+-]*@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+", "an e-mail address")
package = matching(r"[A-Za-z0-9][A-Za-z0-9._-]*==[A-Za-z0-9][A-Za-z0-9.!+_-]*", "a pinned package, name==version")
requirement = matching(r"[A-Za-z0-9./][ -~]*(?<! )", "one requirement as pip takes it, such as name==version")
distribution = matching(r"[A-Za-z0-9][A-Za-z0-9._-]*", "the name of a Python package")
debian = matching(
    r"[a-z0-9][a-z0-9.+-]+(?::[a-z0-9]+)?(?:[=/][A-Za-z0-9.+:~*-]+)?", "the name of a Debian package, as apt takes it"
)
suite = matching(r"[a-z][a-z0-9./-]*", "the name of a release, such as bookworm")
account = matching(r"(?:[a-z_][a-z0-9_-]*|\d+)(?::(?:[a-z_][a-z0-9_-]*|\d+))?", "a user, or user:group, as text")
mode = matching(r"0?[0-7]{3,4}", 'permissions in octal, quoted, such as "0644"')
safe_path = matching(
    SAFE_PATH.pattern, "an absolute path of letters, digits and ._@+-, without .. or a slash at its end"
)
domain = matching(
    r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?)*",
    "a domain, such as llm.example.org",
)
uuid = matching(r"GPU-[0-9A-Za-z-]+", "a UUID as `nvidia-smi -L` shows it (GPU-...)")


def secret_url(value: Any) -> str:
    """An address that may hold a password, which is not shown."""
    return "must be an address that begins with http:// or https:// (not shown)" if url(value) else ""


def address(value: Any) -> str:
    """An IP address without a zone; Docker publishes on none that has one."""
    try:
        ipaddress.ip_address(value if isinstance(value, str) and "%" not in value else "")
    except ValueError:
        return f"must be an IPv4 or IPv6 address of the host, 0.0.0.0 or :: for all of a kind, got {said(value)}"
    return ""


def absolute(value: Any) -> str:
    """An absolute path in its plain form."""
    if not text(value) and value.startswith("/") and posixpath.normpath(value) == value:
        return ""
    return f"must be an absolute path without . or .. or a slash at its end, got {said(value)}"


def relative(value: Any) -> str:
    """A path below a folder, which it does not leave."""
    if not text(value) and posixpath.normpath(value) == value and value[0] not in "/." and ":" not in value:
        return ""
    return f"must be a path below that folder, without . or .., got {said(value)}"


def middleware(value: Any) -> str:
    """A file below files/ and a class in it. The file is imported, so its name must be one that Python takes."""
    file, _, attribute = value.rpartition(":") if isinstance(value, str) else ("", "", "")
    importable = re.fullmatch(r"(?:.*/)?[A-Za-z_]\w*\.py", file) and re.fullmatch(r"[A-Za-z_][\w.]*", attribute)
    if importable and not relative(file):
        return ""
    return f"must be file:class, such as request_log.py:RequestLog, got {said(value)}"


def mount(value: Any) -> str:
    """A folder or file of the host in the container, `/on/host:/in/container[:options]`."""
    parts = value.split(":") if isinstance(value, str) else []
    if len(parts) not in (2, 3) or any(absolute(p) for p in parts[:2]):
        return f"must be /on/host:/in/container, with :ro behind it or not, both absolute, got {said(value)}"
    if inside := next((t for t in TAKEN if f"{parts[1]}/".startswith(f"{t}/")), ""):
        return f"mounts over {inside}, which the engine gets from this project"
    if unknown := [o for o in parts[2:] and parts[2].split(",") if o not in MOUNT_OPTIONS]:
        return f"has the option {unknown[0]!r}, and Compose knows {', '.join(MOUNT_OPTIONS)}"
    return ""


# ---------------------------------------------------------------------------------------------------------------------
# Numbers and sizes.


def boolean(value: Any) -> str:
    """Either true or false."""
    return "" if isinstance(value, bool) else f"must be true or false, got {said(value)}"


def whole(low: int, high: int) -> Check:
    """A whole number in [low, high]."""

    def check(value: Any) -> str:
        if isinstance(value, int) and not isinstance(value, bool) and low <= value <= high:
            return ""
        return f"must be a whole number from {low} to {high}, got {said(value)}"

    return check


def number(low: float, high: float) -> Check:
    """A number in [low, high]; what is no number (NaN) is in none."""

    def check(value: Any) -> str:
        if isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value <= high:
            return ""
        return f"must be a number from {low:g} to {high:g}, got {said(value)}"

    return check


def size(value: Any) -> str:
    """A size with a unit, such as `16g`, `512 MiB`."""
    if isinstance(value, str) and SIZE.fullmatch(value) and SIZES[0] <= size_bytes(value) <= SIZES[1]:
        return ""
    return f"must be a size with a unit such as 16g or 512m, at least 6m, got {said(value)}"


def size_bytes(value: str) -> int:
    """Bytes of a size that `size` accepts; units are powers of 1024."""
    match = SIZE.fullmatch(value)
    if match is None:
        raise ValueError(f"{value!r} is no size")
    return int(float(match[1]) * UNITS[match[2].lower()])


def gpu_id(value: Any) -> str:
    """A GPU: its index, or its UUID as nvidia-smi prints it."""
    if not uuid(value) or not whole(0, 63)(value):
        return ""
    return f"must be a GPU index (0 to 63) or a UUID (GPU-...), got {said(value)}"


# ---------------------------------------------------------------------------------------------------------------------
# What engines are given.


def flag_value(value: Any) -> str:
    """The value of an engine flag: text, number or boolean, a list of texts and numbers, or a mapping (written as JSON)."""
    if isinstance(value, Mapping):
        return json_value(value)
    if isinstance(value, (list, tuple)):
        return ListOf(_flag_word, 1)(value)
    return "" if isinstance(value, bool) else _flag_word(value)


def _flag_word(value: Any) -> str:
    if isinstance(value, str) and re.match(r"-[^0-9.]|-$", value):
        return f"begins with a dash, so the engine would take it for another flag: {said(value)}"
    if not text(value) or _is_number(value):
        return ""
    return f"must be text of one line or a number (a list of them, a mapping, true or false), got {said(value)}"


def _is_number(value: Any) -> bool:
    """Whether a value is a number that a command line and JSON can carry: neither NaN, nor infinite, nor beyond 64 bits."""
    plain = isinstance(value, (int, float)) and not isinstance(value, bool)
    return plain and math.isfinite(value) and abs(value) < LARGEST


def json_value(value: Any) -> str:
    """What JSON can carry as it is meant: YAML also has dates, NaN, and keys that are no text."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if text(key):
                return f"has the key {said(key)}, and keys must be text: quote it"
            if problem := json_value(inner):
                return f"has `{key}`, which {problem}"
        return ""
    if isinstance(value, (list, tuple)):
        return next((problem for inner in value if (problem := json_value(inner))), "")
    if value is None or isinstance(value, bool) or value == "" or not prose(value) or _is_number(value):
        return ""
    return f"must be text, a number, true, false or null, got {said(value)}"


def env_value(value: Any) -> str:
    """The value of an environment variable. YAML's yes/no turn into booleans silently, so those must be quoted."""
    if isinstance(value, bool):
        return f'is {str(value).lower()}: write it as quoted text, such as "{int(value)}"'
    if (isinstance(value, str) and (value == "" or value.isprintable())) or _is_number(value):
        return ""
    return f"must be text of one line or a number, got {said(value)}"


# ---------------------------------------------------------------------------------------------------------------------
# Lists and mappings of them.


@dataclasses.dataclass(frozen=True)
class ListOf:
    """A list whose items pass `item`, with at least `least` of them."""

    item: Check
    least: int = 0

    def __call__(self, value: Any) -> str:
        """What is wrong with a value: judges a list by its items."""
        if not isinstance(value, (list, tuple)):
            return f"must be a list, got {said(value)}"
        if len(value) < self.least:
            return f"must have at least {self.least} item{'s' if self.least > 1 else ''}"
        for position, entry in enumerate(value):
            if problem := self.item(entry):
                return f"item {position + 1} {problem}"
        return ""


@dataclasses.dataclass(frozen=True)
class MapOf:
    """A mapping whose keys match `key` (in words: `what`) and whose values pass `item`."""

    key: re.Pattern[str]
    what: str
    item: Check

    def __call__(self, value: Any) -> str:
        """What is wrong with a value: judges a mapping by its keys and items."""
        if not isinstance(value, Mapping):
            return f"must be a mapping, got {said(value)}"
        for entry_key, entry in value.items():
            if not isinstance(entry_key, str) or not self.key.fullmatch(entry_key):
                return f"has {said(entry_key)} where {self.what} is expected"
            if problem := self.item(entry):
                return f"has `{entry_key}`, which {problem}"
        return ""
