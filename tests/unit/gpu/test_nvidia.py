"""GPUs: recorded nvidia-smi output, its failures, what the toolkit left, declared beside found, and what follows."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llm_gpu_facts
import pytest
from ansible.module_utils.llm.base import dpkg
from ansible.module_utils.llm.declare import values
from ansible.module_utils.llm.declare.objects import Gpu
from ansible.module_utils.llm.gpu import host as gpu_host
from ansible.module_utils.llm.gpu import nvidia

from tests import hosts

DATA = Path(__file__).parents[1] / "data" / "nvidia-smi"
GIB = 2**30
ONE, TWO = (f"GPU-00000000-0000-0000-0000-00000000000{n}" for n in (1, 2))


def said(name: str) -> str:
    return (DATA / name).read_text(encoding="utf-8")


# -- what nvidia-smi says ---------------------------------------------------------------------------------------------


def test_a_recording_is_read() -> None:
    found = nvidia.parse(said("h100x2.xml"))
    assert (found["driver"], found["cuda"]) == ("580.159.04", "13.0")
    first, second = found["gpus"]
    assert (first["index"], first["uuid"], first["name"]) == (0, ONE, "NVIDIA H100 80GB HBM3")
    assert (second["index"], second["uuid"]) == (1, TWO)
    assert first["memory"] == 81559 * nvidia.MIB
    assert first["architecture"] == "Hopper"
    assert first["pcie"] == {"generation": 5, "generation_max": 5, "width": 16, "width_max": 16}
    assert (first["persistence"], first["mig"], first["ecc"], first["processes"]) == (True, False, True, [])


def test_processes_are_read() -> None:
    first, second = nvidia.parse(said("h100x2-busy.xml"))["gpus"]
    assert first["processes"] == [{"pid": 725, "name": "python3", "memory": 2658 * nvidia.MIB}]
    assert first["free"] == 78413 * nvidia.MIB
    assert second["processes"] == []


def test_a_lost_gpu_moves_the_others_and_keeps_their_uuid() -> None:
    (left,) = nvidia.parse(said("h100x2-lost-0.xml"))["gpus"]
    assert (left["index"], left["uuid"]) == (0, TWO)


def test_what_a_card_does_not_have_is_none() -> None:
    cards = nvidia.parse(said("rtx4090x3-made.xml"))["gpus"]
    assert [(c["ecc"], c["mig"], c["persistence"], c["pcie"]["width"]) for c in cards] == [
        (None, None, False, 16),
        (None, None, False, 16),
        (None, None, False, 4),
    ]


@pytest.mark.parametrize("text", ["", "No devices were found", "<other/>", said("list.txt")])
def test_anything_else_is_no_reading(text: str) -> None:
    with pytest.raises(ValueError, match=r"XML|nvidia-smi"):
        nvidia.parse(text)


def test_connections_are_read() -> None:
    assert nvidia.parse_matrix(said("topo-m.txt")) == {"GPU0": {"GPU1": "NV18"}, "GPU1": {"GPU0": "NV18"}}
    assert nvidia.parse_matrix(said("topo-p2p-r.txt"))["GPU0"] == {"GPU1": "OK"}
    assert nvidia.parse_matrix(said("topo-p2p-p.txt"))["GPU1"] == {"GPU0": "NS"}
    assert nvidia.parse_matrix("") == {}


def test_lists_and_capabilities_are_read() -> None:
    assert nvidia.parse_list(said("list.txt")) == [ONE, TWO]
    assert nvidia.parse_list(said("fail-18-mismatch.txt")) == []
    assert nvidia.parse_capabilities(f"{ONE}, 9.0\n{TWO}, 9.0\n") == {ONE: "9.0", TWO: "9.0"}
    assert nvidia.parse_capabilities("") == {}


@pytest.mark.parametrize(
    ("text", "version"),
    [
        (said("proc-version.txt"), "580.159.04"),
        ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.183.01  Sun May 12 19:39:15 UTC 2024", "535.183.01"),
        ("", ""),
    ],
)
def test_the_loaded_module_is_read(text: str, version: str) -> None:
    assert nvidia.module_version(text) == version


# -- what is wrong ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "rc", "text"),
    [
        ("mismatch", 18, said("fail-18-mismatch.txt")),
        ("no-library", 12, said("fail-12-no-library.txt")),
        ("blocked", 17, said("fail-17-blocked.txt")),
        # documented, not recorded
        (
            "not-loaded",
            9,
            "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. Make sure that",
        ),
        ("no-devices", 6, "No devices were found"),
        ("detached", 255, "Failed to initialize NVML: Unknown Error"),
        ("lost", 15, "Unable to determine the device handle for GPU0000:01:00.0: Unknown Error"),
        ("no-devices", 0, "No devices were found"),
        ("unknown", 3, "something new"),
        ("unknown", 1, ""),
    ],
)
def test_a_failure_says_what_to_do(name: str, rc: int, text: str) -> None:
    found = nvidia.failure(rc, text)
    assert found is not None
    assert found["id"] == name
    assert found["message"] and found["remedy"]


def test_a_good_answer_is_no_failure() -> None:
    assert nvidia.failure(0, said("list.txt")) is None
    assert nvidia.failure(0, said("h100x2.xml")) is None


@pytest.mark.parametrize(
    ("devices", "tool", "wsl", "name", "word"),
    [
        ([], "", False, "no-hardware", "no NVIDIA GPU"),
        ([], "/usr/bin/nvidia-smi", False, "no-hardware", "no card on the PCI bus"),
        (["0000:01:00.0"], "", False, "no-driver", "1 NVIDIA GPU (0000:01:00.0)"),
        (["0000:01:00.0", "0000:02:00.0"], "", False, "no-driver", "2 NVIDIA GPUs"),
        ([], "", True, "no-driver", "WSL2"),
        (["0000:01:00.0"], "/usr/bin/nvidia-smi", False, "mismatch", "(module 580.100, library 580.159)"),
    ],
)
@pytest.mark.fault(43, "kernel module and library are compared, and both versions said", by="recorded")
def test_a_host_without_usable_gpus(devices: list[str], tool: str, wsl: bool, name: str, word: str) -> None:
    output = said("fail-18-mismatch.txt") if tool else ""
    found = nvidia.trouble(devices, tool, wsl=wsl, module="580.100", rc=18 if tool else 0, output=output)
    assert found is not None
    assert found["id"] == name
    assert word in found["message"]


def test_nothing_is_to_be_installed_inside_wsl() -> None:
    absent = nvidia.trouble([], "", wsl=True)
    broken = nvidia.trouble([], "/usr/lib/wsl/lib/nvidia-smi", wsl=True, rc=18, output=said("fail-18-mismatch.txt"))
    assert absent and broken
    assert "in Windows" in absent["remedy"] and "in Windows" in broken["remedy"]


def test_a_good_host_has_no_trouble() -> None:
    assert nvidia.trouble(["0000:00:06.0"], "/usr/bin/nvidia-smi", wsl=False, output=said("h100x2.xml")) is None


# -- what the toolkit left --------------------------------------------------------------------------------------------

STATUS = """Package: libc6
Status: install ok installed
Version: 2.36-9

