"""A newer engine, and the container that ran before the upgrade runs on."""

from __future__ import annotations

import json

from testinfra.host import Host


def test_the_container_ran_on(host: Host) -> None:
    now = host.check_output("docker inspect --format '{{.Id}} {{.State.StartedAt}}' keeper")
    assert now == host.check_output("cat /root/keeper")
    assert host.check_output("docker inspect --format '{{.State.Running}}' keeper") == "true"
    assert host.run("docker exec keeper /bin/sleep 0").rc == 0


def test_the_new_version_runs_and_is_held(host: Host) -> None:
    assert host.check_output("docker version --format '{{.Server.Version}}'").startswith("26.1.5")
    assert host.check_output("dpkg-query --show --showformat '${Version}' containerd.io") == "1.7.24-1"
    wanted = {"docker-ce", "docker-ce-cli", "containerd.io", "docker-compose-plugin"}
    assert set(host.check_output("apt-mark showhold").split()) == wanted


def test_settings_of_the_new_engine(host: Host) -> None:
    settings = json.loads(host.file("/etc/docker/daemon.json").content_string)
    assert settings["labels"] == ["site=north"]
    assert settings["proxies"] == {"https-proxy": "http://clerk:s3cret@proxy.invalid:3128", "no-proxy": "localhost"}
    info = json.loads(host.check_output("docker info --format '{{json .}}'"))
    assert info["LiveRestoreEnabled"] and "proxy.invalid:3128" in info["HttpsProxy"]
    assert not host.file("/etc/default/docker").exists


def test_systemd_was_not_reloaded(host: Host) -> None:
    """Maintainer scripts ask for it, and it would detach GPUs from containers that run."""
    since = host.check_output("cat /root/since").strip()
    journal = host.check_output(f"journalctl _PID=1 --output=cat --no-pager --since=@{since}")
    assert "Started docker.service" in journal and "Reloading" not in journal
    assert host.run("ls -d /var/lib/*.systemctl").rc != 0, "the role left its stand-in behind"


def test_new_containers_run(host: Host) -> None:
    assert host.run("docker run --rm --network none keeper:test /bin/sleep 0").rc == 0
