"""What role docker_engine has to do on a host: packages, versions, repository, settings, or why it refuses. No I/O.

Options are the role's variables without their prefix. Facts are those of llm_host_facts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from ansible.module_utils.llm.declare.facts import Distribution, Docker, DockerHost
from ansible.module_utils.llm.docker import daemon

REPOSITORY = "https://download.docker.com/linux"
KEY_FILE = "/etc/apt/keyrings/docker.asc"
SOURCES_FILE = "/etc/apt/sources.list.d/docker.sources"
OLDEST = {"debian": (12, 0), "ubuntu": (22, 4)}
# Every package that either source may bring.
PACKAGES = (
    *("docker.io", "docker-cli", "containerd", "docker-compose", "docker-compose-v2"),
    *("docker-ce", "docker-ce-cli", "containerd.io", "docker-compose-plugin", "docker-buildx-plugin"),
)

Options = Mapping[str, Any]


def release(system: Distribution) -> tuple[int, int]:
    """Number of the distribution's release; a testing release has none and counts as newest."""
    return daemon.version(str(system["version"] or 9999))


def packages(system: Distribution, source: str) -> dict[str, list[str]]:
    """{engine, containerd, compose, more}: names of the packages that a source brings. `compose` is empty where it has none.

    Debian 12 packages only Compose v1, under the name that v2 has since 13; Ubuntu has v2 under a name of its own.
    """
    if source == "docker":
        return {
            "engine": ["docker-ce", "docker-ce-cli"],
            "containerd": ["containerd.io"],
            "compose": ["docker-compose-plugin"],
            "more": ["docker-buildx-plugin"],
        }
    split = system["id"] == "debian" and release(system) >= (13, 0)
    compose = "docker-compose-v2" if system["id"] == "ubuntu" else "docker-compose" if split else ""
    return {
        "engine": ["docker.io", "docker-cli"] if split else ["docker.io"],
        "containerd": ["containerd"],
        "compose": [compose] if compose else [],
        "more": ["iptables"],
    }


def supported(system: Distribution) -> bool:
    """Whether packages are known for the distribution."""
    oldest = OLDEST.get(system["id"])
    return oldest is not None and release(system) >= oldest


def repository(system: Distribution, options: Options) -> dict[str, str]:
    """{url, suite, key_url}: where Docker's packages are for the distribution."""
    url = (options["repository_url"] or f"{REPOSITORY}/{system['id']}").rstrip("/")
    return {"url": url, "suite": system["codename"], "key_url": f"{url}/gpg"}


def sources(text: str) -> dict[str, list[str]]:
    """{urls, suites} that an apt source file names, in either of its two formats."""
    urls: list[str] = []
    suites: list[str] = []
    for line in text.splitlines():
        words = line.partition("#")[0].split()
        if words and words[0] in ("deb", "deb-src"):
            rest = " ".join(words[1:])
            fields = re.sub(r"^\[[^]]*\]", "", rest).split()
            urls, suites = urls + fields[:1], suites + fields[1:2]
        elif words and words[0].lower() == "uris:":
            urls += words[1:]
        elif words and words[0].lower() == "suites:":
            suites += words[1:]
    return {"urls": [u.rstrip("/") for u in urls], "suites": suites}


def matches(version: str, wanted: str) -> bool:
    """Whether a package's version is the wanted one or begins with it: 28.2 takes 5:28.2.2-1~debian.12~bookworm."""
    have = version if ":" in wanted else version.rpartition(":")[2]
    return have.startswith(wanted) and not have[len(wanted) : len(wanted) + 1].isalnum()


