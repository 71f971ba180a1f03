#!/usr/bin/python
"""The gateway container: files, check, start, reload."""

from __future__ import annotations

DOCUMENTATION = r"""
module: llm_gateway
short_description: Put the gateway's files in place and make the running gateway use them
description:
  - Lets HAProxy check the new configuration before anything is replaced; a running gateway is untouched by a bad one.
  - A changed compose file makes a new container, a changed configuration is a reload that cuts no stream. The module returns
    when new connections get the new configuration. What is loaded is recorded after it is loaded, so an interrupted run is
    completed by the next.
options:
  folder:
    description: Folder of the gateway on the host.
    type: path
    required: true
  image:
    description: Image with HAProxy, present on the host.
    type: str
    required: true
  files:
    description: C(compose.yml) and C(etc/haproxy.cfg), path to content.
    type: dict
    required: true
  ports:
    description: Ports that must accept connections in the end.
    type: list
    elements: int
    required: true
  uid:
    description: Numeric user of the gateway; it owns the folder C(run) with HAProxy's runtime socket.
    type: int
    default: 64001
  address:
    description: Address on which they are published.
    type: str
    default: 127.0.0.1
attributes:
  check_mode:
    description: Says what would change.
    support: full
  diff_mode:
    description: Shows the files.
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
    files: {compose.yml: "...", etc/haproxy.cfg: "..."}
    ports: [5002]
"""

RETURN = r"""
action:
  description: none, started or reloaded.
  returned: always
  type: str
"""

import hashlib
import os
import shutil
import socket
import time
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.llm import compose, docker_api, files

CONFIG = "etc/haproxy.cfg"
SOCKET = "run/haproxy.sock"
READY_WITHIN = 20.0


def inspected() -> dict[str, Any] | None:
    """Docker's inspection of the gateway, None when there is none."""
    try:
        return dict(docker_api.get(f"/containers/{compose.GATEWAY}/json"))
    except docker_api.NotFound:
        return None


def sums(texts: dict[str, str]) -> list[str]:
    """Checksums in the order in which they are recorded."""
    return [hashlib.sha256(texts[name].encode()).hexdigest() for name in ("compose.yml", CONFIG)]


def check(module: AnsibleModule, folder: Path, text: str) -> None:
    """Fail unless HAProxy accepts the configuration."""
    staged = folder / ".staged"
    shutil.rmtree(staged, ignore_errors=True)
    files.write(staged / "haproxy.cfg", text)
    try:
        argv = [
            "docker",
            "run",
            "--rm",
            "--network",
            "none",
            "--cap-drop",
            "ALL",
            "--user",
            "65534:65534",
            "--entrypoint",
            "haproxy",
            "--volume",
            f"{staged}:/staged:ro",
        ]
        rc, out, err = module.run_command([*argv, module.params["image"], "-c", "-f", "/staged/haproxy.cfg"])
        if rc != 0:
            module.fail_json(
                msg=f"HAProxy refuses the new configuration; the running gateway is untouched. {(err or out).strip()}"
            )
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def worker(folder: Path) -> int | None:
    """Process number of the HAProxy that takes new connections, None while it does not say."""
    try:
        descriptor = os.open(folder / SOCKET.partition("/")[0], os.O_RDONLY)
    except OSError:
        return None
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(2)
            # By way of /proc: the path of a socket may have 108 characters, and a project's folder can lie deep.
            connection.connect(f"/proc/self/fd/{descriptor}/{SOCKET.rpartition('/')[2]}")
            connection.sendall(b"show info\n")
            answer = b""
            while piece := connection.recv(65536):
                answer += piece
    except OSError:
        return None
    finally:
        os.close(descriptor)
    found = dict(line.split(": ", 1) for line in answer.decode("utf-8", "replace").splitlines() if ": " in line)
    return int(found["Pid"]) if found.get("Stopping", "0") == "0" and found.get("Pid", "").isdigit() else None


