"""NVIDIA GPUs: what `nvidia-smi` and the container toolkit say, what is wrong with it, and what is to be done. Pure functions.

Reading is done by gpu.host, which returns the mapping called `seen` here. Texts that nvidia-smi prints when it fails were
recorded where that was possible (tests/unit/data/nvidia-smi); the others are NVIDIA's documented ones.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ansible.module_utils.llm.base.units import GIB
from ansible.module_utils.llm.declare.facts import CdiContent, DockerAnswer, FoundGpu, GpuHost, Gpus, Reported, Trouble
from ansible.module_utils.llm.declare.objects import Gpu

MIB = 2**20
VENDOR = "0x10de"
DISPLAY_CLASS = "0x03"  # of PCI: VGA and 3D controllers; the same card's sound device has another
# In the order in which they depend on each other: the first pulls in the others, but each is pinned and held.
TOOLKIT = (
    "nvidia-container-toolkit",
    "nvidia-container-toolkit-base",
    "libnvidia-container-tools",
    "libnvidia-container1",
)
CDI_SINCE = 25  # Docker's first version that injects CDI devices
# Compute capability by a word of the card's name; the first that is found counts.
CAPABILITIES = (
    (r"RTX PRO [2-6]\d00|RTX 50\d0", "12.0"),
    (r"G?B300", "10.3"),
    (r"G?B200", "10.0"),
    (r"G?H100|G?H200|H20|H800", "9.0"),
    (r"RTX 40\d0|L4|L40S?|L20|RTX \d000 Ada.*", "8.9"),
    (r"RTX 30\d0|A10G?|A16|A2|A40|RTX A\d000", "8.6"),
    (r"A100|A30|A800", "8.0"),
    (r"T4|RTX 20\d0|RTX \d000", "7.5"),
    (r"V100", "7.0"),
)
# Cards keep some of their memory for themselves (a 24 GiB card with ECC shows 22.5); other models differ by more.
MEMORY_TOLERANCE = 0.1


# ---------------------------------------------------------------------------------------------------------------------
# What nvidia-smi says.


def parse(xml: str) -> Reported:
    """{driver, cuda, gpus} of `nvidia-smi -q -x`. Raises ValueError for anything else.

    A GPU: {index, uuid, name, bus, architecture, memory, free (bytes), persistence, mig, ecc (booleans, None where the card
    has no such thing), pcie {generation, generation_max, width, width_max}, processes [{pid, name, memory}]}. The index is
    the place in the list, as everywhere in nvidia-smi; values that it calls N/A are None.
    """
    try:
        root = ElementTree.fromstring(xml)  # noqa: S314 - written by the driver of this host, run as root
    except ElementTree.ParseError as error:
        raise ValueError(f"no XML: {error}") from error
    if root.tag != "nvidia_smi_log":
        raise ValueError(f"not nvidia-smi's: <{root.tag}>")
    return {
        "driver": _text(root, "driver_version") or "",
        "cuda": _text(root, "cuda_version") or "",
        "gpus": [_gpu(index, element) for index, element in enumerate(root.findall("gpu"))],
    }


def _gpu(index: int, element: ElementTree.Element) -> FoundGpu:
    link = "pci/pci_gpu_link_info"
    return {
        "index": index,
        "uuid": _text(element, "uuid") or "",
        "name": _text(element, "product_name") or "",
        "bus": element.get("id", ""),
        "architecture": _text(element, "product_architecture"),
        "memory": _bytes(_text(element, "fb_memory_usage/total")),
        "free": _bytes(_text(element, "fb_memory_usage/free")),
        "persistence": _switch(_text(element, "persistence_mode")),
        "mig": _switch(_text(element, "mig_mode/current_mig")),
        "ecc": _switch(_text(element, "ecc_mode/current_ecc")),
        "pcie": {
            "generation": _whole(_text(element, f"{link}/pcie_gen/current_link_gen")),
            "generation_max": _whole(_text(element, f"{link}/pcie_gen/max_link_gen")),
            "width": _whole(_text(element, f"{link}/link_widths/current_link_width")),
            "width_max": _whole(_text(element, f"{link}/link_widths/max_link_width")),
        },
        "processes": [
            {
                "pid": _whole(_text(process, "pid")),
                "name": _text(process, "process_name") or "",
                "memory": _bytes(_text(process, "used_memory")),
            }
            for process in element.findall("processes/process_info")
        ],
    }


def _text(element: ElementTree.Element, path: str) -> str | None:
    found = (element.findtext(path) or "").strip()
    return None if found in ("", "N/A", "[N/A]", "None") else found


def _whole(text: str | None) -> int | None:
    match = re.match(r"\d+", text or "")
    return int(match[0]) if match else None


def _bytes(text: str | None) -> int | None:
    match = re.fullmatch(r"(\d+) MiB", text or "")
    return int(match[1]) * MIB if match else None


def _switch(text: str | None) -> bool | None:
    return {"Enabled": True, "Disabled": False}.get(text or "")


def parse_capabilities(csv: str) -> dict[str, str]:
    """UUID to compute capability, of `nvidia-smi --query-gpu=uuid,compute_cap --format=csv,noheader`."""
    rows = (line.split(", ") for line in csv.splitlines())
    return {row[0].strip(): row[1].strip() for row in rows if len(row) == 2}


def parse_matrix(text: str) -> dict[str, dict[str, str]]:
    """GPU to GPU to connection, of `nvidia-smi topo -m` (NV18, PHB, ...) or `topo -p2p` (OK, NS, ...), without the diagonal."""
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in text.partition("Legend:")[0].splitlines()]
    rows = [[cell.strip() for cell in line.split("\t")] for line in lines if line.strip()]
    if not rows:
        return {}
    names = rows[0][1:]
    found = {}
    for row in rows[1:]:
        if row[0].startswith("GPU"):
            pairs = zip(names, row[1:], strict=False)
            found[row[0]] = {n: cell for n, cell in pairs if n.startswith("GPU") and n != row[0] and cell}
    return found


def parse_list(text: str) -> list[str]:
    """UUIDs in the order of `nvidia-smi -L`; those of MIG instances are left out."""
    return re.findall(r"^GPU \d+: .*\(UUID: (GPU-[0-9a-fA-F-]+)\)", text, re.MULTILINE)


def module_version(text: str) -> str:
    """Version of the loaded kernel module, of /proc/driver/nvidia/version; "" when it names none."""
    match = re.search(r"Kernel Module(?: for \S+)?\s+(\d+(?:\.\d+)+)", text)
    return match[1] if match else ""


def is_gpu(vendor: str, device_class: str) -> bool:
    """Whether a PCI device is an NVIDIA GPU; both values as sysfs has them."""
    return vendor.strip() == VENDOR and device_class.strip().startswith(DISPLAY_CLASS)


# ---------------------------------------------------------------------------------------------------------------------
# What is wrong when it says nothing. A trouble: {id, message, remedy}.

_NO_HARDWARE = "Take the GPUs out of llm_host_gpus, or choose another host"
_REBOOT = "Reboot the host, and run again"
_FAILURES: tuple[tuple[str, str, str, str], ...] = (
    (
        r"Driver/library version mismatch",
        "mismatch",
        "the driver was replaced while the old one was loaded: module and library no longer match",
        _REBOOT,
    ),
    (
        r"couldn't communicate with the NVIDIA driver|Driver Not Loaded",
        "not-loaded",
        "the driver's kernel module is not loaded",
        "Try `modprobe nvidia` and `dmesg`; after an upgrade of the kernel the module has to be built for it (`dkms status`). "
        "Then reboot, and run again",
    ),
    (
        r"couldn't find libnvidia-ml\.so",
        "no-library",
        "the driver's library libnvidia-ml.so is missing",
        "Install the driver's user space in the version of its kernel module (on Debian libnvidia-ml1, on Ubuntu "
        "libnvidia-compute-...), and run again",
    ),
    (
        r"GPU access blocked by the operating system",
        "blocked",
        "the driver's device files (/dev/nvidia*) can't be opened",
        "Inside a container or WSL2, look at what is passed to it; else run `nvidia-modprobe`, and again",
    ),
    (
        r"Insufficient Permissions",
        "permissions",
        "the driver's device files (/dev/nvidia*) may not be read",
        "Run as root (`become: true`)",
    ),
    (
        r"GPU is lost|fallen off the bus|Unable to determine the device handle",
        "lost",
        "a GPU no longer answers",
        "Look for `NVRM: Xid` in `dmesg`, and switch the host off and on: a warm reboot may not bring the card back",
    ),
    (
        r"No devices were found",
        "no-devices",
        "the driver is loaded and finds no GPU that it can use",
        "Look for `NVRM` in `dmesg`: often the card is too old or too new for this driver, or has no power",
    ),
    (
        r"Failed to initialize NVML: Unknown Error",
        "detached",
        "the GPUs' devices were taken away from it",
        "Restart the container: a `systemctl daemon-reload` of the host detaches GPUs from running containers",
    ),
)


def failure(rc: int, output: str) -> Trouble | None:
    """What nvidia-smi's failure means, None when it did not fail. It may fail with exit status 0 and a text alone."""
    for pattern, name, message, remedy in _FAILURES:
        if re.search(pattern, output):
            return {"id": name, "message": message, "remedy": remedy}
    if rc == 0:
        return None
    said = " ".join(output.split())[:200] or "nothing"
    remedy = "Run `nvidia-smi` on the host; see also `dmesg`"
    return {"id": "unknown", "message": f"nvidia-smi failed with exit status {rc} and said: {said}", "remedy": remedy}


