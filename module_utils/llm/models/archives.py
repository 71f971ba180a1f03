"""Archives that somebody brought a model in: how large they become, and unpacking nothing but files, to no other folder."""

from __future__ import annotations

import errno
import stat
import zipfile
import zlib
from pathlib import Path

from ansible.module_utils.llm.base.module import RunCommand
from ansible.module_utils.llm.models.store import FetchFailed


def zip_size(archive: Path) -> int | None:
    """Bytes that a ZIP file unpacks to, None for any other file. Raises FetchFailed when it cannot be unpacked as it is."""
    with archive.open("rb") as stream:
        if stream.read(4) != b"PK\x03\x04":
            return None
    try:
        with zipfile.ZipFile(archive) as packed:
            entries = packed.infolist()
    except zipfile.BadZipFile as error:
        raise FetchFailed(f"it cannot be read as a ZIP file: {error}. Bring the file anew") from error
    for entry in entries:
        # Python would leave out what leads outside, and write a link's target into a file.
        if entry.filename.startswith("/") or ".." in Path(entry.filename).parts:
            raise FetchFailed(f"{entry.filename} in it would lie outside of the folder. Pack the files anew")
        if stat.S_ISLNK(entry.external_attr >> 16):
            raise FetchFailed(f"{entry.filename} in it is neither a file nor a folder. Pack the files themselves")
        if entry.flag_bits & 1:
            raise FetchFailed(f"{entry.filename} in it is encrypted. Pack the files without a password")
    return sum(entry.file_size for entry in entries)


def unzip(archive: Path, place: Path) -> None:
    """Unpack a ZIP file into a folder. Raises FetchFailed."""
    try:
        with zipfile.ZipFile(archive) as packed:
            packed.extractall(place)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise FetchFailed(f"it cannot be unpacked: {error}. Bring the file anew") from error


def untar(run_command: RunCommand, archive: Path, place: Path) -> None:
    """Unpack a tar archive, compressed or not, into a folder. Raises FetchFailed, and OSError where the disk is full."""
    # GNU tar finds out the compression itself, and keeps to the folder whatever names the archive has.
    argv = [
        "tar",
        "--extract",
        "--file",
        str(archive),
        "--directory",
        str(place),
        "--no-same-owner",
        "--no-same-permissions",
    ]
    rc, _, err = run_command(argv, environ_update={"LC_ALL": "C"})
    if rc == 0:
        return
    if "No space left" in err:
        raise OSError(errno.ENOSPC, "")
    what = "zstd is not installed on the host. Install it, or bring a .tar.gz" if "zstd: Cannot exec" in err else ""
    raise FetchFailed(what or f"tar cannot read it: {err.strip().splitlines()[0][:200] if err.strip() else rc}")
