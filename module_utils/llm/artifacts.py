"""Model folders: are they whole? Safetensors headers against sizes, index against shards, manifest with checksums.

Format of a safetensors file: 8 bytes little-endian length of the header, the header as JSON (tensor name -> dtype, shape,
data_offsets into the rest), then the data. https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

MANIFEST = "manifest.json"
LFS_POINTER = b"version https://git-lfs.github.com/spec/"
HEADER_LIMIT = 100 * 2**20  # the format's own limit


class Broken(ValueError):
    """A model folder that must not be served; the text names file, finding and remedy."""


def safetensors_size(path: Path) -> int:
    """Bytes that a safetensors file must have, from its header. Raises Broken when it is no such file."""
    with path.open("rb") as stream:
        start = stream.read(8)
        if len(start) < 8:
            raise Broken(f"{path.name} is cut off: {len(start)} bytes")
        (length,) = struct.unpack("<Q", start)
        if LFS_POINTER.startswith(start):
            raise Broken(
                f"{path.name} is a Git LFS pointer, not the weights: fetch with `git lfs pull` or from the hub"
            )
        if length > HEADER_LIMIT:
            raise Broken(f"{path.name} is no safetensors file: its header claims {length} bytes")
        header = stream.read(length)
    if len(header) < length:
        raise Broken(f"{path.name} is cut off inside its header")
    try:
        tensors = json.loads(header)
        end = max((t["data_offsets"][1] for n, t in tensors.items() if n != "__metadata__"), default=0)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise Broken(f"{path.name} has an unreadable header ({type(error).__name__})") from error
    return int(8 + length + end)


def check_folder(folder: Path) -> None:
    """Raise Broken unless the folder can be a whole model: quick, reads headers and sizes only."""
    config = folder / "config.json"
    if not config.is_file():
        raise Broken("config.json is missing")
    try:
        architectures = json.loads(config.read_text(encoding="utf-8")).get("architectures")
    except (ValueError, AttributeError) as error:
        raise Broken("config.json is not a JSON mapping") from error
    if not architectures:
        raise Broken("config.json names no architecture")
    shards = sorted(folder.glob("*.safetensors"))
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        try:
            wanted = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise Broken(f"{index.name} is unreadable") from error
        missing = [name for name in wanted if not (folder / name).is_file()]
        if missing:
            raise Broken(f"{len(missing)} of {len(wanted)} weight files are missing, first {missing[0]}")
    if not shards:
        raise Broken("there is no .safetensors file")
    for shard in shards:
        wanted_size, size = safetensors_size(shard), shard.stat().st_size
        if wanted_size != size:
            raise Broken(f"{shard.name} has {size} bytes, its header says {wanted_size}")


def sha256(path: Path) -> str:
    """Checksum of a file, read in pieces."""
    found = hashlib.sha256()
    with path.open("rb") as stream:
        while piece := stream.read(2**22):
            found.update(piece)
    return found.hexdigest()


def make_manifest(folder: Path, origin: dict[str, Any], say: Callable[[str], None] = lambda _: None) -> dict[str, Any]:
    """Manifest of all files of a folder: {origin, files: {path: {size, sha256}}, digest}. The digest covers the files only."""
    files = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and p.name != MANIFEST):
        say(path.name)
        files[str(path.relative_to(folder))] = {"size": path.stat().st_size, "sha256": sha256(path)}
    digest = hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()
    return {"origin": origin, "files": files, "digest": digest}


def look(folder: Path) -> dict[str, Any]:
    """State of a model folder, quickly: {present, digest, problem, bytes}. `problem` is "" for a good one."""
    if not folder.is_dir():
        return {"present": False, "digest": None, "problem": "", "bytes": 0}
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        total = 0
        for name, entry in manifest["files"].items():
            path = folder / name
            if not path.is_file():
                raise Broken(f"{name} is missing")
            if path.stat().st_size != entry["size"]:
                raise Broken(f"{name} has {path.stat().st_size} bytes, expected {entry['size']}")
            total += entry["size"]
        check_folder(folder)
    except Broken as broken:
        return {"present": True, "digest": None, "problem": str(broken), "bytes": 0}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return {
            "present": True,
            "digest": None,
            "problem": f"{MANIFEST} is unreadable ({type(error).__name__})",
            "bytes": 0,
        }
    return {"present": True, "digest": manifest["digest"], "problem": "", "bytes": total}


def manifest_text(manifest: dict[str, Any]) -> str:
    """The manifest as it is written."""
    return json.dumps(manifest, indent=1, sort_keys=True) + "\n"
