"""Docker's daemon.json: what it is to hold, what the daemon has to do to load it, what may be shown of it. No I/O.

Declared settings are merged over what is there: mappings key by key, anything else is replaced, and what nobody declares
stays. A setting that is no longer declared stays too: nobody knows who else relies on it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

FILE = "/etc/docker/daemon.json"
DEFAULTS_FILE = "/etc/default/docker"  # read by the unit and the init script of Debian's and Ubuntu's packages
# What the daemon has loaded, for as long as the files say something else. In /run, since a boot loads the files.
LOADED_FILE = "/run/llm-docker-loaded.json"

# Keys that SIGHUP loads. Source: docs.docker.com/reference/cli/dockerd, "Configuration reload behavior", the same in 20.10
# and 28. All others wait for a start.
RELOADABLE = frozenset(
    {
        "allow-nondistributable-artifacts",
        "authorization-plugins",
        "debug",
        "default-runtime",
        "features",
        "insecure-registries",
        "labels",
        "live-restore",
        "max-concurrent-downloads",
        "max-concurrent-uploads",
        "max-download-attempts",
        "registry-mirrors",
        "runtimes",
        "shutdown-timeout",
    }
)
ENVIRONMENT = "environment"  # stands for DEFAULTS_FILE among the keys
LIMITED_DRIVERS = ("json-file", "local")  # log drivers that write files, and so take max-size and max-file
DEFAULT_DRIVER = "json-file"
PROXY_KEYS_SINCE = (23, 0)  # docs.docker.com/engine/release-notes/23.0: `proxies` in daemon.json
VALIDATE_SINCE = (23, 0)  # the same notes: `dockerd --validate`
PROXY = {"http": "http-proxy", "https": "https-proxy", "no_proxy": "no-proxy"}  # ours to daemon.json's
_USER = re.compile(r"(?<=://)[^/@\s\"]+(?=@)")  # user and password of an address
# Lines that every start writes, which hide the reason of one that failed.
_NOISE = re.compile(r"level=(info|warning)|^docker\.(service|socket):|^(Stopp|Start|Failed to start|Listening|Closed)")


class Broken(ValueError):
    """A daemon.json that dockerd would not read; the text says where."""


def parse(text: str) -> dict[str, Any]:
    """Settings in a daemon.json; an empty file has none. Raises Broken with the place."""
    if not text.strip():
        return {}
    try:
        found = json.loads(text)
    except ValueError as error:
        raise Broken(f"it is no JSON: {error}") from error
    if not isinstance(found, dict):
        raise Broken(f"it holds a {type(found).__name__}, and a mapping is wanted")
    return found


def render(settings: Mapping[str, Any]) -> str:
    """Text of a daemon.json. Keys keep their order, so that a diff shows what changes and nothing else."""
    return json.dumps(settings, indent=4, ensure_ascii=False) + "\n"


def merge(found: Mapping[str, Any], declared: Mapping[str, Any]) -> dict[str, Any]:
    """Declared settings over those that are there."""
    merged = dict(found)
    for key, value in declared.items():
        there = merged.get(key)
        both = isinstance(value, Mapping) and isinstance(there, Mapping)
        merged[key] = merge(there, value) if both and there is not None else value
    return merged


def version(text: str) -> tuple[int, int]:
    """First two numbers of a version, 0 for each that it does not have."""
    match = re.match(r"(?:\d+:)?(\d+)(?:\.(\d+))?", text)
    return (int(match[1]), int(match[2] or 0)) if match else (0, 0)


def declared(options: Mapping[str, Any], found: Mapping[str, Any], engine: str) -> dict[str, Any]:
    """Settings of daemon.json that the role's options stand for.

    options: {live_restore: bool, log_options: {name: value}, registry_mirrors: [address], proxy: {http, https, no_proxy},
    settings: {key: value}}; settings win. found: those in the file. engine: the daemon's version. Log options go to a driver that
    writes files; another would refuse them, and the daemon would not start.
    """
    wanted: dict[str, Any] = {}
    if options["live_restore"] or found.get("live-restore"):
        wanted["live-restore"] = bool(options["live_restore"])
    driver = options["settings"].get("log-driver", found.get("log-driver", DEFAULT_DRIVER))
    if options["log_options"] and driver in LIMITED_DRIVERS:
        wanted["log-opts"] = {str(k): str(v) for k, v in options["log_options"].items()}
    if options["registry_mirrors"]:
        wanted["registry-mirrors"] = list(options["registry_mirrors"])
    if proxy_keys(options["proxy"]) and knows_proxies(engine):
        wanted["proxies"] = proxy_keys(options["proxy"])
    return merge(wanted, options["settings"])


def knows_proxies(engine: str) -> bool:
    """Whether a daemon of this version takes its proxy from daemon.json; "" for one that is not installed yet counts as new."""
    return engine == "" or version(engine) >= PROXY_KEYS_SINCE


def proxy_keys(proxy: Mapping[str, Any]) -> dict[str, str]:
    """The proxy as daemon.json has it."""
    return {key: str(proxy[ours]) for ours, key in PROXY.items() if proxy.get(ours)}


def environment(options: Mapping[str, Any], engine: str) -> dict[str, str]:
    """Environment variables from which a daemon that knows no `proxies` in daemon.json takes its proxy; empty for a newer one."""
    if knows_proxies(engine):
        return {}
    return {key.upper().replace("-", "_"): value for key, value in proxy_keys(options["proxy"]).items()}


def read_environment(text: str) -> dict[str, str]:
    """Variables that a file such as /etc/default/docker sets."""
    return {m[1]: m[2].strip("\"'") for m in re.finditer(r"^(?:export )?([A-Z_]+)=(.*)$", text, re.MULTILINE)}


def write_environment(text: str, wanted: Mapping[str, str]) -> str:
    """Text of an environment file with these variables set, all else as it was.

    systemd reads it as a list of variables and passes over `export`, which the init script's shell needs.
    """
    lines = text.splitlines()
    for name, value in wanted.items():
        own = re.compile(rf"(export )?{name}(=|$)")
        lines = [line for line in lines if not own.match(line)] + [f'{name}="{value}"', f"export {name}"]
    return "\n".join(lines) + "\n" if lines else ""


@dataclass(frozen=True)
class Change:
    """Changes that a declaration makes to daemon.json and the environment file, and what the daemon has to load."""

    settings: dict[str, Any]  # daemon.json as it is to be
    environment: dict[str, str]  # what is to be set in DEFAULTS_FILE
    write: bool  # a file differs from that
    keys: list[str]  # what the daemon has not loaded, of both files
    restart: list[str]  # those among them that only a start loads


def change(
    found: Mapping[str, Any],
    wanted: Mapping[str, Any],
    *,
    loaded: Mapping[str, Any] | None = None,
    has: Mapping[str, str] | None = None,
    sets: Mapping[str, str] | None = None,
) -> Change:
    """Compare files with the declaration, and the declaration with what the daemon has loaded.

    found: daemon.json. wanted: see `declared`. has, sets: environment as it is in its file, and as declared. loaded:
    {settings, environment} that the daemon runs with; None when it is what the files say.
    """
    has, sets = dict(has or {}), dict(sets or {})
    settings = merge(found, wanted)
    runs = loaded or {"settings": found, "environment": has}
    keys = changed(runs["settings"], settings)
    names = [n for n, value in sets.items() if runs["environment"].get(n) != value]
    keys += [ENVIRONMENT] if names else []
    write = settings != dict(found) or any(has.get(n) != value for n, value in sets.items())
    return Change(settings, sets, write, keys, [k for k in keys if k not in RELOADABLE])


def changed(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Top-level keys that differ, sorted."""
    missing = object()
    return sorted(k for k in {*before, *after} if before.get(k, missing) != after.get(k, missing))


