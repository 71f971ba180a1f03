#!/usr/bin/python
"""A program of ours in a container of its own: files, start, removal."""

from __future__ import annotations

DOCUMENTATION = r"""
module: llm_program
short_description: Run a program of ours in a container of its own, or remove it
description:
  - Writes its files, and starts it anew when one differs or it does not run. A program that runs is told to end first.
  - It is up when it has written a file of its own.
  - What it wrote stays when it is removed.
options:
  folder:
    description: Folder of the program on the host.
    type: path
    required: true
  container:
    description: Name of its container and of its Compose project.
    type: str
    required: true
  label:
    description: Label of the container that carries O(loaded).
    type: str
    required: true
  ready:
    description: >-
      File below O(folder) that it writes once it is at work. It is removed before the program starts, and with it.
    type: str
    required: true
  network:
    description: Network of ours that its container is in; made where there is none.
    type: str
    choices: [llm, llm-front]
    default: llm
  files:
    description: C(compose.yml), C(config.json) and C(app/...), path to content. Other files below C(app) are removed.
    type: dict
    default: {}
  loaded:
    description: Checksum of the files, with which its container has to have been started.
    type: str
    default: ""
  copies:
    description: >-
      Files that it gets a copy of, path below O(folder) to file on the host. Where that is empty, there is to be no copy.
    type: dict
    default: {}
  writable:
    description: Folders that it writes to, path on the host to mode (C("0700")). They are made, and O(uid) owns them.
    type: dict
    default: {}
  uid:
    description: Numeric user of its container.
    type: int
    default: 0
  state:
    description: Whether it is to run.
    type: str
    choices: [present, absent]
    default: present
attributes:
  check_mode:
    description: Says what would change.
    support: full
  diff_mode:
    description: Shows the files.
    support: full
  idempotent:
    description: A program that runs with these files is left alone.
    support: full
author: ansible-vllm
"""

EXAMPLES = r"""
- name: Watch the engines no longer
  llm_program:
    folder: /opt/llm/supervisor
    container: llm-supervisor
    label: llm.supervisor
    ready: metrics.prom
    state: absent
"""

RETURN = r"""
action:
  description: none, started or removed.
  returned: always
  type: str
"""

import os
import shutil
import time
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.llm.base import files, names
from ansible.module_utils.llm.docker import api as docker_api
from ansible.module_utils.llm.host import read as read_host

READY_WITHIN = 60.0


def running(module: AnsibleModule) -> tuple[bool, str]:
    """Whether its container runs, and the label of what it was started with; "absent" when there is none."""
    try:
        found = docker_api.inspect(module.params["container"])
    except docker_api.NotFound:
        return False, "absent"
    return bool(found["State"]["Running"]), str((found["Config"]["Labels"] or {}).get(module.params["label"], ""))


def end(module: AnsibleModule) -> None:
    """Let the program end what it does, for as long as its compose file gives it, and remove its container."""
    container = module.params["container"]
    docker_api.post(f"/containers/{container}/stop")
    docker_api.delete(f"/containers/{container}?force=1")


def remove(module: AnsibleModule, folder: Path) -> dict[str, Any]:
    """Remove the container and the program."""
    there = running(module)[1] != "absent"
    if not there and not read_host.program(folder, [], "", "")["files"]:
        return {"changed": False, "action": "none"}
    if not module.check_mode:
        if there:
            end(module)
        shutil.rmtree(folder / "app", ignore_errors=True)
        for name in ("compose.yml", "config.json", module.params["ready"], *module.params["copies"]):
            (folder / name).unlink(missing_ok=True)
    return {"changed": True, "action": "removed"}


def copied(module: AnsibleModule, folder: Path) -> dict[str, str]:
    """Content of the files that it gets a copy of, by the copy's path."""
    found: dict[str, str] = {}
    for name, source in module.params["copies"].items():
        try:
            found |= {name: Path(source).read_text(encoding="utf-8")} if source else {}
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is no text"
            module.fail_json(
                msg=f"{source}: {why}; it is to be copied to {folder / name}. Put it there, or declare another"
            )
    return found


def own(module: AnsibleModule) -> None:
    """Make the folders that the program writes to."""
    for name, mode in module.params["writable"].items():
        path = Path(name)
        path.mkdir(mode=int(mode, 8), parents=True, exist_ok=True)
        path.chmod(int(mode, 8))
        os.chown(path, module.params["uid"], module.params["uid"])


def start(module: AnsibleModule, folder: Path) -> None:
    """Start the container, and wait until the program is at work."""
    container, ready = module.params["container"], folder / module.params["ready"]
    ready.unlink(missing_ok=True)
    argv = ["docker", "compose", "--project-name", container, "--file", str(folder / "compose.yml")]
    rc, out, err = module.run_command([*argv, "up", "--detach", "--no-build", "--pull", "never"])
    if rc != 0:
        module.fail_json(msg=f"{container} does not start: {(err or out).strip()}", rc=rc)
    until = time.monotonic() + READY_WITHIN
    while not ready.exists():
        if time.monotonic() > until:
            _, out, err = module.run_command(["docker", "logs", "--tail", "20", container])
            module.fail_json(
                msg=f"{container} was started and does not work: there is no {ready} after {READY_WITHIN:.0f} s. "
                f"Its last words: {out}{err}"
            )
        time.sleep(0.2)


def act(module: AnsibleModule) -> dict[str, Any]:
    """Compare, and do what is missing."""
    folder = Path(module.params["folder"])
    if module.params["state"] == "absent":
        return remove(module, folder)
    texts = {**module.params["files"], **copied(module, folder)}
    diff = files.diffs(folder, folder, texts)
    there = {*read_host.program(folder, [], "", "")["files"]}
    there |= {name for name in module.params["copies"] if (folder / name).exists()}
    old = sorted(there - set(texts))
    found = running(module)
    if found == (True, module.params["loaded"]) and not diff and not old:
        return {"changed": False, "action": "none"}
    if module.check_mode:
        return {"changed": True, "action": "started", "diff": diff}
    network = module.params["network"]
    docker_api.ensure_network(network, internal=names.NETWORKS[network])
    if found[1] != "absent":
        end(
            module
        )  # before its files are others, and so that what it writes last is not taken for what its successor does
    for name in old:
        (folder / name).unlink()
    for name, text in texts.items():
        files.write(folder / name, text)
    own(module)
    start(module, folder)
    return {"changed": True, "action": "started", "diff": diff}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "folder": {"type": "path", "required": True},
            "container": {"type": "str", "required": True},
            "label": {"type": "str", "required": True},
            "ready": {"type": "str", "required": True},
            "network": {"type": "str", "choices": [names.NETWORK, names.FRONT_NETWORK], "default": names.NETWORK},
            "files": {"type": "dict", "default": {}},
            "loaded": {"type": "str", "default": ""},
            "copies": {"type": "dict", "default": {}},
            "writable": {"type": "dict", "default": {}},
            "uid": {"type": "int", "default": 0},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
        },
        supports_check_mode=True,
    )
    folder = Path(module.params["folder"])
    try:
        module.exit_json(**act(module))
    except docker_api.DockerError as error:
        if module.check_mode:  # a fresh host has no Docker yet, and everything would change
            diff = files.diffs(Path("/nonexistent"), folder, module.params["files"])
            module.exit_json(changed=module.params["state"] == "present", action="started", diff=diff)
        module.fail_json(msg=f"{module.params['container']}: {error}")
    except OSError as error:
        module.fail_json(msg=f"cannot write {error.filename}: {error.strerror}; run as root, and check the disk")


if __name__ == "__main__":
    main()
