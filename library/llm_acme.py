#!/usr/bin/python
"""The container that gets the gateway's certificate by ACME: files, start, first certificate, removal."""

from __future__ import annotations

DOCUMENTATION = r"""
module: llm_acme
short_description: Run the client that gets the gateway's certificate by ACME, or remove it
description:
  - Writes its files and starts it anew when one differs. Where there is no certificate as it is declared, waits until the client
    has asked for one and HAProxy has it, or fails with what the server says; the gateway keeps what it has.
  - Renewals are the client's own. Of one that fails this module says nothing (the plan does).
  - When it is removed, the account's key and the certificates stay.
options:
  folder:
    description: Folder of the gateway on the host.
    type: path
    required: true
  files:
    description: C(compose.yml), C(config.json) and C(app/...), path to content. Other files below C(app) are removed.
    type: dict
    default: {}
  loaded:
    description: Checksum of the files, which the container carries as label C(llm.acme).
    type: str
    default: ""
  ca_file:
    description: File on the host with the CA by which the server is trusted; the client gets a copy. Empty for a public server.
    type: str
    default: ""
  uid:
    description: Numeric user of the gateway and of the client.
    type: int
    default: 64001
  state:
    description: Whether it is to run.
    type: str
    choices: [present, absent]
    default: present
attributes:
  check_mode:
    description: Says what would change, and what would be asked for. Asks no server.
    support: full
  diff_mode:
    description: Shows the files, and the request.
    support: full
  idempotent:
    description: A client that runs with these files, and has the certificate that is declared, is left alone.
    support: full
author: ansible-vllm
"""

EXAMPLES = r"""
- name: Ask for certificates no more
  llm_acme:
    folder: /opt/llm/gateway
    state: absent
"""

RETURN = r"""
action:
  description: none, started, asked (of a client that ran already) or removed.
  returned: always
  type: str
"""

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.llm.base import files, names
from ansible.module_utils.llm.docker import api as docker_api
from ansible.module_utils.llm.gateway import acme, certificates, haproxy
from ansible.module_utils.llm.host import read as read_host

READY_WITHIN = 120.0  # beside what lego gets: to start, and to be led to by HAProxy


def running() -> tuple[bool, str]:
    """Whether its container runs, and the label of what it was started with; "absent" when there is none."""
    try:
        found = docker_api.inspect(names.ACME)
    except docker_api.NotFound:
        return False, "absent"
    return bool(found["State"]["Running"]), str((found["Config"]["Labels"] or {}).get(names.ACME_LABEL, ""))


def remove(module: AnsibleModule, folder: Path) -> dict[str, Any]:
    """Remove the container and the program."""
    place = folder / acme.FOLDER
    there = running()[1] != "absent"
    if not there and not (place / "app").exists():
        return {"changed": False, "action": "none"}
    if not module.check_mode:
        if there:
            docker_api.delete(f"/containers/{names.ACME}?force=1")
        shutil.rmtree(place / "app", ignore_errors=True)
        for name in ("compose.yml", "config.json", acme.CA):
            (place / name).unlink(missing_ok=True)
    return {"changed": True, "action": "removed"}


def lacks(folder: Path, config: dict[str, Any]) -> str:
    """Why there is no certificate as it is declared, "" when there is."""
    data = folder / acme.DATA
    issued = acme.record(files.read(data / acme.ISSUED))
    return acme.missing(config, issued, certificates.read(data / acme.certificate_files(config)[0]))


def request(config: dict[str, Any], why: str) -> dict[str, str]:
    """An entry of Ansible's diff: what a server would be asked for."""
    names = "".join(f"{name}\n" for name in config["names"])
    return {
        "before_header": f"certificate: {why}",
        "after_header": f"certificate, asked for at {config['server']} in the name of {config['email']}",
        "before": "",
        "after": names,
    }


def own(path: Path, uid: int, mode: int) -> None:
    """A folder that the client alone writes to."""
    path.mkdir(mode=mode, parents=True, exist_ok=True)
    path.chmod(mode)
    os.chown(path, uid, uid)


