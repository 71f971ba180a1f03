"""Model folders: are they whole? Safetensors headers against sizes, index against shards, manifest with checksums.

Format of a safetensors file: 8 bytes little-endian length of the header, the header as JSON (tensor name -> dtype, shape,
data_offsets into the rest), then the data. https://github.com/huggingface/safetensors#format

Not the `safetensors` package: a host's own Python reads its models before it has any package. Headers alone are read here, and
judged for what a loader does not look at, such as files that are pointers of Git LFS.
"""

from __future__ import annotations

import hashlib
import json
import re
import struct
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from ansible.module_utils.llm.declare.facts import Content, ModelFacts, ModelState

MANIFEST = "manifest.json"
LFS_POINTER = b"version https://git-lfs.github.com/spec/"
HEADER_LIMIT = 100 * 2**20  # the format's own limit


class Broken(ValueError):
    """A model folder that must not be served; the text names file, finding and remedy."""


Header = dict[str, Any]  # tensor name -> {dtype, shape, data_offsets}


def safetensors_header(path: Path) -> tuple[Header, int]:
    """Tensors of a safetensors file, and the bytes that it must have. Raises Broken when it is no such file."""
    with path.open("rb") as stream:
        length = _header_length(stream.read(8), path.name)
        return _header(stream.read(length), length, path.name)


def tensors(folder: Path) -> dict[str, dict[str, Any]]:
    """Tensors of a model folder by name: {file, start, end, dtype, shape}; start and end are bytes in the file."""
    found = {}
    for shard in sorted(folder.glob("*.safetensors")):
        with shard.open("rb") as stream:
            begin = 8 + _header_length(stream.read(8), shard.name)
        for name, tensor in safetensors_header(shard)[0].items():
            start, end = (begin + offset for offset in tensor["data_offsets"])
            found[name] = {
                "file": shard.name,
                "start": start,
                "end": end,
                "dtype": tensor["dtype"],
                "shape": tensor["shape"],
            }
    return found


def same_bytes(one: Path, first: Mapping[str, Any], other: Path, second: Mapping[str, Any]) -> bool:
    """Whether two tensors, as `tensors` lists those of the folders `one` and `other`, hold the same bytes."""
    left = int(first["end"] - first["start"])
    if left != second["end"] - second["start"]:
        return False
    with (one / first["file"]).open("rb") as a, (other / second["file"]).open("rb") as b:
        a.seek(first["start"])
        b.seek(second["start"])
        while left > 0:
            piece = a.read(min(left, 2**22))
            if not piece or piece != b.read(len(piece)):
                return False
            left -= len(piece)
    return True


def safetensors_size(path: Path) -> int:
    """Bytes that a safetensors file must have, from its header. Raises Broken when it is no such file."""
    return safetensors_header(path)[1]


def _header_length(start: bytes, name: str) -> int:
    if len(start) < 8:
        raise Broken(f"{name} is cut off: {len(start)} bytes")
    (length,) = struct.unpack("<Q", start)
    if LFS_POINTER.startswith(start):
        raise Broken(f"{name} is a Git LFS pointer, not the weights: fetch with `git lfs pull` or from the hub")
    if length > HEADER_LIMIT:
        raise Broken(f"{name} is no safetensors file: its header claims {length} bytes")
    return int(length)


def _header(raw: bytes, length: int, name: str) -> tuple[Header, int]:
    if len(raw) < length:
        raise Broken(f"{name} is cut off inside its header")
    try:
        tensors = {n: t for n, t in json.loads(raw).items() if n != "__metadata__"}
        end = max((t["data_offsets"][1] for t in tensors.values()), default=0)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise Broken(f"{name} has an unreadable header ({type(error).__name__})") from error
    return tensors, int(8 + length + end)


def summary(headers: Iterable[Header], layers: int = 0) -> list[list[object]]:
    """Tensors in few lines: [[name, dtype, shape, how many]], with `#` for the numbers of layers and experts.

    layers: how many the model serves with; layers beyond those are those of a draft model, and named so. See architecture.Tensor.
    """
    found: dict[tuple[str, str, tuple[int, ...]], int] = {}
    for header in headers:
        for name, tensor in header.items():
            beyond = re.search(r"(?:^|\.)layers\.(\d+)\.", name)
            if beyond and layers and int(beyond[1]) >= layers:
                name = name.replace(f"layers.{beyond[1]}.", "layers.draft.", 1)
            key = (re.sub(r"(?<=\.)\d+(?=\.)", "#", name), str(tensor["dtype"]), tuple(tensor["shape"]))
            found[key] = found.get(key, 0) + 1
    return [[name, dtype, list(size), times] for (name, dtype, size), times in sorted(found.items())]


