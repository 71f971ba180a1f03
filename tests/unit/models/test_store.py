"""The store of models: what is damaged, what nothing needs, how a transfer is shown; and the sources that need no hub."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import shutil
import stat
import struct
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import llm_model
import pytest
from ansible.module_utils.llm.models import artifacts, states, store
from ansible.module_utils.llm.plan import needs

Run = Callable[..., dict[str, Any]]


class Module:
    """Stands for AnsibleModule: parameters, and commands."""

    def __init__(self, check_mode: bool, **params: Any) -> None:
        defaults = {"state": "present", "depth": "quick", "revision": "v1", "sources": [], "size_gib": 0.0}
        self.params = {
            "progress_file": None,
            "fetch_missing": False,
            "offline": False,
            "hub_endpoint": "",
            "hub_token": "",
            **defaults,
            **params,
        }
        self.check_mode = check_mode

    def run_command(self, argv: list[str], **_: Any) -> tuple[int, str, str]:
        pipe = os.popen(" ".join(argv) + " 2>&1")
        said = pipe.read()
        return (1 if pipe.close() else 0), "", said


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Bring tmp_path/models/tiny/v1 to a state; a failure is returned as llm_model returns it."""

    def call(*sources: dict[str, Any], check: bool = False, **params: Any) -> dict[str, Any]:
        module: Any = Module(
            check, name="tiny", folder=str(tmp_path / "models/tiny/v1"), sources=list(sources), **params
        )
        try:
            return states.reach(module)
        except store.FetchFailed as failure:
            return {"failed": True, "msg": str(failure), "tried": getattr(failure, "tried", [])}

    return call


def shard(path: Path, byte: bytes = b"\0") -> None:
    header = json.dumps({path.stem: {"dtype": "U8", "shape": [16], "data_offsets": [0, 16]}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + byte * 16)


@pytest.fixture
def origin(tmp_path: Path) -> Path:
    """A whole model, as somebody has brought it."""
    folder = tmp_path / "origin"
    folder.mkdir()
    (folder / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}')
    for name in ("a.safetensors", "b.safetensors"):
        shard(folder / name)
    index = {"weight_map": {"a": "a.safetensors", "b": "b.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


@pytest.fixture
def here(run: Run, origin: Path, tmp_path: Path) -> Path:
    """The same, in the store."""
    assert run({"path": str(origin)})["changed"]
    return tmp_path / "models/tiny/v1"


def hidden(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.parent.glob(".*")) if folder.parent.is_dir() else []


# -- what is damaged --------------------------------------------------------------------------------------------------


def _edit(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:-1] + b"\1")


DAMAGES: dict[str, tuple[Callable[[Path], object], str, str, bool]] = {
    "cut off": (lambda f: os.truncate(f / "a.safetensors", 50), "a.safetensors", "cut off", True),
    "cut in its data": (lambda f: os.truncate(f / "a.safetensors", 80), "a.safetensors", "has 80 bytes", True),
    "other bytes": (lambda f: _edit(f / "b.safetensors"), "b.safetensors", "right size and other bytes", False),
    "pointer": (
        lambda f: (f / "a.safetensors").write_text(
            "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
        ),
        "a.safetensors",
        "Git LFS pointer",
        True,
    ),
    "gone": (lambda f: (f / "b.safetensors").unlink(), "b.safetensors", "is missing", True),
    "manifest gone": (lambda f: (f / artifacts.MANIFEST).unlink(), artifacts.MANIFEST, "unreadable", True),
    "manifest of another shape": (
        lambda f: (f / artifacts.MANIFEST).write_text('{"files": {"a": {"size": "1"}}}'),
        artifacts.MANIFEST,
        "unreadable",
        True,
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_found_and_repaired(here: Path, origin: Path, run: Run, damage: str) -> None:
    """Quick looks find all but bytes; a repair puts the damaged file back, and touches no other."""
    whole = artifacts.look(here)["digest"]
    harm, file, says, quick = DAMAGES[damage]
    harm(here)
    found = run({"path": str(origin)}, state="verified")["verdict"]["tiny"]
    assert (not found["ok"] and says in found["damaged"][file]) if quick else found["ok"]
    deep = run({"path": str(origin)}, state="verified", depth="deep")
    assert not deep["changed"] and list(deep["verdict"]["tiny"]["damaged"]) == [file]
    assert says in deep["verdict"]["tiny"]["damaged"][file]
    others = {p.name: p.stat().st_ino for p in here.iterdir() if p.name != file}
    predicted = run({"path": str(origin)}, state="repaired", depth="deep", check=True)
    assert predicted["changed"] and not predicted["ok"]
    repaired = run({"path": str(origin)}, state="repaired", depth="deep")
    assert repaired["changed"] and repaired["ok"] and repaired["verdict"]["tiny"]["repaired"] == [file]
    if file != artifacts.MANIFEST:
        assert {p.name: p.stat().st_ino for p in here.iterdir() if p.name != file} == others
    assert store.damage(here, deep=True) == {} and hidden(here) == []
    assert repaired["digest"] == whole == artifacts.look(here)["digest"]
    assert not run({"path": str(origin)}, state="repaired", depth="deep")["changed"]


def test_an_index_that_wants_more_than_was_listed(here: Path) -> None:
    index = here / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"c": "c.safetensors"}}))
    (here / artifacts.MANIFEST).write_text(artifacts.manifest_text(artifacts.make_manifest(here, {"source": "test"})))
    assert store.damage(here) == {artifacts.MANIFEST: "1 of 1 weight files are missing, first c.safetensors"}


