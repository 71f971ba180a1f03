#!/usr/bin/python
"""What clients asked of the gateway."""

from __future__ import annotations

DOCUMENTATION = r"""
module: llm_usage
short_description: Sum up the gateway's access log by client
description:
  - Reads the log of the gateway's container, and those that were kept of the containers before it.
options:
  root:
    description: Folder of the project on the host.
    type: path
    default: /opt/llm
  since:
    description: From when on requests count - V(30m), V(24h), V(7d), or a date.
    type: str
    default: 24h
attributes:
  check_mode:
    description: Changes nothing, so it does the same.
    support: full
  diff_mode:
    description: There is nothing to show.
    support: none
  idempotent:
    description: Reading again gives the same for the same log.
    support: full
author: ansible-vllm
"""

EXAMPLES = r"""
- name: Usage of the last week
  llm_usage:
    since: 7d
"""

RETURN = r"""
clients:
  description: >-
    Client to requests, answered, limited, refused, failed, bytes_in, bytes_out, services, queue_ms, first_byte_ms, total_ms, last.
  returned: always
  type: dict
log_begins:
  description: Time of the first request in the log, empty when there is none. What was asked before is not counted.
  returned: always
  type: str
table:
  description: The same for a person, with a line where the log does not go back to O(since).
  returned: always
  type: list
"""

import time
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.llm.base import files, names
from ansible.module_utils.llm.gateway import host as gateway_host
from ansible.module_utils.llm.gateway import usage


def main() -> None:
    module = AnsibleModule(
        argument_spec={"root": {"type": "path", "default": "/opt/llm"}, "since": {"type": "str", "default": "24h"}},
        supports_check_mode=True,
    )
    try:
        start = usage.begin(module.params["since"], time.time())
    except ValueError as error:
        module.fail_json(msg=str(error))
    kept = sorted((Path(module.params["root"]) / "gateway" / gateway_host.LOGS).glob("*.log"))
    rc, out, err = module.run_command(["docker", "logs", names.GATEWAY])
    if rc != 0 and not kept:
        module.fail_json(
            msg=f"there is no log of the gateway: {err.strip()}. Bring the host to its declaration with site.yml"
        )
    lines = [line for text in (*map(files.read, kept), out if rc == 0 else "") for line in text.splitlines()]
    found, first = usage.summary(usage.entries(lines, start)), usage.begins(lines)
    table = [*usage.table(found), *filter(None, [usage.shortfall(first, start)])]
    module.exit_json(changed=False, clients=found, log_begins=first, table=table)


if __name__ == "__main__":
    main()
