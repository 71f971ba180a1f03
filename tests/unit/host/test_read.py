"""Reading a host: Docker's answers, releases on disk, listeners."""

import json
import os
import socket
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.llm.base import files
from ansible.module_utils.llm.docker.api import ListedContainer, ListedImage, Mount
from ansible.module_utils.llm.host import read as read_host

LISTED: list[ListedContainer] = [
    {
        "Id": "1" * 64,
        "Names": ["/llm-micro-01234567"],
        "Labels": {"llm.service": "micro", "llm.release": "0123456789ab"},
        "State": "running",
        "Status": "Up 2 hours (healthy)",
        "ImageID": "sha256:1",
        "Ports": [],
        "NetworkSettings": {"Networks": {"llm": {"IPAddress": "172.18.0.2"}}},
    },
    {
        "Id": "2" * 64,
        "Names": ["/web"],
        "Labels": None,
        "State": "running",
        "ImageID": "x",
        "Ports": [{"PublicPort": 5010}, {"PrivatePort": 1}],
    },
]


def test_engines_and_published_ports_are_read_from_the_list() -> None:
    engines, published = read_host.containers(LISTED)
    assert [(e["service"], e["release"], e["ip"]) for e in engines] == [("micro", "0123456789ab", "172.18.0.2")]
    assert published == {"5010": "web"}


def test_strangers_are_those_with_names_like_ours_or_that_write_somewhere() -> None:
    binds: list[Mount] = [
        {"Type": "bind", "Source": "/data", "RW": True},
        {"Type": "bind", "Source": "/etc", "RW": False},
        {"Type": "volume", "Source": "/var/lib/docker/volumes/x", "RW": True},
    ]
    web: ListedContainer = {**LISTED[1], "Image": "nginx:1", "Mounts": binds}
    taken: ListedContainer = {
        **LISTED[1],
        "Image": "nginx:1",
        "Names": ["/llm-gateway"],
        "State": "exited",
        "Mounts": binds,
    }
    found = read_host.foreign([*LISTED, web, taken], "llm-", ("llm.service", "llm.gateway"))
    assert found == [
        {"name": "web", "image": "nginx:1", "state": "running", "writes": ["/data"]},
        {"name": "llm-gateway", "image": "nginx:1", "state": "exited", "writes": []},
    ]


def test_compose_is_asked_for_its_version_once_for_each_file(tmp_path: Path) -> None:
    plugin, kept = tmp_path / "docker-compose", tmp_path / "state/compose"
    asked: list[str] = []

    def version(answer: str | None = "2.40.3", *, keep: bool = True) -> str | None:
        def ask(path: str) -> str | None:
            asked.append(path)
            return answer

        return read_host.compose_version(str(plugin), kept, ask, keep=keep)

    assert read_host.compose_version("", kept, lambda _: "2.40.3") is None
    plugin.write_text("one")
    assert version() == "2.40.3" and not kept.parent.exists()  # a host that has nothing yet
    kept.parent.mkdir()
    assert version(keep=False) == "2.40.3" and not kept.exists()
    assert version(None) is None and not kept.exists()
    assert [version() for _ in range(3)] == ["2.40.3"] * 3 and len(asked) == 4
    plugin.write_text("another")
    assert version("2.41.0") == "2.41.0" and len(asked) == 5
    kept.write_text("damaged")
    assert version("2.41.0") == "2.41.0" and len(asked) == 6


@pytest.mark.parametrize(
    ("reference", "tags", "digests"),
    [
        ("docker.io/library/debian:bookworm-slim", ["debian:bookworm-slim"], None),
        ("docker.io/vllm/vllm-openai:v1", ["vllm/vllm-openai:v1"], []),
        ("llm/vllm-cpu:0.32.0-aa", ["llm/vllm-cpu:0.32.0-aa"], []),
        ("debian", ["debian:latest"], []),
        ("docker.io/vllm/vllm-openai:v1@sha256:ab", None, ["vllm/vllm-openai@sha256:ab"]),
        ("quay.io/a/b@sha256:ab", [], ["quay.io/a/b@sha256:ab"]),
    ],
)
def test_image_references_are_found_however_docker_spells_them(
    reference: str, tags: list[str] | None, digests: list[str] | None
) -> None:
    listed: list[ListedImage] = [{"Id": "sha256:1", "RepoTags": tags, "RepoDigests": digests}]
    assert read_host.image_ids(listed, [reference, "other:1"]) == {reference: "sha256:1"}


