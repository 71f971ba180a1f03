"""The store of models on a host: which files are damaged, which folders nothing needs, how far a transfer is.

A model lies in <root>/models/<name>/<revision>. What is on its way there lies beside it in a hidden folder of its own for each
source, so that one source never goes on with what another has left.
"""

from __future__ import annotations

import errno
import fnmatch
import hashlib
import json
import re
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from ansible.module_utils.llm.base import files
from ansible.module_utils.llm.declare.facts import StoredModel
from ansible.module_utils.llm.models import artifacts

SPARE = 16 * 2**20  # bytes that stay free beside a model: its manifest, and what file systems keep to themselves
PARTS = ".parts"  # in a partial folder: files that are not whole yet, and whole as far as they go
HOLES = ".xet"  # in a partial folder: files that are written in any order, so that nobody can go on with them
# Weights in other formats than safetensors can run code when loaded, and double the download.
UNWANTED = ("*.bin", "*.pt", "*.pth", "*.h5", "*.msgpack", "*.onnx", "*.gguf", "onnx/*", "original/*", "runs/*")


class FetchFailed(Exception):
    """A source that does not deliver; the text says why, and what to do."""


def partial(folder: Path, *identity: Any) -> Path:
    """Folder in which a model is put together from one source. identity: what makes that source, its commit included."""
    mark = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:8]
    return folder.with_name(f".{folder.name}.{mark}.partial")


def aside(folder: Path) -> Path:
    """Where a model that was made and is not good enough waits for somebody to decide."""
    return folder.with_name(f".{folder.name}.refused")


def partials(folder: Path) -> list[Path]:
    """All folders (see `partial`) in which a model is being put together, of any source."""
    return sorted(p for p in folder.parent.glob(f".{folder.name}.*partial") if p.is_dir())


def wanted(names: Iterable[str], allow: Iterable[str] = ()) -> list[str]:
    """Files of a repository to fetch. allow: patterns, one of which must match; none means all but `UNWANTED`."""
    allowed = tuple(allow)
    return sorted(
        n
        for n in names
        if (
            any(fnmatch.fnmatch(n, a) for a in allowed) if allowed else not any(fnmatch.fnmatch(n, u) for u in UNWANTED)
        )
    )


def no_room(need: int, free: int, where: str) -> str:
    """What is wrong when `need` bytes are to be written where `free` are free; "" when they fit."""
    if need + SPARE <= free:
        return ""
    return (
        f"{size(need)} are still to be written and {where} has {size(free)} free; nothing was fetched. "
        "Free some space (`-e llm_prune=true` removes models that nothing needs), or move llm_root"
    )


def disk_trouble(error: OSError, folder: str) -> str:
    """What went wrong outside of fetching, and what to do. folder: what it was about, for errors that name no file."""
    remedy = {
        errno.ENOTEMPTY: "Something else writes there; end it, and run again",
        errno.EBUSY: "Something is mounted there; unmount it, and run again",
        errno.ENOSPC: "Free some space, or move llm_root",
    }
    return f"{error.filename or folder}: {error.strerror or error}. {remedy.get(error.errno or 0, 'Check the disk, and run again')}"


def size(count: float) -> str:
    """Bytes for a person."""
    for unit, name in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if count >= unit:
            return f"{count / unit:.1f} {name}"
    return f"{count:.0f} bytes"


def transfer(done: int, total: int, seconds: float, before: int = 0) -> str:
    """How far a transfer is: size, speed, time left. before: bytes that were there when it began; total 0: unknown."""
    speed = max(done - before, 0) / seconds if seconds > 0 else 0.0
    parts = [f"{size(done)} of {size(total)} ({min(100 * done // total, 100)} %)" if total else f"{size(done)} so far"]
    if speed:
        parts.append(f"{size(speed)}/s")
        if total > done:
            left = int((total - done) / speed)
            parts.append(f"{left // 60}:{left % 60:02d} left")
    return ", ".join(parts)


def blob_sha1(path: Path) -> str:
    """Git's name for a file's content, by which a hub lists files that are not in its large file storage."""
    found = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    with path.open("rb") as stream:
        while piece := stream.read(2**22):
            found.update(piece)
    return found.hexdigest()


