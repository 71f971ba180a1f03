#!/usr/bin/python
"""Docker's daemon.json, and an engine that has loaded it."""

from __future__ import annotations

DOCUMENTATION = r"""
module: llm_docker_daemon
short_description: Merge settings into Docker's daemon.json, and have the engine load them while containers run on
description:
  - Declared settings are merged over those that are there. Nothing else in the file changes, and a file that is no JSON is refused.
  - Reloads the engine where that is enough. A restart while containers run needs O(may_restart), switches live-restore on first,
    and is refused where that cannot be. Afterwards each container must still run, not started anew.
  - An engine that does not come back gets its old file, is started with that, and the module fails with what its log says.
  - Starts an engine that does not run, with systemd where that is PID 1, else by its init script, else detached.
  - Never reloads systemd, which would detach GPUs from running containers.
options:
  live_restore:
    description: Keep containers running while the engine does not.
    type: bool
    default: true
  log_options:
    description: Options of the log driver, for those that write files (json-file, local).
    type: dict
    default: {}
  registry_mirrors:
    description: Mirrors of Docker Hub.
    type: list
    elements: str
    default: []
  proxy:
    description:
      - Proxy of the engine, keys C(http), C(https) and C(no_proxy).
      - Goes to daemon.json from Docker 23.0 on. Older engines of Debian and Ubuntu take it from C(/etc/default/docker).
    type: dict
    default: {}
  settings:
    description: More settings, as daemon.json has them. They win over the options above.
    type: dict
    default: {}
  may_restart:
    description: Restart the engine while containers run. Without it a setting that needs that waits for the next start.
    type: bool
    default: false
  renew:
    description: Restart an engine whose program was replaced by an upgrade, under the same condition.
    type: bool
    default: false
  containers:
    description: Containers that must still run, as returned by an earlier call; those that run now come in addition.
    type: dict
    default: {}
  start_timeout:
    description: Seconds in which a started engine has to answer.
    type: int
    default: 60
attributes:
  check_mode:
    description: Says what would change.
    support: full
  diff_mode:
    description: Shows the files, without passwords of proxies and mirrors.
    support: full
  idempotent:
    description: An engine that has loaded the declared settings is left alone.
    support: full
author: ansible-vllm
"""

EXAMPLES = r"""
- name: Limit logs, and use a mirror
  llm_docker_daemon:
    log_options: {max-size: 20m, max-file: "5"}
    registry_mirrors: [https://mirror.example.org]
"""

RETURN = r"""
action:
  description: none, wait (files written, engine not told), reload, restart or start.
  returned: always
  type: str
waits:
  description: Settings that wait for the engine's next start.
  returned: always
  type: list
version:
  description: Version of the engine, empty in check mode before there is one.
  returned: always
  type: str
live_restore:
  description: Whether containers outlive the engine.
  returned: always
  type: bool
containers:
  description: Id of each running container to the time of its start.
  returned: always
  type: dict
"""

import json

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.llm.base import files
from ansible.module_utils.llm.docker import api as docker_api
from ansible.module_utils.llm.docker import daemon, settings
from ansible.module_utils.llm.docker.process import DaemonFailed


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "live_restore": {"type": "bool", "default": True},
            "log_options": {"type": "dict", "default": {}},
            "registry_mirrors": {"type": "list", "elements": "str", "default": []},
            "proxy": {"type": "dict", "default": {}},
            "settings": {"type": "dict", "default": {}},
            "may_restart": {"type": "bool", "default": False},
            "renew": {"type": "bool", "default": False},
            "containers": {"type": "dict", "default": {}},
            "start_timeout": {"type": "int", "default": 60},
        },
        supports_check_mode=True,
    )
    for name in ("proxy", "registry_mirrors", "settings"):
        module.no_log_values.update(daemon.passwords(json.dumps(module.params[name])))
    try:
        module.exit_json(**settings.configure(module))
    except (DaemonFailed, docker_api.DockerError) as error:
        module.fail_json(msg=f"docker: {error}")
    except OSError as error:
        module.fail_json(msg=f"docker: {files.unwritable(error)}")


if __name__ == "__main__":
    main()