def test_a_repair_takes_no_other_bytes(here: Path, origin: Path, run: Run) -> None:
    (here / "a.safetensors").unlink()
    shard(origin / "a.safetensors", b"\7")
    refused = run({"path": str(origin)}, state="repaired")
    assert refused["failed"] and "is another than was verified" in refused["msg"]
    assert not (here / "a.safetensors").exists() and hidden(here) == []


def test_a_model_that_is_not_there_is_not_whole(run: Run) -> None:
    found = run(state="verified")
    assert not found["ok"] and "site.yml --tags models" in found["verdict"]["tiny"]["damaged"][artifacts.MANIFEST]


# -- sources ----------------------------------------------------------------------------------------------------------


def test_a_copy_goes_on_where_it_stopped(run: Run, origin: Path, tmp_path: Path) -> None:
    """One file was copied whole and one in half when the run was killed; a third has nothing to do with the source."""
    source = {"path": str(origin)}
    place = store.partial(tmp_path / "models/tiny/v1", source)
    place.mkdir(parents=True)
    shutil.copy2(origin / "a.safetensors", place)
    (place / "b.safetensors").write_bytes((origin / "b.safetensors").read_bytes()[:40])
    (place / "other.json").write_text("{}")
    done = run(source)
    size = sum(p.stat().st_size for p in origin.iterdir())
    found = (origin / "a.safetensors").stat().st_size
    assert done["fetched"] == {"found": found, "written": size - found}
    assert store.damage(tmp_path / "models/tiny/v1", deep=True) == {}
    assert not (tmp_path / "models/tiny/v1/other.json").exists()


def test_sources_have_a_partial_folder_each(run: Run, origin: Path, tmp_path: Path) -> None:
    """What one source has left is not what the next one goes on with."""
    bad = tmp_path / "bad"
    shutil.copytree(origin, bad)
    (bad / "only-here.json").write_text("{}")
    os.truncate(bad / "b.safetensors", 60)
    done = run({"path": str(bad)}, {"path": str(origin)})
    assert done["source"] == f"path {origin}" and "b.safetensors" in done["tried"][0]
    folder = tmp_path / "models/tiny/v1"
    assert not (folder / "only-here.json").exists() and hidden(folder) == []
    assert store.partial(folder, {"path": "a"}) != store.partial(folder, {"path": "b"})


