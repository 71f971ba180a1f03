"""daemon.json: merged, never overwritten; what an engine has to do to load it; what may be shown."""

import json
from typing import Any

import pytest
from ansible.module_utils.llm.docker import daemon

OPTIONS: dict[str, Any] = {
    "live_restore": True,
    "log_options": {"max-size": "20m", "max-file": 5},
    "registry_mirrors": [],
    "proxy": {},
    "settings": {},
}
LIMITS = {"max-size": "20m", "max-file": "5"}
NVIDIA = {"runtimes": {"nvidia": {"args": [], "path": "nvidia-container-runtime"}}}
PROXY = {"https": "http://clerk:s3cret@proxy:3128", "no_proxy": "localhost"}


@pytest.mark.parametrize(
    ("found", "declared", "merged"),
    [
        ({}, {}, {}),
        ({}, {"live-restore": True}, {"live-restore": True}),
        ({"debug": True}, {"live-restore": True}, {"debug": True, "live-restore": True}),
        ({"log-opts": {"tag": "x", "max-file": "9"}}, {"log-opts": LIMITS}, {"log-opts": {"tag": "x", **LIMITS}}),
        ({"registry-mirrors": ["a", "b"]}, {"registry-mirrors": ["c"]}, {"registry-mirrors": ["c"]}),
        (NVIDIA, {"runtimes": {"kata": {"path": "k"}}}, {"runtimes": {**NVIDIA["runtimes"], "kata": {"path": "k"}}}),
        ({"dns": "wrong"}, {"dns": {"a": 1}}, {"dns": {"a": 1}}),
        ({"default-ulimits": {"a": {}}}, {"default-ulimits": 1}, {"default-ulimits": 1}),
    ],
)
def test_declared_settings_go_over_those_that_are_there(
    found: Any, declared: dict[str, Any], merged: dict[str, Any]
) -> None:
    before = json.dumps(found)
    assert daemon.merge(found, declared) == merged
    assert json.dumps(found) == before
    assert daemon.merge(merged, declared) == merged, "the second time changes something"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "no JSON: Expecting"),
        ('{"a" 1}', "line 1 column 6"),
        ("// mine\n{}", "line 1 column 1"),
        ("[]", "holds a list"),
        ('"x"', "holds a str"),
    ],
)
def test_a_broken_file_is_refused_with_the_place(text: str, says: str) -> None:
    with pytest.raises(daemon.Broken, match=says):
        daemon.parse(text)


@pytest.mark.parametrize("text", ["", " \n"])
def test_an_empty_file_is_no_broken_one(text: str) -> None:
    assert daemon.parse(text) == {}


@pytest.mark.parametrize(
    ("change", "found", "engine", "declared"),
    [
        ({}, {}, "26.1.5", {"live-restore": True, "log-opts": LIMITS}),
        ({}, {"log-driver": "local"}, "26.1.5", {"live-restore": True, "log-opts": LIMITS}),
        ({}, {"log-driver": "journald"}, "26.1.5", {"live-restore": True}),
        ({"settings": {"log-driver": "syslog"}}, {}, "26.1.5", {"live-restore": True, "log-driver": "syslog"}),
        ({"live_restore": False, "log_options": {}}, {}, "26.1.5", {}),
        ({"live_restore": False, "log_options": {}}, {"live-restore": True}, "26.1.5", {"live-restore": False}),
        ({"settings": {"live-restore": False}, "log_options": {}}, {}, "26.1.5", {"live-restore": False}),
        (
            {"registry_mirrors": ["https://m"], "log_options": {}},
            {},
            "20.10.24+dfsg1",
            {"live-restore": True, "registry-mirrors": ["https://m"]},
        ),
        (
            {"proxy": PROXY, "log_options": {}},
            {},
            "23.0.1",
            {"live-restore": True, "proxies": {"https-proxy": PROXY["https"], "no-proxy": "localhost"}},
        ),
        ({"proxy": PROXY, "log_options": {}}, {}, "20.10.24+dfsg1", {"live-restore": True}),
    ],
)
def test_what_options_stand_for(change: dict[str, Any], found: Any, engine: str, declared: dict[str, Any]) -> None:
    assert daemon.declared({**OPTIONS, **change}, found, engine) == declared


def test_an_old_engine_takes_its_proxy_from_its_environment() -> None:
    options = {**OPTIONS, "proxy": PROXY}
    wanted = daemon.environment(options, "20.10.24+dfsg1")
    assert wanted == {"HTTPS_PROXY": PROXY["https"], "NO_PROXY": "localhost"}
    assert daemon.environment(options, "28.2.2") == daemon.environment(options, "") == {}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", 'A="1"\nexport A\n'),
        ("# mine\nDOCKER_OPTS=-D\n", '# mine\nDOCKER_OPTS=-D\nA="1"\nexport A\n'),
        ("A=0\nB=2", 'B=2\nA="1"\nexport A\n'),
        ("export A=0\nAB=2\n", 'AB=2\nA="1"\nexport A\n'),
    ],
)
def test_variables_are_set_in_a_file_of_others(before: str, after: str) -> None:
    assert daemon.write_environment(before, {"A": "1"}) == after
    assert daemon.write_environment(after, {"A": "1"}) == after
    assert daemon.read_environment(after)["A"] == "1"