def test_a_release_and_its_drift(tmp_path: Path) -> None:
    place = tmp_path / "releases" / "abc"
    files.write(place / "compose.yml", "x: 1\n")
    record = {"facts": {"a": 1}, "files": {"compose.yml": read_host.file_sha256(place / "compose.yml")}}
    files.write(place / read_host.RELEASE_FILE, json.dumps(record))
    assert read_host.release(tmp_path)["current"] is None
    files.link(tmp_path / "current", "releases/abc")
    found = read_host.release(tmp_path)
    assert (found["current"], found["drift"], found["proven"]) == ("abc", [], False)
    assert found["facts"] is not None and {**found["facts"]} == {"a": 1}
    files.write(place / read_host.VERDICT_FILE, '{"ok": true, "services": {}}')
    assert (read_host.release(tmp_path)["proven"], read_host.release(tmp_path)["known"]) == (True, None)
    known = {"question": "Q", "answer": "A", "margin": 2.5}
    verdict = {"ok": True, "services": {tmp_path.name: {"numbers": {**known, "reading": None}}}}
    files.write(place / read_host.VERDICT_FILE, json.dumps(verdict))
    assert read_host.release(tmp_path)["known"] == known
    (place / "compose.yml").write_text("x: 2\n")
    assert read_host.release(tmp_path)["drift"] == ["compose.yml"]
    (place / read_host.RELEASE_FILE).unlink()
    assert read_host.release(tmp_path)["drift"] == [read_host.RELEASE_FILE]


def fail(folder: Path, at: float) -> None:
    """A deployment that failed at this time."""
    place = folder / "diagnostics" / "20261201T101530Z-abc"
    kept = {"at": "2026-12-01T10:15:30Z", "release": "abc", "step": "Ask the engine", "cause": "wrong", "attempt": True}
    files.write(place / "cause.json", json.dumps(kept))
    os.utime(place / "cause.json", (at, at))


def test_an_attempt_is_known_until_a_release_is_made_current(tmp_path: Path) -> None:
    assert read_host.release(tmp_path)["attempt"] is None
    fail(tmp_path, 50)
    failed = read_host.release(tmp_path)["attempt"]  # there is no release at all
    assert failed and (failed["step"], failed["cause"], failed["proven_since"]) == ("Ask the engine", "wrong", False)
    assert failed["folder"] == str(tmp_path / "diagnostics" / "20261201T101530Z-abc")
    verdict = tmp_path / "releases" / "old" / read_host.VERDICT_FILE
    files.write(verdict, '{"ok": true, "services": {}}')
    files.link(tmp_path / "current", "releases/old")
    for current, proven, known in ((40, 40, False), (40, 60, True), (60, 40, None)):
        os.utime(tmp_path / "current", (current, current), follow_symlinks=False)
        os.utime(verdict, (proven, proven))
        found = read_host.release(tmp_path)["attempt"]
        assert (found and found["proven_since"]) is known
    os.utime(tmp_path / "current", (40, 40), follow_symlinks=False)
    verdict.write_text('{"ok": false, "services": {}}')
    failed = read_host.release(tmp_path)["attempt"]
    assert failed and failed["proven_since"] is False


CPUINFO = Path(__file__).parents[1] / "data" / "cpuinfo"
PROCESSORS: dict[str, dict[str, Any]] = {
    "amd-without-avx512.txt": {"model": "AMD EPYC", "cores": 2, "features": ["fma", "f16c", "avx2"]},
    "intel-with-amx.txt": {
        "model": "Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz",
        "cores": 2,
        "features": [
            *("fma", "f16c", "avx2", "avx_vnni", "avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni"),
            *("avx512_bf16", "avx512_fp16", "amx_tile", "amx_int8", "amx_bf16"),
        ],
    },
    "arm-neoverse-v2.txt": {
        "model": "ARM Neoverse V2",
        "cores": 2,
        "features": ["asimd", "asimdhp", "asimddp", "i8mm", "bf16", "sve", "sve2", "svei8mm", "svebf16"],
    },
}


@pytest.mark.parametrize("name", PROCESSORS)
def test_a_processor_is_told_by_what_rounds(name: str) -> None:
    assert read_host.processor_of((CPUINFO / name).read_text(encoding="utf-8")) == PROCESSORS[name]


