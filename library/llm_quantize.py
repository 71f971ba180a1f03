#!/usr/bin/python
"""Have a model on the host that is made of another one, proven and measured."""

from __future__ import annotations

DOCUMENTATION = r"""
module: llm_quantize
short_description: Quantize a model by a recipe, prove the result and measure it
description:
  - Runs llm-compressor in a container without network, with the source read-only. The result is put together beside its final
    place. It gets its name only when every module that is to be packed is packed, every tensor that the recipe leaves alone has
    the bytes of the source, and perplexity and KL divergence on text that was held out are within the recipe's limits.
  - A result beyond the limits is set aside, in a hidden folder beside the final one, and refused with the numbers; with higher
    limits it is taken as it is.
  - An interrupted run leaves nothing that the next one minds; it begins anew.
options:
  name:
    description: Name of the model in the catalog.
    type: str
    required: true
  folder:
    description: Final folder on the host; its name is the mark of what the model is made of.
    type: path
    required: true
  state:
    description:
      - C(present) makes a model that is not there. C(repaired) makes one anew whose files are damaged, and returns what it found
        as M(llm_model) does.
    type: str
    choices: [present, repaired]
    default: present
  depth:
    description: How to look for damage; C(quick) at sizes, headers and index, C(deep) at the SHA-256 of every file as well.
    type: str
    choices: [quick, deep]
    default: quick
  source:
    description: The model that it is made of.
    type: dict
    required: true
    suboptions:
      name: {description: Its name., type: str, required: true}
      folder: {description: Its folder on the host., type: path, required: true}
  recipe:
    description:
      - The recipe, with C(name), C(method), C(targets), C(ignore), C(group_size), C(samples), C(length), C(dataset), C(seed),
        C(quality).
    type: dict
    required: true
  image:
    description: Reference of the image with llm-compressor.
    type: str
    required: true
  devices:
    description: Docker's arguments for a GPU; none for the CPU.
    type: list
    elements: str
    default: []
  program:
    description: The program that runs in the container; role model_store brings it.
    type: path
    required: true
  hub_endpoint:
    description: Address of the hub, or of a mirror that stands for it.
    type: str
    default: https://huggingface.co
  hub_token:
    description: Token for gated data sets.
    type: str
  offline:
    description: Don't ask the hub.
    type: bool
    default: false
  engine_uid:
    description: Numeric user that the container runs as.
    type: int
    default: 64000
  progress_file:
    description: File for progress lines; filled in by the action plugin.
    type: path
attributes:
  check_mode:
    description:
      - Says what would be made, of what, and how. Refuses what would be refused for its text; and for its source, memory or disk if
        the source is there.
    support: full
  diff_mode:
    description: Names the folder and the recipe.
    support: full
  idempotent:
    description: A model that is there and of this recipe is left alone.
    support: full
author: ansible-vllm
"""

EXAMPLES = r"""
- name: A model in 4 bit
  llm_quantize:
    name: zwz-8b-awq
    folder: /opt/llm/models/zwz-8b-awq/2f1d0b9ac7e4
    source: {name: zwz-8b, folder: /opt/llm/models/zwz-8b/main}
    recipe:
      name: gptq-w4a16
      method: gptq
      targets: [Linear]
      ignore: [lm_head, "re:.*visual.*", "re:.*merger.*"]
      group_size: 128
      samples: 512
      length: 4096
      seed: 42
      dataset: {file: /srv/text/chats.jsonl}
      quality: {samples: 32, perplexity: 1.08, kl: 0.1}
    image: llm/llm-compressor:0-1a2b3c4d
    devices: [--device, nvidia.com/gpu=2]
    program: /opt/llm/models/.quantize_model.py
  vars:
    ansible_python_interpreter: /opt/llm/venv/bin/python
"""

RETURN = r"""
digest:
  description: Digest over the checksums of all files, empty in check mode.
  returned: always
  type: str
made:
  description: What was made, of what, and what it cost; as it is in the manifest. Empty when nothing was.
  returned: always
  type: dict
ok:
  description: Whether the model is whole now.
  returned: with state C(repaired)
  type: bool
verdict:
  description: What was found, as M(llm_model) returns it.
  returned: with state C(repaired)
  type: dict
"""

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.llm.host import read as read_host
from ansible.module_utils.llm.models import artifacts, make, store
from ansible.module_utils.llm.models.hub import HUB


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "folder": {"type": "path", "required": True},
            "state": {"type": "str", "choices": ["present", "repaired"], "default": "present"},
            "depth": {"type": "str", "choices": ["quick", "deep"], "default": "quick"},
            "source": {
                "type": "dict",
                "required": True,
                "options": {"name": {"type": "str", "required": True}, "folder": {"type": "path", "required": True}},
            },
            "recipe": {"type": "dict", "required": True},
            "image": {"type": "str", "required": True},
            "devices": {"type": "list", "elements": "str", "default": []},
            "program": {"type": "path", "required": True},
            "hub_endpoint": {"type": "str", "default": HUB},
            "hub_token": {"type": "str", "no_log": True},
            "offline": {"type": "bool", "default": False},
            "engine_uid": {"type": "int", "default": 64000},
            "progress_file": {"type": "path"},
        },
        supports_check_mode=True,
    )
    where = f"llm_models.{module.params['name']}"
    try:
        module.exit_json(**make.reach(module, lambda: read_host.memory()["available"] or 0))
    except (make.QuantizeFailed, store.FetchFailed, artifacts.Broken) as failure:
        module.fail_json(msg=f"{where}: {failure}")
    except OSError as error:
        module.fail_json(msg=f"{where}: {store.disk_trouble(error, module.params['folder'])}")


if __name__ == "__main__":
    main()