# found, wanted, loaded -> write, keys, keys that need a start
CHANGES: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any] | None, bool, list[str], list[str]]] = {
    "as declared": ({"live-restore": True}, {"live-restore": True}, None, False, [], []),
    "reload is enough": ({}, {"live-restore": True, "labels": ["a"]}, None, True, ["labels", "live-restore"], []),
    "one needs a start": (
        {},
        {"live-restore": True, "log-opts": LIMITS},
        None,
        True,
        ["live-restore", "log-opts"],
        ["log-opts"],
    ),
    "unknown keys need a start": ({}, {"new-thing": 1}, None, True, ["new-thing"], ["new-thing"]),
    "others' keys are no change": (NVIDIA, {"live-restore": True}, None, True, ["live-restore"], []),
    "written, not loaded": (
        {"log-opts": LIMITS},
        {"log-opts": LIMITS},
        {"settings": {}, "environment": {}},
        False,
        ["log-opts"],
        ["log-opts"],
    ),
    "written by hand since, and loaded": (
        {"labels": ["b"]},
        {},
        {"settings": {}, "environment": {}},
        False,
        ["labels"],
        [],
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_has_to_be_loaded(name: str) -> None:
    found, wanted, loaded, write, keys, restart = CHANGES[name]
    change = daemon.change(found, wanted, loaded=loaded)
    assert (change.write, change.keys, change.restart) == (write, keys, restart)


def test_a_changed_environment_needs_a_start() -> None:
    change = daemon.change({}, {}, has={"NO_PROXY": "a", "OTHER": "x"}, sets={"NO_PROXY": "b"})
    assert (change.write, change.keys, change.restart) == (True, ["environment"], ["environment"])
    assert daemon.change({}, {}, has={"NO_PROXY": "b"}, sets={"NO_PROXY": "b"}).keys == []


@pytest.mark.parametrize(
    ("keys", "restart", "running", "may_restart", "action"),
    [
        ([], [], True, False, "none"),
        ([], [], False, False, "start"),
        (["log-opts"], ["log-opts"], False, False, "start"),
        (["labels"], [], True, False, "reload"),
        (["labels"], [], True, True, "reload"),
        (["log-opts"], ["log-opts"], True, True, "restart"),
        (["log-opts"], ["log-opts"], True, False, "wait"),
        (["labels", "log-opts"], ["log-opts"], True, False, "reload"),
        ([], ["program"], True, True, "restart"),
        ([], ["program"], True, False, "wait"),
    ],
)
def test_what_loads_it(keys: list[str], restart: list[str], running: bool, may_restart: bool, action: str) -> None:
    assert daemon.action(keys, restart, running=running, may_restart=may_restart) == action


def test_what_waits_is_not_tried_again_and_again() -> None:
    """After a reload only what needs a start is left, and that is no reason to reload."""
    found: dict[str, Any] = {"debug": True}
    wanted = {"live-restore": True, "log-opts": LIMITS}
    first = daemon.change(found, wanted)
    loaded = {"settings": daemon.reloaded(found, first.settings), "environment": {}}
    assert loaded["settings"] == {"debug": True, "live-restore": True}
    second = daemon.change(first.settings, wanted, loaded=loaded)
    assert (second.write, second.keys) == (False, ["log-opts"])
    assert daemon.action(second.keys, second.restart, running=True, may_restart=False) == "wait"
    merged_by_nvidia = {**first.settings, **NVIDIA}
    third = daemon.change(merged_by_nvidia, wanted, loaded=loaded)
    assert (third.write, third.keys) == (False, ["log-opts", "runtimes"])


def test_passwords_are_shown_nowhere_and_still_compared() -> None:
    text = daemon.render({"proxies": {"https-proxy": PROXY["https"]}, "registry-mirrors": ["https://m/path@2"]})
    assert "s3cret" not in daemon.shown(text) and "http://***@proxy:3128" in daemon.shown(text)
    assert "https://m/path@2" in daemon.shown(text)
    one = daemon.comparable({"a": [{"b": PROXY["https"]}]})
    other = daemon.comparable({"a": [{"b": PROXY["https"].replace("s3cret", "other")}]})
    assert "s3cret" not in json.dumps(one) and one != other


def test_the_log_ends_with_what_tells_something() -> None:
    lines = [
        'time="1" level=info msg="Starting up"',
        "unable to configure the Docker daemon with file /etc/docker/daemon.json: unknown option: x",
        "docker.service: Main process exited, code=exited, status=1/FAILURE",
        "unable to configure the Docker daemon with file /etc/docker/daemon.json: unknown option: x",
        "Failed to start docker.service - Docker Application Container Engine.",
    ]
    assert daemon.log_end(lines) == lines[1]


@pytest.mark.parametrize(
    ("argv", "value"),
    [
        (["dockerd", "-H", "fd://"], ""),
        (["dockerd", "--config-file", "/x.json"], "/x.json"),
        (["dockerd", "--config-file=/x.json"], "/x.json"),
        (["dockerd", "--config-file"], ""),
    ],
)
def test_options_of_a_daemon(argv: list[str], value: str) -> None:
    assert daemon.option(argv, "--config-file") == value


@pytest.mark.parametrize(
    ("text", "version"),
    [("20.10.24+dfsg1", (20, 10)), ("5:28.2.2-1~debian.12", (28, 2)), ("28", (28, 0)), ("", (0, 0)), ("v2", (0, 0))],
)
def test_versions(text: str, version: tuple[int, int]) -> None:
    assert daemon.version(text) == version
