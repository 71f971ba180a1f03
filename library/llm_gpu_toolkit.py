#!/usr/bin/python
"""Let containers use a host's GPUs, and prove it with one."""

from __future__ import annotations

DOCUMENTATION = r"""
module: llm_gpu_toolkit
short_description: CDI specification, runtime in daemon.json, persistence, and GPUs seen inside a container
description:
  - Needs driver, NVIDIA's container toolkit and Docker on the host. Does what is missing, in this order.
  - Makes the CDI specification when there is none, or when driver or GPUs are not the ones that it was made for.
  - Lets C(nvidia-ctk runtime configure) merge the runtime into daemon.json, after a look at what that would change; the
    engine reads it on a SIGHUP. It is restarted only if it refuses GPUs because it looked for NVIDIA's programs when it
    was started, and only if no container stops with it, or I(restart_engine) allows that.
  - Never calls C(systemctl daemon-reload), nor what does so by itself. That would detach GPUs from running containers.
  - In the end, asks every running container with GPUs for them, and one more that is made for this.
options:
  root:
    description: Folder of the project on the host; what was proven is recorded in C(state/gpu.json).
    type: str
    default: /opt/llm
  runtime:
    description: How containers get GPUs.
    type: str
    choices: [cdi, nvidia]
    required: true
  gpus:
    description: GPUs as declared - index, model, memory, uuid (optional). All that are found, when empty.
    type: list
    elements: dict
    default: []
  persistence:
    description: Keep the driver loaded while nothing uses it. WSL2 has no such thing.
    type: bool
    default: true
  restart_engine:
    description: Restart the engine where it must be, even if containers stop with it.
    type: bool
    default: false
attributes:
  check_mode:
    description: Says what would be done; asks no container.
    support: full
  diff_mode:
    description: Shows daemon.json, and what the CDI specification is made for.
    support: full
  idempotent:
    description: A host where all this was done and proven is left alone.
    support: full
author: ansible-vllm
"""

EXAMPLES = r"""
- name: Let containers use the GPUs
  llm_gpu_toolkit:
    runtime: cdi
    gpus:
      - {index: 0, model: NVIDIA GeForce RTX 4090, memory: 24 GiB}
"""

RETURN = r"""
steps:
  description: What was to be done, with the reason of each.
  returned: always
  type: dict
seen:
  description: UUIDs of the GPUs that the container saw.
  returned: when it was asked
  type: list
  elements: str
"""

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.llm.base import files
from ansible.module_utils.llm.docker import api as docker_api
from ansible.module_utils.llm.docker.process import DaemonFailed
from ansible.module_utils.llm.gpu import toolkit


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "root": {"type": "str", "default": "/opt/llm"},
            "runtime": {"type": "str", "choices": ["cdi", "nvidia"], "required": True},
            "gpus": {"type": "list", "elements": "dict", "default": []},
            "persistence": {"type": "bool", "default": True},
            "restart_engine": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    try:
        module.exit_json(**toolkit.set_up(module))
    except (DaemonFailed, docker_api.DockerError) as error:
        module.fail_json(msg=f"GPUs: {error}")
    except OSError as error:
        module.fail_json(msg=f"GPUs: {files.unwritable(error)}")


if __name__ == "__main__":
    main()
