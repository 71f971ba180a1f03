#!/usr/bin/python
"""Have an image on the host, from the first of its sources that delivers and holds what is asked of it."""

from __future__ import annotations

DOCUMENTATION = r"""
module: llm_image
short_description: Pull, load, build or bootstrap a container image, prove it, or remove it
description:
  - Tries the sources of an image in their order and takes the first that delivers. An image that is there is left alone;
    its reference changes with its recipe, so a changed recipe is a new image.
  - A build with C(require) or C(patches) looks into its base first, and does only what that lacks. When it lacks nothing, the
    image is the base under another name.
  - An image gets its reference last, after everything in O(proofs) was put to it, inside it, and held. What a source brought
    that does not hold is removed, and the next source is tried.
  - The images that a build starts from are made the same way, when they are needed.
options:
  name:
    description: Name of the image in the catalog.
    type: str
    required: true
  ref:
    description: Reference to have in the end.
    type: str
    required: true
  state:
    description: C(present) makes the image. C(absent) takes the name away, and with its last name the image.
    type: str
    choices: [present, absent]
    default: present
  sources:
    description:
      - Sources in the catalog's form, each with one of C(pull) (a reference), C(archive) (a file on the host that C(docker load)
        reads), C(build) (steps) or C(bootstrap) (a Debian suite).
    type: list
    elements: dict
    default: []
  bases:
    description: Images that builds start from, each with C(name), C(ref), C(sources), C(proofs), C(services), C(bases).
    type: list
    elements: dict
    default: []
  proofs:
    description:
      - What must hold inside the image - lists C(imports), C(architectures), C(mla) (parts of a model's config.json),
        C(tool_parsers), C(reasoning_parsers). Needs O(programs) and O(records).
    type: dict
    default: {}
  services:
    description:
      - Services whose command lines an image with proofs must accept - C(argv) (after C(vllm serve)), C(env), C(files) (path
        to content of their plugins).
    type: dict
    default: {}
  programs:
    description: Texts of the programs that look into images, C(image_check.py) and C(engine_check.py).
    type: dict
    default: {}
  records:
    description: File on the host in which is kept what was made, from which source, and what was proven.
    type: path
  folder:
    description: Folder on the host for build contexts.
    type: path
    default: /opt/llm/images
  wheelhouse:
    description: Folder on the host with Python packages that builds look into first.
    type: path
  pip_mirror:
    description: Index that builds use in place of PyPI. It does not stay in the image.
    type: str
  ca_bundle:
    description: CA bundle on the host that builds trust, as behind a company proxy. It does not stay in the image.
    type: path
  progress_file:
    description: File for progress lines; filled in by the action plugin.
    type: path
attributes:
  check_mode:
    description: Says whether the image would be made, and how. What a base lacks is not looked at.
    support: full
  diff_mode:
    description: Names the image that appears or goes, and after a run what was found in its base and what was proven.
    support: full
  idempotent:
    description: An image that is there, and proven where it has proofs, is left alone.
    support: full
author: ansible-vllm
"""

EXAMPLES = r"""
- name: Image of the gateway
  llm_image:
    name: haproxy
    ref: docker.io/library/haproxy:3.2-alpine
    sources:
      - pull: docker.io/library/haproxy:3.2-alpine

- name: Stock vLLM, proven
  llm_image:
    name: glm
    ref: llm/glm:0.33.0-12345678
    sources:
      - pull: docker.io/vllm/vllm-openai:v0.33.0
    proofs: {architectures: [Glm4MoeLiteForCausalLM], tool_parsers: [glm47]}
    programs: {image_check.py: "...", engine_check.py: "..."}
    records: /opt/llm/state/images.json
"""

RETURN = r"""
id:
  description: Id of the image, empty in check mode.
  returned: always
  type: str
source:
  description: Kind of the source that delivered, empty when the image was there.
  returned: always
  type: str
tried:
  description: Sources that did not deliver, with the reason.
  returned: always
  type: list
  elements: str
found:
  description: What a build found in its base, a text each.
  returned: always
  type: list
  elements: str
proofs:
  description: What was put to the image - proof, ok, evidence.
  returned: always
  type: list
  elements: dict
"""

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.llm.base import files
from ansible.module_utils.llm.docker import api as docker_api
from ansible.module_utils.llm.images import images, make


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "ref": {"type": "str", "required": True},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "sources": {"type": "list", "elements": "dict", "default": []},
            "bases": {"type": "list", "elements": "dict", "default": []},
            "proofs": {"type": "dict", "default": {}},
            "services": {"type": "dict", "default": {}},
            "programs": {"type": "dict", "default": {}},
            "records": {"type": "path"},
            "folder": {"type": "path", "default": "/opt/llm/images"},
            "wheelhouse": {"type": "path"},
            "pip_mirror": {"type": "str", "no_log": True},
            "ca_bundle": {"type": "path"},
            "progress_file": {"type": "path"},
        },
        supports_check_mode=True,
    )
    job = module.params
    if job["proofs"] and not job["records"]:
        module.fail_json(msg=f"llm_images.{job['name']}: `proofs` need `records`, where it is kept that they held")
    try:
        module.exit_json(**(make.absent if job["state"] == "absent" else make.present)(module))
    except make.BuildFailed as failure:
        module.fail_json(msg=f"{failure}\n{images.remedy(str(failure))}")
    except OSError as error:
        module.fail_json(msg=files.unwritable(error, job["folder"]))
    except docker_api.DockerError as error:
        if module.check_mode:  # a fresh host has no Docker yet
            module.exit_json(**make.foreseen(job))
        module.fail_json(msg=f"llm_images.{job['name']}: {error}")


if __name__ == "__main__":
    main()