Package: nvidia-container-toolkit
Status: hold ok installed
Priority: optional
Version: 1.20.1-1
Description: x

Package: nvidia-container-toolkit-base
Status: install ok installed
Version: 1.20.1-1

Package: libnvidia-container1
Status: deinstall ok config-files
Version: 1.20.1-1
"""


def test_packages_are_read() -> None:
    assert dpkg.packages(STATUS, nvidia.TOOLKIT) == {
        "nvidia-container-toolkit": {"version": "1.20.1-1", "held": True},
        "nvidia-container-toolkit-base": {"version": "1.20.1-1", "held": False},
    }
    assert dpkg.packages("", nvidia.TOOLKIT) == {}


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("/srv/debs/libnvidia-container1_1.20.1-1_amd64.deb", ("libnvidia-container1", "1.20.1-1")),
        ("x_1%3a2.0~rc1_all.deb", ("x", "1:2.0~rc1")),
    ],
)
def test_file_names_say_what_is_in_them(file: str, name: tuple[str, str]) -> None:
    assert dpkg.package_of(file) == name


def test_other_file_names_are_refused() -> None:
    with pytest.raises(ValueError, match=r"toolkit\.deb is not named"):
        dpkg.package_of("toolkit.deb")


# As nvidia-ctk 1.20 writes it (its own tests), and what WSL2's looks like.
CDI = """---
cdiVersion: 0.5.0
kind: nvidia.com/gpu
devices:
    - name: "0"
      containerEdits:
        deviceNodes:
            - path: /dev/nvidia0
    - name: GPU-00000000-0000-0000-0000-000000000001
      containerEdits:
        deviceNodes:
            - path: /dev/nvidia0
    - name: all
