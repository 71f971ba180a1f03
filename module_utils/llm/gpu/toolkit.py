"""Letting containers use a host's GPUs: CDI specification, Docker's runtime, persistence mode, and a container that proves it."""

from __future__ import annotations

import io
import json
import re
import tarfile
from pathlib import Path
from typing import Any

from ansible.module_utils.llm.base import files
from ansible.module_utils.llm.base.module import Module
from ansible.module_utils.llm.declare import values
from ansible.module_utils.llm.declare.facts import CdiContent, DockerAnswer, GpuHost
from ansible.module_utils.llm.declare.objects import Gpu
from ansible.module_utils.llm.docker import api as docker_api
from ansible.module_utils.llm.docker import containers, daemon
from ansible.module_utils.llm.docker.process import DaemonFailed, Engine, waited
from ansible.module_utils.llm.gpu import host as gpu_host
from ansible.module_utils.llm.gpu import nvidia

DAEMON = Path("/etc/docker/daemon.json")
IMAGE = "llm/gpu-probe:latest"
LOADS_WITHIN = 15.0  # seconds for an engine that has read daemon.json to know the runtime
UNIT = Path("/etc/systemd/system/llm-gpu-persistence.service")
# One unit for all: Debian's daemon keeps the mode by itself, Ubuntu's is started with --no-persistence-mode, and on some
# hosts there is none. With a daemon running, nvidia-smi hands the request to it.
UNIT_TEXT = """\
# Written by role nvidia_toolkit: keeps the NVIDIA driver loaded while nothing uses it.
[Unit]
Description=NVIDIA persistence mode
Wants=nvidia-persistenced.service
After=nvidia-persistenced.service

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart={tool} --persistence-mode=1

[Install]
WantedBy=multi-user.target
"""


