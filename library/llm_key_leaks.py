#!/usr/bin/python
"""Keys in places where they may not be."""

from __future__ import annotations

DOCUMENTATION = r"""
module: llm_key_leaks
short_description: Search files, logs and processes for keys of this host
description:
  - Compares every word of 16 and more characters, and its parts between slashes, with the keys, by SHA-256; so it also finds keys
    that are kept nowhere, also as a URL has them. Keys shorter than that, or with other characters than letters, digits and
    C(_+/=.-), are not found.
  - Looks into files up to 64 MiB, and into as much of what a file C(.gz) has packed. Left out are the files that keep keys.
  - Says where a key is and whose, never the key.
options:
  root:
    description: Folder of the project on the host.
    type: path
    default: /opt/llm
  known:
    description: SHA-256 of keys to what they are called. Left out, those of this host.
    type: dict
  folders:
    description: Folders to search, with all below.
    type: list
    elements: path
    default: []
  skip:
    description: Names of folders to leave out.
    type: list
    elements: str
    default: []
  containers:
    description: Search logs and settings of the project's containers, and command lines and environments of all processes.
    type: bool
    default: false
attributes:
  check_mode:
    description: Changes nothing, so it does the same.
    support: full
  diff_mode:
    description: There is nothing to show.
    support: none
  idempotent:
    description: Searching again finds the same.
    support: full
author: ansible-vllm
"""

EXAMPLES = r"""
- name: Search
  llm_key_leaks:
    folders: [/opt/llm]
    skip: [models, cache, venv]
    containers: true
"""

RETURN = r"""
found:
  description: Places, each with the line and whose key it is.
  returned: always
  type: list
known:
  description: SHA-256 of the keys that were looked for to what they are called.
  returned: always
  type: dict
searched:
  description: What was searched, for a person.
  returned: always
  type: list
"""

import json
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.llm.base import files, names
from ansible.module_utils.llm.docker import api as docker_api
from ansible.module_utils.llm.gateway import keys as gateway_keys
from ansible.module_utils.llm.gateway import leaks


def in_containers(module: AnsibleModule, known: dict[str, str]) -> tuple[list[str], list[str]]:
    """(places, what was searched) of logs and settings of containers, and of processes."""
    found, searched = [], []
    for entry in docker_api.get("/containers/json?all=1"):
        name = entry["Names"][0].lstrip("/")
        if not set(names.LABELS) & set(entry.get("Labels") or {}):
            continue
        settings = json.dumps(docker_api.inspect(entry["Id"]), indent=1)
        found += [f"docker inspect {name}: {who}" for _, who in leaks.leaked(settings, known)]
        _, out, err = module.run_command(["docker", "logs", name])
        found += [f"log of container {name}, line {line}: {who}" for line, who in leaks.leaked(out + err, known)]
        searched += [f"log and settings of {name}"]
    for process in Path("/proc").glob("[0-9]*"):
        for what in ("cmdline", "environ"):
            try:
                text = (process / what).read_bytes().replace(b"\0", b"\n").decode("utf-8", "replace")
            except OSError:  # it ended meanwhile
                continue
            if leaked := leaks.leaked(text, known):
                name = files.read(process / "comm").strip() or "a process that has ended"
                found += [f"{process}/{what} ({name}): {who}" for _, who in leaked]
    return found, [*searched, "command lines and environments of processes"]


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "root": {"type": "path", "default": "/opt/llm"},
            "known": {"type": "dict"},
            "folders": {"type": "list", "elements": "path", "default": []},
            "skip": {"type": "list", "elements": "str", "default": []},
            "containers": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    root = Path(module.params["root"])
    try:
        given = module.params["known"]
        known = leaks.known_keys(root) if given is None else {str(k): str(v) for k, v in given.items()}
        found, searched = [], [str(f) for f in module.params["folders"]]
        for folder in module.params["folders"]:
            found += leaks.leaks_in(Path(folder), known, root, module.params["skip"])
        if module.params["containers"]:
            more, what = in_containers(module, known)
            found, searched = found + more, searched + what
    except (gateway_keys.Refused, docker_api.DockerError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=False, found=found, known=known, searched=searched)


if __name__ == "__main__":
    main()
