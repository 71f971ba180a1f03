"""What role docker_engine does on which host. The distributions' names are recorded; no repository is asked."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.llm.declare.facts import DaemonSettings, System
from ansible.module_utils.llm.docker import daemon
from ansible.module_utils.llm.docker import host as docker_host
from ansible.module_utils.llm.docker import packages as docker_packages
from ansible.module_utils.llm.host import read as read_host

from tests import catalogs

RELEASES = Path(__file__).parents[1] / "data" / "os-release"
DEFAULTS = {
    name.removeprefix("docker_engine_"): value
    for name, value in catalogs.read("roles/docker_engine/defaults/main.yml").items()
}
CHOSEN: dict[str, tuple[str, str, str]] = {
    # os-release: engine and Compose of the distribution, line of Docker's repository
    "debian-12": ("docker.io", "", "https://download.docker.com/linux/debian bookworm"),
    "debian-13": ("docker.io docker-cli", "docker-compose", "https://download.docker.com/linux/debian trixie"),
    "ubuntu-22.04": ("docker.io", "docker-compose-v2", "https://download.docker.com/linux/ubuntu jammy"),
    "ubuntu-24.04": ("docker.io", "docker-compose-v2", "https://download.docker.com/linux/ubuntu noble"),
    "ubuntu-26.04": ("docker.io", "docker-compose-v2", "https://download.docker.com/linux/ubuntu resolute"),
}
MADISON = """\
 docker-ce | 5:28.2.2-1~debian.12~bookworm | https://download.docker.com/linux/debian bookworm/stable amd64 Packages
 docker-ce | 5:28.2.1-1~debian.12~bookworm | https://download.docker.com/linux/debian bookworm/stable amd64 Packages
 docker-ce | 5:28.1.1-1~debian.12~bookworm | https://download.docker.com/linux/debian bookworm/stable amd64 Packages
