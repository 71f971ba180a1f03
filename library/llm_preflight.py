#!/usr/bin/python
"""Ask an engine image whether it accepts command lines, before anything is stopped for them."""

from __future__ import annotations

DOCUMENTATION = r"""
module: llm_preflight
short_description: Check command lines with the parser of the image that is to run them
description:
  - Runs a checking program inside the image, without GPU, model or network. It parses every command line with that engine's own
    parser, resolves parser names in its registries and looks for environment variables that it does not know.
options:
  image:
    description: Image reference, present on the host.
    type: str
    required: true
  services:
    description: Service to C(argv) (arguments after C(vllm serve)), C(env) and C(plugins) (folder on the host, or empty).
    type: dict
    required: true
  program:
    description: Text of the checking program.
    type: str
    required: true
  progress_file:
    description: File for progress lines; filled in by the action plugin.
    type: path
attributes:
  check_mode:
    description: Changes nothing, so it does the same.
    support: full
  diff_mode:
    description: There is nothing to show.
    support: none
  idempotent:
    description: Changes nothing.
    support: full
author: ansible-vllm
"""

EXAMPLES = r"""
- name: Check a command line
  llm_preflight:
    image: docker.io/vllm/vllm-openai:v0.33.0
    program: "{{ lookup('ansible.builtin.file', 'engine_check.py') }}"
    services: {micro: {argv: [/model, --max-model-len, "4096"], env: {}, plugins: ""}}
"""

RETURN = r"""
services:
  description: Service to ok and findings.
  returned: always
  type: dict
"""

import json

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.llm import images
from ansible.module_utils.llm.progress import Progress


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "image": {"type": "str", "required": True},
            "services": {"type": "dict", "required": True},
            "program": {"type": "str", "required": True},
            "progress_file": {"type": "path"},
        },
        supports_check_mode=True,
    )
    image, services = module.params["image"], module.params["services"]
    Progress(module.params["progress_file"]).say("preflight", f"{', '.join(services)} in {image}")
    wanted, mounts = {}, {}
    for name, service in services.items():
        wanted[name] = {"argv": service["argv"], "env": service["env"]}
        if service["plugins"]:
            wanted[name]["plugins_dir"] = f"/plugins-of/{name}"
            mounts[f"/plugins-of/{name}"] = service["plugins"]
    argv = images.sandbox(image, ["-c", module.params["program"]], mounts)
    rc, out, err = module.run_command(argv, data=json.dumps({"services": wanted}), binary_data=True)
    try:
        found = json.loads(out)
    except ValueError:
        last = "\n".join(err.strip().splitlines()[-8:])
        module.fail_json(msg=f"the check inside {image} ended with {rc} and no answer: {last}")
    problems = [
        f"llm_services.{name}.{f['key']}: {f['message']}. {f['remedy']}"
        for name, result in found.items()
        for f in result["findings"]
        if f["severity"] == "error"
    ]
    if problems:
        lines = "\n".join(f"  - {p}" for p in problems)
        module.fail_json(msg=f"{image} refuses the declaration; nothing was stopped.\n{lines}", services=found)
    for name, result in found.items():
        for f in result["findings"]:
            module.warn(f"llm_services.{name}.{f['key']}: {f['message']}. {f['remedy']}")
    module.exit_json(changed=False, services=found)


if __name__ == "__main__":
    main()
