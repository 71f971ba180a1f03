"""What Docker Compose gets: command line, hardening, mounts, hashes, reasons."""

import copy
from typing import Any

import pytest
from ansible.module_utils.llm.base import names
from ansible.module_utils.llm.declare import parse
from ansible.module_utils.llm.declare.objects import Image, Service
from ansible.module_utils.llm.plan import compose

from tests import catalogs

IMAGE = "sha256:" + "b" * 64


def rendered(inventory: str, service: str, **host: Any) -> tuple[Any, compose.Release]:
    declared = catalogs.declared(inventory, **host)
    release = compose.release(declared, declared.services[service], IMAGE, "digest")
    return dict(release.compose["services"]["engine"]), release


def test_flags_become_arguments_as_the_engine_writes_them() -> None:
    service = Service(
        "s",
        "i",
        "m",
        1,
        "name",
        args={"a": True, "b": False, "c": {"y": 1, "x": 2}, "d": ["p", "q"], "e": 0.92, "max-model-len": -1},
    )
    argv = compose.engine_argv(service)
    assert argv[0] == "/model" and argv[-2:] == ["--config", compose.SECRET]
    text = " ".join(argv)
    for part in (
        "--a ",
        "--no-b",
        '--c {"x": 2, "y": 1}',
        "--d p q",
        "--e 0.92",
        "--max-model-len -1",
        "--served-model-name name",
    ):
        assert part in text


def test_plugins_are_files_in_the_container() -> None:
    plugins = {"tool_parser": "my/p.py", "chat_template": "t.jinja", "middleware": ["m.py:Log"]}
    service = Service("s", "i", "m", 1, "n", plugins=plugins)
    text = " ".join(compose.engine_argv(service))
    assert "--tool-parser-plugin /plugins/p.py" in text
    assert "--chat-template /plugins/t.jinja" in text
    assert "--middleware m.Log" in text
    assert compose.environment(service)["PYTHONPATH"] == "/plugins"
    assert compose.plugin_files(service) == ["my/p.py", "t.jinja", "m.py"]


@pytest.mark.parametrize("service", catalogs.raw("rtx4090x3")["services"])
def test_every_service_is_hardened(service: str) -> None:
    engine, release = rendered("rtx4090x3", service, host_services=[service], force=[service])
    assert engine["read_only"] is True and engine["cap_drop"] == ["ALL"]
    assert engine["security_opt"] == ["no-new-privileges:true"]
    uid, _, gid = engine["user"].partition(":")
    assert int(uid) > 0 and uid == gid
    assert not {"ports", "privileged", "ipc", "network_mode"} & set(engine)
    assert engine["networks"] == [names.NETWORK]
    assert engine["pids_limit"] and engine["stop_grace_period"] and engine["logging"]["options"]["max-size"]
    assert engine["restart"].startswith("on-failure:")
    mounts = {v["target"]: v for v in engine["volumes"] if isinstance(v, dict)}
    assert mounts["/model"]["read_only"] and mounts[compose.SECRET]["read_only"]
    assert all(m["bind"] == {"create_host_path": False} for m in mounts.values())
    assert "read_only" not in mounts["/cache"]
    assert engine["labels"]["llm.release"] == release.hash
    assert not any("KEY" in name or "TOKEN" in name for name in engine["environment"])


@pytest.mark.parametrize(
    ("runtime", "wanted"),
    [
        ("cdi", {"driver": "cdi", "device_ids": ["nvidia.com/gpu=0", "nvidia.com/gpu=1"], "capabilities": ["gpu"]}),
        ("nvidia", {"driver": "nvidia", "device_ids": ["0", "1"], "capabilities": ["gpu"]}),
    ],
)
def test_gpus_are_given_by_id(runtime: str, wanted: dict[str, Any]) -> None:
    engine, _ = rendered("rtx4090x3", "medium-glm", gpu_runtime=runtime)
    assert engine["deploy"]["resources"]["reservations"]["devices"] == [wanted]


def test_a_declared_uuid_names_the_gpu() -> None:
    gpus = [{"index": i, "model": "x", "memory": "24g", "uuid": f"GPU-{i}"} for i in range(3)]
    engine, _ = rendered("rtx4090x3", "medium-glm", host_gpus=gpus)
    assert "GPU-1" in str(engine["deploy"])