class Toolkit:
    """Steps that let containers use a host's GPUs, on what was read of the host; as module llm_gpu_toolkit was asked to."""

    def __init__(self, module: Module) -> None:
        self.module = module
        self.root = Path(module.params["root"])
        self.runtime: str = module.params["runtime"]
        self.declared = [declared(entry, n) for n, entry in enumerate(module.params["gpus"])]
        self.diff: list[dict[str, str]] = []
        self.read()

    def read(self) -> None:
        """Look at the host again."""
        self.seen = gpu_host.read(self.module.run_command, self.root)
        self.docker = engine()

    @property
    def facts(self) -> GpuHost:
        """What was read, as nvidia.work and nvidia.signature take it."""
        return {"gpu": self.seen, "docker": self.docker}

    def steps(self) -> dict[str, str]:
        """See nvidia.work; packages are not this module's."""
        found = nvidia.work(
            self.facts, runtime=self.runtime, gpus=self.declared, persistence=self.module.params["persistence"]
        )
        return {name: why for name, why in found.items() if name not in ("toolkit", "hold")}

    def command(self, argv: list[str], what: str, remedy: str) -> str:
        """Output of a program. Raises DaemonFailed, with what it said, when it fails."""
        rc, out, err = self.module.run_command(argv)
        if rc != 0:
            said = (err or out).strip()[-600:]
            raise DaemonFailed(f"{what}: `{' '.join(argv)}` failed with exit status {rc}: {said}. {remedy}")
        return str(out)

    def judge(self) -> None:
        """Refuse what can't work, before anything is touched."""
        wrong = self.seen["trouble"]
        if wrong:
            raise DaemonFailed(f"{wrong['message']}. {wrong['remedy']}")
        problem = nvidia.runtime_problem(self.docker, self.runtime, wsl=self.seen["wsl"])
        if problem:
            raise DaemonFailed(f"llm_gpu_runtime: {problem[0]}. {problem[1]}")
        for differs in nvidia.differences(self.declared, self.seen["gpus"]):
            text = f"llm_host_gpus.{differs['position']}.{differs['part']}: {differs['message']}. {differs['remedy']}"
            if differs["id"] == "gpu-missing":
                raise DaemonFailed(text)
            if differs["severity"] != "info":
                self.module.warn(text)

    # -- CDI and runtime -----------------------------------------------------------------------------------------------

    def make_cdi(self) -> None:
        """Write the CDI specification where the toolkit's own service does, or where it stays over a boot."""
        before = self.seen["cdi"]
        kept = gpu_host.CDI_BOOT if self.seen["refresher"] else gpu_host.CDI_KEPT
        path = Path(before["file"] or f"/{kept}")
        after: CdiContent = {"driver": self.seen["driver"], "devices": [g["uuid"] for g in self.seen["gpus"]]}
        self.diff.append(
            {
                "before_header": before["file"] or "absent",
                "after_header": str(path),
                "before": made_for(before) if before["file"] else "",
                "after": made_for(after),
            }
        )
        if not self.module.check_mode:
            path.parent.mkdir(parents=True, exist_ok=True)
            argv = ["nvidia-ctk", "cdi", "generate", f"--output={path}"]
            self.command(argv, "the CDI specification could not be made", "Look at `nvidia-smi` and `dmesg`")

    def configure_runtime(self) -> None:
        """Let nvidia-ctk merge the runtime into daemon.json, and the engine read it."""
        argv = ["nvidia-ctk", "runtime", "configure", "--runtime=docker", f"--config={DAEMON}"]
        if self.runtime == "cdi" and self.docker["running"] and not self.docker["cdi"]:
            argv.append("--cdi.enabled")
        remedy = f"Repair {DAEMON}, and run again"
        before = files.read(DAEMON)
        after = self.command([*argv, "--dry-run"], f"{DAEMON} could not be read", remedy)
        try:
            lost = nvidia.lost_settings(json.loads(before or "{}"), json.loads(after))
        except ValueError as error:
            raise DaemonFailed(
                f"nvidia-ctk answers with no JSON ({error}): {daemon.shown(after[:200])}. {remedy}"
            ) from error
        if lost:
            own = "features.cdi: true" if "--cdi.enabled" in argv else "runtimes.nvidia"
            raise DaemonFailed(
                f"nvidia-ctk would drop {', '.join(lost)} from {DAEMON}, so it was not asked to write. "
                f"Set {own} there yourself, restart Docker when its containers may stop, and run again"
            )
        if before.strip() != after.strip():
            self.diff.append(
                {
                    "before_header": str(DAEMON) if before else "absent",
                    "after_header": str(DAEMON),
                    "before": daemon.shown(before),
                    "after": daemon.shown(f"{after.strip()}\n"),
                }
            )
        if self.module.check_mode:
            return
        DAEMON.parent.mkdir(parents=True, exist_ok=True)
        self.command(argv, f"{DAEMON} could not be written", remedy)
        if self.docker["running"]:
            self.reload()

    def reload(self) -> None:
        """Have the engine read daemon.json again; containers don't notice."""
        try:
            Engine(self.module).reload()
        except DaemonFailed as error:
            text = f"the engine could not be told to read {DAEMON}: {error}"
            raise DaemonFailed(f"{text}. Reload it (`systemctl reload docker`), and run again") from error
        if not waited(lambda: "nvidia" in engine()["runtimes"], LOADS_WITHIN):
            raise DaemonFailed(
                f"the engine does not load the runtime nvidia of {DAEMON}. Its log says why: `journalctl -u docker`"
            )

    def restart(self, why: str) -> None:
        """Start the engine anew, where that stops no container or is allowed."""
        process = Engine(self.module)
        running = process.containers()
        if running and not self.docker["live_restore"] and not self.module.params["restart_engine"]:
            names = ", ".join(sorted(c["Names"][0].lstrip("/") for c in docker_api.containers(running_only=True)))
            raise DaemonFailed(
                f"Docker must be restarted before containers get GPUs ({why}), and {names} would stop with it. Switch "
                f"live-restore on (docker_engine_live_restore), or allow it with nvidia_toolkit_restart_engine: true, or "
                f"restart it yourself; then run again"
            )
        try:
            process.stop()
            process.start()
        except DaemonFailed as error:
            raise DaemonFailed(f"Docker must be restarted ({why}), and {error}. {process.log()}") from error
        lost = process.lost(running)
        if lost and self.docker["live_restore"]:
            raise DaemonFailed(
                f"containers did not outlive the restart of the engine: {', '.join(lost)}. Start them again"
            )

    # -- persistence ---------------------------------------------------------------------------------------------------

    def persist(self) -> None:
        """Switch persistence mode on, now and at every boot."""
        text = UNIT_TEXT.format(tool=self.seen["tool"])
        systemd = Path("/run/systemd/system").is_dir()
        if systemd:
            self.diff += files.diffs(UNIT.parent, UNIT.parent, {UNIT.name: text})
        if self.module.check_mode:
            return
        what, remedy = "persistence mode could not be switched on", "Try `nvidia-smi -pm 1` on the host"
        if systemd:
            files.write(UNIT, text)
            # `enable` by itself reloads systemd, which detaches GPUs from containers; a new unit is found without it.
            self.command(["systemctl", "enable", "--no-reload", "--quiet", UNIT.name], what, remedy)
            self.command(["systemctl", "restart", UNIT.name], what, remedy)
        else:
            self.command([self.seen["tool"], "--persistence-mode=1"], what, remedy)

    # -- proof ---------------------------------------------------------------------------------------------------------

    def ask_containers(self) -> None:
        """Refuse to call it done while a running container has lost its GPUs."""
        lost = []
        for listed in docker_api.containers(running_only=True):
            try:
                if not nvidia.uses_gpu(docker_api.inspect(listed["Id"])):
                    continue
            except docker_api.NotFound:  # it ended meanwhile
                continue
            rc, out, err = self.module.run_command(["docker", "exec", listed["Id"], "nvidia-smi", "-L"])
            if "executable file not found" in out + err or "is not running" in out + err:
                continue
            wrong = nvidia.failure(rc, out + err)
            if wrong:
                lost.append(f"{listed['Names'][0].lstrip('/')} ({wrong['message']})")
        if lost:
            names = " ".join(item.partition(" ")[0] for item in sorted(lost))
            raise DaemonFailed(
                f"running containers have no GPU any more: {', '.join(sorted(lost))}. A `systemctl daemon-reload`, as packages "
                f"do when they are installed, detaches them. Restart them (`docker restart {names}`), and run again"
            )

    def probe(self) -> list[str]:
        """UUIDs of the GPUs that a new container sees, given them as services are."""
        found = self.seen["gpus"]
        ids = [g.uuid or str(g.index) for g in self.declared] or [g["uuid"] for g in found]
        expected = {one["uuid"] for g in self.declared if (one := nvidia.match(g, found))} or {g["uuid"] for g in found}
        tool = self.seen["tool"]
        self.import_image(tool)
        try:
            try:
                rc, output = run_container(tool, nvidia.request(self.runtime, ids))
            except docker_api.DockerError as error:
                if not nvidia.engine_must_restart(str(error)):
                    raise
                self.restart(str(error))
                rc, output = run_container(tool, nvidia.request(self.runtime, ids))
        except docker_api.DockerError as error:
            remedy = "Compare `nvidia-ctk cdi list`" if self.runtime == "cdi" else "See `journalctl --unit docker`"
            raise DaemonFailed(
                f"no container gets GPUs by llm_gpu_runtime: {self.runtime}: {error}. {remedy}"
            ) from error
        finally:
            self.module.run_command(["docker", "image", "rm", "--force", IMAGE])
        seen = nvidia.parse_list(output)
        if not expected <= set(seen):
            wrong = nvidia.failure(rc, output)
            why = wrong["message"] if wrong else f"it shows {', '.join(seen) or 'none'}"
            raise DaemonFailed(
                f"a container given {', '.join(ids)} by llm_gpu_runtime: {self.runtime} does not see "
                f"{', '.join(sorted(expected - set(seen)))}: {why}. It said: {' '.join(output.split())[:300]}"
            )
        return seen

    def import_image(self, tool: str) -> None:
        """An image of nvidia-smi and the libraries that it is linked with; it works before any other image is here."""
        rc, out, _ = self.module.run_command(["ldd", tool])
        linked = re.findall(r"(?:=> |^\s*)(/\S+) \(", out, re.MULTILINE) if rc == 0 else []
        if not linked:  # seen on a machine whose nvidia-smi is a script that starts the real one
            raise DaemonFailed(
                f"{tool} is not the program itself: `ldd` names no library of it. Put NVIDIA's own before it on the path"
            )
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w", dereference=True) as tar:
            for path in [tool, *linked]:
                tar.add(path, arcname=path.lstrip("/"))
        argv = ["docker", "import", "--change", f'ENTRYPOINT ["{tool}"]', "-", IMAGE]
        rc, out, err = self.module.run_command(argv, data=archive.getvalue(), binary_data=True)
        if rc != 0:
            raise DaemonFailed(
                f"`{' '.join(argv)}` failed: {(err or out).strip()}. Look whether Docker has room on its disk"
            )


