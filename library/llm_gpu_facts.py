#!/usr/bin/python
"""Read a host's NVIDIA GPUs with all that is known of them."""

from __future__ import annotations

DOCUMENTATION = r"""
module: llm_gpu_facts
short_description: Read NVIDIA GPUs - models, memory, processes, driver, toolkit, how they are connected
description:
  - The part C(gpu) of M(llm_host_facts) by itself, and on request what takes more calls of nvidia-smi.
  - Reads only, and works on a host without GPU or driver; C(trouble) then says what is wrong and what to do.
options:
  root:
    description: Folder of the project on the host.
    type: str
    default: /opt/llm
  details:
    description: Ask for compute capabilities, connections and peer access as well.
    type: bool
    default: false
attributes:
  check_mode:
    description: Changes nothing, so it does the same.
    support: full
  diff_mode:
    description: There is nothing to show.
    support: none
  idempotent:
    description: Reading again gives the same facts as long as the host is the same.
    support: full
author: ansible-vllm
"""

EXAMPLES = r"""
- name: Read the GPUs
  llm_gpu_facts:
    details: true
"""

RETURN = r"""
ansible_facts:
  description: The facts.
  returned: always
  type: dict
  contains:
    llm_gpu:
      description:
        - What M(llm_host_facts) calls C(gpu).
        - With I(details), every GPU has C(capability) ("8.9"), and C(topology) has links and p2p, GPU to GPU to what connects them.
      type: dict
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.llm.gpu import host as gpu_host


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "root": {"type": "str", "default": "/opt/llm"},
            "details": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    seen = gpu_host.read(module.run_command, Path(module.params["root"]))
    details: dict[str, object] = {}
    if module.params["details"] and not seen["trouble"]:
        known = gpu_host.capabilities(module.run_command, seen["tool"])
        for one in seen["gpus"]:
            one["capability"] = known.get(one["uuid"], "")
        details["topology"] = gpu_host.topology(module.run_command, seen["tool"])
    module.exit_json(changed=False, ansible_facts={"llm_gpu": {**seen, **details}})


if __name__ == "__main__":
    main()