containerEdits:
    hooks:
        - hookName: createContainer
          path: /usr/bin/nvidia-cdi-hook
    mounts:
        - hostPath: /lib/x86_64-linux-gnu/libcuda.so.580.159.04
          containerPath: /lib/x86_64-linux-gnu/libcuda.so.580.159.04
"""


def test_a_cdi_specification_is_read() -> None:
    assert nvidia.cdi(CDI) == {"driver": "580.159.04", "devices": ["0", ONE, "all"]}
    older = 'devices:\n  - containerEdits:\n      deviceNodes: []\n    name: "0"\n'
    assert nvidia.cdi(older) == {"driver": "", "devices": ["0"]}
    assert nvidia.cdi("") == {"driver": "", "devices": []}


@pytest.mark.parametrize(
    ("before", "after", "lost"),
    [
        ({}, {"runtimes": {"nvidia": {"path": "nvidia-container-runtime", "args": []}}}, []),
        ({"live-restore": True}, {"live-restore": True, "runtimes": {"nvidia": {}}}, []),
        ({"runtimes": {"nvidia": {"path": "/old"}}}, {"runtimes": {"nvidia": {"path": "/new"}}}, []),
        ({"features": {"cdi": False}}, {"features": {"cdi": True}}, []),
        ({"features": {"buildkit": True}}, {"features": {"cdi": True}}, ["features.buildkit"]),
        ({"log-opts": {"max-size": "10m"}}, {"runtimes": {"nvidia": {}}}, ["log-opts.max-size"]),
        ({"runtimes": {"other": {"path": "/x"}}}, {"runtimes": {"nvidia": {}}}, ["runtimes.other.path"]),
    ],
)
def test_settings_that_would_be_lost_are_named(before: dict[str, Any], after: dict[str, Any], lost: list[str]) -> None:
    assert nvidia.lost_settings(before, after) == lost


@pytest.mark.parametrize(
    ("host", "uses"),
    [
        ({"DeviceRequests": [nvidia.request("nvidia", ["0"])]}, True),
        ({"DeviceRequests": [nvidia.request("cdi", [ONE])]}, True),
        ({"DeviceRequests": None, "Runtime": "nvidia"}, True),
        ({"DeviceRequests": None, "Runtime": "runc"}, False),
        ({}, False),
    ],
)
def test_containers_with_gpus_are_known(host: dict[str, Any], uses: bool) -> None:
    assert nvidia.uses_gpu({"HostConfig": host}) is uses


def test_what_needs_a_restart_of_the_engine() -> None:
    # Docker 20.10 and 26.1, as they answered on machines without the toolkit and without CDI
    assert nvidia.engine_must_restart('could not select device driver "nvidia" with capabilities: [[gpu utility]]')
    assert not nvidia.engine_must_restart("CDI device injection failed: unresolvable CDI devices nvidia.com/gpu=7")


# -- declared beside found --------------------------------------------------------------------------------------------


def declared(index: int, uuid: str = "", model: str = "H100 80GB HBM3", memory: str = "80 GiB") -> Gpu:
    return Gpu(index, model, values.size_bytes(memory), uuid)


def differing(*gpus: Gpu, recording: str = "h100x2.xml") -> list[tuple[int, str, str]]:
    found = nvidia.differences(gpus, nvidia.parse(said(recording))["gpus"])
    assert all(d["message"] and d["remedy"] and d["part"] for d in found)
    return [(d["position"], d["id"], d["severity"]) for d in found]


def test_the_same_gpus_do_not_differ() -> None:
    assert differing(declared(0), declared(1, TWO, "nvidia h100 80gb hbm3")) == []


@pytest.mark.parametrize(
    ("entry", "difference"),
    [
        (declared(2), ("gpu-missing", "error")),
        (declared(0, "GPU-f"), ("gpu-missing", "error")),
        (declared(0, TWO), ("gpu-moved", "info")),
        (declared(0, model="NVIDIA H200"), ("gpu-model", "warn")),
        (declared(0, memory="94 GiB"), ("gpu-memory", "error")),
        (declared(0, memory="40 GiB"), ("gpu-memory", "warn")),
    ],
)
def test_each_difference_is_named(entry: Gpu, difference: tuple[str, str]) -> None:
    assert differing(entry) == [(0, *difference)]


def test_with_a_uuid_a_lost_gpu_is_told_from_the_one_that_took_its_index() -> None:
    assert differing(declared(0, ONE), declared(1, TWO), recording="h100x2-lost-0.xml") == [
        (0, "gpu-missing", "error"),
        (1, "gpu-moved", "info"),
    ]
    (missing, _) = nvidia.differences(
        [declared(0, ONE), declared(1, TWO)], nvidia.parse(said("h100x2-lost-0.xml"))["gpus"]
    )
    assert f"index 0 is now {TWO}" in missing["message"]


def test_a_24_gib_card_is_one() -> None:
    cards = [declared(i, model="NVIDIA GeForce RTX 4090", memory="24 GiB") for i in range(3)]
    assert differing(*cards, recording="rtx4090x3-made.xml") == []


# -- what follows -----------------------------------------------------------------------------------------------------

VERSIONS = dict.fromkeys(nvidia.TOOLKIT, "1.20.1-1")


def good(**changes: Any) -> Any:
    """Facts of a host where all is as declared; changes go into what was seen of its GPUs."""
    seen = {
        **gpu_host.nothing(),
        "devices": ["0000:00:06.0", "0000:00:07.0"],
        "tool": "/usr/bin/nvidia-smi",
        "module": "580.159.04",
        **nvidia.parse(said("h100x2.xml")),
        "toolkit": {n: {"version": v, "held": True} for n, v in VERSIONS.items()},
        "cdi": {"file": "/var/run/cdi/nvidia.yaml", "driver": "580.159.04", "devices": ["0", "1", ONE, TWO, "all"]},
        "runtime": "nvidia-container-runtime",
    }
    facts: Any = {
        "docker": {"running": True, "version": "28.5.2", "runtimes": ["nvidia", "runc"], "cdi": True},
        "gpu": {**seen, **changes},
    }
    if "proof" not in changes:
        facts["gpu"]["proof"] = nvidia.signature(facts, "cdi")
    return facts


def steps(facts: Any, **wanted: Any) -> set[str]:
    found = nvidia.work(facts, **{"runtime": "cdi", "toolkit": VERSIONS, **wanted})
    assert all(found.values())
    return set(found)


def test_an_unchanged_host_has_nothing_to_do() -> None:
    assert steps(good()) == set()
    assert steps(good(), driver="580", gpus=[{"index": 0}]) == set()


@pytest.mark.parametrize(
    ("changes", "wanted", "expected"),
    [
        ({"toolkit": {}}, {}, {"toolkit"}),
        ({}, {"toolkit": {**VERSIONS, "libnvidia-container1": "1.21.0-1"}}, {"toolkit"}),
        ({"toolkit": {n: {"version": "1.20.1-1", "held": False} for n in VERSIONS}}, {}, {"hold"}),
        ({"cdi": {"file": "", "driver": "", "devices": []}}, {}, {"cdi"}),
        ({"cdi": {"file": "/x", "driver": "570.1", "devices": ["0", "1", ONE, TWO]}}, {}, {"cdi"}),
        ({"cdi": {"file": "/x", "driver": "580.159.04", "devices": ["0", ONE, "all"]}}, {}, {"cdi"}),
        ({"runtime": ""}, {}, {"runtime"}),
        ({"proof": {}}, {}, {"proof"}),
        ({}, {"runtime": "nvidia"}, {"proof"}),
        ({}, {"driver": "590"}, {"driver"}),
        ({}, {"driver": "58"}, {"driver"}),
        ({**nvidia.parse(said("rtx4090x3-made.xml"))}, {}, {"cdi", "persistence"}),
        ({**nvidia.parse(said("rtx4090x3-made.xml"))}, {"persistence": False}, {"cdi"}),
        (
            {
                **nvidia.parse(said("rtx4090x3-made.xml")),
                "wsl": True,
                "cdi": {"file": "/x", "driver": "", "devices": ["all"]},
            },
            {"runtime": "nvidia"},
            {"proof"},
        ),
    ],
)
def test_what_is_to_be_done(changes: dict[str, Any], wanted: dict[str, Any], expected: set[str]) -> None:
    assert steps(good(**changes), **wanted) == expected


@pytest.mark.parametrize(
    ("docker", "expected"),
    [
        ({"runtimes": ["runc"]}, {"runtime"}),
        ({"cdi": False}, {"runtime"}),
        ({"version": "29.0.0"}, {"proof"}),
    ],
)
def test_what_the_engine_lacks(docker: dict[str, Any], expected: set[str]) -> None:
    facts = good()
    facts["docker"].update(docker)
    assert steps(facts) == expected


def test_a_new_driver_is_proven_again() -> None:
    facts = good()
    facts["gpu"]["driver"] = "580.200"
    assert steps(facts) == {"cdi", "proof"}


def test_a_host_without_gpu_does_nothing_unless_gpus_are_declared() -> None:
    facts = good(trouble=nvidia.trouble([], "", wsl=False), gpus=[], toolkit={}, proof={})
    assert steps(facts) == set()
    assert steps(facts, gpus=[{"index": 0}]) == {"driver"}


@pytest.mark.parametrize(
    ("version", "runtime", "wsl", "word"),
    [
        ("20.10.24+dfsg1", "cdi", False, "25"),
        ("28.2.0", "cdi", True, "WSL2"),
        ("28.2.0", "cdi", False, ""),
        ("20.10.24+dfsg1", "nvidia", False, ""),
        (None, "cdi", False, ""),
    ],
)
def test_ways_that_cannot_work(version: str | None, runtime: str, wsl: bool, word: str) -> None:
    docker = hosts.facts(docker={"version": version})["docker"]
    found = nvidia.runtime_problem(docker, runtime, wsl=wsl)
    assert bool(found) is bool(word)
    assert word in (found or ("",))[0]


@pytest.mark.parametrize(
    ("distribution", "version", "kind", "some"),
    [
        ("ubuntu", "580.95.05", "dkms", "nvidia-dkms-580-open=580.95.05*"),
        ("ubuntu", "580", "packaged", "linux-modules-nvidia-580-open-generic"),
        ("debian", "535", "dkms", "nvidia-kernel-dkms=535*"),
    ],
)
def test_driver_packages(distribution: str, version: str, kind: str, some: str) -> None:
    assert some in nvidia.driver_packages(distribution, version, kind)


@pytest.mark.parametrize(("distribution", "kind"), [("debian", "packaged"), ("fedora", "dkms"), ("", "dkms")])
def test_unknown_driver_packages_are_refused(distribution: str, kind: str) -> None:
    with pytest.raises(ValueError, match="known here"):
        nvidia.driver_packages(distribution, "580", kind)


# -- reading a host ---------------------------------------------------------------------------------------------------


def machine(base: Path, *, smi: bool = True, cards: int = 2) -> Path:
    """A file system as a host with GPUs has it."""
    for number in range(cards):
        place = base / f"sys/bus/pci/devices/0000:0{number}:00.0"
        place.mkdir(parents=True)
        (place / "vendor").write_text("0x10de\n")
        (place / "class").write_text("0x030200\n")
    for name, vendor, kind in (("0000:00:01.0", "0x10de", "0x040300"), ("0000:00:02.0", "0x8086", "0x030000")):
        (base / "sys/bus/pci/devices" / name).mkdir(parents=True, exist_ok=True)
        (base / "sys/bus/pci/devices" / name / "vendor").write_text(vendor)
        (base / "sys/bus/pci/devices" / name / "class").write_text(kind)
    files = {
        "proc/driver/nvidia/version": said("proc-version.txt"),
        "proc/725/cgroup": f"0::/system.slice/docker-{'a' * 64}.scope\n",
        "var/lib/dpkg/status": STATUS,
        "var/run/cdi/nvidia.yaml": CDI,
        "etc/docker/daemon.json": json.dumps(
            {"runtimes": {"nvidia": {"path": "nvidia-container-runtime", "args": []}}}
        ),
        "opt/llm/state/gpu.json": json.dumps({"driver": "580.159.04"}),
    }
    for name, text in files.items():
        (base / name).parent.mkdir(parents=True, exist_ok=True)
        (base / name).write_text(text)
    if smi:
        (base / "usr/bin").mkdir(parents=True)
        (base / "usr/bin/nvidia-smi").touch()
    return base


def answers(rc: int, out: str) -> Any:
    return lambda argv: (rc, out, "") if argv[1:] == ["-q", "-x"] else (1, "", "")


def test_a_host_is_read(tmp_path: Path) -> None:
    base = machine(tmp_path)
    seen = gpu_host.read(answers(0, said("h100x2-busy.xml")), base / "opt/llm", base)
    assert set(seen) == set(gpu_host.nothing())
    assert seen["devices"] == ["0000:00:00.0", "0000:01:00.0"]
    assert (seen["module"], seen["driver"], seen["trouble"]) == ("580.159.04", "580.159.04", None)
    assert seen["gpus"][0]["processes"][0]["container"] == "a" * 64
    assert seen["cdi"] == {"file": "/var/run/cdi/nvidia.yaml", "driver": "580.159.04", "devices": ["0", ONE, "all"]}
    assert (seen["runtime"], seen["proof"]) == ("nvidia-container-runtime", {"driver": "580.159.04"})
    assert seen["toolkit"]["nvidia-container-toolkit"]["held"] is True


def test_a_host_without_anything_is_read_without_a_process(tmp_path: Path) -> None:
    def never(argv: list[str]) -> tuple[int, str, str]:
        raise AssertionError(argv)

    seen = gpu_host.read(never, tmp_path / "opt/llm", tmp_path)
    assert seen["trouble"] and seen["trouble"]["id"] == "no-hardware"
    assert {**seen, "trouble": None} == gpu_host.nothing()


def test_a_host_whose_driver_fails_is_read(tmp_path: Path) -> None:
    base = machine(tmp_path)
    for rc, output, word in ((18, said("fail-18-mismatch.txt"), "mismatch"), (0, "nonsense", "unknown")):
        trouble = gpu_host.read(answers(rc, output), base, base)["trouble"]
        assert trouble and trouble["id"] == word


@pytest.mark.parametrize(
    ("cgroup", "container"),
    [
        (f"0::/system.slice/docker-{'b' * 64}.scope", "b" * 64),
        (f"12:devices:/docker/{'c' * 64}\n1:name=systemd:/docker/{'c' * 64}", "c" * 64),
        ("0::/user.slice/user-1000.slice", ""),
    ],
)
def test_a_process_is_traced_to_its_container(tmp_path: Path, cgroup: str, container: str) -> None:
    (tmp_path / "proc/7").mkdir(parents=True)
    (tmp_path / "proc/7/cgroup").write_text(cgroup)
    assert gpu_host.container_of(7, tmp_path) == container
    assert gpu_host.container_of(8, tmp_path) == ""


def test_wsl_is_known_by_its_device(tmp_path: Path) -> None:
    for name in ("dev/dxg", "usr/lib/wsl/lib/nvidia-smi"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = gpu_host.hardware(tmp_path)
    assert (found["wsl"], found["tool"]) == (True, str(tmp_path / "usr/lib/wsl/lib/nvidia-smi"))


# -- the module -------------------------------------------------------------------------------------------------------

# A stub of nvidia-smi that says what was recorded: no GPU is here.
STUB = """\
#!/bin/sh
case "$*" in
  "-q -x") cat {data}/h100x2-busy.xml ;;
  "topo -m") cat {data}/topo-m.txt ;;
  "topo -p2p r") cat {data}/topo-p2p-r.txt ;;
  --query-gpu=uuid,compute_cap*) printf '%s, 9.0\\n%s, 9.0\\n' {one} {two} ;;
  *) exit 2 ;;
