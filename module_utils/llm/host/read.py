"""Reading a host: what is installed, what runs, what is on disk. Reads only, standard library only, quick.

Each function reads one thing and says so plainly when it is absent; module llm_host_facts puts them together.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import TypedDict

from ansible.module_utils.llm.base import files
from ansible.module_utils.llm.declare.facts import (
    Attempt,
    Before,
    Container,
    Content,
    Disk,
    Distribution,
    ForeignContainer,
    ImageRecord,
    KnownAnswer,
    Listener,
    Memory,
    ModelState,
    OwnedImage,
    Processor,
    Program,
    ReleaseFacts,
    Releases,
    Serving,
    System,
)
from ansible.module_utils.llm.docker.api import ListedContainer, ListedImage
from ansible.module_utils.llm.engine import diagnostics
from ansible.module_utils.llm.models import artifacts, store

COMPOSE_PLUGIN_FOLDERS = (
    "~/.docker/cli-plugins",
    "/usr/local/lib/docker/cli-plugins",
    "/usr/local/libexec/docker/cli-plugins",
    "/usr/lib/docker/cli-plugins",
    "/usr/libexec/docker/cli-plugins",
)
RELEASE_FILE = "release.json"
STARTED_FILE = "started"  # what Compose made the release's container of; written by llm_release
COMPOSE_HASH = "com.docker.compose.config-hash"
VERDICT_FILE = "verdict.json"  # what clients got from this release; written by llm_smoke
ROUNDING = (
    *("fma", "f16c", "avx2", "avx_vnni", "avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni"),
    *("avx512_bf16", "avx512_fp16", "amx_tile", "amx_int8", "amx_bf16", "amx_fp16"),
    *("asimd", "asimdhp", "asimddp", "i8mm", "bf16", "sve", "sve2", "svei8mm", "svebf16"),
)
"""Features, as the kernel names them, by which an engine on the CPU chooses its code, and with it what is rounded where."""
_ARM = {("0x41", "0xd0c"): "N1", ("0x41", "0xd40"): "V1", ("0x41", "0xd49"): "N2", ("0x41", "0xd4f"): "V2"}
"""Neoverse by implementer and part, as in the kernel's arch/arm64/include/asm/cputype.h: ARM's processors tell no name."""


class Written(TypedDict, total=False):
    """A release.json, which llm_release writes; see library/llm_release.py. files: path to SHA-256."""

    facts: ReleaseFacts
    files: dict[str, str]
    serving: Serving


def system() -> System:
    """The distribution, whether systemd is PID 1, whether this is WSL2."""
    return {
        **system_of(_read("/etc/os-release")),
        "systemd": Path("/run/systemd/system").is_dir(),
        "wsl": "microsoft" in _read("/proc/version").lower(),
    }


def system_of(os_release: str) -> Distribution:
    """The distribution, of the text of its os-release file."""
    release: dict[str, str] = {}
    for line in os_release.splitlines():
        key, _, value = line.partition("=")
        release[key] = value.strip().strip('"')
    return {
        "id": release.get("ID", ""),
        "version": release.get("VERSION_ID", ""),
        "codename": release.get("VERSION_CODENAME", ""),
    }


def compose_plugin() -> str:
    """Path of the Compose plugin of the docker command, "" when there is none."""
    for folder in COMPOSE_PLUGIN_FOLDERS:
        path = Path(folder).expanduser() / "docker-compose"
        if os.access(path, os.X_OK):
            return str(path)
    return ""


def compose_version(plugin: str, kept: Path, ask: Callable[[str], str | None], *, keep: bool = True) -> str | None:
    """Version of the Compose plugin at this path; None when there is none, or it does not say.

    It is asked once and its answer kept, since asking is a process: an answer counts as long as the file is the same one.
    kept: file in a folder that may not be there yet. ask: starts the plugin. keep: False writes nothing.
    """
    if not plugin:
        return None
    stat = Path(plugin).stat()
    same = f"{plugin} {stat.st_dev} {stat.st_ino} {stat.st_size} {stat.st_mtime_ns}"
    found, _, version = _read(kept).strip().rpartition(" ")
    if found == same and version:
        return version
    answer = ask(plugin)
    if answer and keep and kept.parent.is_dir():
        with contextlib.suppress(OSError):  # asked again the next time
            files.write(kept, f"{same} {answer}\n")
    return answer


def containers(listed: Iterable[ListedContainer]) -> tuple[list[Container], dict[str, str]]:
    """From Docker's list of all containers: our engines, and who publishes which port, {port: container name}."""
    engines: list[Container] = []
    published = {}
    for entry in listed:
        name = _name(entry)
        for port in entry.get("Ports") or []:
            if "PublicPort" in port:
                published[str(port["PublicPort"])] = name
        labels = entry.get("Labels") or {}
        if "llm.service" in labels:
            networks = (entry.get("NetworkSettings") or {}).get("Networks") or {}
            engines.append(
                {
                    "id": entry["Id"],
                    "name": name,
                    "service": labels["llm.service"],
                    "release": labels.get("llm.release", ""),
                    "state": entry["State"],
                    "status": entry.get("Status", ""),
                    "image_id": entry["ImageID"],
                    "made_of": labels.get(COMPOSE_HASH, ""),
                    "ip": next((n["IPAddress"] for n in networks.values() if n.get("IPAddress")), ""),
                }
            )
    return sorted(engines, key=lambda e: e["name"]), published