def reloaded(runs: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings in force after a reload: those the daemon ran with (`runs`), with what SIGHUP loads of `settings`."""
    kept = {k: v for k, v in runs.items() if k not in RELOADABLE}
    return {**kept, **{k: v for k, v in settings.items() if k in RELOADABLE}}


def action(keys: Sequence[str], restart: Sequence[str], *, running: bool, may_restart: bool) -> str:
    """What loads the keys: start, restart, reload, wait (for a start that somebody else decides on) or none."""
    if not running:
        return "start"
    if restart and may_restart:
        return "restart"
    if any(k in RELOADABLE for k in keys):
        return "reload"
    return "wait" if restart else "none"


def passwords(text: str) -> set[str]:
    """Users with passwords in the addresses of a text."""
    return set(_USER.findall(text))


def shown(text: str) -> str:
    """Text without users and passwords of proxies and mirrors."""
    return _USER.sub("***", text)


def comparable(settings: Mapping[str, object]) -> dict[str, object]:
    """Settings that may leave the host: users and passwords replaced by a short hash, so that two can be compared."""
    return {key: _comparable(value) for key, value in settings.items()}


def _comparable(value: object) -> object:
    if isinstance(value, Mapping):
        return comparable(value)
    if isinstance(value, list):
        return [_comparable(v) for v in value]
    return hashed(value) if isinstance(value, str) else value


def hashed(text: str) -> str:
    """Text that may leave the host: see `comparable`."""
    return _USER.sub(lambda m: hashlib.sha256(m[0].encode()).hexdigest()[:16], text)


def log_end(lines: Iterable[str], count: int = 8) -> str:
    """The last lines of the daemon's log that are worth reading."""
    telling = list(dict.fromkeys(line for line in lines if line.strip() and not _NOISE.search(line)))
    return shown("\n".join(telling[-count:]))


def option(argv: Sequence[str], name: str) -> str:
    """Value of an option on a daemon's command line, "" without it."""
    for position, word in enumerate(argv):
        if word == name and position + 1 < len(argv):
            return argv[position + 1]
        if word.startswith(f"{name}="):
            return word.partition("=")[2]
    return ""
