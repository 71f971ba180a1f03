"""Having a host's Docker daemon load other settings while containers run on, and putting the old ones back when it does not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ansible.module_utils.llm.base import files
from ansible.module_utils.llm.base.module import Module
from ansible.module_utils.llm.declare.facts import DaemonSettings
from ansible.module_utils.llm.docker import daemon
from ansible.module_utils.llm.docker import host as docker_host
from ansible.module_utils.llm.docker.process import DaemonFailed, Engine


class Daemon:
    """Files and process of a host's Docker daemon, and what module llm_docker_daemon was asked to change of them."""

    def __init__(self, module: Module) -> None:
        self.module = module
        self.engine = Engine(module, module.params["start_timeout"])
        self.file = Path(docker_host.config_file(self.engine.process)).resolve()
        self.defaults = Path(daemon.DEFAULTS_FILE)
        self.before = {p: p.read_text(encoding="utf-8") if p.exists() else None for p in (self.file, self.defaults)}
        try:
            found = daemon.parse(self.before[self.file] or "")
        except daemon.Broken as error:
            text = f"{self.file} is not what Docker reads: {error}. Repair it (nothing was written), and run again"
            raise DaemonFailed(text) from error
        has = daemon.read_environment(self.before[self.defaults] or "")
        in_files: DaemonSettings = {"settings": found, "environment": has}
        self.loaded = docker_host.loaded(self.engine.process) or in_files
        self.found = found
        self.version = self.engine.version()
        options = module.params
        self.change = daemon.change(
            found,
            daemon.declared(options, found, self.version),
            loaded=self.loaded,
            has=has,
            sets=daemon.environment(options, self.version),
        )
        self.after = dict(self.before)
        if self.change.settings != found:
            self.after[self.file] = daemon.render(self.change.settings)
        if self.change.write and self.change.environment:
            self.after[self.defaults] = daemon.write_environment(
                self.before[self.defaults] or "", self.change.environment
            )
        self.containers: dict[str, str] = {}

    def diff(self) -> list[dict[str, str]]:
        """The files that change, without passwords."""
        return [
            {
                "before_header": str(path) if self.before[path] is not None else "absent",
                "after_header": str(path),
                "before": daemon.shown(self.before[path] or ""),
                "after": daemon.shown(text or ""),
            }
            for path, text in self.after.items()
            if text != self.before[path]
        ]

    def action(self) -> str:
        """See daemon.action."""
        allowed = self.module.params["may_restart"] or not self.containers
        process = self.engine.process
        restart = [*self.change.restart]
        if self.module.params["renew"] and process and process["outdated"]:
            restart.append("program")
        return daemon.action(self.change.keys, restart, running=self.engine.running, may_restart=allowed)

    def judge(self, action: str) -> None:
        """Refuse what can't work, before anything is written."""
        swarm = (self.engine.info.get("Swarm") or {}).get("LocalNodeState", "inactive") != "inactive"
        if swarm and self.change.settings.get("live-restore"):
            raise DaemonFailed(
                "the engine is a node of a swarm, which excludes live-restore. Write live_restore: false"
            )
        if action == "restart" and self.containers and not self.change.settings.get("live-restore"):
            raise DaemonFailed(
                f"{', '.join(self.change.restart) or 'an upgrade'} needs a restart of the engine, and without live-restore its "
                f"{len(self.containers)} running containers would stop with it. Switch that on, or stop them, and run again"
            )
        if self.engine.running and self.engine.process is None:
            raise DaemonFailed(
                f"the engine is no process of this host that /{docker_host.PID_FILE} names. Change its settings there"
            )
        text = self.after[self.file]
        if text == self.before[self.file] or daemon.version(self.version) < daemon.VALIDATE_SINCE:
            return
        staged = self.file.with_name(f".{self.file.name}.staged")
        try:
            files.write(staged, text or "", 0o600)
            program = self.module.get_bin_path("dockerd", required=True)
            rc, out, err = self.module.run_command([str(program), "--validate", f"--config-file={staged}"])
        finally:
            staged.unlink(missing_ok=True)
        if rc != 0:
            said = daemon.shown((err or out).strip()).replace(str(staged), str(self.file))
            raise DaemonFailed(f"dockerd refuses what {self.file} would hold: {said}. Correct it; nothing was written")

    def record(self, settings: dict[str, Any], environment: dict[str, str]) -> None:
        """Write down what the engine runs with, while the files say something else."""
        if self.engine.process:
            content = {"engine": self.engine.process["born"], "settings": settings, "environment": environment}
            files.write(Path(daemon.LOADED_FILE), json.dumps(content), 0o600)

    def write(self, texts: dict[Path, str | None]) -> None:
        """Put files in place, with the mode that they had; one that holds a password is root's alone."""
        for path, text in texts.items():
            if text is None:
                path.unlink(missing_ok=True)
            else:
                mode = path.stat().st_mode & 0o7777 if path.exists() else 0o644
                files.write(path, text, mode & 0o700 if daemon.passwords(text) else mode)

    def load(self, action: str) -> None:
        """Write the files and have the engine load them; puts the old ones back and fails when it does not."""
        self.record(self.loaded["settings"], self.loaded["environment"])
        try:
            if action == "restart" and self.containers and not self.engine.info.get("LiveRestoreEnabled"):
                self.write({self.file: daemon.render(daemon.merge(self.found, {"live-restore": True}))})
                self.engine.reload()
                if not self.engine.info.get("LiveRestoreEnabled"):
                    raise DaemonFailed("it does not switch live-restore on")
            self.write(self.after)
            if action == "reload":
                self.engine.reload()
            if action == "restart":
                self.engine.stop()
            if action in ("restart", "start"):
                self.engine.start()
        except DaemonFailed as error:
            raise DaemonFailed(
                f"Docker with the new settings: {error}. {self.undo(action)}\n{self.engine.log()}"
            ) from error
        lost = self.engine.lost(self.containers)
        if lost and action == "restart":
            raise DaemonFailed(
                f"containers did not outlive the restart of the engine: {', '.join(lost)}. Start them again"
            )
        if self.waits(action):
            self.record(daemon.reloaded(self.loaded["settings"], self.change.settings), self.loaded["environment"])
        else:
            Path(daemon.LOADED_FILE).unlink(missing_ok=True)

    def undo(self, action: str) -> str:
        """Put the old files back, and let the engine run with them. Returns what came of it."""
        if self.after == self.before:
            return "Its files are as they were. Repair what its log says, and run again"
        self.write(self.before)
        try:
            self.engine.look()
            if self.engine.running:
                self.engine.reload()
            else:
                self.engine.start()
        except DaemonFailed as error:
            return f"The old files are back, and with them {error}. Repair what its log says, and run again"
        Path(daemon.LOADED_FILE).unlink(missing_ok=True)
        lost = self.engine.lost(self.containers) if action == "restart" else []
        tail = f", without {', '.join(lost)}: start them again" if lost else ""
        return f"The old files are back, and the engine runs with them{tail}. Correct what was declared, and run again"

    def waits(self, action: str) -> list[str]:
        """Settings that the engine has not loaded after the action."""
        return self.change.restart if action in ("reload", "wait") else []