def facts(folder: Path) -> ModelFacts:
    """What an estimate of memory needs of a folder that `check_folder` passed."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    headers = [safetensors_header(shard)[0] for shard in sorted(folder.glob("*.safetensors"))]
    return {"config": memory_config(config), "tensors": summary(headers, _layers(config))}


def memory_config(config: Content) -> dict[str, object]:
    """A config.json without its long tables (labels, tokens): what is left fits in a fact."""
    return {k: v for k, v in config.items() if len(json.dumps(v)) < 20_000 and k not in ("id2label", "label2id")}


def _layers(config: Content) -> int:
    text = config.get("text_config") or config
    found = text.get("num_hidden_layers") if isinstance(text, Mapping) else None
    return found if isinstance(found, int) else 0


class RemoteFacts(ModelFacts):
    """What an estimate of memory needs of a model that is elsewhere. bytes: of its weights."""

    bytes: int


class HubFacts(RemoteFacts):
    """The same of a model on a hub. source: repo@commit."""

    source: str


Read = Callable[[str, "tuple[int, int] | None"], bytes]


def remote_facts(read: Read) -> RemoteFacts:
    """What `facts` gives, of a model that is not on this machine, with the bytes of its weights.

    Reads headers and no weights. read: gives a file by its name, or a range of its bytes; raises Broken when it can't.
    Raises Broken when something is missing or no safetensors file, and says which.
    """
    try:
        config = json.loads(read("config.json", None))
        try:
            shards = sorted(set(json.loads(read("model.safetensors.index.json", None))["weight_map"].values()))
        except Broken:
            shards = ["model.safetensors"]
        headers, total = [], 0
        for shard in shards:
            length = _header_length(read(shard, (0, 7)), shard)
            header, size = _header(read(shard, (8, 7 + length)), length, shard)
            headers.append(header)
            total += size
        return {"config": memory_config(config), "tensors": summary(headers, _layers(config)), "bytes": total}
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        if isinstance(error, Broken):
            raise
        raise Broken(f"config.json or the index of the weights is unreadable ({type(error).__name__})") from error


def facts_text(found: HubFacts) -> str:
    """What hub.model_facts found as JSON, a line for each kind of tensor."""
    rest = json.dumps({k: v for k, v in found.items() if k != "tensors"}, indent=1)
    rows = ",\n".join(f"  {json.dumps(row)}" for row in found["tensors"])
    return f'{rest[:-2]},\n "tensors": [\n{rows}\n ]\n}}\n'


def check_folder(folder: Path) -> None:
    """Raise Broken unless the folder can be a whole model: quick, reads headers and sizes only."""
    config = folder / "config.json"
    if not config.is_file():
        raise Broken("config.json is missing")
    # Weights say so themselves; a tokenizer is as large, and is stored the same way.
    for path in (config, *(p for p in sorted(folder.glob("*token*")) if p.is_file())):
        with path.open("rb") as stream:
            if stream.read(len(LFS_POINTER)) == LFS_POINTER:
                raise Broken(
                    f"{path.name} is a Git LFS pointer, not the file: fetch with `git lfs pull` or from the hub"
                )
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


def make_manifest(
    folder: Path,
    origin: dict[str, Any],
    say: Callable[[str], None] = lambda _: None,
    known: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Manifest of all files of a folder: {origin, files: {path: {size, sha256}}, digest}. The digest covers the files only.

    It also keeps what `facts` reads (memory), for headers of many experts take a second to read.
    known: checksums of files that were read in this run already.
    """
    files = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and p.name != MANIFEST):
        name = str(path.relative_to(folder))
        found = (known or {}).get(name)
        if not found:
            say(path.name)
            found = sha256(path)
        files[name] = {"size": path.stat().st_size, "sha256": found}
    digest = hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()
    manifest = {"origin": origin, "files": files, "digest": digest}
    try:
        return {**manifest, "memory": facts(folder)}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # judging the folder is check_folder's task
        return manifest


def check_listed(folder: Path, name: str, entry: Mapping[str, Any]) -> None:
    """Raise Broken unless a file of a manifest is there in its size; quick, see `check_folder`."""
    path = folder / name
    if not path.is_file():
        raise Broken(f"{name} is missing")
    size = path.stat().st_size
    if size != entry["size"]:
        if name.endswith(".safetensors"):
            safetensors_size(path)  # knows what it is instead
        raise Broken(f"{name} has {size} bytes, expected {entry['size']}")


def look(folder: Path) -> ModelState:
    """State of a model folder, quickly. A good one also has {config, tensors}, see `facts`; and if it was made here `made`."""
    if not folder.is_dir():
        return {"present": False, "digest": None, "problem": "", "bytes": 0}
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        total = 0
        for name, entry in manifest["files"].items():
            check_listed(folder, name, entry)
            total += entry["size"]
        check_folder(folder)
        memory: ModelFacts = manifest.get("memory") or facts(folder)
        config, tensors = memory["config"], memory["tensors"]
    except Broken as broken:
        return {"present": True, "digest": None, "problem": str(broken), "bytes": 0}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return {
            "present": True,
            "digest": None,
            "problem": f"{MANIFEST} is unreadable ({type(error).__name__})",
            "bytes": 0,
        }
    found: ModelState = {
        "present": True,
        "digest": manifest["digest"],
        "problem": "",
        "bytes": total,
        "config": config,
        "tensors": tensors,
    }
    if "made" in (manifest.get("origin") or {}):
        found["made"] = manifest["origin"]["made"]
    return found


def manifest_text(manifest: dict[str, Any]) -> str:
    """The manifest as it is written."""
    return json.dumps(manifest, indent=1, sort_keys=True) + "\n"
