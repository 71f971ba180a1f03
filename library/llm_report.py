#!/usr/bin/python
"""Documentation of the action plugin of the same name, which runs on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
module: llm_report
short_description: Write down what clients got, for people and for machines
description:
  - Sums up the results of M(llm_smoke) and writes C(verdict.json), C(junit.xml), a page C(report.html) that needs nothing else,
    and C(runs.json), from which the next page takes what earlier runs got.
  - A service of which no check came back, or that could not be deployed, is a failed one, and its result says why. It never fails
    for that reason itself.
  - Runs on the controller and connects to no host.
options:
  services:
    description: Names of the services that were to be asked.
    type: list
    elements: str
    required: true
  results:
    description:
      - What M(llm_smoke) returned for them, in the same order; fewer when the run ended before.
      - One with C(step) and C(cause) could not be deployed for that reason; C(release) is the release that it is about, where
        that is not the one of O(about).
    type: list
    elements: dict
    required: true
  about:
    description:
      - What the page says of each service that the host runs, by name, with keys C(model), C(description), C(release).
      - Those that were not asked this time are shown with what they got before; others are forgotten.
    type: dict
    default: {}
  machine:
    description: What is told of the host, with key C(processor), see M(llm_host_facts). It is C(host) of C(verdict.json).
    type: dict
    default: {}
  folder:
    description: Folder on the controller.
    type: path
    required: true
attributes:
  check_mode:
    description: Sums up and writes nothing.
    support: full
  diff_mode:
    description: There is nothing to show.
    support: none
author: ansible-vllm
"""

EXAMPLES = r"""
- name: Write down what clients got
  llm_report:
    services: [micro-cpu]
    results: "{{ __proved.results }}"
    machine: "{{ llm_plan.machine }}"
    folder: "{{ llm_plan.report_dir }}"
"""

RETURN = r"""
ok:
  description: Whether every service passed every check.
  returned: success
  type: bool
verdict:
  description: Content of C(verdict.json).
  returned: success
  type: dict
  sample:
    ok: true
    services:
      micro-cpu:
        ok: true
        checks:
          - {id: health, ok: true, seconds: 0.01, evidence: 200 from http://127.0.0.1:5010/health}
    host:
      processor: {model: AMD EPYC, cores: 2, features: [fma, f16c, avx2]}
proofs:
  description: Every check with its time, as lines for a terminal.
  returned: success
  type: list
  elements: str
  sample: ["micro-cpu: 2 of 2 checks passed in 0.7 s", "health 10 ms, models 9 ms"]
page:
  description: Where the page was written.
  returned: success
  type: str
"""

from ansible.module_utils.basic import AnsibleModule


def main() -> None:
    module = AnsibleModule(argument_spec={}, supports_check_mode=True)
    module.fail_json(msg="llm_report is an action plugin: set action_plugins in ansible.cfg to this project's folder")


if __name__ == "__main__":
    main()