def test_a_folder_with_a_manifest_must_be_what_it_lists(run: Run, here: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(here, other)
    _edit(other / "a.safetensors")
    shutil.rmtree(here)
    refused = run({"path": str(other)})
    assert refused["failed"] and "a.safetensors is not what its manifest.json lists" in refused["msg"]
    assert not here.exists() and hidden(here) == []


def pack(origin: Path, archive: Path, mode: Any, prefix: str = "") -> None:
    if mode == "zip":
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as zipped:
            for path in sorted(origin.iterdir()):
                zipped.write(path, prefix + path.name)
        return
    with tarfile.open(archive, mode) as packed:
        for path in sorted(origin.iterdir()):
            packed.add(path, prefix + path.name)


@pytest.mark.parametrize(
    ("name", "mode", "prefix"),
    [
        ("m.tar", "w", ""),
        ("m.tar.gz", "w:gz", "tiny/"),
        ("m.tgz", "w:gz", "./"),
        ("m.zip", "zip", ""),
        ("m", "zip", "tiny/"),
    ],
)
def test_an_archive(run: Run, origin: Path, tmp_path: Path, name: str, mode: str, prefix: str) -> None:
    pack(origin, tmp_path / name, mode, prefix)
    sha256 = hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()
    assert run({"archive": str(tmp_path / name), "sha256": sha256})["changed"]
    folder = tmp_path / "models/tiny/v1"
    assert {p.name for p in folder.iterdir()} == {p.name for p in origin.iterdir()} | {artifacts.MANIFEST}
    assert all((folder / p.name).read_bytes() == p.read_bytes() for p in origin.iterdir())
    assert folder.stat().st_mode & 0o777 == 0o755 and hidden(folder) == []


def _escaping(archive: Path) -> None:
    with tarfile.open(archive, "w") as packed:
        entry = tarfile.TarInfo("../outside")
        entry.size = 1
        packed.addfile(entry, io.BytesIO(b"x"))
        packed.addfile(tarfile.TarInfo("config.json"), io.BytesIO(b""))


def _linking(archive: Path) -> None:
    with tarfile.open(archive, "w") as packed:
        entry = tarfile.TarInfo("config.json")
        entry.type, entry.linkname = tarfile.SYMTYPE, "/etc/passwd"
        packed.addfile(entry)


def _zipped(name: str = "config.json", mode: int = 0, flag: int = 0) -> Callable[[Path], object]:
    """Makes a ZIP file with one odd entry."""

    def make(archive: Path) -> None:
        entry = zipfile.ZipInfo(name)
        entry.external_attr = mode << 16
        with zipfile.ZipFile(archive, "w") as packed:
            packed.writestr(entry, "/etc/passwd")
        raw = bytearray(archive.read_bytes())
        raw[raw.rindex(b"PK\1\2") + 8] |= flag  # in the list of files, which readers go by
        archive.write_bytes(raw)

    return make


def _zip_changed(archive: Path) -> None:
    _zipped()(archive)
    archive.write_bytes(archive.read_bytes().replace(b"/etc/passwd", b"/etc/PASSWD"))


BAD_ARCHIVES: dict[str, tuple[Callable[[Path], object], str]] = {
    "absent": (lambda _: None, "no such file"),
    "no archive": (lambda a: a.write_bytes(b"x" * 2000), "tar cannot read it"),
    "outside": (_escaping, "tar cannot read it"),
    "a link": (_linking, "neither a file nor a folder"),
    "outside of a ZIP": (_zipped("../outside"), "would lie outside"),
    "from the root of a ZIP": (_zipped("/outside"), "would lie outside"),
    "a link in a ZIP": (_zipped(mode=stat.S_IFLNK | 0o777), "neither a file nor a folder"),
    "a ZIP with a password": (_zipped(flag=1), "is encrypted"),
    "half a ZIP": (lambda a: a.write_bytes(b"PK\3\4" + b"x" * 2000), "cannot be read as a ZIP file"),
    "other bytes in a ZIP": (_zip_changed, "cannot be unpacked: Bad CRC-32"),
}


@pytest.mark.parametrize("case", BAD_ARCHIVES)
def test_a_bad_archive_leaves_nothing(run: Run, tmp_path: Path, case: str) -> None:
    make, says = BAD_ARCHIVES[case]
    make(tmp_path / "m.tar")
    refused = run({"archive": str(tmp_path / "m.tar")})
    assert refused["failed"] and says in refused["msg"]
    folder = tmp_path / "models/tiny/v1"
    assert not folder.exists() and hidden(folder) == [] and not (tmp_path / "models/tiny/outside").exists()


def test_a_zip_that_does_not_fit_is_not_unpacked(
    run: Run, origin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says itself how large it becomes, so that nobody needs to declare it."""
    (origin / "zeros.json").write_bytes(b" " * 2**20)
    pack(origin, tmp_path / "m.zip", "zip")
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=store.SPARE + 2**19))
    refused = run({"archive": str(tmp_path / "m.zip")})
    assert refused["failed"] and "1.0 MiB are still to be written" in refused["msg"]
    assert hidden(tmp_path / "models/tiny/v1") == []


def test_another_archive_than_was_declared(run: Run, origin: Path, tmp_path: Path) -> None:
    pack(origin, tmp_path / "m.tar", "w")
    assert "declared is " + "0" * 64 in run({"archive": str(tmp_path / "m.tar"), "sha256": "0" * 64})["msg"]


def test_offline_asks_nobody(run: Run, origin: Path) -> None:
    refused = run({"hub": "acme/tiny"}, {"package": "tiny==1"}, offline=True)
    assert [t.partition(":")[2] for t in refused["tried"]] == [" needs the network, and llm_offline is set"] * 2
    assert run({"hub": "acme/tiny"}, {"path": str(origin)}, offline=True)["source"] == f"path {origin}"


def test_too_little_room(run: Run, origin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=store.SPARE + 10))
    refused = run({"path": str(origin)})
    assert refused["failed"] and "nothing was fetched" in refused["msg"] and "llm_root" in refused["msg"]
    assert hidden(tmp_path / "models/tiny/v1") == []


def test_what_is_in_the_way_of_nothing_is_removed(run: Run, here: Path) -> None:
    assert run(state="absent", check=True)["changed"] and here.is_dir()
    assert run(state="absent")["changed"] and not here.parent.exists()
    assert not run(state="absent")["changed"]


# -- what is wanted of a repository -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("allow", "found"),
    [
        ((), ["config.json", "model.safetensors", "sub/tokenizer.json"]),
        (("*.json",), ["config.json", "sub/tokenizer.json"]),
        (("model.bin", "*.safetensors"), ["model.bin", "model.safetensors"]),
    ],
)
def test_wanted_files(allow: tuple[str, ...], found: list[str]) -> None:
    names = [
        "model.safetensors",
        "config.json",
        "model.bin",
        "onnx/model.onnx",
        "original/consolidated.pth",
        "sub/tokenizer.json",
    ]
    assert store.wanted(names, allow) == found


def test_a_file_is_checked_by_what_the_hub_lists(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"what is up, doc?")
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    blob = "bd9dbf5aae1a3862dd1526723246b20206e5fc37"  # the example of git's own book
    good: list[dict[str, Any]] = [{"size": 16, "sha256": sha256}, {"size": 16, "blob": blob}, {"size": None}]
    assert [store.verified(path, entry) for entry in good] == [sha256] * 3
    bad: list[dict[str, Any]] = [{"size": 17}, {"size": 16, "sha256": "0" * 64}, {"size": 16, "blob": "0" * 40}]
    assert [store.verified(path, entry) for entry in bad] == [""] * 3
    assert store.verified(tmp_path / "none", {}) == ""


# -- progress, room, what is left -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("done", "total", "seconds", "before", "says"),
    [
        (0, 0, 1, 0, "0 bytes so far"),
        (2**30, 0, 4, 0, "1.0 GiB so far, 256.0 MiB/s"),
        (3 * 2**30, 4 * 2**30, 4, 2**31, "3.0 GiB of 4.0 GiB (75 %), 256.0 MiB/s, 0:04 left"),
        (2**30, 16 * 2**30, 10, 0, "1.0 GiB of 16.0 GiB (6 %), 102.4 MiB/s, 2:30 left"),
        (10, 10, 0, 10, "10 bytes of 10 bytes (100 %)"),
    ],
)
def test_how_far_a_transfer_is(done: int, total: int, seconds: float, before: int, says: str) -> None:
    assert store.transfer(done, total, seconds, before) == says


def test_room() -> None:
    assert store.no_room(100, 100 + store.SPARE, "/m") == ""
    assert "/m has 1.0 GiB free" in store.no_room(2**31, 2**30, "/m")


def test_what_nothing_needs(tmp_path: Path) -> None:
    models = tmp_path / "models"
    for name in (
        "a/main",
        "a/old",
        "a/kept",
        "a/.main.01234567.partial",
        "b/.v1.89abcdef.partial",
        "c/.v1.89abcdef.partial",
        "d/.x",
    ):
        (models / name).mkdir(parents=True)
        (models / name / "f").write_bytes(b"12345")
    (models / ".gguf_to_model.py").touch()
    found: Any = store.stored(models)
    assert {e["folder"].removeprefix(f"{models}/"): (e["revision"], e["partial"], e["bytes"]) for e in found} == {
        "a/main": ("main", False, 5),
        "a/old": ("old", False, 5),
        "a/kept": ("kept", False, 5),
        "a/.main.01234567.partial": ("main", True, 5),
        "b/.v1.89abcdef.partial": ("v1", True, 5),
        "c/.v1.89abcdef.partial": ("v1", True, 5),
    }
    left = needs.unneeded_models(found, [str(models / "a/main"), str(models / "b/v1")], ["a/kept"])
    assert [e["folder"].removeprefix(f"{models}/") for e in left] == [
        "a/.main.01234567.partial",
        "a/old",
        "c/.v1.89abcdef.partial",
    ]


def test_models_of_releases(tmp_path: Path) -> None:
    release = tmp_path / "s" / "releases" / "1"
    release.mkdir(parents=True)
    (release / "release.json").write_text('{"facts": {"model": {"name": "a", "revision": "refs/pr/1"}}}')
    (tmp_path / "s" / "current").symlink_to("releases/1")
    (tmp_path / "s" / "previous").symlink_to("releases/gone")
    assert store.in_releases(tmp_path) == ["a/refs_pr_1"]


def test_repair_fetches_what_is_not_there_only_when_that_is_asked(run: Run, origin: Path, tmp_path: Path) -> None:
    folder, source = tmp_path / "models/tiny/v1", {"path": str(origin)}
    left = run(source, state="repaired")
    assert not left["ok"] and not left["changed"] and not folder.exists()
    predicted = run(source, state="repaired", fetch_missing=True, check=True)
    assert predicted["changed"] and not predicted["ok"] and not folder.exists()
    assert not run(source, state="verified", fetch_missing=True)["ok"] and not folder.exists()
    found = run(source, state="repaired", fetch_missing=True)
    assert found["ok"] and found["changed"] and not store.damage(folder, deep=True)
    assert found["digest"] == artifacts.look(folder)["digest"] and not hidden(folder)


@pytest.mark.parametrize(
    ("code", "says"),
    [
        (errno.ENOTEMPTY, "Directory not empty. Something else writes there"),
        (errno.EBUSY, "Something is mounted there"),
        (errno.EIO, "Input/output error. Check the disk, and run again"),
    ],
)
@pytest.mark.parametrize("named", [True, False])
def test_a_disk_that_refuses_is_said_and_no_traceback(
    here: Path, run_module: Run, monkeypatch: pytest.MonkeyPatch, code: int, says: str, named: bool
) -> None:
    def refuse(path: Path, *_: Any, **__: Any) -> None:
        raise OSError(code, os.strerror(code), *([str(path / "a.safetensors")] if named else []))

    monkeypatch.setattr(shutil, "rmtree", refuse)
    found = run_module(llm_model, {"name": "tiny", "folder": str(here), "state": "absent"})
    assert found["failed"] and says in found["msg"]
    file = f"{here.parent}/.v1.removed.partial/a.safetensors" if named else str(here)
    assert found["msg"].startswith(f"llm_models.tiny: {file}: ")
    # Its name is free, and the next run knows what is left as something to remove.
    left: Any = store.stored(here.parents[1])
    assert len(left) == 1 and needs.unneeded_models(left, [str(here)], []) == left


def test_a_repair_that_leaves_no_whole_model_says_so(here: Path, origin: Path, run_module: Run) -> None:
    (here / "a.safetensors").unlink()
    (here / "c.safetensors").write_bytes(b"no such file was listed")
    source = {"name": "tiny", "folder": str(here), "state": "repaired", "sources": [{"path": str(origin)}]}
    found = run_module(llm_model, source)
    assert found["failed"] and found["msg"].startswith("llm_models.tiny: c.safetensors is no safetensors file")


# -- a hub's fast transfer --------------------------------------------------------------------------------------------


class FastHub:
    """Stands for huggingface_hub, and for a hub that serves a folder by hf_xet and over HTTP. `kill`: the run ends after half."""

    def __init__(self, origin: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.origin, self.kill, self.broken = origin, False, False
        self.sent: dict[str, list[tuple[str, int]]] = {}  # file: [(how, bytes)]
        listed = [
            SimpleNamespace(
                rfilename=p.name,
                size=p.stat().st_size,
                lfs=SimpleNamespace(sha256=artifacts.sha256(p)) if p.suffix == ".safetensors" else None,
                blob_id=store.blob_sha1(p),
            )
            for p in sorted(origin.iterdir())
        ]
        info = SimpleNamespace(sha="c" * 40, siblings=listed)
        hub, files, tools = (ModuleType(f"huggingface_hub{n}") for n in ("", ".file_download", ".utils"))
        hub.__dict__.update(
            HfApi=lambda **_: SimpleNamespace(model_info=lambda *_, **__: info), file_download=files, utils=tools
        )
        files.__dict__.update(
            hf_hub_url=lambda _, name, **__: f"http://hub/{name}",
            get_hf_file_metadata=lambda url, **_: SimpleNamespace(
                location=url, xet_file_data=url if url.endswith(".safetensors") else None
            ),
            is_xet_available=lambda: True,
            xet_get=self.fast,
            http_get=self.slow,
        )
        tools.__dict__["build_hf_headers"] = lambda **_: {}
        for module in (hub, files, tools):
            monkeypatch.setitem(sys.modules, module.__name__, module)

    def fast(self, *, incomplete_path: Path, xet_file_data: str, expected_size: int, **_: Any) -> None:
        name = Path(xet_file_data).name
        content = (self.origin / name).read_bytes()
        with incomplete_path.open("r+b" if incomplete_path.exists() else "w+b") as stream:
            stream.seek(expected_size // 2)
            stream.write(content[expected_size // 2 :])  # the end first
            self.sent.setdefault(name, []).append(("xet", expected_size))
            if self.kill:
                raise KeyboardInterrupt  # what comes after a kill -9 runs no more than what comes after this
            if self.broken:
                raise OSError("no way to its storage")
            stream.seek(0)
            stream.write(content)

    def slow(self, url: str, stream: Any, *, resume_size: int, **_: Any) -> None:
        content = (self.origin / Path(url).name).read_bytes()[resume_size:]
        self.sent.setdefault(Path(url).name, []).append(("http", len(content)))
        stream.write(content)

    def hows(self, name: str) -> list[str]:
        """How a file was sent, each time."""
        return [how for how, _ in self.sent.get(name, [])]


@pytest.fixture
def fast_hub(origin: Path, monkeypatch: pytest.MonkeyPatch) -> FastHub:
    monkeypatch.setattr(Module, "warn", lambda *_: None, raising=False)
    monkeypatch.setattr(os, "environ", {**os.environ})  # the module sets some for the library
    return FastHub(origin, monkeypatch)


def test_a_file_with_holes_is_not_gone_on_with(run: Run, fast_hub: FastHub, origin: Path, tmp_path: Path) -> None:
    fast_hub.kill = True
    with pytest.raises(KeyboardInterrupt):
        run({"hub": "a/tiny"})
    folder = tmp_path / "models/tiny/v1"
    (place,) = store.partials(folder)
    assert list((place / store.HOLES).iterdir())  # as a kill leaves it
    (place / store.HOLES / "gone.safetensors").write_bytes(b"of a file that the hub has no more")
    fast_hub.kill, fast_hub.sent = False, {}
    found = run({"hub": "a/tiny"})
    whole = {p.name: p.read_bytes() for p in origin.iterdir()}
    assert {p.name: p.read_bytes() for p in folder.iterdir() if p.name != artifacts.MANIFEST} == whole
    assert all(len(sent) == 1 for sent in fast_hub.sent.values())  # nothing twice
    assert fast_hub.hows("a.safetensors") == fast_hub.hows("b.safetensors") == ["xet"]
    sent = sum(size for sent in fast_hub.sent.values() for _, size in sent)
    assert found["fetched"] == {"written": sent, "found": sum(map(len, whole.values())) - sent}
    assert not hidden(folder)


def test_what_came_over_http_is_gone_on_with(run: Run, fast_hub: FastHub, origin: Path, tmp_path: Path) -> None:
    folder = tmp_path / "models/tiny/v1"
    part = store.partial(folder, {"hub": "a/tiny"}, "c" * 40) / store.PARTS / "a.safetensors"
    part.parent.mkdir(parents=True)
    part.write_bytes((origin / "a.safetensors").read_bytes()[:30])
    found = run({"hub": "a/tiny"})
    assert found["fetched"]["found"] == 30 and not store.damage(folder, deep=True)
    assert fast_hub.sent["a.safetensors"] == [("http", (origin / "a.safetensors").stat().st_size - 30)]


def test_a_fast_transfer_that_fails_leaves_nothing_to_go_on_with(run: Run, fast_hub: FastHub, tmp_path: Path) -> None:
    fast_hub.broken = True
    run({"hub": "a/tiny"})
    assert not store.damage(tmp_path / "models/tiny/v1", deep=True)
    for name in ("a.safetensors", "b.safetensors"):
        assert fast_hub.sent[name][-1] == ("http", fast_hub.origin.joinpath(name).stat().st_size)
