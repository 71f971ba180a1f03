#!/usr/bin/python
"""The gateway container: files, check, start, reload."""

from __future__ import annotations

DOCUMENTATION = r"""
module: llm_gateway
short_description: Put the gateway's files in place and make the running gateway use them, or remove it
description:
  - Lets HAProxy check the new configuration before anything is replaced; a running gateway is untouched by a bad one.
  - Where only the engine behind a service changes, or keys, the running HAProxy is told so. Any other changed configuration is a
    reload. Both cut no stream, and requests that wait for a service go on waiting over the first. A changed compose file
    makes a new container. The module returns when new connections get the new configuration. What is loaded is recorded after
    it is loaded, so an interrupted run is completed by the next.
  - V(absent) removes the container, once what it has begun is answered, for 30 seconds at most. Keys, authority and logs stay.
options:
  state:
    description: Whether there is to be a gateway.
    type: str
    choices: [present, absent]
    default: present
  folder:
    description: Folder of the gateway on the host; keys and services lie beside it.
    type: path
    required: true
  image:
    description: Image with HAProxy, present on the host. Required for V(present), like the next two.
    type: str
  files:
    description: C(compose.yml), C(etc/haproxy.cfg) and C(etc/door.lua), path to content.
    type: dict
  ports:
    description: Ports that must accept connections in the end.
    type: list
    elements: int
  backends:
    description: What leads to which engines, of C(module_utils/llm/gateway/routes.py).
    type: list
    elements: dict
    default: []
  returns:
    description: Backend to seconds after which it is expected back, for those that are closed; -1 for one that was stopped.
    type: dict
    default: {}
  certificate:
    description: >-
      https_port, certificate_names, and certificate and key where files on the host were given. Without these two, an authority
      in C(ca/) of the folder issues one when there is none, its names are others, or it ends within 30 days. With C(acme) it does
      so when there is none, and module llm_acme brings another.
    type: dict
    default: {}
  uid:
    description: Numeric user of the gateway; it owns what HAProxy alone reads, and the folder C(run) with its runtime socket.
    type: int
    default: 64001
  address:
    description: Address on which they are published.
    type: str
    default: 127.0.0.1
  ports_address:
    description: Address on which the ports of O(backends) are published; left out, O(address).
    type: str
attributes:
  check_mode:
    description: Says what would change.
    support: full
  diff_mode:
    description: Shows the files, without keys.
    support: full
  idempotent:
    description: A gateway that has loaded these files is left alone.
    support: full
author: ansible-vllm
"""

EXAMPLES = r"""
- name: Serve
  llm_gateway:
    folder: /opt/llm/gateway
    image: docker.io/library/haproxy:3.2-alpine
    files: {compose.yml: "...", etc/haproxy.cfg: "...", etc/door.lua: "..."}
    ports: [5002]
"""

RETURN = r"""
action:
  description: none, updated (at run time), reloaded, started or removed.
  returned: always
  type: str
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.llm.base import files
from ansible.module_utils.llm.docker import api as docker_api
from ansible.module_utils.llm.gateway import apply, authority
from ansible.module_utils.llm.gateway import keys as gateway_keys


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "folder": {"type": "path", "required": True},
            "image": {"type": "str"},
            "files": {"type": "dict"},
            "ports": {"type": "list", "elements": "int"},
            "backends": {"type": "list", "elements": "dict", "default": []},
            "returns": {"type": "dict", "default": {}},
            "certificate": {"type": "dict", "default": {}},
            "address": {"type": "str", "default": "127.0.0.1"},
            "ports_address": {"type": "str"},
            "uid": {"type": "int", "default": 64001},
        },
        required_if=[("state", "present", ("image", "files", "ports"))],
        supports_check_mode=True,
    )
    try:
        module.exit_json(**(apply.absent if module.params["state"] == "absent" else apply.present)(module))
    except docker_api.DockerError as error:
        # A fresh host has no engine yet, and everything would change.
        if module.check_mode and module.params["state"] == "present":
            module.exit_json(
                changed=True,
                action="started",
                diff=files.diffs(Path("/nonexistent"), Path(module.params["folder"]), module.params["files"]),
            )
        module.fail_json(msg=f"gateway: {error}")
    except (apply.NotApplied, authority.NoCertificate) as failure:
        module.fail_json(msg=str(failure))
    except gateway_keys.Refused as error:
        module.fail_json(msg=f"{error} The running gateway is untouched.")
    except OSError as error:
        module.fail_json(msg=files.unwritable(error))


if __name__ == "__main__":
    main()
