"""What the module that sets up GPUs refuses, on hosts that are described and not there; Molecule has the real engine."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llm_gpu_toolkit
import llm_repository_key
import pytest
from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.llm.docker import api as docker_api
from ansible.module_utils.llm.docker import process as docker_process
from ansible.module_utils.llm.gpu import host as gpu_host
from ansible.module_utils.llm.gpu import nvidia, toolkit

DATA = Path(__file__).parents[1] / "data"
BOX = nvidia.parse((DATA / "nvidia-smi" / "rtx4090x3-made.xml").read_text(encoding="utf-8"))
LIST = "\n".join(f"GPU {g['index']}: {g['name']} (UUID: {g['uuid']})" for g in BOX["gpus"])
GPUS = [{"index": 0, "model": "NVIDIA GeForce RTX 4090", "memory": "24 GiB"}]
Run = Callable[..., dict[str, Any]]


class Host:
    """A host as the module finds it; tests change what is wrong with it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        self.seen: dict[str, Any] = {
            **gpu_host.nothing(),
            **copy.deepcopy(BOX),
            "tool": "/usr/bin/nvidia-smi",
            "devices": ["0000:01:00.0"],
            "cdi": {"file": "/x", "driver": BOX["driver"], "devices": [g["uuid"] for g in BOX["gpus"]]},
            "runtime": "nvidia-container-runtime",
        }
        for one in self.seen["gpus"]:
            one["persistence"] = True
        self.info: dict[str, Any] = {"ServerVersion": "28.5.2", "Runtimes": {"nvidia": {}}, "CDISpecDirs": ["/etc/cdi"]}
        self.containers: list[dict[str, Any]] = []
        self.dry_run: dict[str, Any] = {}
        self.output, self.start_error = LIST, ""
        self.commands: list[list[str]] = []
        self.arguments = {"runtime": "nvidia", "gpus": GPUS, "root": str(tmp_path)}
        monkeypatch.setattr(gpu_host, "read", lambda *_: copy.deepcopy(self.seen))
        monkeypatch.setattr(docker_api, "get", lambda *_, **__: self.info)
        monkeypatch.setattr(docker_api, "containers", lambda **_: self.containers)
        monkeypatch.setattr(
            docker_api, "inspect", lambda _: {"HostConfig": {"Runtime": "nvidia"}, "State": {"StartedAt": "1"}}
        )
        for name in ("stop", "start"):
            monkeypatch.setattr(docker_process.Engine, name, lambda _, step=name: self.commands.append([step]))
        monkeypatch.setattr(docker_process.Engine, "lost", lambda *_: [])
        monkeypatch.setattr(toolkit, "run_container", self.run_container)
        self.import_image = toolkit.Toolkit.import_image
        monkeypatch.setattr(toolkit.Toolkit, "import_image", lambda *_: None)
        monkeypatch.setattr(toolkit, "DAEMON", tmp_path / "daemon.json")
        monkeypatch.setattr(AnsibleModule, "get_bin_path", lambda *_, **__: "/usr/bin/nvidia-ctk")
        monkeypatch.setattr(AnsibleModule, "run_command", lambda _module, argv, **_: self.run_command(argv))

    def run_container(self, *_: Any) -> tuple[int, str]:
        if self.start_error:
            raise docker_api.DockerError(self.start_error)
        return 0, self.output

    def run_command(self, argv: list[str]) -> tuple[int, str, str]:
        self.commands.append(argv)
        if "--dry-run" in argv:
            return 0, json.dumps(self.dry_run), ""
        if argv[:2] == ["docker", "exec"]:
            return (255, "Failed to initialize NVML: Unknown Error", "") if argv[2] == "lost" else (0, LIST, "")
        return 0, "", ""


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Host:
    return Host(monkeypatch, tmp_path)


def test_a_proof_is_asked_for_once(host: Host, run_module: Run) -> None:
    first = run_module(llm_gpu_toolkit, host.arguments)
    assert first["changed"] and first["seen"] == [g["uuid"] for g in BOX["gpus"]]
    proof = Path(host.arguments["root"], gpu_host.PROOF_FILE)  # type: ignore[arg-type]
    host.seen["proof"] = json.loads(proof.read_text())
    host.commands.clear()
    second = run_module(llm_gpu_toolkit, host.arguments)
    assert not second["changed"]
    assert host.commands == []


def test_a_script_in_front_of_nvidia_smi_is_named(host: Host, run_module: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """`ldd` knows no library of a script, and a container made of it could start nothing."""
    monkeypatch.setattr(toolkit.Toolkit, "import_image", host.import_image)
    refused = run_module(llm_gpu_toolkit, host.arguments)
    assert refused["failed"]
    assert "/usr/bin/nvidia-smi is not the program itself" in refused["msg"]


def test_nothing_is_asked_in_check_mode(host: Host, run_module: Run) -> None:
    host.output = ""
    assert run_module(llm_gpu_toolkit, host.arguments, check_mode=True)["changed"]
    assert host.commands == []


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"trouble": nvidia.failure(18, "Driver/library version mismatch")}, "Reboot the host"),
        ({"gpus": BOX["gpus"][1:2]}, "llm_host_gpus.0.index: GPU 0 is not there"),
    ],
)
def test_a_host_that_is_not_as_declared_is_refused(
    host: Host, run_module: Run, change: dict[str, Any], says: str
) -> None:
    host.seen.update(change)
    result = run_module(llm_gpu_toolkit, host.arguments)
    assert result["failed"] and says in result["msg"]
    assert host.commands == []