def verified(path: Path, entry: Mapping[str, Any]) -> str:
    """SHA-256 of a file that is what `entry` ({size, sha256, blob}, each maybe None) says; "" when it is not."""
    if not path.is_file() or entry.get("size") not in (None, path.stat().st_size):
        return ""
    if not entry.get("sha256") and entry.get("blob") and blob_sha1(path) != entry["blob"]:
        return ""
    found = artifacts.sha256(path)
    return found if entry.get("sha256") in (None, found) else ""


def settle(
    place: Path,
    folder: Path,
    origin: dict[str, Any],
    say: Callable[[str], None] = lambda _: None,
    known: Mapping[str, str] | None = None,
) -> str:
    """List what was put together in `place` in a manifest, and give it its name; returns the digest. known: see make_manifest."""
    manifest = artifacts.make_manifest(place, origin, say, known)
    files.write(place / artifacts.MANIFEST, artifacts.manifest_text(manifest))
    for path in (place, *place.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    old = folder.with_name(f".{folder.name}.damaged.partial")
    if folder.exists():  # a repair of the folder as a whole: engines keep the files that they have open
        folder.rename(old)
    place.rename(folder)
    for left in partials(folder):
        shutil.rmtree(left)
    return str(manifest["digest"])


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a model folder. Raises Broken."""
    try:
        manifest: dict[str, Any] = json.loads((folder / artifacts.MANIFEST).read_text(encoding="utf-8"))
        for name, entry in manifest["files"].items():
            if not isinstance(entry["size"], int) or not re.fullmatch("[0-9a-f]{64}", entry["sha256"]) or not name:
                raise TypeError(name)
        if not isinstance(manifest["digest"], str) or not isinstance(manifest["origin"], dict):
            raise TypeError("origin")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise artifacts.Broken(f"{artifacts.MANIFEST} is unreadable ({type(error).__name__})") from error
    return manifest


def damage(folder: Path, deep: bool = False, say: Callable[[str], None] = lambda _: None) -> dict[str, str]:
    """Files of a model that are not as they were verified, with what is wrong: {path: finding}, {} for a good one.

    Quick: sizes, headers, index. Deep: also the SHA-256 of every file. `manifest.json` stands for the folder as a whole.
    """
    try:
        files = read_manifest(folder)["files"]
    except artifacts.Broken as broken:
        return {artifacts.MANIFEST: str(broken)}
    found = {}
    total, done = sum(e["size"] for e in files.values()), 0
    for name, entry in sorted(files.items()):
        try:
            artifacts.check_listed(folder, name, entry)
            if name.endswith(".safetensors"):
                artifacts.safetensors_size(folder / name)
            if deep:
                say(f"{name} ({size(done)} of {size(total)})")
                if artifacts.sha256(folder / name) != entry["sha256"]:
                    raise artifacts.Broken(f"{name} has the right size and other bytes than were verified (SHA-256)")
        except (artifacts.Broken, OSError) as problem:
            found[name] = str(problem)
        done += entry["size"]
    if not found:
        try:
            artifacts.check_folder(folder)
        except (artifacts.Broken, OSError) as problem:
            found[artifacts.MANIFEST] = str(problem)
    return found


# ---------------------------------------------------------------------------------------------------------------------
# What lies on a host.


def stored(models: Path) -> list[StoredModel]:
    """All that lies in the folder of the models."""
    found: list[StoredModel] = []
    for place in sorted(p for p in models.glob("*/*") if p.is_dir() and not p.is_symlink()):
        hidden = re.fullmatch(r"\.(?P<revision>.+?)(?:\.[0-9a-f]{8})?\.(?:partial|refused)", place.name)
        if place.name.startswith(".") and not hidden:
            continue
        found.append(
            {
                "name": place.parent.name,
                "revision": hidden["revision"] if hidden else place.name,
                "folder": str(place),
                "bytes": sum(p.stat().st_size for p in place.rglob("*") if p.is_file()),
                "partial": bool(hidden),
            }
        )
    return found


def in_releases(services: Path) -> list[str]:
    """`name/revision` of the models of all releases that are kept, also of services that nobody declares any more."""
    found = set()
    for link in [*services.glob("*/current"), *services.glob("*/previous")]:
        try:
            model = json.loads((link / "release.json").read_text(encoding="utf-8"))["facts"]["model"]
            found.add(f"{model['name']}/{model['revision'].replace('/', '_')}")
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue
    return sorted(found)
