"""Files written whole or not at all."""

from __future__ import annotations

import fcntl
import os
import re
import secrets
from collections.abc import Mapping
from pathlib import Path


def write(path: Path, content: str, mode: int = 0o644, owner: int | None = None) -> bool:
    """Write a file so that a reader, or a run killed here, sees the old or the new content and never half of it.

    owner: numeric user and group that get the file. Returns whether content, mode or owner changed.
    """
    try:
        stat = path.stat()
        same = path.read_text(encoding="utf-8") == content and stat.st_mode & 0o7777 == mode
        if same and owner in (None, stat.st_uid):
            return False
    except (OSError, UnicodeDecodeError):
        pass
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        # Tells a file that is being written from one whose writer was killed; ends with the writer.
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        _remove_leftovers(path)
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        if owner is not None:
            os.chown(new, owner, owner)
        new.chmod(mode)
        new.replace(path)
    except BaseException:
        new.unlink(missing_ok=True)
        raise
    return True


def link(path: Path, target: str) -> bool:
    """Point a symbolic link at `target` in one step. Returns whether it changed."""
    try:
        if str(path.readlink()) == target:
            return False
    except OSError:
        pass
    new = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    new.symlink_to(target)
    new.replace(path)
    return True


def _remove_leftovers(path: Path) -> None:
    """Remove what writers of this file left when they were killed."""
    ours = re.compile(re.escape(f".{path.name}.") + "[0-9a-f]{8}")
    for found in [p for p in path.parent.iterdir() if ours.fullmatch(p.name)]:
        try:
            with found.open("rb") as stream:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:  # it is being written, or is gone
            continue
        found.unlink(missing_ok=True)


def read(path: Path) -> str:
    """Content of a text file, "" when it is not there."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""


def unwritable(error: OSError, where: object = "a file") -> str:
    """What a module says that could not write. where: what it was about, for errors that name no file."""
    return f"cannot write {error.filename or where}: {error.strerror or error}; run as root, and check the disk"


def diffs(before: Path, after: Path, files: Mapping[str, str]) -> list[dict[str, str]]:
    """Ansible's diff entries for files to be written to folder `after`, against those in folder `before`."""
    found = []
    for name, content in sorted(files.items()):
        old = read(before / name)
        if old != content:
            header = str(before / name) if old else "absent"
            found.append({"before_header": header, "after_header": str(after / name), "before": old, "after": content})
    return found