def foreign(listed: Iterable[ListedContainer], prefix: str, own: Collection[str]) -> list[ForeignContainer]:
    """From Docker's list of all containers those that are not ours, and could be in our way.

    prefix: of our names. own: labels of which ours have one. Only one that runs writes anywhere.
    """
    found: list[ForeignContainer] = []
    for entry in listed:
        if {*own} & {*(entry.get("Labels") or {})}:
            continue
        name = _name(entry)
        mounts = entry.get("Mounts") or [] if entry["State"] == "running" else []
        writes = sorted(m["Source"] for m in mounts if m.get("Type") == "bind" and m.get("RW"))
        if name.startswith(prefix) or writes:
            found.append({"name": name, "image": entry.get("Image", ""), "state": entry["State"], "writes": writes})
    return found


def _name(entry: ListedContainer) -> str:
    """A container's name, or the start of its id where it has none."""
    names = entry.get("Names")
    return names[0].lstrip("/") if names else entry["Id"][:12]


def image_ids(listed: Iterable[ListedImage], wanted: Iterable[str]) -> dict[str, str]:
    """Ids of the wanted references that are there: {reference: id}."""
    ids: dict[str, str] = {}
    for image in listed:
        for reference in [*(image.get("RepoTags") or []), *(image.get("RepoDigests") or [])]:
            ids[reference] = image["Id"]
    found = {}
    for reference in wanted:
        for spelling in _spellings(reference):
            if spelling in ids:
                found[reference] = ids[spelling]
    return found


def image_records(path: Path) -> dict[str, ImageRecord]:
    """What module llm_image wrote down of the images that it made: {reference: record}."""
    try:
        records: dict[str, ImageRecord] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {ref: record for ref, record in records.items() if isinstance(record, dict) and "names" in record}


def owned_images(
    listed: Iterable[ListedImage],
    containers: Iterable[ListedContainer],
    records: Mapping[str, ImageRecord],
    prefix: str,
) -> list[OwnedImage]:
    """Names that this project made (they begin with `prefix`) or brought (as recorded).

    listed, containers: Docker's lists of all.
    """
    listed = list(listed)
    users: dict[str, list[str]] = {}
    for entry in containers:
        users.setdefault(entry["ImageID"], []).append(_name(entry) if entry.get("Names") else "?")
    brought = [name for record in records.values() for name in record["names"]] + list(records)
    names = image_ids(listed, brought)
    for image in listed:
        names.update({tag: image["Id"] for tag in image.get("RepoTags") or [] if tag.startswith(prefix)})
    sizes = {image["Id"]: image.get("Size", 0) for image in listed}
    return [
        {"name": name, "id": image, "size": sizes[image], "containers": sorted(users.get(image, []))}
        for name, image in names.items()
    ]


def release_images(services: Path) -> dict[str, dict[str, str]]:
    """Ids of the images of all releases that are kept, also of services that nobody declares any more.

    services: the folder of all services. Returns {service: {"current": id, "previous": id}}.
    """
    found: dict[str, dict[str, str]] = {}
    for link in sorted([*services.glob("*/current"), *services.glob("*/previous")]):
        try:
            written = json.loads((link / RELEASE_FILE).read_text(encoding="utf-8"))
            found.setdefault(link.parent.name, {})[link.name] = written["facts"]["image"]["id"]
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return found


def _spellings(reference: str) -> list[str]:
    """Spellings under which Docker may list a reference: images of its hub without host, those of its library without user."""
    spellings = [reference]
    for prefix in ("docker.io/library/", "docker.io/"):
        if reference.startswith(prefix):
            spellings.append(reference[len(prefix) :])
    tail = spellings[-1].rpartition("/")[2]
    if "@" in tail:  # name:tag@digest is listed as name@digest
        spellings += [
            f"{s.partition('@')[0].rpartition(':')[0]}@{s.partition('@')[2]}"
            for s in spellings
            if ":" in s.partition("@")[0]
        ]
    elif ":" not in tail:
        spellings = [f"{s}:latest" for s in spellings]
    return spellings


