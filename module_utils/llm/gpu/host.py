"""Reading a host's NVIDIA GPUs, driver and container toolkit. Reads only, works where none of them is there."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from ansible.module_utils.llm.base import dpkg
from ansible.module_utils.llm.declare.facts import Gpus, Hardware, Topology
from ansible.module_utils.llm.gpu import nvidia

# Starts a program and returns (exit status, stdout, stderr); AnsibleModule.run_command is one.
Run = Callable[[list[str]], tuple[int, str, str]]
WSL_TOOL = "usr/lib/wsl/lib/nvidia-smi"
CDI_BOOT = "var/run/cdi/nvidia.yaml"  # emptied at boot; the toolkit's own service makes it anew
CDI_KEPT = "etc/cdi/nvidia.yaml"
REFRESHER = "nvidia-cdi-refresh.service"  # since toolkit 1.18
PROOF_FILE = "state/gpu.json"


def nothing() -> Gpus:
    """The shape of what `read` returns, for a host that nobody looked at."""
    return {
        "devices": [],
        "wsl": False,
        "module": "",
        "tool": "",
        "trouble": None,
        "driver": "",
        "cuda": "",
        "gpus": [],
        "toolkit": {},
        "cdi": {"file": "", "driver": "", "devices": []},
        "refresher": False,
        "runtime": "",
        "proof": {},
    }


def read(run: Run, root: Path = Path("/opt/llm"), base: Path = Path("/")) -> Gpus:
    """Everything about the GPUs of a host. One process, nvidia-smi, and that only where it is installed.

    root: the project's folder on the host. base: where / is. Returns {devices: PCI addresses, wsl, module: version of the
    loaded one, tool: path of nvidia-smi, trouble: see nvidia.trouble, driver, cuda, gpus: see nvidia.parse, each process with the
    id of its container, toolkit: {package: {version, held}}, cdi: {file, driver, devices}, refresher: whether the toolkit's
    own service renews the CDI specification, runtime: path of the one that daemon.json names nvidia, proof: see
    nvidia.signature}.
    """
    seen: Gpus = {**nothing(), **hardware(base)}
    rc, out, err = run([seen["tool"], "-q", "-x"]) if seen["tool"] else (0, "", "")
    seen["trouble"] = nvidia.trouble(
        seen["devices"], seen["tool"], wsl=seen["wsl"], module=seen["module"], rc=rc, output=out + err
    )
    if seen["tool"] and not seen["trouble"]:
        try:
            seen = {**seen, **nvidia.parse(out)}
        except ValueError as error:
            seen["trouble"] = nvidia.failure(1, f"{error} {out[:100]}")
    for one in seen["gpus"]:
        for process in one["processes"]:
            process["container"] = container_of(process["pid"], base)
    spec = next((base / f for f in (CDI_BOOT, CDI_KEPT) if (base / f).is_file()), None)
    seen["toolkit"] = dpkg.packages(_read(base / "var/lib/dpkg/status"), nvidia.TOOLKIT)
    seen["cdi"] = {"file": f"/{spec.relative_to(base)}" if spec else "", **nvidia.cdi(_read(spec) if spec else "")}
    seen["refresher"] = (base / "etc/systemd/system/multi-user.target.wants" / REFRESHER).is_symlink()
    runtimes = _json(base / "etc/docker/daemon.json").get("runtimes")
    own = runtimes.get("nvidia") if isinstance(runtimes, Mapping) else None
    seen["runtime"] = str(own.get("path", "")) if isinstance(own, Mapping) else ""
    seen["proof"] = _json(root / PROOF_FILE)
    return seen


def hardware(base: Path = Path("/")) -> Hardware:
    """{devices, wsl, module, tool}: what can be known without starting anything."""
    wsl = (base / "dev/dxg").exists()
    places = (
        [WSL_TOOL] if wsl else ["usr/bin/nvidia-smi", "usr/local/bin/nvidia-smi", "usr/local/nvidia/bin/nvidia-smi"]
    )
    # Debian's kernel module is called nvidia-current.
    sysfs = [_read(base / f"sys/module/{name}/version").strip() for name in ("nvidia", "nvidia_current")]
    return {
        "devices": sorted(_pci(base / "sys/bus/pci/devices")),
        "wsl": wsl,
        "module": nvidia.module_version(_read(base / "proc/driver/nvidia/version")) or next(filter(None, sysfs), ""),
        "tool": next((str(base / p) for p in places if (base / p).is_file()), ""),
    }


def container_of(pid: int | None, base: Path = Path("/")) -> str:
    """Id of the Docker container that a process runs in, "" when it runs in none (or ended)."""
    match = re.search(r"(?:docker[/-]|/)([0-9a-f]{64})(?:\.scope)?$", _read(base / f"proc/{pid}/cgroup"), re.MULTILINE)
    return match[1] if match else ""


def topology(run: Run, tool: str) -> Topology:
    """{links, p2p}: how GPUs are connected, and whether they read each other's memory; empty where that can't be asked."""
    (rc, links, _), (p2p_rc, p2p, _) = run([tool, "topo", "-m"]), run([tool, "topo", "-p2p", "r"])
    return {
        "links": nvidia.parse_matrix(links) if rc == 0 else {},
        "p2p": nvidia.parse_matrix(p2p) if p2p_rc == 0 else {},
    }


def capabilities(run: Run, tool: str) -> dict[str, str]:
    """UUID to compute capability; empty where nvidia-smi is too old to know it."""
    rc, out, _ = run([tool, "--query-gpu=uuid,compute_cap", "--format=csv,noheader"])
    return nvidia.parse_capabilities(out) if rc == 0 else {}


def _pci(folder: Path) -> Iterable[str]:
    try:
        places = list(folder.iterdir())
    except OSError:  # WSL2 has no such folder
        return []
    return [p.name for p in places if nvidia.is_gpu(_read(p / "vendor"), _read(p / "class"))]


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(_read(path))
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