def wait_for_worker(module: AnsibleModule, folder: Path, before: int | None) -> None:
    """Fail unless another HAProxy than `before` takes new connections in time; the old one only ends what it has begun."""
    end = time.monotonic() + READY_WITHIN
    while worker(folder) in (None, before):
        if time.monotonic() > end:
            _, out, err = module.run_command(["docker", "logs", "--tail", "20", compose.GATEWAY])
            module.fail_json(msg=f"the gateway does not take the new configuration. Its last words: {out}{err}")
        time.sleep(0.1)


def wait_for_ports(module: AnsibleModule) -> None:
    """Fail unless every port accepts a connection in time."""
    address = module.params["address"]
    target = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address, address)  # noqa: S104 - compared, not bound
    end = time.monotonic() + READY_WITHIN
    for port in module.params["ports"]:
        while True:
            try:
                socket.create_connection((target, port), timeout=2).close()
                break
            except OSError as error:
                if time.monotonic() > end:
                    _, out, err = module.run_command(["docker", "logs", "--tail", "20", compose.GATEWAY])
                    module.fail_json(
                        msg=f"the gateway does not listen on {address}:{port}: {error}. Its last words: {out}{err}"
                    )
                time.sleep(0.2)


def act(module: AnsibleModule) -> dict[str, Any]:
    """Compare, and do what is missing."""
    folder, texts = Path(module.params["folder"]), dict(module.params["files"])
    found = inspected()
    running = bool(found and found["State"]["Running"])
    stamp = folder / "loaded"
    loaded = files.read(stamp).split()
    wanted = sums(texts)
    if running and found and loaded == [*wanted, found["Id"][:12]] and not files.diffs(folder, folder, texts):
        return {"changed": False, "action": "none"}
    action = (
        "reloaded" if running and loaded[:1] == wanted[:1] and found and loaded[2:] == [found["Id"][:12]] else "started"
    )
    diff = files.diffs(folder, folder, texts)
    if module.check_mode:
        return {"changed": True, "action": action, "diff": diff}
    for network, internal in compose.NETWORKS.items():
        docker_api.ensure_network(network, internal=internal)
    check(module, folder, texts[CONFIG])
    for name, text in texts.items():
        files.write(folder / name, text)
    run = folder / SOCKET.partition("/")[0]
    run.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.chown(run, module.params["uid"], module.params["uid"])
    if action == "reloaded":
        before = worker(folder)
        docker_api.post(f"/containers/{compose.GATEWAY}/kill?signal=USR2")
        wait_for_worker(module, folder, before)
    else:
        argv = ["docker", "compose", "--project-name", compose.GATEWAY, "--file", str(folder / "compose.yml")]
        rc, out, err = module.run_command(
            [*argv, "up", "--detach", "--no-build", "--pull", "never", "--force-recreate"]
        )
        if rc != 0:
            module.fail_json(msg=f"the gateway does not start: {(err or out).strip()}", rc=rc)
    wait_for_ports(module)
    final = inspected()
    files.write(stamp, " ".join([*wanted, final["Id"][:12] if final else ""]) + "\n")
    return {"changed": True, "action": action, "diff": diff}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "folder": {"type": "path", "required": True},
            "image": {"type": "str", "required": True},
            "files": {"type": "dict", "required": True},
            "ports": {"type": "list", "elements": "int", "required": True},
            "address": {"type": "str", "default": "127.0.0.1"},
            "uid": {"type": "int", "default": 64001},
        },
        supports_check_mode=True,
    )
    try:
        module.exit_json(**act(module))
    except docker_api.DockerError as error:
        if module.check_mode:  # a fresh host has no engine yet, and everything would change
            module.exit_json(
                changed=True,
                action="started",
                diff=files.diffs(Path("/nonexistent"), Path(module.params["folder"]), module.params["files"]),
            )
        module.fail_json(msg=f"gateway: {error}")
    except OSError as error:
        module.fail_json(msg=f"cannot write {error.filename}: {error.strerror}; run as root, and check the disk")


if __name__ == "__main__":
    main()