def choose(listing: str, pins: Mapping[str, str]) -> dict[str, str]:
    """Version for each package, of what `apt-cache madison` lists (newest first). Raises ValueError for one that is not there."""
    offered: dict[str, list[str]] = {}
    for line in listing.splitlines():
        fields = [field.strip() for field in line.split("|")]
        if len(fields) == 3 and fields[1] not in offered.setdefault(fields[0], []):
            offered[fields[0]].append(fields[1])
    chosen = {}
    for name, wanted in pins.items():
        found = [v for v in offered.get(name, []) if matches(v, wanted)]
        if not found:
            there = ", ".join(offered.get(name, [])[:8]) or "none"
            raise ValueError(f"{name} {wanted} is in none of the host's package repositories; there are: {there}")
        chosen[name] = found[0]
    return chosen


def engine_version(facts: DockerHost) -> str:
    """Version of the running Docker daemon, "" when it is not known without starting one."""
    return str(facts["docker"]["version"] or "")


def engine_to_be(facts: DockerHost, options: Options) -> str:
    """Version of the Docker daemon after the role's work, as far as it is declared or known."""
    return engine_version(facts) if is_foreign(facts, options) else options["version"] or engine_version(facts)


def is_foreign(facts: DockerHost, options: Options) -> bool:
    """Whether a Docker daemon is there that did not come from the declared source: it is left alone."""
    docker = facts["docker"]
    own = packages(facts["system"], options["source"])["engine"][0]
    return bool(docker["installed"] or docker["running"]) and own not in docker["packages"]


def pins(facts: DockerHost, options: Options) -> dict[str, str]:
    """Declared version of each package, by name; empty where none is declared, or the daemon is of another source than declared."""
    if is_foreign(facts, options):
        return {}
    names = packages(facts["system"], options["source"])
    parts = (
        ("engine", options["version"]),
        ("containerd", options["containerd_version"]),
        ("compose", options["compose_version"]),
    )
    return {name: version for part, version in parts if version for name in names[part]}


def settings_options(options: Options) -> dict[str, Any]:
    """The part of the options that ends up in daemon.json; see daemon.declared."""
    return {
        "live_restore": options["live_restore"],
        "log_options": options["log_options"],
        "registry_mirrors": options["registry_mirrors"],
        "proxy": options["proxy"],
        "settings": options["daemon"],
    }


def work(facts: DockerHost, options: Options) -> dict[str, Any]:
    """What the role has to do on the host.

    {refuse: why nothing is done, "" if it may be; steps: {step: reason}, empty when all is as declared; install: packages to
    be installed or upgraded; pins: declared version by package; hold, release: packages to be held, to be no longer; may_restart:
    whether the daemon may be restarted while containers run; configure: whether its settings are this host's}.
    Steps: repository, install, upgrade, compose, hold, release, start, daemon, restart.
    """
    docker, system = facts["docker"], facts["system"]
    there = docker["installed"] or docker["running"]
    foreign = is_foreign(facts, options)
    names, wanted, have = packages(system, options["source"]), pins(facts, options), docker["packages"]
    steps: dict[str, str] = {}
    install: list[str] = []
    stale = {n: v for n, v in wanted.items() if n in have and not matches(have[n]["version"], v)}
    if not there:
        install = [*names["engine"], *names["containerd"], *names["more"]]
        steps["install"] = ", ".join(install)
    elif stale:
        steps["upgrade"] = ", ".join(f"{n} {have[n]['version']} -> {v}" for n, v in stale.items())
        install = list(stale)
    compose = docker["compose_version"] or ""
    if daemon.version(compose) < daemon.version(options["compose_min_version"]):
        steps["compose"] = f"{compose or 'none'} is there, {options['compose_min_version']} or newer is needed"
        own = names["compose"] if not foreign else []
    else:  # one that is good enough is replaced only for a declared version
        own = [n for n in names["compose"] if n in wanted and n not in have]
        if own:
            steps["compose"] = f"{own[0]} {wanted[own[0]]} is declared, and not installed"
    install += own
    if options["source"] == "docker" and not foreign and (reason := _repository_reason(facts, options)):
        steps["repository"] = reason
    held = [n for n in (*names["engine"], *names["containerd"], *names["compose"]) if n in {*have, *install}]
    # An upgrade of a held package ends its hold.
    loose = [n for n in held if n in install or not have[n]["held"]]
    hold = loose if options["hold"] and not foreign else []
    released = [] if foreign or options["hold"] else [n for n in held if n in have and have[n]["held"]]
    if hold:
        steps["hold"] = f"{', '.join(hold)}: upgrades come when they are declared"
    if released:
        steps["release"] = f"{', '.join(released)}: upgrades come with the system's"
    if not docker["running"]:
        steps["start"] = "Docker does not run"
    # Who declares a version wants it to run, not only to lie there.
    may_restart = options["may_restart"] or bool(options["version"] and docker["outdated"])
    steps.update(_daemon_steps(facts, options, may_restart))
    return {
        "refuse": _refusal(facts, options, steps),
        "steps": steps,
        "install": install,
        "pins": {n: v for n, v in wanted.items() if n in install},
        "hold": hold,
        "release": released,
        "may_restart": may_restart or "upgrade" in steps,
        "configure": not is_elsewhere(docker),
    }