def trouble(
    devices: Sequence[str], tool: str, *, wsl: bool, module: str = "", rc: int = 0, output: str = ""
) -> Trouble | None:
    """Why a host's GPUs can't be used, None when they can.

    devices: PCI addresses of its GPUs. tool: path of nvidia-smi, "" without one. wsl: it is WSL2. module: version of the
    loaded kernel module. rc, output: what `nvidia-smi -q -x` said.
    """
    if not tool:
        if wsl:
            message = "WSL2 shows no NVIDIA driver (/usr/lib/wsl/lib/nvidia-smi is not there)"
            remedy = "Install the driver in Windows, `wsl --shutdown`, and run again; nothing is installed inside WSL2"
            return {"id": "no-driver", "message": message, "remedy": remedy}
        if not devices:
            message = "the host has no NVIDIA GPU"
            return {"id": "no-hardware", "message": message, "remedy": _NO_HARDWARE}
        many = f"{len(devices)} NVIDIA GPU{'s' if len(devices) > 1 else ''} ({', '.join(devices)})"
        message = f"the host has {many} and no driver (nvidia-smi is not there)"
        remedy = "Install one, or declare nvidia_toolkit_driver_version to have it installed, and run again"
        return {"id": "no-driver", "message": message, "remedy": remedy}
    found = failure(rc, output)
    if found and not wsl and not devices:
        message = "the host has no NVIDIA GPU (there is an nvidia-smi, and no card on the PCI bus)"
        return {"id": "no-hardware", "message": message, "remedy": _NO_HARDWARE}
    if found and wsl:
        remedy = (
            "Update the driver in Windows, `wsl --shutdown`, and run again; no NVIDIA driver belongs inside WSL2 "
            "(remove packages that brought one)"
        )
        return {**found, "remedy": remedy}
    if found and found["id"] == "mismatch":
        library = re.search(r"NVML library version: (\S+)", output)
        detail = f"module {module or 'unknown'}, library {library[1] if library else 'unknown'}"
        return {**found, "message": f"{found['message']} ({detail})"}
    return found


