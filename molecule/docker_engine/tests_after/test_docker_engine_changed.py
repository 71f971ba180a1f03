"""Other settings are in force, and the container that ran before runs on."""

from __future__ import annotations

import json

from testinfra.host import Host


def test_the_container_ran_on(host: Host) -> None:
    now = host.check_output("docker inspect --format '{{.Id}} {{.State.StartedAt}}' keeper")
    assert now == host.check_output("cat /root/keeper")
    assert host.check_output("docker inspect --format '{{.State.Running}}' keeper") == "true"
    assert host.run("docker exec keeper /bin/sleep 0").rc == 0


def test_the_engine_was_started_anew(host: Host) -> None:
    assert host.check_output("cat /run/docker.pid") != host.check_output("cat /root/engine").strip()
    assert not host.file("/run/llm-docker-loaded.json").exists, "something still waits"


def test_settings_are_in_force(host: Host) -> None:
    info = json.loads(host.check_output("docker info --format '{{json .}}'"))
    assert info["LiveRestoreEnabled"]
    assert info["RegistryConfig"]["Mirrors"] == ["https://mirror.invalid/"]
    assert info["Labels"] == ["site=north"]
    assert "proxy.invalid:3128" in info["HttpsProxy"] and info["NoProxy"] == "localhost"
    assert "s3cret" not in host.check_output("docker info")


def test_new_containers_have_the_limits(host: Host) -> None:
    made = host.check_output("docker create keeper:test /bin/sleep 1")
    try:
        found = json.loads(
            host.check_output(f"docker inspect --format '{{{{json .HostConfig.LogConfig.Config}}}}' {made}")
        )
    finally:
        host.check_output(f"docker rm {made}")
    assert found == {"labels-regex": "^own", "max-file": "3", "max-size": "20m"}


def test_the_files_keep_what_is_not_ours(host: Host) -> None:
    file = host.file("/etc/docker/daemon.json")
    settings = json.loads(file.content_string)
    old = host.check_output("docker version --format '{{.Server.Version}}'").startswith("20.")
    assert settings.pop("labels") == ["site=north"]
    assert ("proxies" in settings) is not old
    assert ("s3cret" in host.file("/etc/default/docker").content_string) is old
    # The one that holds the password is root's alone.
    assert (file.mode, host.file("/etc/default/docker").mode) == ((0o640, 0o600) if old else (0o600, 0o644))


def test_systemd_was_not_reloaded(host: Host) -> None:
    """It would detach GPUs from containers that run."""
    if host.file("/run/systemd/system").is_directory:
        since = host.check_output("cat /root/since").strip()
        assert "Reloading" not in host.check_output(f"journalctl _PID=1 --output=cat --no-pager --since=@{since}")