def declared(entry: dict[str, Any], position: int) -> Gpu:
    """A GPU as declared; the plan has checked its shape, a role used by itself has not."""
    try:
        return Gpu(
            int(entry["index"]), str(entry["model"]), values.size_bytes(entry["memory"]), str(entry.get("uuid") or "")
        )
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        text = f"nvidia_toolkit_gpus.{position} needs index, model and memory (such as 24 GiB): {error!r}"
        raise DaemonFailed(text) from error


def made_for(spec_facts: CdiContent) -> str:
    """What a CDI specification is for, to be compared."""
    uuids = [d for d in spec_facts["devices"] if d.startswith("GPU-")]
    return "".join(f"{line}\n" for line in [f"driver {spec_facts['driver'] or 'unknown'}", *sorted(uuids)])


def engine() -> DockerAnswer:
    """{running, version, runtimes, cdi, live_restore} of the Docker engine."""
    try:
        info = docker_api.get("/info")
    except docker_api.DockerError:
        return {"running": False, "version": None, "runtimes": [], "cdi": False, "live_restore": False}
    return {
        "running": True,
        "version": info["ServerVersion"],
        "runtimes": sorted(info.get("Runtimes") or {}),
        "cdi": bool(info.get("CDISpecDirs")),
        "live_restore": bool(info.get("LiveRestoreEnabled")),
    }