containerd.io | 1.7.27-1 | https://download.docker.com/linux/debian bookworm/stable amd64 Packages
containerd.io | 1.7.2-1 | https://download.docker.com/linux/debian bookworm/stable amd64 Packages
docker.io | 20.10.24+dfsg1-1+deb12u1+b6 | http://mirror.example.org/debian bookworm/main amd64 Packages
"""


def options(**change: Any) -> dict[str, Any]:
    return {**DEFAULTS, "repository_key_sha256": "", **change}


def system(name: str) -> System:
    return {**read_host.system_of((RELEASES / name).read_text()), "systemd": True, "wsl": False}


def facts(name: str = "debian-12", **docker: Any) -> Any:
    """A host without Docker, but for what is named."""
    empty = {
        "installed": False,
        "running": False,
        "version": None,
        "compose_version": None,
        "live_restore": False,
        "swarm": False,
        "running_containers": 0,
        **docker_host.read(Path("/nonexistent")),
    }
    return {"system": system(name), "docker": {**empty, **docker}}


def settled(source: str = "distribution", version: str = "26.1.5", **docker: Any) -> Any:
    """A host with an engine on which nothing is to be done."""
    name = {"distribution": "debian-13", "docker": "debian-12"}[source]
    names = docker_packages.packages(system(name), source)
    installed = {
        n: {"version": f"{version}-1", "held": True} for n in names["engine"] + names["containerd"] + names["compose"]
    }
    seen = facts(
        name, installed=True, running=True, version=version, compose_version="2.26.1", process=7, live_restore=True
    )
    seen["docker"]["packages"] = installed
    seen["docker"]["daemon"]["settings"] = daemon.declared(docker_packages.settings_options(options()), {}, version)
    seen["docker"]["repositories"] = {
        docker_packages.SOURCES_FILE: {"urls": ["https://download.docker.com/linux/debian"], "suites": ["bookworm"]}
    }
    seen["docker"]["repository_key"] = {"sha256": "", "fingerprints": ["9DC858229FC7DD38854AE2D88D81803C0EBFCD88"]}
    seen["docker"].update(docker)
    return seen


@pytest.mark.parametrize("name", CHOSEN)
def test_packages_and_repository_of_each_distribution(name: str) -> None:
    engine, compose, line = CHOSEN[name]
    chosen = docker_packages.packages(system(name), "distribution")
    assert (" ".join(chosen["engine"]), " ".join(chosen["compose"])) == (engine, compose)
    work = docker_packages.work(facts(name), options(source="docker"))
    assert work["install"][:3] == ["docker-ce", "docker-ce-cli", "containerd.io"]
    assert "docker-compose-plugin" in work["install"] and "docker-buildx-plugin" in work["install"]
    assert work["steps"]["repository"] == line and work["refuse"] == ""
    where = docker_packages.repository(system(name), options())
    assert where["key_url"] == line.split()[0] + "/gpg"


@pytest.mark.parametrize("name", ["debian-11", "fedora-43"])
def test_other_distributions_are_refused_unless_they_have_an_engine(name: str) -> None:
    assert "packages are known for" in docker_packages.work(facts(name), options())["refuse"]
    seen = settled()
    seen["system"] = system(name)
    assert docker_packages.work(seen, options())["steps"] == {}


def test_a_mirror_takes_the_place_of_the_repository() -> None:
    where = docker_packages.repository(system("ubuntu-24.04"), options(repository_url="https://mirror.example/docker/"))
    assert where == {
        "url": "https://mirror.example/docker",
        "suite": "noble",
        "key_url": "https://mirror.example/docker/gpg",
    }


@pytest.mark.parametrize("source", ["distribution", "docker"])
def test_a_host_as_declared_has_nothing_to_do(source: str) -> None:
    assert docker_packages.work(settled(source), options(source=source))["steps"] == {}


def test_a_fresh_host() -> None:
    work = docker_packages.work(facts("debian-13"), options(version="26.1"))
    assert work["install"] == ["docker.io", "docker-cli", "containerd", "iptables", "docker-compose"]
    assert work["pins"] == {"docker.io": "26.1", "docker-cli": "26.1"}
    assert work["hold"] == ["docker.io", "docker-cli", "containerd", "docker-compose"]
    assert set(work["steps"]) == {"install", "compose", "hold", "start"} and work["refuse"] == ""


# options, docker -> steps
STEPS: dict[str, tuple[dict[str, Any], dict[str, Any], set[str]]] = {
    "version as installed": ({"version": "26.1.5"}, {}, set()),
    "version of the same line": ({"version": "26.1"}, {}, set()),
    "newer version": ({"version": "26.1.6"}, {}, {"upgrade", "hold"}),
    "containerd alone": ({"containerd_version": "1.7"}, {}, {"upgrade", "hold"}),
    "nothing held any more": ({"hold": False}, {}, {"release"}),
    "stopped": ({}, {"running": False, "version": None, "process": None}, {"start"}),
    "no compose": ({}, {"compose_version": None}, {"compose", "hold"}),
    "setting for a reload": ({"registry_mirrors": ["https://m"]}, {}, {"daemon"}),
    "setting for a start, idle": ({"daemon": {"debug": True, "mtu": 1400}}, {}, {"daemon"}),
    "replaced program, idle": ({}, {"outdated": True}, {"restart"}),
    "replaced program, busy": ({}, {"outdated": True, "running_containers": 1}, set()),
    "replaced program, busy, declared": (
        {"version": "26.1.5"},
        {"outdated": True, "running_containers": 1},
        {"restart"},
    ),
    "replaced program, busy, allowed": (
        {"may_restart": True},
        {"outdated": True, "running_containers": 1},
        {"restart"},
    ),
    "not of this host": ({}, {"process": None, "daemon": None}, set()),
}


@pytest.mark.parametrize("name", STEPS)
def test_what_is_to_be_done(name: str) -> None:
    change, docker, steps = STEPS[name]
    seen = settled()
    if docker.get("daemon", 0) is None:
        docker = {**docker, "daemon": facts()["docker"]["daemon"]}
    seen["docker"].update(docker)
    work = docker_packages.work(seen, options(**change))
    assert (set(work["steps"]), work["refuse"]) == (steps, "")


def test_a_setting_that_waits_for_a_start_is_said_once() -> None:
    """Written while containers run; the next run finds it written, and not loaded, and nothing that it may do."""
    declared = options(daemon={"mtu": 1400})
    seen = settled(running_containers=3)
    assert docker_packages.work(seen, declared)["steps"]["daemon"] == "mtu (they wait for Docker's next start)"
    state = seen["docker"]["daemon"]
    state["loaded"] = {"settings": copy.deepcopy(state["settings"]), "environment": {}}
    state["settings"]["mtu"] = 1400
    assert docker_packages.work(seen, declared)["steps"] == {}
    assert "restart" in docker_packages.work(seen, {**declared, "may_restart": True})["steps"]["daemon"]
    seen["docker"]["running_containers"] = 0
    assert "restart" in docker_packages.work(seen, declared)["steps"]["daemon"]


def test_passwords_in_facts_are_compared_by_their_hash() -> None:
    declared = options(proxy={"https": "http://clerk:s3cret@proxy:3128"})
    seen = settled()
    raw = daemon.declared(docker_packages.settings_options(declared), {}, "26.1.5")
    seen["docker"]["daemon"]["settings"] = daemon.comparable(raw)
    assert docker_packages.work(seen, declared)["steps"] == {}
    other = options(proxy={"https": "http://clerk:other@proxy:3128"})
    assert set(docker_packages.work(seen, other)["steps"]) == {"daemon"}


# options, docker -> what the refusal says
REFUSALS: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "old": ({}, {"version": "19.3.8"}, "Docker is 19.3.8, the services need 20.10"),
    "broken file": (
        {"registry_mirrors": ["https://m"]},
        {"problem": "it is no JSON: line 1"},
        "/etc/docker/daemon.json is not what Docker reads: it is no JSON: line 1",
    ),
    "somebody else's version": ({"version": "28.2"}, {"packages": {}}, "is not of the package docker.io"),
    "not of this host": (
        {"registry_mirrors": ["https://m"]},
        {"process": None, "compose_version": None},
        "no process of this host",
    ),
    "swarm": ({"registry_mirrors": ["https://m"]}, {"swarm": True}, "docker_engine_live_restore: false"),
    "proxy of an old engine": (
        {"proxy": {"http": "http://p"}},
        {"version": "20.10.7", "packages": {}},
        "Upgrade Docker, or give its unit the proxy",
    ),
    "upgrade without live-restore": (
        {"version": "26.1.6", "live_restore": False},
        {"live_restore": False, "running_containers": 2},
        "would stop 2 running containers",
    ),
    "long upgrade": ({"version": "28.2.2"}, {"running_containers": 2}, "docker_engine_may_restart: true"),
    "compose without a package": ({"compose_version": "2.30"}, {"system": "debian-12"}, "no package with Compose v2"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_what_is_refused(name: str) -> None:
    change, docker, says = REFUSALS[name]
    docker = dict(docker)
    seen = settled()
    if "problem" in docker:
        seen["docker"]["daemon"].update(problem=docker.pop("problem"), settings={})
    if "system" in docker:
        seen["system"] = system(docker.pop("system"))
        seen["docker"]["packages"] = {"docker.io": {"version": "20.10", "held": False}}
    seen["docker"].update(docker)
    assert says in docker_packages.work(seen, options(**change))["refuse"]


@pytest.mark.parametrize(
    ("change", "docker"),
    [
        ({"version": "26.1.6"}, {"running_containers": 2}),
        ({"version": "28.2.2", "may_restart": True}, {"running_containers": 2}),
        ({"version": "28.2.2"}, {"running_containers": 0}),
        ({"version": "28"}, {"version": "28.1.0", "running_containers": 2}),
    ],
)
def test_upgrades_that_are_carried_out(change: dict[str, Any], docker: dict[str, Any]) -> None:
    seen = settled()
    seen["docker"].update(docker)
    work = docker_packages.work(seen, options(**change))
    assert work["refuse"] == "" and "upgrade" in work["steps"] and work["may_restart"]


def test_somebody_elses_engine_is_left_alone_but_for_settings() -> None:
    seen = settled(packages={"docker-ce": {"version": "5:28.2.2-1", "held": False}}, version="28.2.2")
    assert docker_packages.work(seen, options())["steps"] == {}
    seen["docker"]["daemon"]["settings"] = {"log-driver": "journald"}
    seen["docker"]["outdated"] = True
    assert docker_packages.work(seen, options())["steps"] == {"daemon": "live-restore (reload)"}


@pytest.mark.parametrize(
    ("have", "reason"),
    [
        ({}, "https://download.docker.com/linux/debian bookworm"),
        ({docker_packages.SOURCES_FILE: {"urls": ["https://old"], "suites": ["bookworm"]}}, "https://old bookworm -> "),
        (
            {
                "/etc/apt/sources.list.d/docker.list": {
                    "urls": ["https://download.docker.com/linux/debian"],
                    "suites": [],
                }
            },
            "",
        ),
    ],
)
def test_the_repository_is_set_up_unless_somebody_did(have: dict[str, Any], reason: str) -> None:
    found = docker_packages.work(settled("docker", repositories=have), options(source="docker"))["steps"]
    assert (reason in found["repository"]) if reason else found == {}


def test_another_key_sets_the_repository_up_anew() -> None:
    seen = settled("docker", repository_key={"sha256": "a", "fingerprints": ["0" * 40]})
    assert "key" in docker_packages.work(seen, options(source="docker"))["steps"]["repository"]
    assert docker_packages.work(seen, options(source="docker", repository_key_sha256="a"))["steps"] == {}


def test_apt_sources_in_both_formats() -> None:
    line = "# deb http://no x\ndeb [arch=amd64 signed-by=/k] https://d/linux/debian/ bookworm stable\n"
    assert docker_packages.sources(line) == {"urls": ["https://d/linux/debian"], "suites": ["bookworm"]}
    fields = "Types: deb\nURIs: https://d/linux/debian\nSuites: bookworm\nComponents: stable\n"
    assert docker_packages.sources(fields) == docker_packages.sources(line)


@pytest.mark.parametrize(
    ("version", "wanted", "matches"),
    [
        ("5:28.2.2-1~debian.12~bookworm", "28.2.2", True),
        ("5:28.2.2-1~debian.12~bookworm", "28.2", True),
        ("5:28.2.2-1~debian.12~bookworm", "28", True),
        ("5:28.2.2-1~debian.12~bookworm", "5:28.2.2-1~debian.12~bookworm", True),
        ("5:28.2.2-1~debian.12~bookworm", "28.2.2-1~debian.12~bookworm", True),
        ("5:28.2.20-1~debian.12~bookworm", "28.2.2", False),
        ("5:28.2.2-1~debian.12~bookworm", "8.2.2", False),
        ("20.10.24+dfsg1-1+deb12u1+b6", "20.10.24", True),
        ("20.10.24+dfsg1-1+deb12u1+b6", "20.10.2", False),
    ],
)
def test_versions_are_declared_whole_or_by_their_beginning(version: str, wanted: str, matches: bool) -> None:
    assert docker_packages.matches(version, wanted) is matches


def test_the_newest_version_that_fits_is_chosen() -> None:
    pins = {"docker-ce": "28.2", "containerd.io": "1.7.2", "docker.io": "20.10"}
    assert docker_packages.choose(MADISON, pins) == {
        "docker-ce": "5:28.2.2-1~debian.12~bookworm",
        "containerd.io": "1.7.2-1",
        "docker.io": "20.10.24+dfsg1-1+deb12u1+b6",
    }
    with pytest.raises(ValueError, match=r"docker-ce 29 is in none .* there are: 5:28\.2\.2-1"):
        docker_packages.choose(MADISON, {"docker-ce": "29"})


def test_reading_a_host(tmp_path: Path) -> None:
    def put(path: str, text: str) -> None:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)

    put("run/docker.pid", "42\n")
    put("proc/42/comm", "dockerd\n")
    put("proc/42/cmdline", "/usr/sbin/dockerd\0-H\0fd://\0")
    put("proc/42/stat", "42 (dockerd) S " + " ".join(str(n) for n in range(30)))
    (tmp_path / "proc/42/exe").symlink_to("/usr/sbin/dockerd (deleted)")
    put("etc/docker/daemon.json", '{"proxies": {"http-proxy": "http://clerk:s3cret@proxy"}}')
    put("etc/default/docker", 'NO_PROXY="x"\nexport NO_PROXY\n')
    put("etc/apt/sources.list.d/docker.list", "deb https://clerk:s3cret@mirror/linux/debian bookworm stable\n")
    put(
        "var/lib/dpkg/status",
        "Package: docker.io\nStatus: hold ok installed\nVersion: 1\n\nPackage: other\nStatus: x\n",
    )
    seen = docker_host.read(tmp_path)
    assert (seen["process"], seen["outdated"]) == (42, True)
    assert seen["packages"] == {"docker.io": {"version": "1", "held": True}}
    assert seen["daemon"]["environment"] == {"NO_PROXY": "x"} and seen["daemon"]["loaded"] is None
    assert "s3cret" not in str(seen)
    engine = docker_host.process(tmp_path)
    assert engine is not None
    loaded: DaemonSettings = {"settings": {"a": 1}, "environment": {}}
    put("run/llm-docker-loaded.json", json.dumps({"engine": engine["born"], **loaded}))
    assert docker_host.read(tmp_path)["daemon"]["loaded"] == loaded
    put("proc/42/stat", "42 (dockerd) S " + " ".join(str(n + 1) for n in range(30)))
    assert docker_host.read(tmp_path)["daemon"]["loaded"] is None, "a later engine has loaded the files"
    put("etc/docker/daemon.json", "{")
    assert "no JSON" in docker_host.read(tmp_path)["daemon"]["problem"]
