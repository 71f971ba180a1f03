#!/usr/bin/python
from __future__ import annotations

DOCUMENTATION = r"""
---
module: llm_diagnose
short_description: Keep what explains a failed engine
description:
  - Collects the end of a container's log, the engine's metrics, Docker's inspection and the state of the GPUs into a folder of
    its own, before the container is stopped or removed. Secrets are blanked.
  - Never fails. What could not be had is named in C(cause.json) of the folder, and in the result.
  - Folders beyond O(keep) are removed, the oldest first.
options:
  service:
    description: Name of the service.
    type: str
    required: true
  folder:
    description: Folder of the service on the host. The diagnostics go to C(diagnostics/<time>-<release>/) in it.
    type: path
    required: true
  release:
    description: Release that failed.
    type: str
    required: true
  container:
    description: Its container. It may be gone.
    type: str
    required: true
  port:
    description: Port on which the engine answers C(/metrics) inside its network.
    type: int
    default: 8000
  step:
    description: What was being done when it failed.
    type: str
    default: ""
  cause:
    description: What is known of the cause, as text.
    type: str
    default: ""
  at:
    description: When it failed, UTC, as C(2026-11-25T10:15:30Z). Now by default.
    type: str
  attempt:
    description:
      - Whether a deployment of the release failed by it. The host's facts (M(llm_host_facts)) tell of the newest such one until
        a later one succeeds.
    type: bool
    default: false
  verdict:
    description: Verdict of the checks, where they were made; see llm_smoke.
    type: dict
    default: {}
  keep:
    description: Folders of this service to keep.
    type: int
    default: 10
attributes:
  check_mode:
    support: full
    description: Nothing is collected.
  diff_mode:
    support: none
    description: A collection is no declaration.
  idempotent:
    support: none
    description: Every call collects anew.
author:
  - ansible-vllm
"""

EXAMPLES = r"""
- name: Keep what explains the failure
  llm_diagnose:
    service: micro-cpu
    folder: /opt/llm/services/micro-cpu
    release: b325578894a7
    container: llm-micro-cpu-b3255788
    step: Ask the engine
    cause: the answer was wrong
"""

RETURN = r"""
folder:
  description: Folder that was written; empty when it could not be, or in check mode.
  returned: always
  type: str
missing:
  description: File that could not be had, to the reason.
  returned: always
  type: dict
  sample: {"gpu.txt": "there is no nvidia-smi on this host"}
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.llm.base import http
from ansible.module_utils.llm.docker import api as docker_api
from ansible.module_utils.llm.engine import diagnostics

METRICS_TIMEOUT = 3.0
GPU_TIMEOUT = 20  # nvidia-smi hangs when a GPU has fallen off its bus


def read_metrics(inspected: Mapping[str, Any], port: int) -> str:
    """What the engine says at /metrics; OSError with the reason when it says nothing."""
    if not inspected:
        raise OSError("there is no container")
    state = inspected.get("State") or {}
    if not state.get("Running") or state.get("Paused"):
        raise OSError(f"the container is {state.get('Status') or 'not running'}")
    ip = docker_api.container_ip(inspected)
    if not ip:
        raise OSError("the container has no single address")
    answer = http.get(ip, port, "/metrics", METRICS_TIMEOUT, diagnostics.LARGEST)
    if answer.status != 200:
        raise OSError(f"status {answer.status}")
    return answer.text


def read_gpu(module: AnsibleModule) -> str:
    """What nvidia-smi says; OSError with the reason when it says nothing."""
    tool, limit = module.get_bin_path("nvidia-smi"), module.get_bin_path("timeout")
    if not tool or not limit:
        raise OSError("there is no nvidia-smi on this host" if not tool else "there is no `timeout` on this host")
    rc, out, err = module.run_command([limit, "-k", "1", str(GPU_TIMEOUT), tool, "-q"])
    if rc != 0:
        raise OSError(f"nvidia-smi ended with {rc}: {(err or out).strip()[:300]}")
    return str(out)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "service": {"type": "str", "required": True},
            "folder": {"type": "path", "required": True},
            "release": {"type": "str", "required": True},
            "container": {"type": "str", "required": True},
            "port": {"type": "int", "default": 8000},
            "step": {"type": "str", "default": ""},
            "cause": {"type": "str", "default": ""},
            "at": {"type": "str"},
            "attempt": {"type": "bool", "default": False},
            "verdict": {"type": "dict", "default": {}},
            "keep": {"type": "int", "default": diagnostics.KEPT},
        },
        supports_check_mode=True,
    )
    if module.check_mode:
        module.exit_json(changed=False, folder="", missing={})
    params = module.params
    folder, missing = diagnostics.collect(
        Path(params["folder"]),
        {key: params[key] for key in ("service", "release", "container", "step", "cause", "attempt", "verdict")}
        | ({"at": params["at"]} if params["at"] else {}),
        {
            "metrics.txt": lambda inspected: read_metrics(inspected, params["port"]),
            "gpu.txt": lambda _: read_gpu(module),
        },
        params["keep"],
    )
    module.exit_json(changed=bool(folder), folder=folder, missing=missing)


if __name__ == "__main__":
    main()
