#!/usr/bin/python
"""Keys of the gateway's clients."""

from __future__ import annotations

DOCUMENTATION = r"""
module: llm_client_key
short_description: List, create, rotate and revoke keys of the gateway's clients
description:
  - A key is shown once, when it is made; kept is its SHA-256. The running gateway follows at once, and no connection is dropped.
  - Also makes a new key between gateway and engines (V(rotate-engine)). The gateway goes on with the one before until the engines
    have been deployed with the new one, which the next run of the site does.
options:
  root:
    description: Folder of the project on the host.
    type: path
    default: /opt/llm
  do:
    description: What to do.
    type: str
    choices: [list, create, rotate, revoke, rotate-engine]
    default: list
  client:
    description: Name of the client, in lower case letters, digits and dashes. To revoke, also the id of one key.
    type: str
  services:
    description: Services that a new key is for; V(*) stands for all.
    type: list
    elements: str
    default: []
  known:
    description: Services that are declared.
    type: list
    elements: str
    default: []
  per_minute:
    description: Requests that a minute may have. No limit without it.
    type: int
  at_once:
    description: Requests that may be under way at a time. No limit without it.
    type: int
  queue:
    description: Requests that may wait beyond that; more are refused with 429.
    type: int
  expires:
    description: When a new key ends - C(90d), C(12h), or a date. Never without it.
    type: str
  overlap:
    description: How long older keys of the client go on after a rotation.
    type: str
    default: 24h
attributes:
  check_mode:
    description: Says what would change; makes no key.
    support: full
  diff_mode:
    description: Keys are not shown.
    support: none
  idempotent:
    description: Every call but V(list) changes something.
    support: partial
author: ansible-vllm
"""

EXAMPLES = r"""
- name: A key for a client
  llm_client_key:
    do: create
    client: alice
    services: [micro]
    known: [micro, mini]
    per_minute: 60
"""

RETURN = r"""
keys:
  description: All keys, without the keys themselves - id, client, services, state, expires and limits.
  returned: always
  type: list
table:
  description: The same for a person.
  returned: always
  type: list
key:
  description: The new key. It is kept nowhere.
  returned: when one was made
  type: str
applied:
  description: Whether a running gateway follows; otherwise it will when it starts.
  returned: always
  type: bool
problem:
  description: >-
    What to do where there is a gateway that did not take the change, which is written down all the same; empty when all is well.
  returned: always
  type: str
"""

import dataclasses
import time
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.llm.base import files, names
from ansible.module_utils.llm.gateway import host as gateway_host
from ansible.module_utils.llm.gateway import keys as gateway_keys

NOT_APPLIED = (
    "The change is written down, but the gateway did not take it: as long as it runs, it goes by the keys of before, so one that "
    "was revoked or replaced still passes and a new one does not. Run site.yml, which tells it again; "
    f"`docker restart {names.GATEWAY}` does it at once, and cuts what is under way"
)


def act(given: dict[str, Any], check_mode: bool) -> dict[str, Any]:
    """Carry it out; keys.Refused says what can't be."""
    root, do, now = Path(given["root"]), given["do"], time.time()
    folder = root / "gateway"
    keys, made = gateway_host.clients(folder), ""
    client = given["client"] or ""
    if do == "create":
        keys, _, made = gateway_keys.create(keys, gateway_keys.wanted_key(given, given["known"], now), now)
    elif do == "rotate":
        keys, _, made = gateway_keys.rotate(keys, client, given["overlap"], now)
    elif do == "revoke":
        keys = gateway_keys.revoke(keys, client, now)
    elif do == "rotate-engine":
        if late := gateway_host.facts(root, {}, now)["old_engine_keys"]:
            raise gateway_keys.Refused(
                f"the engines of {', '.join(late)} have the key before the last one: run site.yml, then rotate again"
            )
        if not check_mode:
            gateway_host.new_engine_key(folder)
    applied = ""
    if do not in ("list", "rotate-engine") and not check_mode:
        gateway_host.keep_clients(folder, keys)
        applied = gateway_host.refresh_keys(root)
    shown = [{**dataclasses.asdict(k), "state": k.state(now)} for k in keys]
    result = {
        "changed": do != "list",
        "keys": shown,
        "table": gateway_keys.table(keys, now),
        "applied": applied == "applied",
    }
    result["problem"] = NOT_APPLIED if applied == "refused" else ""
    return {**result, "key": made} if made and not check_mode else result


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "root": {"type": "path", "default": "/opt/llm"},
            "do": {
                "type": "str",
                "default": "list",
                "choices": ["list", "create", "rotate", "revoke", "rotate-engine"],
            },
            "client": {"type": "str"},
            "services": {"type": "list", "elements": "str", "default": []},
            "known": {"type": "list", "elements": "str", "default": []},
            "per_minute": {"type": "int"},
            "at_once": {"type": "int"},
            "queue": {"type": "int"},
            "expires": {"type": "str"},
            "overlap": {"type": "str", "default": "24h"},
        },
        supports_check_mode=True,
    )
    try:
        module.exit_json(**act(module.params, module.check_mode))
    except gateway_keys.Refused as error:
        module.fail_json(msg=f"{error} No key was changed.")
    except OSError as error:
        module.fail_json(msg=files.unwritable(error))


if __name__ == "__main__":
    main()
