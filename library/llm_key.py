#!/usr/bin/python
"""The key of a service: for its clients, and for its engine."""

from __future__ import annotations

DOCUMENTATION = r"""
module: llm_key
short_description: Make or place the key of a service
description:
  - Keeps the key that clients send in O(key_file), readable by root alone, and writes the engine's copy to O(engine_file),
    readable by the engine's user alone. Neither ever appears on a command line, in an environment or in a compose file.
options:
  key_file:
    description: File with the key on the host.
    type: path
    required: true
  key:
    description: The key, usually from a vault. Left out, a random one is made on first use and kept.
    type: str
  engine_file:
    description: Engine options file to write, in the engine's own C(--config) format.
    type: path
  engine_uid:
    description: Numeric user that owns O(engine_file).
    type: int
    default: 64000
attributes:
  check_mode:
    description: Says whether it would change something.
    support: full
  diff_mode:
    description: A key is never shown.
    support: none
  idempotent:
    description: A key that is there stays.
    support: full
author: ansible-vllm
"""

EXAMPLES = r"""
- name: Key of the service
  llm_key:
    key_file: /opt/llm/keys/micro
    engine_file: /opt/llm/services/micro/releases/0123456789ab/secrets/engine.yml
"""

RETURN = r"""
key_file:
  description: Where the key is.
  returned: always
  type: str
"""

import json
import secrets
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.llm import files


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "key_file": {"type": "path", "required": True, "no_log": False},
            "key": {"type": "str", "no_log": True},
            "engine_file": {"type": "path"},
            "engine_uid": {"type": "int", "default": 64000},
        },
        supports_check_mode=True,
    )
    key_file, given = Path(module.params["key_file"]), module.params["key"]
    engine_file = Path(module.params["engine_file"]) if module.params["engine_file"] else None
    if given is not None and (not given.strip() or given != given.strip() or any(c in given for c in "\r\n")):
        module.fail_json(
            msg="the key given in llm_service_keys is empty or has spaces or line ends around it; correct it"
        )
    existing = files.read(key_file).strip()
    key = given or existing or f"sk-{secrets.token_urlsafe(32)}"
    module.no_log_values.add(key)
    options = json.dumps({"api-key": [key]}) + "\n"  # JSON is YAML; the engine reads it as such
    if module.check_mode:
        changed = key != existing or (engine_file is not None and files.read(engine_file) != options)
        module.exit_json(changed=changed, key_file=str(key_file))
    try:
        key_file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        changed = files.write(key_file, key + "\n", 0o400)
        if engine_file is not None:
            changed |= files.write(engine_file, options, 0o400, module.params["engine_uid"])
    except OSError as error:
        module.fail_json(msg=f"cannot write {error.filename}: {error.strerror}; run as root, and check the disk")
    module.exit_json(changed=changed, key_file=str(key_file))


if __name__ == "__main__":
    main()
