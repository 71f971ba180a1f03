"""Putting the gateway's files in place and making the running HAProxy use them, or removing the gateway."""

from __future__ import annotations

import os
import shutil
import socket
import time
from pathlib import Path
from typing import Any

from ansible.module_utils.llm.base import addresses, files, names
from ansible.module_utils.llm.base.module import Module
from ansible.module_utils.llm.docker import api as docker_api
from ansible.module_utils.llm.docker import containers
from ansible.module_utils.llm.gateway import authority, haproxy, routes
from ansible.module_utils.llm.gateway import host as gateway_host
from ansible.module_utils.llm.gateway.host import COMPOSE, CONFIG

READY_WITHIN = 20.0
LEAVES_WITHIN = 30.0  # seconds; idle connections of clients are closed at once
KEPT_LOGS = 10


class NotApplied(Exception):
    """Why the gateway does not serve as it is declared."""


def check(module: Module, folder: Path, texts: dict[str, str], private: dict[str, str]) -> None:
    """Raise NotApplied unless HAProxy accepts the configuration, with the certificate that it is to have."""
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
            raise NotApplied(
                f"HAProxy refuses the new configuration; the running gateway is untouched. {(err or out).strip()}"
            )
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def keep_log(module: Module, folder: Path, found: dict[str, Any] | None) -> None:
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


def wait_for_worker(module: Module, folder: Path, before: int | None) -> None:
    """Raise NotApplied unless another HAProxy than `before` takes new connections in time; that one ends what it has begun."""
    end = time.monotonic() + READY_WITHIN
    while haproxy.worker(folder) in (None, before):
        if time.monotonic() > end:
            said = containers.last_words(module.run_command, names.GATEWAY)
            raise NotApplied(f"the gateway does not take the new configuration. {said}")
        time.sleep(0.1)


def wait_for_ports(module: Module) -> None:
    """Raise NotApplied unless every port accepts a connection in time."""
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
                    raise NotApplied(
                        f"the gateway does not listen on {addresses.in_url(address)}:{port}: {error}. {said}"
                    ) from error
                time.sleep(0.2)


def tell(folder: Path, changes: list[routes.Switch]) -> bool:
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


def present(module: Module) -> dict[str, Any]:
    """Compare the gateway with what it is to be, and do what is missing; returns the result of module llm_gateway."""
    folder, texts, backends = Path(module.params["folder"]), dict(module.params["files"]), module.params["backends"]
    found = containers.inspected(names.GATEWAY)
    running = bool(found and found["State"]["Running"])
    stamp = folder / "loaded"
    loaded = (files.read(stamp).split() + [""] * gateway_host.LOADED)[: gateway_host.LOADED]
    certificate, why = authority.pem(module, folder)
    now = int(time.time())
    returns = {
        n: routes.STOPPED if int(s) == routes.STOPPED else now + int(s) for n, s in module.params["returns"].items()
    }
    maps = gateway_host.maps(folder.parent, backends, returns)
    # By ACME another one comes at any time, and whoever brings it tells HAProxy.
    in_place = "acme" if module.params["certificate"].get("acme") else certificate
    wanted = [
        *gateway_host.sums(texts),
        found["Id"][:12] if found else "",
        *map(gateway_host.digest, (maps["keys.map"], in_place)),
    ]
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
            loaded[1] == gateway_host.sums({**texts, CONFIG: before})[1]
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
        before_pid = haproxy.worker(folder)
        containers.signal(names.GATEWAY, "USR2")
        wait_for_worker(module, folder, before_pid)
    elif action == "started":
        keep_log(module, folder, found)
        if problem := containers.compose_up(module.run_command, names.GATEWAY, [folder / COMPOSE]):
            raise NotApplied(f"the gateway does not start: {problem}")
    wait_for_ports(module)
    final = containers.inspected(names.GATEWAY)
    wanted[2] = final["Id"][:12] if final else ""
    files.write(stamp, " ".join(w or "-" for w in wanted) + "\n")
    return {"changed": True, "action": action, "diff": diff}


def absent(module: Module) -> dict[str, Any]:
    """Remove the gateway, if there is one; returns the result of module llm_gateway."""
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