esac
"""


def test_the_module_reads_all_that_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run_module: Callable[..., dict[str, Any]]
) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text(STUB.format(data=DATA, one=ONE, two=TWO), encoding="utf-8")
    tool.chmod(0o755)
    there = {"devices": ["0000:06:00.0"], "wsl": False, "module": "580.159.04", "tool": str(tool)}
    monkeypatch.setattr(gpu_host, "hardware", lambda _base: there)
    found = run_module(llm_gpu_facts, {"root": str(tmp_path), "details": True})["ansible_facts"]["llm_gpu"]
    first, second = found["gpus"]
    assert (found["driver"], found["cuda"], found["trouble"]) == ("580.159.04", "13.0", None)
    assert [g["capability"] for g in (first, second)] == ["9.0", "9.0"]
    assert [(p["pid"], p["memory"]) for p in first["processes"]] == [(725, 2658 * nvidia.MIB)]
    assert found["topology"] == {
        "links": {"GPU0": {"GPU1": "NV18"}, "GPU1": {"GPU0": "NV18"}},
        "p2p": {"GPU0": {"GPU1": "OK"}, "GPU1": {"GPU0": "OK"}},
    }
    tool.write_text(f"#!/bin/sh\ncat {DATA}/fail-18-mismatch.txt; exit 18\n", encoding="utf-8")
    found = run_module(llm_gpu_facts, {"root": str(tmp_path), "details": True})["ansible_facts"]["llm_gpu"]
    assert found["gpus"] == [] and found["trouble"]["id"] == "mismatch"
    assert "module 580.159.04, library " in found["trouble"]["message"] and "Reboot" in found["trouble"]["remedy"]


def test_the_module_works_without_a_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run_module: Callable[..., dict[str, Any]]
) -> None:
    monkeypatch.setattr(gpu_host, "hardware", lambda _base: {"devices": [], "wsl": False, "module": "", "tool": ""})
    result = run_module(llm_gpu_facts, {"root": str(tmp_path), "details": True})
    found = result["ansible_facts"]["llm_gpu"]
    assert result["changed"] is False and found["gpus"] == [] and found["trouble"]["id"] == "no-hardware"
