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

import hashlib
import os
import shutil
import socket
import tempfile
import time
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.llm.base import addresses, files, names
from ansible.module_utils.llm.docker import api as docker_api
from ansible.module_utils.llm.docker import containers
from ansible.module_utils.llm.gateway import certificates, haproxy, routes
from ansible.module_utils.llm.gateway import host as gateway_host
from ansible.module_utils.llm.gateway import keys as gateway_keys

COMPOSE, CONFIG, PROGRAM = "compose.yml", "etc/haproxy.cfg", "etc/door.lua"
READY_WITHIN = 20.0
LEAVES_WITHIN = 30.0  # seconds; idle connections of clients are closed at once
KEPT_LOGS = 10
CA_DAYS, DAYS = 3650, 397  # no client takes a server's certificate that is valid for longer
EC = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-sha256"]


def sums(texts: dict[str, str]) -> list[str]:
    """Checksums in the order in which they are recorded; the program that waits counts as configuration."""
    config = texts[CONFIG] + texts.get(PROGRAM, "")
    return [hashlib.sha256(text.encode()).hexdigest() for text in (texts[COMPOSE], config)]


def check(module: AnsibleModule, folder: Path, texts: dict[str, str], private: dict[str, str]) -> None:
    """Fail unless HAProxy accepts the configuration, with the certificate that it is to have."""
    staged, uid = folder / ".staged", module.params["uid"]
    shutil.rmtree(staged, ignore_errors=True)
    try:
        for name, text in texts.items():
            if name != COMPOSE:
                files.write(staged / name.removeprefix("etc/"), text)
        for name, text in private.items():
            files.write(staged / name.removeprefix("etc/"), text, 0o400, uid)
        argv = ["docker", "run", "--rm", "--network", "none", "--cap-drop", "ALL", "--user", f"{uid}:{uid}"]
        argv += ["--entrypoint", "haproxy", "--volume", f"{staged}:/usr/local/etc/haproxy:ro", module.params["image"]]
        rc, out, err = module.run_command([*argv, "-c", "-f", "/usr/local/etc/haproxy/haproxy.cfg"])
        if rc != 0:
            module.fail_json(
                msg=f"HAProxy refuses the new configuration; the running gateway is untouched. {(err or out).strip()}"
            )
    finally:
        shutil.rmtree(staged, ignore_errors=True)


# ---------------------------------------------------------------------------------------------------------------------
# The certificate. openssl makes it: a Debian or Ubuntu that trusts any server has it, and the host's environment of tools,
# which would have to get `cryptography` for this alone, is not needed.


def pem(module: AnsibleModule, folder: Path) -> tuple[str, str]:
    """Certificate and key as HAProxy reads them, and why they are others than before ("" when they are not)."""
    wanted = module.params["certificate"]
    old = files.read(folder / gateway_host.PEM)
    if not wanted.get("https_port"):
        return old, ""
    now = time.time()
    if wanted.get("certificate"):
        given = certificates.given(Path(wanted["certificate"]), Path(wanted["key"]), now)
        if given["problem"]:
            module.fail_json(msg=f"llm_gateway.certificate: {given['problem']}. The running gateway is untouched")
        return given["pem"], "" if given["pem"] == old else "another one was given"
    if wanted.get("acme"):
        why = gateway_host.stand_in_is_due(folder)
    else:
        why = gateway_host.own_is_due(folder, wanted["certificate_names"], now)
    if not why or module.check_mode:
        return old, why
    return issued(module, folder, wanted["certificate_names"]), why


def issued(module: AnsibleModule, folder: Path, names: list[str]) -> str:
    """A new certificate of the host's own authority, which is made first when there is none, or ends before it would."""
    authority = folder / "ca"
    authority.mkdir(mode=0o755, parents=True, exist_ok=True)
    end = certificates.read(authority / "ca.pem")["expires"]
    with tempfile.TemporaryDirectory(dir=authority) as place:  # 0700, and gone with all that is in it
        work = Path(place)
        if end < time.time() + DAYS * 86400 or not (authority / "ca.key").exists():
            subject = f"/CN=Gateway of {socket.gethostname()}"
            uses = ["-addext", "basicConstraints=critical,CA:TRUE,pathlen:0"]
            uses += ["-addext", "keyUsage=critical,keyCertSign,cRLSign"]
            openssl(module, work, ["req", "-x509", *EC, "-subj", subject, "-days", str(CA_DAYS), *uses]
                    + ["-keyout", "ca.key", "-out", "ca.pem"])  # fmt: skip
            files.write(authority / "ca.key", files.read(work / "ca.key"), 0o400)
            files.write(authority / "ca.pem", files.read(work / "ca.pem"))
        listed = ",".join(f"{'IP' if addresses.is_address(n) else 'DNS'}:{n}" for n in names)
        extensions = (
            "basicConstraints=critical,CA:FALSE\nkeyUsage=critical,digitalSignature\nextendedKeyUsage=serverAuth\n"
        )
        files.write(work / "uses", f"{extensions}subjectAltName={listed}\n")
        openssl(module, work, ["req", *EC, "-subj", "/CN=llm-gateway", "-keyout", "door.key", "-out", "door.csr"])
        openssl(module, work, ["x509", "-req", "-sha256", "-in", "door.csr", "-days", str(DAYS), "-extfile", "uses"]
                + ["-CA", str(authority / "ca.pem"), "-CAkey", str(authority / "ca.key")]
                + ["-set_serial", f"0x{os.urandom(16).hex()}", "-out", "door.pem"])  # fmt: skip
        return files.read(work / "door.pem") + files.read(authority / "ca.pem") + files.read(work / "door.key")