def await_attempt(module: AnsibleModule, folder: Path, within: float) -> dict[str, Any]:
    """What came of the client's next attempt."""
    place = folder / acme.DATA / acme.ATTEMPT
    end = time.monotonic() + within
    while True:
        attempt = acme.record(files.read(place))
        if attempt and not attempt.get("asking"):
            return attempt
        if time.monotonic() > end:
            _, out, err = module.run_command(["docker", "logs", "--tail", "20", names.ACME])
            module.fail_json(msg=f"the ACME client does not answer. Its last words: {out}{err}")
        time.sleep(0.2)


def act(module: AnsibleModule) -> dict[str, Any]:
    """Compare, and do what is missing."""
    folder, texts, uid = Path(module.params["folder"]), dict(module.params["files"]), module.params["uid"]
    if module.params["state"] == "absent":
        return remove(module, folder)
    place, config = folder / acme.FOLDER, json.loads(texts["config.json"])
    diff = files.diffs(place, place, texts)
    ca_file = module.params["ca_file"]
    if ca_file:
        texts[acme.CA] = Path(ca_file).read_text(encoding="utf-8")
        diff += files.diffs(place, place, {acme.CA: texts[acme.CA]})
    old = sorted(set(read_host.program(place, [], "", "")["files"]) - set(texts))
    good = running() == (True, module.params["loaded"]) and not diff and not old
    why = lacks(folder, config)
    if good and not why:
        return {"changed": False, "action": "none"}
    if why:
        diff = [*diff, request(config, why)]
    action = "asked" if good else "started"
    if module.check_mode:
        return {"changed": True, "action": action, "diff": diff}
    docker_api.ensure_network(names.FRONT_NETWORK, internal=names.NETWORKS[names.FRONT_NETWORK])
    if not good and running()[1] != "absent":
        docker_api.delete(f"/containers/{names.ACME}?force=1")
    for name in old:
        (place / name).unlink()
    for name, text in texts.items():
        files.write(place / name, text)
    own(folder / acme.DATA, uid, 0o700)
    own((folder / "etc" / haproxy.CERTIFICATE).parent, uid, 0o755)
    # Without a record of the last attempt the client begins at once.
    (folder / acme.DATA / acme.ATTEMPT).unlink(missing_ok=True)
    if not good:
        argv = ["docker", "compose", "--project-name", names.ACME, "--file", str(place / "compose.yml")]
        rc, out, err = module.run_command([*argv, "up", "--detach", "--no-build", "--pull", "never"])
        if rc != 0:
            module.fail_json(msg=f"the ACME client does not start: {(err or out).strip()}", rc=rc)
    attempt = await_attempt(module, folder, READY_WITHIN + acme.patience(config))
    if why := lacks(folder, config):
        module.fail_json(
            msg=f"llm_gateway.acme: no certificate for {', '.join(config['names'])} from {config['server']}: "
            f"{attempt.get('error') or why}. The gateway serves with the certificate that it had; "
            f"the client tries again at {certificates.moment(attempt.get('next', 0))}, site.yml at once"
        )
    return {"changed": True, "action": action, "diff": diff}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "folder": {"type": "path", "required": True},
            "files": {"type": "dict", "default": {}},
            "loaded": {"type": "str", "default": ""},
            "ca_file": {"type": "str", "default": ""},
            "uid": {"type": "int", "default": 64001},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
        },
        supports_check_mode=True,
    )
    try:
        module.exit_json(**act(module))
    except docker_api.DockerError as error:
        if module.check_mode:  # a fresh host has no engine yet, and everything would change
            place, texts = Path(module.params["folder"]) / acme.FOLDER, dict(module.params["files"])
            present = module.params["state"] == "present"
            diff = files.diffs(Path("/nonexistent"), place, texts)
            diff += [request(json.loads(texts["config.json"]), "there is none")] if present else []
            module.exit_json(changed=present, action="started", diff=diff)
        module.fail_json(msg=f"acme: {error}")
    except OSError as error:
        module.fail_json(msg=f"cannot write {error.filename}: {error.strerror}; run as root, and check the disk")


if __name__ == "__main__":
    main()
