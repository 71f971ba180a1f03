#!/usr/bin/python
"""The supervisor's container: files, start, removal."""

from __future__ import annotations

DOCUMENTATION = r"""
module: llm_supervisor
short_description: Run the program that watches the engines of a host, or remove it
description:
  - Writes its files and starts it anew when one differs. It is up when it has looked at the engines once.
  - What it wrote (events, budgets) stays when it is removed.
options:
  folder:
    description: Folder of the supervisor on the host.
    type: path
    required: true
  files:
    description: C(compose.yml), C(config.json) and C(app/...), path to content. Other files below C(app) are removed.
    type: dict
    default: {}
  loaded:
    description: Checksum of the files, which the container carries as label C(llm.supervisor).
    type: str
    default: ""
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
    description: A supervisor that runs with these files is left alone.
    support: full
author: ansible-vllm
"""

EXAMPLES = r"""
- name: Turn it off
  llm_supervisor:
    folder: /opt/llm/supervisor
    state: absent
"""

RETURN = r"""
action:
  description: none, started or removed.
  returned: always
  type: str
"""

import shutil
import time
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.llm.base import files, names
from ansible.module_utils.llm.docker import api as docker_api
from ansible.module_utils.llm.host import read as read_host

READY_WITHIN = 60.0


def running() -> tuple[bool, str]:
    """Whether its container runs, and the label of what it was started with; ("absent") when there is none."""
    try:
        found = docker_api.inspect(names.SUPERVISOR)
    except docker_api.NotFound:
        return False, "absent"
    return bool(found["State"]["Running"]), str((found["Config"]["Labels"] or {}).get(names.SUPERVISOR_LABEL, ""))


def remove(module: AnsibleModule, folder: Path) -> dict[str, Any]:
    """Remove the container and the program."""
    there = running()[1] != "absent"
    if not there and not (folder / "app").exists():
        return {"changed": False, "action": "none"}
    if not module.check_mode:
        if there:
            docker_api.delete(f"/containers/{names.SUPERVISOR}?force=1")
        shutil.rmtree(folder / "app", ignore_errors=True)
        for name in ("compose.yml", "config.json", "metrics.prom"):
            (folder / name).unlink(missing_ok=True)
    return {"changed": True, "action": "removed"}


def act(module: AnsibleModule) -> dict[str, Any]:
    """Compare, and do what is missing."""
    folder, texts = Path(module.params["folder"]), dict(module.params["files"])
    if module.params["state"] == "absent":
        return remove(module, folder)
    diff = files.diffs(folder, folder, texts)
    there = read_host.program(folder, [], "", "")["files"]
    old = sorted(set(there) - set(texts))
    if running() == (True, module.params["loaded"]) and not diff and not old:
        return {"changed": False, "action": "none"}
    if module.check_mode:
        return {"changed": True, "action": "started", "diff": diff}
    docker_api.ensure_network(names.NETWORK, internal=names.NETWORKS[names.NETWORK])
    for name in old:
        (folder / name).unlink()
    for name, text in texts.items():
        files.write(folder / name, text)
    seen = folder / "metrics.prom"
    seen.unlink(missing_ok=True)
    argv = ["docker", "compose", "--project-name", names.SUPERVISOR, "--file", str(folder / "compose.yml")]
    rc, out, err = module.run_command([*argv, "up", "--detach", "--no-build", "--pull", "never", "--force-recreate"])
    if rc != 0:
        module.fail_json(msg=f"the supervisor does not start: {(err or out).strip()}", rc=rc)
    end = time.monotonic() + READY_WITHIN
    while not seen.exists():
        if time.monotonic() > end:
            _, out, err = module.run_command(["docker", "logs", "--tail", "20", names.SUPERVISOR])
            module.fail_json(msg=f"the supervisor does not look at the engines. Its last words: {out}{err}")
        time.sleep(0.2)
    return {"changed": True, "action": "started", "diff": diff}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "folder": {"type": "path", "required": True},
            "files": {"type": "dict", "default": {}},
            "loaded": {"type": "str", "default": ""},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
        },
        supports_check_mode=True,
    )
    try:
        module.exit_json(**act(module))
    except docker_api.DockerError as error:
        if module.check_mode:  # a fresh host has no engine yet, and everything would change
            module.exit_json(changed=module.params["state"] == "present", action="started")
        module.fail_json(msg=f"supervisor: {error}")
    except OSError as error:
        module.fail_json(msg=f"cannot write {error.filename}: {error.strerror}; run as root, and check the disk")


if __name__ == "__main__":
    main()