def openssl(module: AnsibleModule, work: Path, argv: list[str]) -> None:
    """Run it in a folder, or fail with what it says."""
    program = module.get_bin_path("openssl")
    if program is None:
        module.fail_json(
            msg="openssl is missing, which makes the gateway's certificate: install it (`apt-get install openssl`), or "
            "give a certificate and its key in llm_gateway. The running gateway is untouched"
        )
    rc, out, err = module.run_command([str(program), *argv], cwd=str(work))
    if rc != 0:
        module.fail_json(msg=f"openssl cannot make the gateway's certificate: {(err or out).strip()}")


# ---------------------------------------------------------------------------------------------------------------------
# The running HAProxy.


def worker(folder: Path) -> int | None:
    """Process number of the HAProxy that takes new connections, None while it does not say."""
    answer = haproxy.say(folder, "show info") or ""
    found = dict(line.split(": ", 1) for line in answer.splitlines() if ": " in line)
    return int(found["Pid"]) if found.get("Stopping", "0") == "0" and found.get("Pid", "").isdigit() else None


def keep_log(module: AnsibleModule, folder: Path, found: dict[str, Any] | None) -> None:
    """Keep the access log of a container that is about to be replaced; Docker removes it with the container."""
    if not found:
        return
    rc, out, _ = module.run_command(["docker", "logs", found["Id"]])
    requests = "".join(f"{line}\n" for line in out.splitlines() if line.startswith("{"))
    if rc == 0 and requests:
        logs = folder / gateway_host.LOGS
        files.write(logs / f"{found['Created'][:19].replace(':', '-')}.log", requests, 0o640)
        for old in sorted(logs.glob("*.log"))[:-KEPT_LOGS]:
            old.unlink()


def wait_for_worker(module: AnsibleModule, folder: Path, before: int | None) -> None:
    """Fail unless another HAProxy than `before` takes new connections in time; the old one only ends what it has begun."""
    end = time.monotonic() + READY_WITHIN
    while worker(folder) in (None, before):
        if time.monotonic() > end:
            said = containers.last_words(module.run_command, names.GATEWAY)
            module.fail_json(msg=f"the gateway does not take the new configuration. {said}")
        time.sleep(0.1)


def wait_for_ports(module: AnsibleModule) -> None:
    """Fail unless every port accepts a connection in time."""
    own = {port for backend in module.params["backends"] for port in backend.get("ports", ())}
    end = time.monotonic() + READY_WITHIN
    for port in module.params["ports"]:
        address = module.params["ports_address" if port in own else "address"] or module.params["address"]
        target = addresses.reached(address)
        while True:
            try:
                socket.create_connection((target, port), timeout=2).close()
                break
            except OSError as error:
                if time.monotonic() > end:
                    said = containers.last_words(module.run_command, names.GATEWAY)
                    module.fail_json(
                        msg=f"the gateway does not listen on {addresses.in_url(address)}:{port}: {error}. {said}"
                    )
                time.sleep(0.2)


def tell(folder: Path, changes: list[dict[str, str]]) -> bool:
    """Lead servers elsewhere without a reload. False when HAProxy does not follow in time: a reload then does it."""
    for change in changes:
        server = change["server"]
        if not change["after"]:
            if haproxy.say(folder, f"set server {server} state maint") != "":
                return False
            continue
        address = docker_api.container_ip(docker_api.inspect(change["after"]), names.NETWORK)
        if "changed its FQDN" not in (haproxy.say(folder, f"set server {server} fqdn {change['after']}") or ""):
            return False
        end = time.monotonic() + READY_WITHIN / 2
        while haproxy.server_states(folder).get(server, ("",))[0] != address:
            if time.monotonic() > end:
                return False
            time.sleep(0.1)
        if not change["before"] and haproxy.say(folder, f"set server {server} state ready") != "":
            return False
        while haproxy.server_states(folder)[server][1] != haproxy.SERVES:
            if time.monotonic() > end:
                return False
            time.sleep(0.1)
    return True


def load(folder: Path, maps: dict[str, str]) -> bool:
    """Give the running HAProxy the maps. False when it does not take one."""
    return all(haproxy.load_map(folder, name, text) for name, text in maps.items())


