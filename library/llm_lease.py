#!/usr/bin/python
"""Take a host for one run, and give it back."""

from __future__ import annotations

DOCUMENTATION = r"""
module: llm_lease
short_description: Let one run at a time change a host
description:
  - Writes into C(state/lease.json) which run changes the host; a second run is refused and told who holds it.
  - Its action plugin fills in what identifies the run, and does nothing while the run has what it asks for, in check mode,
    and for a role that is used without a plan. A playbook names O(state) only.
options:
  state:
    description:
      - V(acquired) takes the host or renews what the run has. Refused when another run has it, or had it after it was read.
      - V(released) gives it back.
    type: str
    choices: [acquired, released]
    default: acquired
  services:
    description: Services that the run will touch; left out, those of the plan.
    type: list
    elements: str
    default: []
  root:
    description: Folder of the project on the host.
    type: str
    default: /opt/llm
  claim:
    description: Who the run is; see C(claimant) in module_utils/llm/base/lease.py.
    type: dict
    default: {}
  generation:
    description: Counter of the lease, as the run has read it.
    type: int
    default: 0
  dead:
    description: Id of a run that the controller knows to be gone.
    type: str
    default: ""
attributes:
  check_mode:
    description: Takes nothing.
    support: full
  diff_mode:
    description: There is nothing to show.
    support: none
  idempotent:
    description: Who changes a host is no state of it, so nothing counts as a change.
    support: full
author: ansible-vllm
"""

EXAMPLES = r"""
- name: Take the host for this run
  llm_lease:

- name: Give the host back
  llm_lease:
    state: released
"""

RETURN = r"""
ansible_facts:
  description: The lease of this run.
  returned: success
  type: dict
  contains:
    llm_lease:
      description: path, run, services; run is empty after release.
      type: dict
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.llm.base import files, lease


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["acquired", "released"], "default": "acquired"},
            "services": {"type": "list", "elements": "str", "default": []},
            "root": {"type": "str", "default": "/opt/llm"},
            "claim": {"type": "dict", "default": {}},
            "generation": {"type": "int", "default": 0},
            "dead": {"type": "str", "default": ""},
        },
        supports_check_mode=True,
    )
    given = module.params
    path = Path(given["root"]) / lease.FILE
    run = ""
    try:
        if given["state"] == "released":
            lease.release(path, given["claim"]["run"])
        elif not module.check_mode:
            run = lease.take(path, given["claim"], given["services"], given["generation"], given["dead"])["run"]
    except lease.Held as held:
        module.fail_json(msg=str(held))
    except OSError as error:
        module.fail_json(msg=files.unwritable(error))
    module.exit_json(
        changed=False, ansible_facts={"llm_lease": {"path": str(path), "run": run, "services": given["services"]}}
    )


if __name__ == "__main__":
    main()