def test_a_processor_that_tells_little_is_no_failure() -> None:
    assert read_host.processor_of("") == {"model": "", "cores": 0, "features": []}
    unknown = "processor\t: 0\nCPU implementer\t: 0x51\nCPU part\t: 0x001\nFeatures\t: fp asimd\n\nprocessor\t: 1\n"
    assert read_host.processor_of(unknown) == {"model": "ARM 0x51 part 0x001", "cores": 2, "features": ["asimd"]}


def test_a_listener_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        found = read_host.listening([port])
    assert found[str(port)]["pid"] and "py" in found[str(port)]["process"]
    assert read_host.listening([port]) == {}


def test_files_are_written_whole_with_their_mode(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file"
    assert files.write(path, "one", 0o400) is True
    assert files.write(path, "one", 0o400) is False
    assert path.stat().st_mode & 0o777 == 0o400
    assert files.write(path, "one", 0o444) is True
    assert list(path.parent.iterdir()) == [path]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file"
    files.write(path, "old")
    with pytest.raises(UnicodeEncodeError):
        files.write(path, "\udc80")
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_what_cannot_be_written_is_named_with_what_to_do() -> None:
    refused = PermissionError(13, "Permission denied", "/opt/llm/x")
    said = "cannot write /opt/llm/x: Permission denied; run as root, and check the disk"
    assert files.unwritable(refused) == files.unwritable(refused, "/opt/llm") == said
    nameless = OSError(28, "No space left on device")
    assert files.unwritable(nameless, "/opt/llm").startswith("cannot write /opt/llm: No space left on device; ")
    assert files.unwritable(OSError("odd")).startswith("cannot write a file: odd; ")


def test_disk_of_a_folder_that_is_not_there_yet(tmp_path: Path) -> None:
    found = read_host.disk(str(tmp_path / "a" / "b"))
    assert found["free"] > 0 and found["device"] == tmp_path.stat().st_dev


def test_images_of_ours_are_those_with_our_names_and_those_that_were_brought(tmp_path: Path) -> None:
    listed: list[ListedImage] = [
        {"Id": "1", "RepoTags": ["llm/a:1", "vendor/a:1"], "Size": 10},
        {"Id": "2", "RepoTags": ["theirs/b:1"], "Size": 20},
        {"Id": "3", "RepoTags": ["haproxy:3"], "Size": 30},
        {"Id": "4", "RepoTags": None, "Size": 40},
    ]
    containers: list[ListedContainer] = [{"Id": "c", "Names": ["/x"], "ImageID": "1", "State": "running"}]
    path = tmp_path / "images.json"
    assert read_host.image_records(path) == {}
    gone: Any = {"id": "9", "names": ["gone:1"]}
    path.write_text(
        json.dumps(
            {
                "llm/a:1": {"id": "1", "names": ["docker.io/vendor/a:1"]},
                "docker.io/library/haproxy:3": {"id": "3", "names": []},
                "llm/gone:1": gone,
                "damaged": "text",
            }
        )
    )
    records = read_host.image_records(path)
    assert "damaged" not in records and records["llm/gone:1"] == gone
    assert read_host.owned_images(listed, containers, records, "llm/") == [
        {"name": "docker.io/vendor/a:1", "id": "1", "size": 10, "containers": ["x"]},
        {"name": "llm/a:1", "id": "1", "size": 10, "containers": ["x"]},
        {"name": "docker.io/library/haproxy:3", "id": "3", "size": 30, "containers": []},
    ]


def test_releases_keep_their_images_whoever_declares_the_service(tmp_path: Path) -> None:
    for service, release, image in (("a", "r1", "i1"), ("a", "r2", "i2"), ("gone", "r1", "i3")):
        place = tmp_path / service / "releases" / release
        place.mkdir(parents=True)
        (place / "release.json").write_text(json.dumps({"facts": {"image": {"id": image}}}))
    (tmp_path / "a/current").symlink_to("releases/r2")
    (tmp_path / "a/previous").symlink_to("releases/r1")
    (tmp_path / "gone/current").symlink_to("releases/r1")
    (tmp_path / "gone/previous").symlink_to("releases/r0")
    assert read_host.release_images(tmp_path) == {"a": {"current": "i2", "previous": "i1"}, "gone": {"current": "i3"}}