def configure(module: Module) -> dict[str, Any]:
    """Compare the settings with those that are to be, and do what is missing; returns the result of module llm_docker_daemon.

    Raises DaemonFailed, DockerError.
    """
    state = Daemon(module)
    state.containers = state.engine.containers()
    action = state.action()
    if action == "start" and not state.version and not module.check_mode:
        raise DaemonFailed("there is no dockerd on this host. Install it (role docker_engine), and run again")
    state.judge(action)
    result = {
        "action": action,
        "changed": state.change.write or action in ("reload", "restart", "start"),
        "diff": state.diff(),
        "waits": state.waits(action),
        "version": state.version,
        "live_restore": bool(state.engine.info.get("LiveRestoreEnabled")),
        "containers": state.containers,
    }
    if module.check_mode:
        return result
    lost = state.engine.lost(module.params["containers"]) if state.engine.running else []
    if lost:
        raise DaemonFailed(
            f"containers did not outlive what was done to the engine: {', '.join(lost)}. Start them again"
        )
    if result["changed"]:
        state.load(action)
        result["version"] = state.engine.version()
        result["live_restore"] = bool(state.engine.info.get("LiveRestoreEnabled"))
    if result["changed"] and result["waits"]:
        keys = ", ".join(state.change.restart)
        module.warn(
            f"Docker loads {keys} at its next start: containers run, and may_restart is off (docker_engine_may_restart)"
        )
    return result
