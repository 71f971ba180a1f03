#!/usr/bin/python
from __future__ import annotations

DOCUMENTATION = r"""
---
module: llm_engine
short_description: Wait until a container's engine is ready
description:
  - Reads the log of a container that boots a vLLM engine, follows its phases (import, config, weights, compile, KV cache,
    graphs, server), and returns as soon as the engine answers its health path with 200.
  - Ends early, with the likely cause and the last log lines, when the container exits, is restarted or is paused.
  - Talks to the Docker daemon through its socket with the Python standard library; nothing is installed on the host.
options:
  container:
    description: Name or id of the container.
    type: str
    required: true
  network:
    description:
      - Docker network in which the engine is asked.
      - Left out, the container must be attached to exactly one.
    type: str
  port:
    description: Port on which the engine listens inside the network.
    type: int
    default: 8000
  path:
    description: Health path; 200 means ready.
    type: str
    default: /health
  timeout:
    description:
      - Seconds to wait for a ready engine, counted from the start of the module. Where earlier boots of this release are known, no
        longer than ten times the slowest of them, and 900 s in any case - a boot that finds an emptied cache may rightly take
        longer than all before.
    type: int
    default: 600
  history_folder:
    description:
      - Folder with one file for each release of what it did on this host (see module_utils/llm/engine/history.py). Each boot that
        was watched to its end is added, and the time of the ones before is what this one is compared with.
      - The file's name follows from the container's labels C(llm.service) and C(llm.release).
    type: path
  record_folder:
    description:
      - Folder for a record of the memory that the engine measured while it booted; estimates of the next plan use it.
      - Written when the engine is ready and its log has the numbers, as a GPU's does. See O(record_key).
    type: path
  record_key:
    description: What the record is kept under. The plan makes it; left out or empty, nothing is written.
    type: dict
    default: {}
  progress_file:
    description:
      - File that gets one JSON line for each step. The action plugin of the same name fills it in and shows the lines.
    type: path
attributes:
  check_mode:
    support: full
    description: Looks once and does not wait; a container that is not there yet is no failure. C(ready) says what was found.
  diff_mode:
    support: none
    description: Only records of a boot are written, and they are no declaration.
  idempotent:
    support: full
    description: A ready engine is reported at once; a record that says the same is left alone.
author:
  - ansible-vllm
"""

EXAMPLES = r"""
- name: Wait for the engine
  llm_engine:
    container: llm-micro-cpu-1a2b3c4d
    network: llm
    timeout: 300
  register: engine

- name: Say how long it took
  ansible.builtin.debug:
    msg: "{{ engine.boot_seconds }} s, {{ engine.harvest.kv_cache_tokens }} tokens of KV cache"
"""

RETURN = r"""
ready:
  description: Whether the engine answered with 200.
  returned: always
  type: bool
ip:
  description: Address of the container in the network.
  returned: when it has one
  type: str
url:
  description: Where the engine answers, without a path.
  returned: when it has an address
  type: str
  sample: http://172.18.0.2:8000
boot_seconds:
  description:
    - Seconds from the start of the container to a ready engine; null when the engine was ready before and its log does
      not reach back to the boot.
  returned: success
  type: float
phases:
  description: The phases of the boot in order, with their seconds.
  returned: always
  type: list
  elements: dict
  sample: [{"phase": "import", "seconds": 14.2}, {"phase": "weights", "seconds": 3.9}]
harvest:
  description: Numbers that the engine printed about itself, as far as its log has them.
  returned: always
  type: dict
  sample: {"version": "0.32.0", "kv_cache_tokens": 46592, "kv_cache_gib": 1.0, "weights_seconds": 1.49}
record:
  description: File of the record, when there is one.
  returned: success, with O(record_folder)
  type: str
cache:
  description: What the boot found in its folder of compiled code - warm (it was loaded), cold (it was made), unused.
  returned: always
  type: str
earlier:
  description: Earlier boots of this release - boots, last, slowest, typical, expected; all but the first in seconds. Empty without.
  returned: success, with O(history_folder)
  type: dict
late:
  description: Whether this boot took longer than C(earlier.expected), the slowest of them and 15 s.
  returned: success, with O(history_folder)
  type: bool
restarts:
  description: How often Docker has restarted the container.
  returned: when the container exists
  type: int
cause:
  description: Why the boot failed, as far as state and log tell; empty when they don't.
  returned: failure
  type: dict
  contains:
    id: {description: Short name of the cause., type: str, sample: unknown_flag}
    cause: {description: What went wrong., type: str}
    remedy: {description: What to do., type: str}
    line: {description: The log line that shows it., type: str}
exit_code:
  description: Exit code of the container's main process.
  returned: when the container has exited
  type: int
oom_killed:
  description: Whether the container was killed at its memory limit.
  returned: when the container has exited
  type: bool
log_tail:
  description: Last lines of the log, without progress bars, secrets blanked.
  returned: failure
  type: list
  elements: str
"""

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.llm.docker import api as docker_api
from ansible.module_utils.llm.engine import wait


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "container": {"type": "str", "required": True},
            "network": {"type": "str"},
            "port": {"type": "int", "default": 8000},
            "path": {"type": "str", "default": "/health"},
            "timeout": {"type": "int", "default": 600},
            "history_folder": {"type": "path"},
            "record_folder": {"type": "path"},
            "record_key": {"type": "dict", "default": {}},
            "progress_file": {"type": "path"},
        },
        supports_check_mode=True,
    )
    try:
        result = wait.until_ready(module)
    except docker_api.DockerError as error:
        module.fail_json(msg=str(error), ready=False)
    if "msg" in result:
        module.fail_json(**result)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
