#!/usr/bin/python
"""Documentation of the action plugin of the same name, which runs on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
module: llm_plan
short_description: Judge the declaration of a host and say what a run would do
description:
  - Reads the variables C(llm_images), C(llm_models), C(llm_services) (with their C(_custom) counterparts), C(llm_host_services),
    C(llm_host_gpus) and the settings of the host; refuses what cannot work, with file, key and remedy.
  - Runs on the controller and connects to no host. With O(facts) it also lists what differs from the declaration.
options:
  facts:
    description: Facts of the host, as M(llm_host_facts) returns them. Without them the declaration alone is judged.
    type: dict
  report_dir:
    description:
      - Folder on the controller for C(plan.json); with several hosts, a folder per host below it.
      - Left out, C(reports) in the project.
    type: str
  refuse:
    description: Fail when there is a finding of severity error. False reports it only.
    type: bool
    default: true
  verb:
    description: Whether the run brings nothing up, and only shows, stops or asks what runs.
    type: bool
    default: false
  takes:
    description:
      - Whether the run changes the host. Fail when another one holds it (see M(llm_lease)), whatever O(refuse) says; and unless
        O(verb), when the run would take the last service, the gateway or the supervisor from it without C(llm_prune).
    type: bool
    default: false
attributes:
  check_mode:
    description: Decides only, so it does the same.
    support: full
  diff_mode:
    description: There is nothing to show.
    support: none
author: ansible-vllm
"""

EXAMPLES = r"""
- name: Judge the declaration
  llm_plan:
    report_dir: reports
  register: judged
"""

RETURN = r"""
plan:
  description: The plan.
  returned: success
  type: dict
  contains:
    services:
      description:
        - Service to verdict (ok, warn, refuse), findings, gpus, kv_tokens, and what it would run.
        - C(ask) is what it is asked, C(smoke) for M(llm_smoke) and C(warmup) for M(llm_warmup).
        - C(side_by_side) says whether a new release fits beside the one that runs, C(side_by_side_why) why or why not.
      type: dict
    stages:
      description: Stages that the tags select.
      type: list
    todo:
      description:
        - Parts of the run that have something to do - images, models, services, verify, cleanup.
        - Without facts, all that the tags select.
      type: list
    selected:
      description: Services that the tags select.
      type: list
    named:
      description: Services that a tag names, whether or not this host lists them.
      type: list
    deployed:
      description: Services that are to run on this host.
      type: list
    gateway:
      description:
        - The gateway as roles C(gateway) and C(vllm_service) are given it - settings, image, acme_image, root, bind_address.
        - Its C(routes) are those of the current releases; without facts there are none.
      type: dict
    machine:
      description: With facts - what reports tell of the host, its C(processor).
      type: dict
    table:
      description: The plan for a person, as lines of text.
      type: str
    status:
      description: With facts - declared beside real, by service; C(status_table) is the same for a person.
      type: dict
    work:
      description: With facts - deploy (with reasons and the containers that it displaces), stop, orphans (to be
        reported), removed (those that llm_prune removes), prove.
      type: dict
"""

from ansible.module_utils.basic import AnsibleModule


def main() -> None:
    module = AnsibleModule(argument_spec={}, supports_check_mode=True)
    module.fail_json(msg="llm_plan is an action plugin: set action_plugins in ansible.cfg to this project's folder")


if __name__ == "__main__":
    main()