def run_container(tool: str, request: dict[str, Any]) -> tuple[int, str]:
    """Exit status and output of `nvidia-smi -L` in a container with these GPUs."""
    body = {
        "Image": IMAGE,
        "Entrypoint": [tool],
        "Cmd": ["-L"],
        "HostConfig": {"NetworkMode": "none", "DeviceRequests": [request]},
    }
    made = docker_api.post("/containers/create", body)["Id"]
    try:
        docker_api.post(f"/containers/{made}/start")
        rc = int(docker_api.post(f"/containers/{made}/wait")["StatusCode"])
        return rc, "\n".join(line.text for line in docker_api.logs(made))
    finally:
        containers.remove(made)


def set_up(module: Module) -> dict[str, Any]:
    """Do what is missing, and prove it with a container; returns the result of module llm_gpu_toolkit. Raises DaemonFailed."""
    toolkit = Toolkit(module)
    toolkit.judge()
    steps = toolkit.steps()
    result: dict[str, Any] = {"changed": bool(steps), "steps": steps}
    if not module.get_bin_path("nvidia-ctk"):
        if module.check_mode:  # it is not installed yet, so nothing can be asked
            return result
        raise DaemonFailed(
            "NVIDIA's container toolkit is not there (nvidia-ctk). Install it (role nvidia_toolkit), and run again"
        )
    if "cdi" in steps:
        toolkit.make_cdi()
    if "runtime" in steps:
        toolkit.configure_runtime()
    if "persistence" in steps:
        toolkit.persist()
    result["diff"] = toolkit.diff
    if not steps or module.check_mode:
        return result
    toolkit.read()
    if not toolkit.docker["running"]:
        raise DaemonFailed("the Docker engine does not answer. Start it (role docker_engine), and run again")
    toolkit.ask_containers()
    result["seen"] = toolkit.probe()
    toolkit.read()
    left = {name: why for name, why in toolkit.steps().items() if name != "proof"}
    if left:
        text = "; ".join(f"{name}: {why}" for name, why in left.items())
        raise DaemonFailed(
            f"this is not as it should be after it was done: {text}. Look at nvidia-smi and `journalctl --unit docker`"
        )
    proof = json.dumps(nvidia.signature(toolkit.facts, toolkit.runtime), indent=2, sort_keys=True) + "\n"
    files.write(toolkit.root / gpu_host.PROOF_FILE, proof)
    return result