def test_each_image_has_caches_of_its_own() -> None:
    declared = catalogs.declared("demo")
    service = declared.services["micro-cpu"]
    engines: Any = [
        compose.release(declared, service, image, "d").compose["services"]["engine"]
        for image in (IMAGE, "sha256:" + "c" * 64)
    ]
    caches = {str(engine["volumes"][1]) for engine in engines}
    assert len(caches) == 2


def test_the_hash_is_stable_and_covers_what_matters() -> None:
    declared = catalogs.declared("demo")
    service = declared.services["micro-cpu"]
    base = compose.release(declared, service, IMAGE, "d", {"p.py": "1"})
    assert compose.release(declared, service, IMAGE, "d", {"p.py": "1"}).hash == base.hash
    others = [
        compose.release(declared, service, "sha256:" + "c" * 64, "d", {"p.py": "1"}),
        compose.release(declared, service, IMAGE, "e", {"p.py": "1"}),
        compose.release(declared, service, IMAGE, "d", {"p.py": "2"}),
    ]
    assert len({base.hash, *(o.hash for o in others)}) == 4
    assert base.container == f"llm-micro-cpu-{base.hash[:8]}"


def test_reasons_name_each_change_with_old_and_new() -> None:
    declared = catalogs.declared("demo")
    old = compose.release(declared, declared.services["micro-cpu"], IMAGE, "d").facts
    new = copy.deepcopy(old)
    new["image"]["id"] = "sha256:new"
    new["environment"]["X"] = "1"
    assert compose.reasons(old, new) == [
        {"name": "environment X", "current": None, "desired": "1"},
        {"name": "image id", "current": IMAGE, "desired": "sha256:new"},
    ]
    assert compose.reasons(old, old) == []
    assert compose.reasons(None, new)[0]["desired"] == "first deployment"
    more = copy.deepcopy(old)
    more["command"].append("--enable-log-requests")
    assert compose.reasons(old, more) == [{"name": "flag --enable-log-requests", "current": None, "desired": "set"}]


def test_a_built_image_is_named_after_its_recipe() -> None:
    pulled = Image("a", ({"pull": "x/y@sha256:1"},))
    built = Image("a", ({"pull": "x/y:1"}, {"build": {"base": "b", "packages": ["p"]}}), engine={"version": "1"})
    other = Image("a", ({"pull": "x/y:1"}, {"build": {"base": "b", "packages": ["q"]}}), engine={"version": "1"})
    assert compose.image_ref(pulled) == "x/y@sha256:1"
    assert compose.image_ref(built).startswith("llm/a:1-") and compose.image_ref(built) != compose.image_ref(other)


def built_on(base: str, **changes: Any) -> Image:
    """An image that patches its base, whose only source is a pull of `base`."""
    build = {"base": "stock", "require": ["x>=1"]}
    images = {"stock": {"sources": [{"pull": base}]}, "own": {"sources": [{"build": build}], **changes}}
    declared, findings = parse.parse({"images": images})
    assert declared is not None, [f.text() for f in findings]
    return declared.images["own"]


def test_an_image_with_proofs_has_a_name_of_its_own_that_covers_them() -> None:
    pulled = Image("a", ({"pull": "x/y:1"},), proofs={"imports": ["vllm"]})
    other = Image("a", ({"pull": "x/y:1"},), proofs={"imports": ["torch"]})
    assert compose.image_ref(pulled).startswith("llm/a:0-") and compose.image_ref(pulled) != compose.image_ref(other)


def test_an_image_that_takes_its_base_over_changes_with_it() -> None:
    refs = {compose.image_ref(built_on(b)) for b in ("x/y:1", "x/y:2")}
    assert len(refs) == 2


def test_names_of_images_without_proofs_stay_what_they_were() -> None:
    """They cover the sources alone: what hosts have built does not have to be built again."""
    image = Image("a", ({"build": {"base": "b", "pip": ["x"]}},), engine={"name": "vllm", "version": "1"})
    assert compose.image_ref(image) == "llm/a:1-" + names.digest([{"build": {"base": "b", "pip": ["x"]}}])[:8]
