#!/usr/bin/python
"""The key of a service: for its clients, and for its engine."""

from __future__ import annotations

DOCUMENTATION = r"""
module: llm_key
short_description: Make or place the key of a service
description:
  - Writes the key that a release is to take to O(staged_file), readable by root alone, and the engine's copy to O(engine_file),
    readable by the engine's user alone. Neither ever appears on a command line, in an environment or in a compose file.
  - Clients read O(key_file). It gets the staged key when the release is committed (M(llm_release)), so that a release that
    fails leaves clients with the key that works.
options:
  key_file:
    description: File with the key that clients send now, if there is one.
    type: path
    required: true
  key:
    description: The key, usually from a vault. Left out, the one in use is kept, and a random one is made on first use.
    type: str
  staged_file:
    description: File of the release to write the key to.
    type: path
    required: true
  engine_file:
    description: Engine options file to write, in the engine's own C(--config) format.
    type: path
    required: true
  engine_keys_file:
    description: >-
      File with the keys between gateway and engines, newest first; made when there is none. The engine takes them all, so that the
      gateway may go on with the one before while engines get the newest. Leave it out for an engine that runs on.
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
    staged_file: /opt/llm/services/micro/releases/0123456789ab/secrets/client-key
    engine_file: /opt/llm/services/micro/releases/0123456789ab/secrets/engine.yml
"""

RETURN = r"""
staged_file:
  description: Where the key is.
  returned: always
  type: str
"""

import json
import secrets
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.llm.base import files
from ansible.module_utils.llm.gateway import host as gateway_host


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "key_file": {"type": "path", "required": True, "no_log": False},
            "key": {"type": "str", "no_log": True},
            "staged_file": {"type": "path", "required": True},
            "engine_file": {"type": "path", "required": True},
            "engine_keys_file": {"type": "path", "no_log": False},
            "engine_uid": {"type": "int", "default": 64000},
        },
        supports_check_mode=True,
    )
    key_file, staged_file, engine_file = (Path(module.params[p]) for p in ("key_file", "staged_file", "engine_file"))
    given = module.params["key"]
    if given is not None and (not given.strip() or given != given.strip() or any(c in given for c in "\r\n")):
        module.fail_json(
            msg="the key given in llm_service_keys is empty or has spaces or line ends around it; correct it"
        )
    existing = files.read(key_file).strip() or files.read(staged_file).strip()
    key = given or existing or f"sk-{secrets.token_urlsafe(32)}"
    module.no_log_values.add(key)
    # An engine that runs on does not read its file again: the gateway may not be told that it has newer ones.
    gateway_keys_ = gateway_host.accepted(engine_file)[:-1]
    if module.params["engine_keys_file"]:
        folder = Path(module.params["engine_keys_file"]).parent
        gateway_keys_ = gateway_host.engine_keys(folder)
        if not gateway_keys_ and not module.check_mode:
            gateway_keys_ = gateway_host.new_engine_key(folder)
        module.no_log_values.update(gateway_keys_)
    options = json.dumps({"api-key": [*gateway_keys_, key]}) + "\n"  # JSON is YAML; the engine reads it as such
    if module.check_mode:
        changed = files.read(staged_file).strip() != key or files.read(engine_file) != options
        module.exit_json(changed=changed, staged_file=str(staged_file))
    try:
        changed = files.write(staged_file, key + "\n", 0o400)
        changed |= files.write(engine_file, options, 0o400, module.params["engine_uid"])
    except OSError as error:
        module.fail_json(msg=files.unwritable(error))
    module.exit_json(changed=changed, staged_file=str(staged_file))


if __name__ == "__main__":
    main()