def listening(ports: Iterable[int]) -> dict[str, Listener]:
    """Who listens on the wanted TCP ports, by port."""
    wanted = set(ports)
    inodes: dict[str, int] = {}
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in _read(table).splitlines()[1:]:
            fields = line.split()
            port = int(fields[1].rpartition(":")[2], 16)
            if fields[3] == "0A" and port in wanted:
                inodes[f"socket:[{fields[9]}]"] = port
    found: dict[str, Listener] = {str(p): {"pid": None, "process": ""} for p in inodes.values()}
    if not found:
        return {}
    for process in Path("/proc").iterdir():
        if not process.name.isdigit():
            continue
        try:
            for descriptor in (process / "fd").iterdir():
                owned = inodes.get(str(descriptor.readlink()))
                if owned is not None:
                    found[str(owned)] = {"pid": int(process.name), "process": _read(process / "comm").strip()}
        except OSError:  # it ended meanwhile, or is not ours to read
            continue
    return found


def disk(path: str) -> Disk:
    """The file system that holds the path, or its nearest existing parent."""
    place = Path(path)
    while not place.exists():
        place = place.parent
    return {"path": path, "device": place.stat().st_dev, "free": shutil.disk_usage(place).free}


def memory() -> Memory:
    """The host's memory, and what of it programs can get without swapping."""
    return memory_of(_read("/proc/meminfo"))


def memory_of(meminfo: str) -> Memory:
    """The same from the text of /proc/meminfo."""
    sizes = {line.partition(":")[0]: line.split() for line in meminfo.splitlines()}

    def size(name: str) -> int | None:
        words = sizes.get(name, [])
        return int(words[1]) * 1024 if len(words) > 1 and words[1].isdigit() else None

    return {"total": size("MemTotal"), "available": size("MemAvailable")}


def processor() -> Processor:
    """The host's processor."""
    return processor_of(_read("/proc/cpuinfo"))


def processor_of(cpuinfo: str) -> Processor:
    """The same from /proc/cpuinfo's text: "" for an unnamed model, cores (not threads), features of ROUNDING."""
    blocks = [
        {key.strip().lower(): value.strip() for key, _, value in (line.partition(":") for line in block.splitlines())}
        for block in cpuinfo.strip().split("\n\n")
    ]
    threads = [block for block in blocks if "processor" in block]
    first = threads[0] if threads else {}
    known = {*(first.get("flags") or first.get("features") or "").split()}
    # Threads of one core share its ids; where there are none (ARM), each is a core.
    cores = {(t.get("physical id", ""), t.get("core id", t["processor"])) for t in threads}
    part = (first.get("cpu implementer", ""), first.get("cpu part", ""))
    arm = f"ARM Neoverse {_ARM[part]}" if part in _ARM else f"ARM {part[0]} part {part[1]}" if all(part) else ""
    return {
        "model": " ".join(first.get("model name", "").split()) or arm,
        "cores": len(cores),
        "features": [f for f in ROUNDING if f in known],
    }


