#!/usr/bin/python
"""Documentation of the action plugin of the same name, which runs on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
module: llm_lock
short_description: Write down which digests tags and which commits branches stand for
description:
  - Takes the tags and branches that C(llm_plan) found for the services of all hosts of the play. Asks each registry for the digest
    of a tag and the hub for the commit of a branch, and writes C(llm_lock) to C(group_vars/all/llm_lock.yml) beside each inventory
    source.
  - For each model that a service has from the hub it reads config.json and the headers of the weights at the locked commit, in
    ranges, and writes what the plan has to know to C(files/configs/MODEL.json) beside each inventory source. What cannot be read is
    said and fails nothing.
  - What could not be resolved keeps its entry; the task fails and names it, after the rest is written. Entries that no host comes
    from are dropped, unless C(--limit) or the name of a service among the tags leaves something out.
  - Runs on the controller and connects to no host of the inventory. Honours C(https_proxy), C(no_proxy), C(llm_hub_endpoint),
    C(llm_ca_bundle) and C(llm_hub_token). It does not log in to registries.
options: {}
attributes:
  check_mode:
    description: Asks as well, and writes nothing.
    support: full
  diff_mode:
    description: Shows what changes in the file.
    support: full
author: ansible-vllm
"""

EXAMPLES = r"""
- name: Resolve and write the lock
  llm_lock:
  run_once: true
"""

RETURN = r"""
entries:
  description:
    - A line for each entry of the old and the new lock, saying what became of it, and for each shape that could not be read.
  returned: always
  type: list
  elements: str
"""

from ansible.module_utils.basic import AnsibleModule


def main() -> None:
    module = AnsibleModule(argument_spec={}, supports_check_mode=True)
    module.fail_json(msg="llm_lock is an action plugin: set action_plugins in ansible.cfg to this project's folder")


if __name__ == "__main__":
    main()
