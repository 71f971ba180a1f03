#!/usr/bin/python
"""One release of a service on its host."""

from __future__ import annotations

DOCUMENTATION = r"""
module: llm_release
short_description: Stage, start, commit, stop or remove one release of a service
description:
  - A release is a folder with a compose file and what it mounts, and one container named after it.
  - Each state is one step of a deployment; none undoes what an earlier one keeps running.
options:
  service:
    description: Name of the service.
    type: str
    required: true
  folder:
    description: Folder of the service on the host.
    type: path
    required: true
  release:
    description: Hash of the release.
    type: str
    required: true
  container:
    description: Name of its container and compose project.
    type: str
    required: true
  state:
    description:
      - V(staged) writes the release's folder; nothing that runs is touched.
      - V(started) brings its container up and returns without waiting for the engine. Its verdict is removed, so that it is
        asked again. It runs the very image that the release was made for, also when the image's name means another one now.
      - V(committed) makes it the current release, and keeps the folders of the last two.
      - V(stopped) stops its container and keeps it.
      - V(removed) removes its container and keeps its folder; a release that is neither current nor previous loses its secrets.
    type: str
    choices: [staged, started, committed, stopped, removed]
    required: true
  files:
    description: Path in the release's folder to content; for V(staged).
    type: dict
    default: {}
  facts:
    description: What the release's hash covers; kept with it to explain the next change.
    type: dict
    default: {}
  serving:
    description: The part of the plan that is kept with the release, to start and prove it again when the declaration has changed.
    type: dict
    default: {}
  cache:
    description: Cache folder of the engine; V(started) makes it for the engine's user.
    type: path
  cache_aside:
    description:
      - Whether V(started) first moves what is in O(cache) to a folder beside it with C(.aside) at its end, in place of what lies
        there.
      - Engines of the same image that run go on with the folder that they have; it is theirs under its new name.
    type: bool
    default: false
  key_file:
    description: File that clients read their key from; V(committed) writes the release's key there.
    type: path
  engine_uid:
    description: Numeric user that the engine runs as.
    type: int
    default: 64000
attributes:
  check_mode:
    description: Says what would change.
    support: full
  diff_mode:
    description: For V(staged), the files against those of the current release.
    support: full
  idempotent:
    description: A state that is there already is left alone.
    support: full
author: ansible-vllm
"""

EXAMPLES = r"""
- name: Start the staged release
  llm_release:
    service: micro
    folder: /opt/llm/services/micro
    release: 0123456789ab
    container: llm-micro-01234567
    cache: /opt/llm/cache/4d1c37ecd8c6
    state: started
"""

RETURN = r"""
container:
  description: Name of the container.
  returned: always
  type: str
ip:
  description: Address of the started container on the engines' network.
  returned: for state started
  type: str
"""

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.llm.base import files, names
from ansible.module_utils.llm.docker import api as docker_api
from ansible.module_utils.llm.docker import containers
from ansible.module_utils.llm.gateway import host as gateway_host
from ansible.module_utils.llm.host import read as read_host


def stage(module: AnsibleModule, place: Path, current: Path) -> dict[str, Any]:
    """Write the release's folder, its list of files last: a folder without it was cut short."""
    texts: dict[str, str] = dict(module.params["files"])
    sums = {name: hashlib.sha256(content.encode()).hexdigest() for name, content in texts.items()}
    record = {"facts": module.params["facts"], "files": sums, "serving": module.params["serving"]}
    texts_and_record = {**texts, read_host.RELEASE_FILE: json.dumps(record, indent=1, sort_keys=True) + "\n"}
    changed = any(files.read(place / n) != c for n, c in texts_and_record.items())
    before = current if current.is_dir() else place
    diff = files.diffs(before, place, texts) if changed else []
    if changed and not module.check_mode:
        for name, content in texts_and_record.items():
            files.write(place / name, content)
    return {"changed": changed, "diff": diff}


def start(module: AnsibleModule, place: Path) -> dict[str, Any]:
    """Bring the container up."""
    name = module.params["container"]
    found = containers.inspected(name)
    runs = found is not None and found["State"]["Status"] == "running"  # not paused, not restarting
    if found and runs and not module.check_mode:
        if not (place / read_host.STARTED_FILE).is_file():  # a run that started it was cut short
            note(place, found)
        return {"changed": False, "ip": docker_api.container_ip(found, names.NETWORK)}
    if module.check_mode:
        return {"changed": not runs, "ip": ""}
    docker_api.ensure_network(names.NETWORK, internal=names.NETWORKS[names.NETWORK])
    if module.params["cache"]:
        cache = Path(module.params["cache"])
        if module.params["cache_aside"] and cache.is_dir():
            aside = cache.with_name(f"{cache.name}.aside")
            shutil.rmtree(aside, ignore_errors=True)
            cache.rename(aside)
        cache.mkdir(parents=True, exist_ok=True)
        os.chown(cache, module.params["engine_uid"], module.params["engine_uid"])
    # What clients once got from this release says nothing about an engine that starts anew.
    (place / read_host.VERDICT_FILE).unlink(missing_ok=True)
    documents = [place / "compose.yml", *pinned(place)]
    if problem := containers.compose_up(module.run_command, name, documents):
        module.fail_json(msg=f"the container of {module.params['service']} does not start: {problem}")
    inspected = docker_api.inspect(name)
    note(place, inspected)
    return {"changed": True, "ip": docker_api.container_ip(inspected, names.NETWORK)}