def release(folder: Path, images: Collection[str] = ()) -> Releases:
    """Releases of a service.

    Of the current release: drift, files that are not as they were written; proven, its clients got right answers (verdict.json);
    known, the known answer, None before it was asked; serving, what it needs to be started and proven again; started, what
    Compose made its container of. before: see `before`. images: ids that the host has. attempt: see `attempt`.
    """
    current = _link(folder / "current")
    found: Releases = {
        "current": current,
        "previous": _link(folder / "previous"),
        "facts": None,
        "drift": [],
        "proven": False,
        "known": None,
        "serving": None,
        "started": "",
        "before": before(folder, images),
        "attempt": attempt(folder),
    }
    if current is None:
        return found
    place = folder / "releases" / current
    try:
        written: Written = json.loads((place / RELEASE_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {**found, "drift": [RELEASE_FILE]}
    found["facts"] = written.get("facts")
    found["serving"] = written.get("serving") or None
    found["started"] = first_line(place / STARTED_FILE) or ""
    found["drift"] = [
        name for name, sha in sorted(written.get("files", {}).items()) if file_sha256(place / name) != sha
    ]
    found["proven"], found["known"] = _verdict(place / VERDICT_FILE, folder.name)
    return found


def attempt(folder: Path) -> Attempt | None:
    """The last deployment of a service that failed, None where there is none or a release was made current since."""
    failed = diagnostics.last_attempt(folder)
    if failed is None:
        return None
    since, found = failed
    current = folder / "current"
    if _changed(current) > since:
        return None
    verdict = current / VERDICT_FILE
    return {**found, "proven_since": _verdict(verdict, folder.name)[0] and _changed(verdict) > since}


def before(folder: Path, images: Collection[str]) -> Before | None:
    """The release that a service can go back to, None without one; see `release`."""
    previous = _link(folder / "previous")
    if previous is None:
        return None
    place = folder / "releases" / previous
    try:
        written: Written = json.loads((place / RELEASE_FILE).read_text(encoding="utf-8"))
        serving, facts, image = written["serving"], written["facts"], written["facts"]["image"]["id"]
    except (OSError, ValueError, KeyError, TypeError):
        why = f"{place} has no plan of its own: it was made by an older version of this project, or is damaged"
        return {"serving": None, "facts": None, "missing": [why]}
    missing = [
        f"{place / name} was edited or is gone"
        for name, sha in sorted(written.get("files", {}).items())
        if file_sha256(place / name) != sha
    ]
    if not (place / "secrets" / "engine.yml").exists():
        missing.append(f"{place}/secrets is gone")
    if image not in images:
        missing.append(f"its image {image} is no longer on the host")
    if not Path(serving["model_folder"]).is_dir():
        missing.append(f"its model is no longer in {serving['model_folder']}")
    return {"serving": serving, "facts": facts, "missing": missing}


def file_sha256(path: Path) -> str | None:
    """Checksum of a small file, None when it is not there."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return None


def program(folder: Path, containers: Iterable[ListedContainer], name: str, label: str) -> Program:
    """Files of a program of ours, its container's state, and of that the label with their sum."""
    places = [folder / "compose.yml", folder / "config.json", *sorted((folder / "app").rglob("*.py"))]
    found = next((c for c in containers if f"/{name}" in (c.get("Names") or [])), None)
    return {
        "files": {str(p.relative_to(folder)): file_sha256(p) for p in places if p.is_file()},
        "state": found["State"] if found else "absent",
        "loaded": (found.get("Labels") or {}).get(label, "") if found else "",
    }


def fingerprint(path: Path) -> str | None:
    """Short hash of a key file's content (see changes.fingerprint), None when there is no key."""
    try:
        return hashlib.sha256(path.read_text(encoding="utf-8").strip().encode()).hexdigest()[:16]
    except OSError:
        return None


def model(folder: str) -> ModelState:
    """State of a model folder, see artifacts.look. A refused quantization adds its record, and in `aside` its folder."""
    path = Path(folder)
    found = artifacts.look(path)
    try:
        refused = store.read_manifest(store.aside(path))["origin"]["made"]
    except (artifacts.Broken, KeyError):
        return found
    return {**found, "refused": refused, "aside": str(store.aside(path))}


def records(folder: Path) -> list[Content]:
    """Records of boots (see records.record); one that cannot be read helps nobody and is left out."""
    found: list[Content] = []
    for path in sorted(folder.glob("*.json")):
        try:
            kept: object = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(kept, dict) and isinstance(kept.get("flags"), dict) and isinstance(kept.get("measured"), dict):
            found.append(kept)
    return found


def environment_lock(venv: Path) -> str | None:
    """Checksum of the lock that an environment was made from; None when its Python is gone, as after a system upgrade."""
    return first_line(venv / ".lock-sha256") if (venv / "bin" / "python").exists() else None


def first_line(path: Path) -> str | None:
    """First line of a file, None when it is not there."""
    read = _read(path)
    return read.splitlines()[0].strip() if read else None


def _verdict(path: Path, service: str) -> tuple[bool, KnownAnswer | None]:
    """Of a verdict.json: whether the service passed, and its `known` answer; see `release`."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        right = found["ok"] is True
    except (OSError, ValueError, KeyError, TypeError):
        return False, None
    try:
        numbers = found["services"][service]["numbers"]
        return right, {"question": numbers["question"], "answer": numbers["answer"], "margin": numbers["margin"]}
    except (KeyError, TypeError):
        return right, None


def _changed(path: Path) -> float:
    """When a file or link was written, in seconds since the epoch; 0 without one."""
    try:
        return path.lstat().st_mtime
    except OSError:
        return 0.0


def _link(path: Path) -> str | None:
    try:
        return path.readlink().name
    except OSError:
        return None


def _read(path: str | Path) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