def cdi(text: str) -> CdiContent:
    """{driver, devices} of a CDI specification as nvidia-ctk writes it: "" and [] when there is none.

    The driver's version is in the names of its libraries; WSL2's has none, and names the device `all` alone.
    """
    driver = re.search(r"libcuda\.so\.(\d+(?:\.\d+)+)", text)
    devices = re.findall(r"^\s*(?:- )?\"?name\"?: \"?([^\"\n,]+)\"?,?$", text, re.MULTILINE)
    return {"driver": driver[1] if driver else "", "devices": sorted(set(devices))}


def lost_settings(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Dotted keys of daemon.json that `nvidia-ctk runtime configure` would drop or change beside its own.

    Its --cdi.enabled replaces the whole of `features` (seen in the source of 1.20), so this is asked before it writes.
    """
    own = ("runtimes.nvidia", "features.cdi")

    def flat(value: Any, key: str = "") -> dict[str, Any]:
        if isinstance(value, Mapping) and value and key not in own:
            return {
                k: v for name, inner in value.items() for k, v in flat(inner, f"{key}.{name}" if key else name).items()
            }
        return {key: value}

    old, new = flat(before), flat(after)
    return sorted(k for k, v in old.items() if k and k not in own and (k not in new or new[k] != v) and v != {})


def uses_gpu(inspected: Mapping[str, Any]) -> bool:
    """Whether a container, as Docker inspects it, was given NVIDIA GPUs."""
    host = inspected.get("HostConfig") or {}
    if host.get("Runtime") == "nvidia":
        return True
    for request in host.get("DeviceRequests") or []:
        flat = [word for group in request.get("Capabilities") or [] for word in group]
        ids = request.get("DeviceIDs") or []
        if request.get("Driver") == "nvidia" or "gpu" in flat or any(str(i).startswith("nvidia.com/") for i in ids):
            return True
    return False


def request(runtime: str, ids: Sequence[str]) -> dict[str, Any]:
    """A request for GPUs as Docker's API takes it: the same that a service's compose file makes, and nvidia-smi in it."""
    if runtime == "cdi":
        return {"Driver": "cdi", "DeviceIDs": [f"nvidia.com/gpu={i}" for i in ids], "Capabilities": [["gpu"]]}
    return {"Driver": "nvidia", "DeviceIDs": list(ids), "Capabilities": [["gpu", "utility"]]}


def engine_must_restart(message: str) -> bool:
    """Whether Docker's refusal means that it looked for NVIDIA's programs, or for the switch of CDI, when it was started."""
    return "could not select device driver" in message


# ---------------------------------------------------------------------------------------------------------------------
# Declared beside found.

Difference = dict[str, Any]


def capability(name: str) -> str:
    """Compute capability ("8.9") of a card by its name, "" for one that is not known here."""
    words = r"(?<![A-Za-z0-9])(?:{})(?![A-Za-z0-9])"
    return next((found for card, found in CAPABILITIES if re.search(words.format(card), name)), "")


def label(found: FoundGpu) -> str:
    """One GPU in a few words."""
    memory = f", {found['memory'] / GIB:.1f} GiB" if found["memory"] else ""
    return f"{found['index']}: {found['name']}{memory} ({found['uuid']})"


def match(declared: Gpu, found: Iterable[FoundGpu]) -> FoundGpu | None:
    """The GPU that a declared one means: by UUID where it has one (an index moves when another GPU is lost), else by index."""
    for one in found:
        if one["uuid"] == declared.uuid if declared.uuid else one["index"] == declared.index:
            return one
    return None


def differences(declared: Sequence[Gpu], found: Sequence[FoundGpu]) -> list[Difference]:
    """What differs between the GPUs declared and found: [{position, id, severity, part, message, remedy}].

    position: place in llm_host_gpus. part: the key that is wrong. Errors keep a service from running there.
    """
    there = "; ".join(label(g) for g in found) or "none"
    listed: list[Difference] = []

    def say(position: int, name: str, severity: str, part: str, message: str, remedy: str) -> None:
        listed.append(
            {"position": position, "id": name, "severity": severity, "part": part, "message": message, "remedy": remedy}
        )

    for position, gpu in enumerate(declared):
        one = match(gpu, found)
        if one is None:
            named = f"GPU {gpu.index}{f' ({gpu.uuid})' if gpu.uuid else ''}"
            instead = next((g for g in found if g["index"] == gpu.index), None) if gpu.uuid else None
            swapped = f"; index {gpu.index} is now {instead['uuid']}" if instead else ""
            part = "uuid" if gpu.uuid else "index"
            remedy = "Look whether the card is still seen (`lspci`, `dmesg`), or correct the entry"
            say(position, "gpu-missing", "error", part, f"{named} is not there{swapped}. Found: {there}", remedy)
            continue
        if gpu.uuid and one["index"] != gpu.index:
            message = f"{gpu.uuid} has index {one['index']} now, declared is {gpu.index}; the UUID counts"
            say(position, "gpu-moved", "info", "index", message, "Correct the index when convenient")
        if _model(gpu.model) != _model(one["name"]):
            message = f"GPU {one['index']} is a {one['name']}, declared is {gpu.model}"
            say(
                position, "gpu-model", "warn", "model", message, "Correct the entry, or look whether cards were swapped"
            )
        if one["memory"] and abs(one["memory"] - gpu.memory) > MEMORY_TOLERANCE * gpu.memory:
            less = one["memory"] < gpu.memory
            message = f"GPU {one['index']} has {one['memory'] / GIB:.1f} GiB, declared are {gpu.memory / GIB:g} GiB"
            remedy = "Correct the entry; what was planned for it may not fit" if less else "Correct the entry"
            say(position, "gpu-memory", "error" if less else "warn", "memory", message, remedy)
    return listed


def _model(name: str) -> str:
    return re.sub(r"^nvidia\s+", "", " ".join(name.split()).casefold())


# ---------------------------------------------------------------------------------------------------------------------
# What the role has to do.


def asked(facts: GpuHost) -> Gpus:
    """What the host says of its GPUs. ValueError where nobody asked it."""
    if facts["gpu"] is None:
        raise ValueError("llm_host has nothing of GPUs: read it with `gpus: true`")
    return facts["gpu"]


def signature(facts: GpuHost, runtime: str) -> dict[str, object]:
    """All that a proof (GPUs seen inside a container) depends on; kept beside it, and compared by the next run."""
    seen = asked(facts)
    toolkit = seen["toolkit"].get(TOOLKIT[0])
    return {
        "driver": seen["driver"],
        "toolkit": toolkit["version"] if toolkit else "",
        "docker": facts["docker"]["version"],
        "runtime": runtime,
        "gpus": sorted(g["uuid"] for g in seen["gpus"]),
    }


def work(
    facts: GpuHost,
    *,
    runtime: str,
    gpus: Sequence[object] = (),
    toolkit: Mapping[str, str] | None = None,
    driver: str = "",
    persistence: bool = True,
) -> dict[str, str]:
    """Steps that role nvidia_toolkit has to take on a host, each with its reason; empty when GPUs are as declared.

    Steps: driver, toolkit, hold, cdi, runtime, persistence, proof.
    facts: those of llm_host_facts. gpus: llm_host_gpus. toolkit: package to wanted version, "" for any. driver: wanted
    version or the beginning of one, "" for any. A host without GPU has nothing to do unless GPUs are declared.
    """
    seen, docker = asked(facts), facts["docker"]
    wrong = seen["trouble"]
    steps: dict[str, str] = {}
    if wrong and wrong["id"] == "no-hardware" and not gpus:
        return {}
    if wrong:
        steps["driver"] = wrong["message"]
    elif driver and seen["driver"] != driver and not seen["driver"].startswith(f"{driver}."):
        steps["driver"] = f"{seen['driver']} is loaded, {driver} is declared"
    if wrong and wrong["id"] == "no-hardware":
        return steps
    wanted = toolkit or dict.fromkeys(TOOLKIT, "")
    have = seen["toolkit"]
    stale = {n: v for n, v in wanted.items() if n not in have or v not in ("", have[n]["version"])}
    if stale:
        steps["toolkit"] = ", ".join(
            f"{n} {have[n]['version'] if n in have else 'none'} -> {v or 'the newest'}" for n, v in stale.items()
        )
    elif loose := [n for n in wanted if not have[n]["held"]]:
        steps["hold"] = f"upgrades could replace {', '.join(loose)} at any time"
    if reason := _cdi_reason(seen):
        steps["cdi"] = reason
    if seen["runtime"] == "":
        steps["runtime"] = "daemon.json has no runtime nvidia"
    elif docker["running"] and "nvidia" not in docker["runtimes"]:
        steps["runtime"] = "the engine has not loaded the runtime nvidia"
    elif runtime == "cdi" and docker["running"] and not docker["cdi"]:
        steps["runtime"] = "CDI is switched off in the engine"
    if (
        persistence
        and not seen["wsl"]
        and (off := [str(g["index"]) for g in seen["gpus"] if g["persistence"] is False])
    ):
        steps["persistence"] = f"the driver unloads GPU {', '.join(off)} when nothing uses it"
    proven, now = seen["proof"], signature(facts, runtime)
    if proven != now:
        changed = ", ".join(k for k in now if proven.get(k) != now[k]) if proven else "never asked"
        steps["proof"] = f"GPUs have to be seen inside a container ({changed})"
    return steps


def _cdi_reason(seen: Gpus) -> str:
    spec = seen["cdi"]
    if not spec["file"]:
        return "there is no CDI specification"
    if spec["driver"] and seen["driver"] and spec["driver"] != seen["driver"]:
        return f"{spec['file']} was made for driver {spec['driver']}, loaded is {seen['driver']}"
    missing = [g["uuid"] for g in seen["gpus"] if g["uuid"] not in spec["devices"]]
    if missing and not seen["wsl"]:  # WSL2's knows only `all`
        return f"{spec['file']} does not name {', '.join(missing)}"
    return ""


def runtime_problem(docker: DockerAnswer, runtime: str, *, wsl: bool) -> tuple[str, str] | None:
    """Why llm_gpu_runtime can't work on a host, as (what, remedy); None when it may."""
    if runtime != "cdi":
        return None
    if wsl:
        message = "WSL2 has all GPUs behind one device, and its CDI specification can't name a single one"
        return message, "Write llm_gpu_runtime: nvidia"
    version = str(docker["version"] or "")
    major = version.partition(".")[0]
    if major.isdigit() and int(major) < CDI_SINCE:
        return (
            f"Docker {version} knows no CDI ({CDI_SINCE} is the first)",
            "Upgrade it, or write llm_gpu_runtime: nvidia",
        )
    return None


def driver_packages(distribution: str, version: str, kind: str) -> list[str]:
    """Packages that bring a driver without a desktop, as apt takes them. kind: dkms (built here) or packaged (built there).

    version: branch or exact (580, 580.95.05). Names come from the distributions' documentation. Raises ValueError where a
    distribution has none.
    """
    branch = version.partition(".")[0]
    if distribution == "ubuntu":
        kernel = (
            [f"nvidia-dkms-{branch}-open={version}*", "linux-headers-generic"]
            if kind == "dkms"
            else [f"linux-modules-nvidia-{branch}-open-generic"]
        )
        return [*kernel, f"nvidia-headless-no-dkms-{branch}-open={version}*", f"nvidia-utils-{branch}={version}*"]
    if distribution == "debian" and kind == "dkms":
        own = ("nvidia-kernel-dkms", "nvidia-smi", "libcuda1")
        return ["linux-headers-amd64", *(f"{name}={version}*" for name in own), "nvidia-persistenced"]
    raise ValueError(f"{distribution or 'this distribution'} has no {kind} driver packages that are known here")