def is_elsewhere(docker: Docker) -> bool:
    """Whether the Docker daemon answers but is no process of this host, as Docker Desktop's: its files are not here."""
    return bool(docker["running"] and not docker["process"])


def settings_change(facts: DockerHost, options: Options) -> daemon.Change:
    """What the declared settings change on the host, with users and passwords replaced on both sides."""
    docker, given = facts["docker"], settings_options(options)
    state, version = docker["daemon"], engine_version(facts)
    return daemon.change(
        state["settings"],
        daemon.comparable(daemon.declared(given, state["settings"], version)),
        loaded=state["loaded"],
        has=state["environment"],
        sets={name: daemon.hashed(value) for name, value in daemon.environment(given, version).items()},
    )


def _daemon_steps(facts: DockerHost, options: Options, may_restart: bool) -> dict[str, str]:
    docker = facts["docker"]
    if not docker["running"] or is_elsewhere(docker):
        return {}
    change = settings_change(facts, options)
    idle = docker["running_containers"] == 0
    action = daemon.action(change.keys, change.restart, running=True, may_restart=may_restart or idle)
    steps = {}
    if change.write or action in ("reload", "restart"):
        how = {"wait": "they wait for Docker's next start", "none": "nothing to load"}.get(action, action)
        steps["daemon"] = f"{', '.join(change.keys) or 'layout'} ({how})"
    if docker["outdated"] and (may_restart or idle) and not is_foreign(facts, options):
        steps["restart"] = "the running daemon is older than the installed one"
    return steps


def _repository_reason(facts: DockerHost, options: Options) -> str:
    """Why Docker's repository has to be set up, "" when it is there: by us, or by somebody else for the same address."""
    wanted, have = repository(facts["system"], options), facts["docker"]["repositories"]
    own = have.get(SOURCES_FILE)
    elsewhere = [path for path, entry in have.items() if wanted["url"] in entry["urls"] and path != SOURCES_FILE]
    if elsewhere:
        return ""
    if own is None:
        return f"{wanted['url']} {wanted['suite']}"
    if own != {"urls": [wanted["url"]], "suites": [wanted["suite"]]}:
        return f"{' '.join([*own['urls'], *own['suites']])} -> {wanted['url']} {wanted['suite']}"
    key = facts["docker"]["repository_key"]
    if options["repository_key_sha256"]:
        return "" if key["sha256"] == options["repository_key_sha256"] else "another key is declared"
    fingerprint = options["repository_fingerprint"].replace(" ", "").upper()
    return "" if key["fingerprints"] == [fingerprint] else "its key is not the declared one"


