#!/usr/bin/python
"""Take engines out of service: let them finish, stop them, see that their memory is free."""

from __future__ import annotations

DOCUMENTATION = r"""
module: llm_drain
short_description: Let engines finish their requests, stop them, and wait until their memory is free
description:
  - Waits until each engine has no request running or waiting, by its own metrics, and no longer than O(drain). The gateway must
    have stopped to give it new ones.
  - Then stops the containers with their own grace period, and waits until the GPU memory that they held is free.
options:
  containers:
    description: Names of containers. Those that are not there, or do not run, have nothing to finish.
    type: list
    elements: str
    required: true
  drain:
    description: Seconds that running requests get.
    type: int
    default: 30
  state:
    description: V(stopped) keeps the containers, V(removed) does not.
    type: str
    choices: [stopped, removed]
    default: stopped
  port:
    description: Port of the engine on its network.
    type: int
    default: 8000
  memory_timeout:
    description: Seconds until the memory of a stopped engine must be free.
    type: int
    default: 60
  progress_file:
    description:
      - File that gets one JSON line for each step. The action plugin of the same name fills it in and shows the lines.
    type: path
attributes:
  check_mode:
    description: Says which containers it would touch.
    support: full
  diff_mode:
    description: There is nothing to show.
    support: none
  idempotent:
    description: A container that is stopped (or gone) is left alone.
    support: full
author: ansible-vllm
"""

EXAMPLES = r"""
- name: Take the old release out of service
  llm_drain:
    containers: [llm-micro-01234567]
    drain: 30
    state: removed
"""

RETURN = r"""
drained:
  description: Whether every engine had finished when it was stopped.
  returned: always
  type: bool
cut:
  description: Container to what it still had to do when its time was up.
  returned: always
  type: dict
  sample: {llm-micro-01234567: "1 running, 0 waiting"}
seconds:
  description: How long it took in all.
  returned: always
  type: float
"""

import time
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.llm.base import http, names
from ansible.module_utils.llm.base.progress import Progress
from ansible.module_utils.llm.declare.facts import FoundGpu
from ansible.module_utils.llm.docker import api as docker_api
from ansible.module_utils.llm.docker import containers
from ansible.module_utils.llm.engine import load
from ansible.module_utils.llm.gpu import host as gpu_host
from ansible.module_utils.llm.gpu import memory

POLL = 0.5
METRICS_TIMEOUT = 3.0


def ask(inspected: dict[str, Any], port: int) -> load.Load:
    """What an engine says that it has to do. One that boots, hangs or restarts says nothing."""
    state = inspected["State"]
    address = docker_api.container_ip(inspected, names.NETWORK)
    if not address or state.get("Paused") or state.get("Restarting"):
        return load.Load(None, None)
    try:
        return load.load(http.get(address, port, "/metrics", METRICS_TIMEOUT).text)
    except ConnectionRefusedError:  # it boots, or its server has ended: nobody has a request in it
        return load.Load(0, 0)
    except OSError:
        return load.Load(None, None)


def drain(module: AnsibleModule, names: list[str], progress: Progress) -> dict[str, str]:
    """Wait until all are idle; returns what was still to do, by container."""
    end = time.monotonic() + module.params["drain"]
    looks = dict.fromkeys(names, 0)
    said: dict[str, str] = {}
    while True:
        for name in names:
            inspected = containers.running(name)
            found = ask(inspected, module.params["port"]) if inspected else load.Load(0, 0)
            looks[name] = looks[name] + 1 if found.idle or inspected is None else 0
            said[name] = found.text()
        busy = {n: said[n] for n in names if looks[n] < load.IDLE_LOOKS}
        if not busy or time.monotonic() >= end:
            return busy
        progress.say("drain", "; ".join(f"{n}: {text}" for n, text in busy.items()))
        time.sleep(POLL)


def look_at_gpus(module: AnsibleModule) -> list[FoundGpu]:
    """GPUs of the host with their processes; none where there is no nvidia-smi."""
    if not gpu_host.hardware()["tool"]:
        return []
    return gpu_host.read(module.run_command)["gpus"]


def wait_for_memory(module: AnsibleModule, before: dict[str, dict[str, Any]], progress: Progress) -> None:
    """Fail unless what engines held of GPUs comes free in time."""
    end = time.monotonic() + module.params["memory_timeout"]
    while before:
        waiting = memory.still_held(before, look_at_gpus(module))
        if not waiting:
            return
        if time.monotonic() >= end:
            module.fail_json(
                msg=f"the memory of a stopped engine does not come free: {'; '.join(waiting)}. Look at the process with"
                " `ps` and at the driver with `nvidia-smi`, end what is left of the engine, and run again"
            )
        progress.say("memory", "; ".join(waiting))
        time.sleep(POLL)


def act(module: AnsibleModule) -> dict[str, Any]:
    """Drain, stop, wait."""
    begin = time.monotonic()
    progress = Progress(module.params["progress_file"])
    found = {name: containers.running(name) for name in module.params["containers"]}
    names = [name for name, inspected in found.items() if inspected]
    remove = module.params["state"] == "removed"
    there = [name for name in found if name in names or containers.inspected(name)] if remove else names
    if module.check_mode or not there:
        return {"changed": bool(there), "drained": True, "cut": {}, "seconds": 0.0}
    cut = drain(module, names, progress) if names else {}
    before = memory.held(look_at_gpus(module), [str(i["Id"]) for i in found.values() if i]) if names else {}
    for name in names:
        progress.say("stop", name)
        containers.stop(name)
    wait_for_memory(module, before, progress)
    if remove:
        for name in there:
            containers.remove(name)
    seconds = round(time.monotonic() - begin, 1)
    return {"changed": True, "drained": not cut, "cut": cut, "seconds": seconds}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "containers": {"type": "list", "elements": "str", "required": True},
            "drain": {"type": "int", "default": 30},
            "state": {"type": "str", "choices": ["stopped", "removed"], "default": "stopped"},
            "port": {"type": "int", "default": 8000},
            "memory_timeout": {"type": "int", "default": 60},
            "progress_file": {"type": "path"},
        },
        supports_check_mode=True,
    )
    try:
        module.exit_json(**act(module))
    except docker_api.DockerError as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