def act(module: AnsibleModule) -> dict[str, Any]:
    """Compare, and do what is missing."""
    folder, texts, backends = Path(module.params["folder"]), dict(module.params["files"]), module.params["backends"]
    found = containers.inspected(names.GATEWAY)
    running = bool(found and found["State"]["Running"])
    stamp = folder / "loaded"
    loaded = (files.read(stamp).split() + [""] * gateway_host.LOADED)[: gateway_host.LOADED]
    certificate, why = pem(module, folder)
    now = int(time.time())
    returns = {
        n: routes.STOPPED if int(s) == routes.STOPPED else now + int(s) for n, s in module.params["returns"].items()
    }
    maps = gateway_host.maps(folder.parent, backends, returns)
    # By ACME another one comes at any time, and whoever brings it tells HAProxy.
    in_place = "acme" if module.params["certificate"].get("acme") else certificate
    wanted = [*sums(texts), found["Id"][:12] if found else "", *map(gateway_host.digest, (maps["keys.map"], in_place))]
    diff = files.diffs(folder, folder, texts)
    returning = returns or files.read(folder / gateway_host.MAPS / "returns.map")
    if running and loaded == wanted and not diff and not why and not returning:
        return {"changed": False, "action": "none"}
    changes = None
    if running and (loaded[0], *loaded[2:3]) == (wanted[0], wanted[2]):
        action = "reloaded"
        before = files.read(folder / CONFIG)
        # What runs is what lies there; an edited file is none to compare with.
        if (
            loaded[1] == sums({**texts, CONFIG: before})[1]
            and loaded[gateway_host.CERTIFICATE_AT] == wanted[-1]
            and not why
        ):
            changes = routes.switched(before, texts[CONFIG])
            action = "updated" if changes is not None else action
    else:
        action = "started"
    if module.check_mode:
        return {"changed": True, "action": action, "diff": diff}
    for network, internal in names.NETWORKS.items():
        docker_api.ensure_network(network, internal=internal)
    private = {f"{gateway_host.MAPS}/{name}": text for name, text in maps.items()}
    if certificate:
        private[gateway_host.PEM] = certificate
    if changes is None:
        check(module, folder, texts, private)
    stamp.unlink(missing_ok=True)  # until all is loaded, nothing is known to be
    for name, text in private.items():
        files.write(folder / name, text, 0o400, module.params["uid"])
    for name, text in texts.items():
        files.write(folder / name, text)
    run = folder / haproxy.SOCKET.partition("/")[0]
    run.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.chown(run, module.params["uid"], module.params["uid"])
    if changes is not None:
        during = gateway_host.maps(folder.parent, backends, returns, changes)
        # Connections to the engine of before are used on until it ends, and it knows no newer key than this one.
        kept = {k: during[k] for k in ["engines.map"] if during[k].count("\n") == maps[k].count("\n")}
        if not (load(folder, during) and tell(folder, changes) and load(folder, {**maps, **kept})):
            action = "reloaded"
    if action == "reloaded":
        before_pid = worker(folder)
        containers.signal(names.GATEWAY, "USR2")
        wait_for_worker(module, folder, before_pid)
    elif action == "started":
        keep_log(module, folder, found)
        if problem := containers.compose_up(module.run_command, names.GATEWAY, [folder / COMPOSE]):
            module.fail_json(msg=f"the gateway does not start: {problem}")
    wait_for_ports(module)
    final = containers.inspected(names.GATEWAY)
    wanted[2] = final["Id"][:12] if final else ""
    files.write(stamp, " ".join(w or "-" for w in wanted) + "\n")
    return {"changed": True, "action": action, "diff": diff}


def remove(module: AnsibleModule) -> dict[str, Any]:
    """Remove the gateway, if there is one."""
    folder, found = Path(module.params["folder"]), containers.inspected(names.GATEWAY)
    if not found:
        return {"changed": False, "action": "none"}
    ports = sorted(int(p.partition("/")[0]) for p in found["HostConfig"]["PortBindings"] or {})
    header = f"container {names.GATEWAY}"
    shown = {"before_header": header, "before": f"{found['State']['Status']}, ports {', '.join(map(str, ports))}\n"}
    diff = [{**shown, "after_header": "absent", "after": ""}]
    if not module.check_mode:
        if found["State"]["Running"]:
            docker_api.post(f"/containers/{found['Id']}/update", {"RestartPolicy": {"Name": "no"}})
            # It takes no new requests, and ends when it has answered those that it has.
            containers.signal(found["Id"], "USR1")
            end = time.monotonic() + LEAVES_WITHIN
            while docker_api.inspect(found["Id"])["State"]["Running"] and time.monotonic() < end:
                time.sleep(0.1)
        keep_log(module, folder, found)
        (folder / "loaded").unlink(missing_ok=True)
        containers.remove(found["Id"])
    return {"changed": True, "action": "removed", "diff": diff}


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
        module.exit_json(**(remove(module) if module.params["state"] == "absent" else act(module)))
    except docker_api.DockerError as error:
        # A fresh host has no engine yet, and everything would change.
        if module.check_mode and module.params["state"] == "present":
            module.exit_json(
                changed=True,
                action="started",
                diff=files.diffs(Path("/nonexistent"), Path(module.params["folder"]), module.params["files"]),
            )
        module.fail_json(msg=f"gateway: {error}")
    except gateway_keys.Refused as error:
        module.fail_json(msg=f"{error} The running gateway is untouched.")
    except OSError as error:
        module.fail_json(msg=files.unwritable(error))


if __name__ == "__main__":
    main()
