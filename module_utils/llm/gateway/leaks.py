"""Keys in places where they may not be."""

from __future__ import annotations

import contextlib
import gzip
import os
import re
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import unquote

from ansible.module_utils.llm.gateway import host as gateway_host
from ansible.module_utils.llm.gateway import keys as gateway_keys

SHORTEST = 16  # characters of what may be a key
WORD = re.compile(rf"[A-Za-z0-9_+/=.-]{{{SHORTEST},}}")


def leaked(text: str, known: Mapping[str, str]) -> list[tuple[int, str]]:
    """Lines of a text that have a key, and whose: [(line, name)]. known: SHA-256 of a key to what it is called."""
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        # As a URL has it, too: `Bearer%20KEY`.
        digests = {
            gateway_keys.sha256(p)
            for form in {line, unquote(line)}
            for word in WORD.findall(form)
            for p in _parts(word)
        }
        found += [(number, name) for name in sorted({known[d] for d in digests if d in known})]
    return found


def _parts(word: str) -> set[str]:
    """Parts of a word that may be a key: a key may end a sentence, be the value of an assignment, or be a part of a path."""
    pieces = {word, *(piece for piece in word.split("/") if len(piece) >= SHORTEST)}
    return {part for p in pieces for part in (p, p.strip("=.-/+"), p.rpartition("=")[2])}


LARGEST = 64 * 2**20  # bytes of a file that is looked into; weights of models are larger


def known_keys(root: Path) -> dict[str, str]:
    """SHA-256 of every key of the host to what it is called."""
    found = {
        gateway_keys.sha256(key): f"key of service {service}"
        for service, own in gateway_host.service_keys(root).items()
        for key in own
    }
    for path in sorted((root / "services").glob(f"*/releases/*/{gateway_host.ENGINE_FILE}")):
        *_, own = ["", *gateway_host.accepted(path)]
        if own:
            found.setdefault(gateway_keys.sha256(own), f"key of service {path.parents[3].name}")
    found |= {
        gateway_keys.sha256(key): "key between gateway and engines"
        for key in gateway_host.engine_keys(root / "gateway")
    }
    return found | {
        k.sha256: f"key {k.id} of client {k.client}" for k in gateway_host.clients(root / "gateway") if not k.revoked
    }


def is_home_of_keys(root: Path, path: Path) -> bool:
    """Whether a file is one in which keys are kept on purpose."""
    if root not in path.parents:
        return False
    place = path.relative_to(root)
    return (
        place.parts[0] == "keys"
        or (place.parts[0::2] == ("services", "releases", "secrets") and len(place.parts) == 6)
        or str(place) in (f"gateway/{gateway_keys.ENGINE_KEYS_FILE}", f"gateway/{gateway_host.MAPS}/engines.map")
    )


def text_of(path: Path) -> str:
    """Text of a file; for a `.gz` its unpacked content. At most LARGEST bytes, and up to where it is damaged."""
    if path.suffix != ".gz":
        return path.read_text(encoding="utf-8", errors="replace")
    found = bytearray()
    with gzip.open(path) as packed, contextlib.suppress(EOFError, zlib.error, gzip.BadGzipFile):
        while len(found) < LARGEST and (piece := packed.read1(2**20)):
            found += piece
    return found.decode("utf-8", "replace")


def leaks_in(folder: Path, known: Mapping[str, str], root: Path, skip: Sequence[str] = ()) -> list[str]:
    """Places in files below a folder that have a key, as texts."""
    found = []
    for place, folders, names in os.walk(folder):
        folders[:] = [f for f in folders if f not in skip]
        for path in (Path(place) / n for n in names):
            try:
                if path.is_symlink() or is_home_of_keys(root, path) or path.stat().st_size > LARGEST:
                    continue
                text = text_of(path)
            except OSError:
                continue
            found += [f"{path}:{line}: {name}" for line, name in leaked(text, known)]
    return found