def _refusal(facts: DockerHost, options: Options, steps: Mapping[str, str]) -> str:
    """The first reason not to touch this host, with what to do; "" without one."""
    docker, system = facts["docker"], facts["system"]
    running, there = docker["running"], docker["installed"] or docker["running"]
    version, minimum = engine_version(facts), options["min_version"]
    state = docker["daemon"]
    changing = not running or not is_elsewhere(docker)
    explicit = [n for n in ("registry_mirrors", "proxy", "daemon") if options[n]]
    if is_foreign(facts, options) and (options["version"] or options["containerd_version"]):
        own = packages(system, options["source"])["engine"][0]
        return (
            f"docker_engine_version is declared, and the Docker that is there ({version or 'not running'}) is not of the package "
            f"{own} (docker_engine_source: {options['source']}). Remove the declaration, and it is left alone, or replace that "
            "Docker yourself when its containers may stop"
        )
    if running and daemon.version(version) < daemon.version(minimum) and "upgrade" not in steps:
        return (
            f"Docker is {version}, the services need {minimum} or newer (docker_engine_min_version). It runs, so it is "
            "not upgraded from here unless its version is declared (docker_engine_version). Upgrade it when its containers may "
            "stop, and run again"
        )
    if ({"install", "upgrade", "repository"} & set(steps)) and not supported(system):
        return (
            f"it runs {system['id'] or 'an unknown system'} {system['version']}; packages are known for Debian 12, Ubuntu 22.04 "
            f"and newer. Install Docker {minimum} and Compose {options['compose_min_version']} or newer yourself: a Docker "
            "that is there is left alone"
        )
    if options["compose_version"] and not packages(system, options["source"])["compose"]:
        return (
            f"docker_engine_compose_version is declared, and {system['id']} {system['version']} has no package with Compose v2. "
            "Remove the declaration, or take docker_engine_source: docker"
        )
    if state["problem"] and changing:
        return f"{state['file']} is not what Docker reads: {state['problem']}. Repair it (nothing was written), and run again"
    if is_elsewhere(docker) and explicit:
        return (
            f"docker_engine_{explicit[0]} is declared, and Docker's daemon is no process of this host that /run/docker.pid names "
            "(Docker Desktop, snap, rootless?). Set it there, and remove the declaration"
        )
    if docker["swarm"] and options["live_restore"] and changing and "daemon" in steps:
        return (
            "Docker is a node of a swarm, which excludes live-restore. Write docker_engine_live_restore: false; a restart "
            "of Docker then stops its containers, and is yours"
        )
    if (
        running
        and options["proxy"]
        and not daemon.knows_proxies(engine_to_be(facts, options))
        and not _reads_defaults(docker)
    ):
        return (
            f"docker_engine_proxy: Docker {engine_to_be(facts, options)} takes its proxy from its unit's environment, daemon.json "
            "has it since 23.0. Upgrade Docker, or give its unit the proxy yourself"
        )
    if there and "upgrade" in steps:
        return _upgrade_refusal(facts, options)
    return ""


def _reads_defaults(docker: Docker) -> bool:
    """Whether the Docker daemon takes its environment from /etc/default/docker, as that of Debian and Ubuntu does."""
    return "docker.io" in docker["packages"]


def _upgrade_refusal(facts: DockerHost, options: Options) -> str:
    docker = facts["docker"]
    if not docker["running"] or docker["running_containers"] == 0:
        return ""
    count = docker["running_containers"]
    if not options["live_restore"] and not docker["live_restore"]:
        return (
            f"an upgrade would stop {count} running containers, since live-restore is off (docker_engine_live_restore). Switch it "
            "on, or stop them yourself, and run again"
        )
    old, new = _line(engine_version(facts)), _line(options["version"])
    if new and old[: len(new)] != new and not options["may_restart"]:
        return (
            f"{count} containers run, and Docker promises that they outlive an upgrade only from patch to patch "
            f"({engine_version(facts)} -> {options['version']} is more). Stop them, or write docker_engine_may_restart: true: the "
            "role then checks that each of them still runs"
        )
    return ""


def _line(version: str) -> Sequence[str]:
    """Release line of a version, as far as it is given: 5:28.2.2-1 is 28, 2."""
    return re.findall(r"\d+", re.split(r"[-+~]", version.rpartition(":")[2])[0])[:2]
