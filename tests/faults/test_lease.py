"""Two runs at once on one host: the real site.yml and the real verbs, beside site.yml or a run that takes the host and waits."""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.e2e.demo import CHECKOUT, Playbook, Run
from tests.faults.stub.host import RealHost

DECLARED = """\
llm_accelerator: cpu
llm_root: {root}
llm_host_services: [micro-cpu]
"""
FIRST = """\
- hosts: all
  gather_facts: false
  become: true
  tasks:
    - block:
        - ansible.builtin.include_tasks: {tasks}/refresh.yml
          vars: {{llm_refresh_for_change: true}}
        - llm_lease:
        - ansible.builtin.wait_for: {{path: "{end}", sleep: 1, timeout: 120}}
      always:
        - llm_lease: {{state: released}}
"""


class Runs:
    """An inventory of this machine with a folder of its own, and a run that holds it until it is told to end."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.end = folder, folder / "end"
        self.lease = folder / "root/state/lease.json"
        self.inventory = folder / "inventory"
        (self.inventory / "host_vars").mkdir(parents=True)
        hosts = (CHECKOUT / "inventory/demo/hosts.yml").read_text(encoding="utf-8")
        (self.inventory / "hosts.yml").write_text(hosts, encoding="utf-8")
        declared = DECLARED.format(root=folder / "root")
        (self.inventory / "host_vars/localhost.yml").write_text(declared, encoding="utf-8")
        (folder / "group_vars").symlink_to(CHECKOUT / "group_vars")  # where playbooks of this folder look for them
        tasks = CHECKOUT / "playbooks/tasks"
        (folder / "first.yml").write_text(FIRST.format(tasks=tasks, end=self.end), encoding="utf-8")

    @contextmanager
    def first(self) -> Iterator[subprocess.Popen[bytes]]:
        """The run, once it has the host."""
        command = [str(CHECKOUT / ".venv/bin/ansible-playbook"), "-i", str(self.inventory)]
        command += ["playbooks/validate.yml", str(self.folder / "first.yml"), "-e", f"llm_report_dir={self.folder}"]
        with (self.folder / "log").open("wb") as log:
            run = subprocess.Popen(
                command, cwd=CHECKOUT, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        try:
            end = time.monotonic() + 60
            while not (self.lease.exists() and self.holder["pid"] == run.pid):
                assert run.poll() is None and time.monotonic() < end, (self.folder / "log").read_text()
                time.sleep(0.05)
            yield run
        finally:
            run.kill()
            run.wait()

    @property
    def holder(self) -> dict[str, object]:
        found: dict[str, object] = json.loads(self.lease.read_text(encoding="utf-8"))
        return found


@pytest.mark.fault(23, "starts runs and verbs beside a run that has the host; then kills that one")
def test_the_second_run_names_the_first_and_a_killed_one_is_no_hindrance(playbook: Playbook, tmp_path: Path) -> None:
    runs = Runs(tmp_path)
    with runs.first() as run:
        for verb in ("site.yml", "playbooks/stop.yml"):
            second = playbook("-i", str(runs.inventory), verb).refused()
            second.says("another run changes this host", f"(pid {run.pid})", "services micro-cpu", "Wait until it ends")
            assert second.changed == 0
        playbook("-i", str(runs.inventory), "playbooks/status.yml").passed()
        os.killpg(run.pid, 9)
        run.wait()
        killed = runs.holder
        assert killed["pid"] == run.pid
    with runs.first() as run:  # at once: its controller knows that the other is gone
        assert runs.holder["generation"] == 2
        runs.end.touch()
        assert run.wait(30) == 0
    assert (runs.holder["holder"], runs.holder["generation"]) == ("", 2)


@pytest.mark.fault(23, "changes the host between another run's look and its first change")
def test_a_run_that_read_an_older_host_is_told_to_run_again(playbook: Playbook, tmp_path: Path) -> None:
    runs = Runs(tmp_path)
    late = tmp_path / "late.yml"
    text = FIRST.format(tasks=CHECKOUT / "playbooks/tasks", end=runs.end)
    copy = {"dest": str(runs.lease), "content": json.dumps({"generation": 7}) + "\n", "mode": "0644"}
    meanwhile = f"        - ansible.builtin.copy: {json.dumps(copy)}\n"
    runs.lease.parent.mkdir(parents=True)
    late.write_text(text.replace("        - llm_lease:\n", meanwhile + "        - llm_lease:\n", 1), encoding="utf-8")
    run = playbook("-i", str(runs.inventory), "playbooks/validate.yml", str(late)).refused()
    run.says("another run changed this host since it was read", "run again")


@pytest.mark.slow
@pytest.mark.fault(23, "starts site.yml while another one waits for the engine that it started")
def test_the_second_of_two_deployments_names_the_first(real_host: RealHost) -> None:
    host = real_host
    host.reset()
    runs: list[Run] = []
    first = threading.Thread(target=lambda: runs.append(host.run("site.yml")))
    first.start()
    end = time.monotonic() + 600
    while not host.client.containers.list(sparse=True, filters={"label": f"llm.service={host.service}"}):
        assert first.is_alive() and time.monotonic() < end, runs
        time.sleep(0.05)
    second = host.run("site.yml").refused().says("another run changes this host", f"services {host.service}")
    assert second.changed == 0 and first.is_alive()
    first.join()
    runs[0].passed()
    assert host.status() == 200 and host.run("site.yml").passed().changed == 0
