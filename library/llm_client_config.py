#!/usr/bin/python
from __future__ import annotations

DOCUMENTATION = r"""
---
module: llm_client_config
short_description: Write the configuration of programs that use a service
description:
  - Writes the files of C(docs/clients.md) for one service, a folder for each program below O(folder).
  - No file holds a key; each names the environment variable from which the program takes it, as far as the program can.
options:
  service:
    description: Name of the service; the variable of its key is made of it.
    type: str
    required: true
  url:
    description: Address of the service as its clients reach it, without C(/v1).
    type: str
    required: true
  declared:
    description:
      - What the service declares, as C(llm_plan.clients) has it.
      - Keys C(model), C(context) (tokens), C(vision), C(tools), C(thinking).
    type: dict
    required: true
  folder:
    description: Folder on the host.
    type: path
    required: true
  clients:
    description: Programs, as the folders in C(docs/clients.md) are named. Empty for all.
    type: list
    elements: str
    default: []
attributes:
  check_mode:
    support: full
    description: Writes nothing and says what it would write.
  diff_mode:
    support: full
    description: Shows each file that differs.
  idempotent:
    support: full
    description: Files that are as they should be are left alone.
author:
  - ansible-vllm
"""

EXAMPLES = r"""
- name: Configure Claude Code and Codex
  llm_client_config:
    service: medium-glm
    url: http://192.168.1.20:5002
    declared: {model: glm-4.7-flash, context: 131072, tools: true, thinking: true, vision: false}
    folder: /home/me/llm/medium-glm
    clients: [claude-code, codex]
"""

RETURN = r"""
key_variable:
  description: Environment variable in which the files expect the key.
  returned: always
  type: str
  sample: LLM_MEDIUM_GLM_KEY
files:
  description: Paths of all files.
  returned: always
  type: list
  elements: str
"""

from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.llm.base import files
from ansible.module_utils.llm.clients import programs


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "service": {"type": "str", "required": True},
            "url": {"type": "str", "required": True},
            "declared": {"type": "dict", "required": True},
            "folder": {"type": "path", "required": True},
            "clients": {"type": "list", "elements": "str", "default": []},
        },
        supports_check_mode=True,
    )
    params = module.params
    unknown = sorted(set(params["clients"]) - set(programs.CLIENTS))
    if unknown:
        module.fail_json(msg=f"clients: {', '.join(unknown)} is not known. Known are {', '.join(programs.CLIENTS)}")
    try:
        what = programs.served(params["service"], params["url"], params["declared"])
    except ValueError as error:
        module.fail_json(msg=str(error))
    except TypeError as error:
        module.fail_json(msg=f"declared: {error}. Pass an entry of llm_plan.clients")
    folder, changes = Path(params["folder"]), []
    wanted = {
        folder / name: text
        for name, text in programs.files(what).items()
        if not params["clients"] or name.partition("/")[0] in params["clients"]
    }
    for path, text in wanted.items():
        before = files.read(path)
        if before == text:
            continue
        header = {"before_header": str(path) if before else "absent", "after_header": str(path)}
        changes.append({**header, "before": before, "after": text})
        if not module.check_mode:
            try:
                files.write(path, text, mode=0o755 if path.suffix == ".sh" and text.startswith("#!") else 0o644)
            except OSError as error:
                module.fail_json(msg=f"folder {path}: {error.strerror}. Name a folder that can be written.")
    result: dict[str, Any] = {"changed": bool(changes), "diff": changes}
    module.exit_json(**result, key_variable=what.key_variable, files=[str(path) for path in wanted])


if __name__ == "__main__":
    main()