def note(place: Path, inspected: dict[str, Any]) -> None:
    """Write down what Compose made the container of."""
    files.write(place / read_host.STARTED_FILE, inspected["Config"]["Labels"].get(read_host.COMPOSE_HASH, "") + "\n")


def pinned(place: Path) -> list[Path]:
    """A file that makes Compose run the image of the release where the name of that image means another one by now."""
    try:
        image = json.loads(files.read(place / read_host.RELEASE_FILE))["facts"]["image"]
    except (ValueError, KeyError, TypeError):
        return []
    try:
        named = docker_api.get(f"/images/{image['ref']}/json")["Id"]
    except docker_api.NotFound:
        named = ""
    if named == image["id"]:
        return []
    override = place / "image.yml"
    files.write(override, json.dumps({"services": {"engine": {"image": image["id"]}}}) + "\n")
    return [override]


def commit(module: AnsibleModule, folder: Path) -> dict[str, Any]:
    """Make the release the current one; then remove the folders that nothing returns to."""
    release = module.params["release"]
    current = read_host.release(folder)["current"]
    key = files.read(folder / "releases" / release / "secrets" / "client-key")
    key_file = Path(module.params["key_file"]) if module.params["key_file"] and key else None
    changed = current != release or (key_file is not None and files.read(key_file) != key)
    if module.check_mode:
        return {"changed": changed}
    if changed:
        if key_file is not None:
            key_file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            files.write(key_file, key, 0o400)
            gateway_host.refresh_keys(key_file.parent.parent)
        if current not in (None, release):
            files.link(folder / "previous", f"releases/{current}")
        files.link(folder / "current", f"releases/{release}")
        prune(folder)
    # The link's time is when a deployment succeeded last, also one of the release that was current before (see read.attempt).
    os.utime(folder / "current", follow_symlinks=False)
    return {"changed": changed}


def prune(folder: Path) -> None:
    """Keep the folders of the current and the previous release."""
    kept = {read_host.release(folder)["current"], read_host.release(folder)["previous"]}
    others = [p for p in (folder / "releases").iterdir() if p.name not in kept]
    for place in others:
        shutil.rmtree(place)


def act(module: AnsibleModule) -> dict[str, Any]:
    """Carry out the state asked for."""
    folder, state, name = Path(module.params["folder"]), module.params["state"], module.params["container"]
    place = folder / "releases" / module.params["release"]
    if state == "staged":
        return stage(module, place, folder / "current")
    if state == "started":
        return start(module, place)
    if state == "committed":
        return commit(module, folder)
    if module.check_mode:
        found = containers.inspected(name)
        return {"changed": containers.is_up(found) if state == "stopped" else found is not None}
    stopped = containers.stop(name)
    if state == "stopped":
        return {"changed": stopped}
    changed = containers.remove(name)
    if module.params["release"] not in (read_host.release(folder)["current"], read_host.release(folder)["previous"]):
        secrets = place / "secrets"
        changed |= secrets.is_dir()
        shutil.rmtree(secrets, ignore_errors=True)
    return {"changed": changed}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "service": {"type": "str", "required": True},
            "folder": {"type": "path", "required": True},
            "release": {"type": "str", "required": True},
            "container": {"type": "str", "required": True},
            "state": {
                "type": "str",
                "required": True,
                "choices": ["staged", "started", "committed", "stopped", "removed"],
            },
            "files": {"type": "dict", "default": {}},
            "facts": {"type": "dict", "default": {}},
            "serving": {"type": "dict", "default": {}},
            "cache": {"type": "path"},
            "cache_aside": {"type": "bool", "default": False},
            "key_file": {"type": "path", "no_log": False},
            "engine_uid": {"type": "int", "default": 64000},
        },
        required_if=[("state", "staged", ["files", "facts"])],
        supports_check_mode=True,
    )
    try:
        result = act(module)
    except docker_api.DockerError as error:
        if module.check_mode:  # a fresh host has no engine yet, and everything would change
            module.exit_json(changed=True, container=module.params["container"], ip="")
        module.fail_json(msg=f"{module.params['service']}: {error}")
    except OSError as error:
        module.fail_json(msg=files.unwritable(error))
    module.exit_json(container=module.params["container"], **result)


if __name__ == "__main__":
    main()