def test_an_engine_without_cdi_is_refused(host: Host, run_module: Run) -> None:
    host.info["ServerVersion"] = "20.10.24"
    result = run_module(llm_gpu_toolkit, {**host.arguments, "runtime": "cdi"})
    assert "Docker 20.10.24 knows no CDI" in result["msg"]


def test_a_declaration_that_is_none_is_refused(host: Host, run_module: Run) -> None:
    result = run_module(llm_gpu_toolkit, {**host.arguments, "gpus": [{"index": 0}]})
    assert "nvidia_toolkit_gpus.0 needs index, model and memory" in result["msg"]


def test_settings_of_others_are_not_given_up(host: Host, run_module: Run) -> None:
    """nvidia-ctk is asked what it would write, and not to write."""
    toolkit.DAEMON.write_text('{"features": {"buildkit": true}}')
    host.info["CDISpecDirs"] = []
    host.dry_run = {"features": {"cdi": True}, "runtimes": {"nvidia": {"path": "x"}}}
    result = run_module(llm_gpu_toolkit, {**host.arguments, "runtime": "cdi"})
    assert "would drop features.buildkit" in result["msg"]
    assert [c for c in host.commands if "--dry-run" not in c] == []


def test_passwords_of_others_are_not_shown(host: Host, run_module: Run) -> None:
    settings = {"proxies": {"http-proxy": "http://user:s3cret@proxy:3128"}}
    toolkit.DAEMON.write_text(json.dumps(settings))
    host.seen["runtime"] = ""
    host.dry_run = {**settings, "runtimes": {"nvidia": {"path": "x"}}}
    result = run_module(llm_gpu_toolkit, host.arguments, check_mode=True)
    assert "proxy:3128" in json.dumps(result["diff"]) and "s3cret" not in json.dumps(result)


def test_containers_that_lost_their_gpus_are_named(host: Host, run_module: Run) -> None:
    host.containers = [{"Id": "lost", "Names": ["/one"]}, {"Id": "fine", "Names": ["/two"]}]
    result = run_module(llm_gpu_toolkit, host.arguments)
    assert "docker restart one`" in result["msg"]
    assert "two" not in result["msg"]
    assert not Path(str(host.arguments["root"]), gpu_host.PROOF_FILE).exists()


def test_a_container_that_sees_too_little_is_no_proof(host: Host, run_module: Run) -> None:
    host.output = "Failed to initialize NVML: Unknown Error"
    result = run_module(llm_gpu_toolkit, host.arguments)
    assert f"does not see {BOX['gpus'][0]['uuid']}" in result["msg"]


def test_the_engine_is_not_restarted_under_running_containers(host: Host, run_module: Run) -> None:
    host.containers = [{"Id": "fine", "Names": ["/web"]}]
    host.start_error = 'could not select device driver "nvidia" with capabilities: [[gpu utility]]'
    result = run_module(llm_gpu_toolkit, host.arguments)
    assert "web would stop with it" in result["msg"]
    assert "nvidia_toolkit_restart_engine" in result["msg"]
    assert ["stop"] not in host.commands


@pytest.mark.parametrize("allowed", ["live-restore", "option", "nothing runs"])
def test_the_engine_is_restarted_where_that_harms_nobody(host: Host, run_module: Run, allowed: str) -> None:
    host.containers = [] if allowed == "nothing runs" else [{"Id": "fine", "Names": ["/web"]}]
    host.info["LiveRestoreEnabled"] = allowed == "live-restore"
    host.start_error = 'could not select device driver "nvidia" with capabilities: [[gpu utility]]'
    run_module(llm_gpu_toolkit, {**host.arguments, "restart_engine": allowed == "option"})
    assert [c for c in host.commands if len(c) == 1] == [["stop"], ["start"]]


# -- the repository's key ---------------------------------------------------------------------------------------------

FINGERPRINT = "4D1F1392BB34B98A1F5F6DED7A23C532288A7C59"


def key(tmp_path: Path, **changes: str) -> dict[str, str]:
    url = (DATA / "stand-in-key.asc").as_uri()
    return {"url": url, "fingerprint": FINGERPRINT, "path": str(tmp_path / "key.asc"), **changes}


def test_the_declared_key_is_taken_once(tmp_path: Path, run_module: Run) -> None:
    spaced = f"{FINGERPRINT[:4]} {FINGERPRINT[4:].lower()}"
    assert run_module(llm_repository_key, key(tmp_path, fingerprint=spaced), check_mode=True)["changed"]
    assert not (tmp_path / "key.asc").exists()
    assert run_module(llm_repository_key, key(tmp_path))["changed"]
    assert not run_module(llm_repository_key, key(tmp_path))["changed"]
    assert not run_module(llm_repository_key, key(tmp_path), check_mode=True)["changed"]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"fingerprint": "C95B321B61E88C1809C4F759DDCAE044F796ECB0"}, "it is not trusted"),
        ({"url": Path(__file__).as_uri()}, "gives no key"),
        ({"url": "file:///nowhere/key"}, "could not be fetched"),
    ],
)
def test_any_other_key_is_refused(tmp_path: Path, run_module: Run, changes: dict[str, str], says: str) -> None:
    result = run_module(llm_repository_key, key(tmp_path, **changes))
    assert result["failed"] and says in result["msg"]
    assert not (tmp_path / "key.asc").exists()
