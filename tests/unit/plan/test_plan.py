"""What a run would do: selection by tags, clashes, host findings, work."""

from typing import Any

import pytest
from ansible.module_utils.llm.declare import parse
from ansible.module_utils.llm.declare.facts import OwnedImage, Reason
from ansible.module_utils.llm.declare.findings import Findings
from ansible.module_utils.llm.declare.objects import Declared
from ansible.module_utils.llm.plan import changes, compose, declaration, needs, on_host, placement, status
from ansible.module_utils.llm.plan import quantize as quantize_plan
from ansible.module_utils.llm.plan.selection import MOLECULE_TAGS, STAGES, select

from tests import catalogs, hosts

IMAGE = "sha256:" + "a" * 64


def host(declared: Declared, **changes: Any) -> Any:
    """Facts of a host that has every image and model and runs nothing."""
    there = {
        "networks": {"llm": True, "llm-front": False},
        "images": {compose.image_ref(i): IMAGE for i in declared.images.values()},
        "models": {
            m: {"present": True, "digest": "d", "problem": "", "bytes": 1}
            | ({"made": catalogs.made(declared, m)} if quantize_plan.made_of(declared.models[m]) else {})
            for m in declared.models
        },
        "disk": {
            "root": {"path": "/opt/llm", "device": 1, "free": 2**40},
            "docker": {"path": "/var/lib/docker", "device": 1, "free": 2**40},
        },
        "keys": dict.fromkeys(declared.services, "k"),
    }
    return hosts.facts(**{**there, **changes})


def converged(declared: Declared) -> Any:
    """Facts of a host that serves exactly what is declared."""
    facts = host(declared)
    for name, release in changes.releases(declared, facts, {}).items():
        facts["releases"][name] = hosts.released(current=release.hash, facts=release.facts, proven=True)
        facts["containers"].append(
            {
                "name": release.container,
                "service": name,
                "release": release.hash,
                "state": "running",
                "status": "Up",
                "image_id": IMAGE,
                "id": f"{len(facts['containers']):064x}",
                "made_of": "",
                "ip": "",
            }
        )
    return facts


def work(declared: Declared, facts: Any, keys: dict[str, str] | None = None) -> dict[str, list[Reason]]:
    return changes.service_work(facts, placement.deployed(declared), changes.releases(declared, facts, {}), keys or {})


def errors(findings: Findings) -> list[str]:
    return [f.text() for own in findings.values() for f in own if f.severity == "error"]


def ids(findings: Findings, service: str) -> set[str]:
    return {f.id for f in findings.get(service, [])}


@pytest.mark.parametrize(
    ("run", "skip", "stages", "services"),
    [
        (["all"], [], STAGES, ("a", "b")),
        (["a"], [], STAGES, ("a",)),
        (["images"], [], ("images",), ("a", "b")),
        (["services", "b"], [], ("services",), ("b",)),
        (["all"], ["verify", "a"], STAGES[:-1], ("b",)),
        (["c"], [], STAGES, ()),
        (["all"], list(MOLECULE_TAGS), STAGES, ("a", "b")),
    ],
)
def test_tags_select_stages_and_services(run: list[str], skip: list[str], stages: Any, services: Any) -> None:
    selection, findings = select(run, skip, ["a", "b"], ["a", "b", "c"])
    assert (selection.stages, selection.services, findings) == (tuple(stages), services, [])


def test_an_unknown_tag_is_refused_with_the_names() -> None:
    _, findings = select(["medium-gml"], [], ["medium-glm", "micro"])
    assert findings[0].id == "unknown-tag" and "medium-glm" in findings[0].remedy
    _, findings = select(["xyz"], [], ["medium-glm", "micro"])
    assert "micro" in findings[0].remedy and "services" in findings[0].remedy


NOTHING: dict[str, Any] = {part: [] for part in ("preflight", "stop", "orphans", "removed", "deploy", "stale", "prove")}


@pytest.mark.parametrize(
    ("stages", "work", "given", "todo"),
    [
        (STAGES, NOTHING, {}, []),
        (STAGES, NOTHING, {"images": ["a"]}, ["images", "services"]),
        (["images"], NOTHING, {"images": ["a"], "models": ["m"]}, ["images", "services"]),
        (["host"], NOTHING, {"models": ["m"]}, ["services"]),
        (STAGES, {**NOTHING, "deploy": [1], "prove": [1]}, {}, ["services", "verify"]),
        (STAGES, {**NOTHING, "deploy": [1], "prove": [1]}, {"check": True}, ["services"]),
        (["gateway"], {**NOTHING, "deploy": [1], "stale": [1], "prove": [1]}, {}, []),
        (["verify"], {**NOTHING, "deploy": [1], "prove": [1]}, {}, ["verify"]),
        (STAGES, {**NOTHING, "stop": [1]}, {}, ["services"]),
        (STAGES, {**NOTHING, "orphans": [1]}, {}, ["services"]),
        (STAGES, {**NOTHING, "removed": [1]}, {}, ["services"]),
        (STAGES, {**NOTHING, "stale": [1]}, {}, ["cleanup"]),
        (STAGES, NOTHING, {"prune": True}, ["cleanup"]),
        (["services"], NOTHING, {"prune": True}, []),
        (["images", "gateway"], None, {}, ["gateway", "images", "services"]),
    ],
)
def test_stages_without_work_are_left_out(stages: Any, work: Any, given: dict[str, Any], todo: list[str]) -> None:
    assert changes.todo(stages, work, **given) == todo


def test_the_box_deploys_its_active_services_and_keeps_fallbacks_back() -> None:
    declared = catalogs.declared("rtx4090x3")
    assert placement.deployed(declared) == ("medium-glm", "mini-zwz")
    findings = declaration.judge(declared)
    assert not errors(findings)
    assert not ids(findings, "mini-zwz")
    assert ids(findings, "mini-solo") == {"standby"}


def test_a_fallback_alone_is_deployed() -> None:
    assert placement.deployed(catalogs.declared("rtx4090x3", host_services=["mini-solo"])) == ("mini-solo",)


@pytest.mark.parametrize(
    ("services", "service", "finding"),
    [
        (["medium-coder"], "medium-coder", "status-archived"),
        (["mini-glm-vision"], "mini-glm-vision", "status-rejected"),
        (["micro", "mini-zwz"], "micro", "clash-gpus"),
    ],
)
def test_what_the_box_refuses(services: list[str], service: str, finding: str) -> None:
    findings = declaration.judge(catalogs.declared("rtx4090x3", host_services=services))
    assert finding in ids(findings, service)
    assert any(f.message and f.remedy for f in findings[service])


def test_forced_services_are_deployed() -> None:
    declared = catalogs.declared("rtx4090x3", host_services=["medium-coder"], force=["medium-coder"])
    assert placement.deployed(declared) == ("medium-coder",)
    assert not ids(declaration.judge(declared), "medium-coder")


def changed(service: str, **values: Any) -> Declared:
    raw = catalogs.raw("rtx4090x3")
    raw["services"] = parse.merge(raw["services"], {service: values})
    declared, findings = parse.parse(raw)
    assert declared is not None, findings
    return declared


@pytest.mark.parametrize(
    ("values", "finding"),
    [
        ({"gpus": [0, 7]}, "gpu-undeclared"),
        ({"gpus": [0, 0]}, "gpu-twice"),
        ({"args": {"tensor-parallel-size": "two"}}, "parallel-size"),
        ({"port": 5001}, "clash-port"),
        ({"image": "vllm-cpu"}, "gpu-on-cpu"),
    ],
)
def test_declarations_that_cannot_work_on_this_host(values: dict[str, Any], finding: str) -> None:
    assert finding in ids(declaration.judge(changed("medium-glm", **values)), "medium-glm")


@pytest.mark.fault(40, "the sum is named", by="simulated")
def test_two_small_services_share_a_gpu_and_three_overbook_it() -> None:
    raw = catalogs.raw("rtx4090x3", host_services=["micro", "mini-zwz"])
    small = {
        "micro": {"args": {"gpu-memory-utilization": 0.38}},
        "mini-zwz": {"args": {"gpu-memory-utilization": 0.48}},
    }
    raw["services"] = parse.merge(raw["services"], small)
    declared, _ = parse.parse(raw)
    assert declared is not None and not errors(declaration.judge(declared))
    third = {**raw["services"]["micro"], "port": 5999, "hostname": "third"}
    raw["services"] = {**raw["services"], "third": third}
    raw["host_services"] = ["micro", "mini-zwz", "third"]
    declared, _ = parse.parse(raw)
    assert declared is not None
    assert "gpu-overbooked" in ids(declaration.judge(declared), "third")


def test_an_unchanged_host_has_no_work() -> None:
    declared = catalogs.declared("demo")
    facts = converged(declared)
    rendered = changes.releases(declared, facts, {})
    assert work(declared, facts) == {}
    assert changes.to_prove(facts, placement.deployed(declared), rendered) == ()
    assert changes.to_stop(declared, facts, declared.host_services) == []
    assert placement.orphans(declared, facts) == []
    assert [r["container"] for r in changes.routes(declared, facts)] == [rendered["micro-cpu"].container]


def test_a_service_that_was_stopped_stays_so_until_it_is_started() -> None:
    declared = catalogs.declared("demo")
    facts = converged(declared)
    (apply_gateway,) = changes.routes(declared, facts)
    facts["gateway"] = {**facts.get("gateway", {}), "stopped": ["micro-cpu"]}
    assert changes.routes(declared, facts) == [apply_gateway], "somebody has started it"
    _exited(facts)
    closed = {**apply_gateway, "container": "", "stopped": True}
    assert changes.routes(declared, facts) == [closed]
    assert changes.routes(declared, facts, {"micro-cpu": facts["releases"]["micro-cpu"]["current"]}) == [apply_gateway]
    facts["gateway"]["stopped"] = []
    assert changes.routes(declared, facts) == [apply_gateway], "one that has ended is waited for"


def test_a_changed_flag_is_the_reason() -> None:
    before = catalogs.declared("demo")
    facts = converged(before)
    raw = catalogs.raw("demo")
    raw["services"] = parse.merge(raw["services"], {"micro-cpu": {"args": {"max-model-len": 1024}}})
    after, _ = parse.parse(raw)
    assert after is not None
    length = str(before.services["micro-cpu"].args["max-model-len"])
    assert work(after, facts)["micro-cpu"] == [{"name": "flag --max-model-len", "current": length, "desired": "1024"}]


def _gone(facts: Any) -> None:
    facts["containers"].clear()


def _exited(facts: Any) -> None:
    facts["containers"][0]["state"] = "exited"


def _edited(facts: Any) -> None:
    facts["releases"]["micro-cpu"]["drift"] = ["compose.yml"]


def _no_key(facts: Any) -> None:
    facts["keys"]["micro-cpu"] = None


@pytest.mark.parametrize(
    ("drift", "name"),
    [(_gone, "container"), (_exited, "container"), (_edited, "file compose.yml"), (_no_key, "api key")],
)
def test_drift_is_work_with_a_reason(drift: Any, name: str) -> None:
    declared = catalogs.declared("demo")
    facts = converged(declared)
    drift(facts)
    assert [r["name"] for r in work(declared, facts)["micro-cpu"]] == [name]


def test_another_declared_key_is_work_and_the_reason_does_not_show_it() -> None:
    declared = catalogs.declared("demo")
    facts = converged(declared)
    facts["keys"]["micro-cpu"] = changes.fingerprint("sk-old")
    assert work(declared, facts, {"micro-cpu": "sk-old"}) == {}
    reasons = work(declared, facts, {"micro-cpu": "sk-new"})["micro-cpu"]
    assert [r["name"] for r in reasons] == ["api key"] and "sk-" not in str(reasons)


def test_a_strangers_container_in_our_way_is_named_with_the_service() -> None:
    raw = catalogs.raw("demo")
    raw["services"]["micro-cpu"]["volumes"] = ["/data/models:/extra"]
    declared, _ = parse.parse(raw)
    assert declared is not None
    facts = host(declared)
    release = changes.releases(declared, facts, {})
    stranger = {"image": "nginx:1", "state": "exited", "writes": []}
    facts["foreign"] = [
        {**stranger, "name": release["micro-cpu"].container},
        {**stranger, "name": "llm-gateway"},
        {**stranger, "name": "llm-supervisor"},
        {**stranger, "name": "backup", "state": "running", "writes": ["/data"]},
        {**stranger, "name": "llm-micro-cpu-of-somebody", "writes": ["/database"]},
    ]
    found = on_host.foreign_findings(declared, facts, ["micro-cpu"], release)
    name, volume = found["micro-cpu"]
    gateway, supervisor = found[""]
    assert supervisor.key == "the supervisor"
    assert (name.id, name.severity, name.key) == ("name-taken", "error", "llm_services.micro-cpu")
    assert f"`{release['micro-cpu'].container}` (nginx:1, exited)" in name.message and "`micro-cpu`" in name.message
    assert (gateway.id, gateway.severity) == ("name-taken", "error") and "the gateway" in gateway.message
    assert (volume.id, volume.severity, volume.key) == ("volume-shared", "warn", "llm_services.micro-cpu.volumes")
    assert "`backup` (nginx:1, running)" in volume.message
    assert "may write to `/data`, and this service to `/data/models`" in volume.message
    assert on_host.foreign_findings(declared, host(declared), ["micro-cpu"], release) == {"": []}


@pytest.mark.parametrize(
    ("changes", "place", "finding", "says"),
    [
        ({"listening": {"5010": {"pid": 42, "process": "nginx"}}}, "micro-cpu", "port-taken", "nginx (pid 42)"),
        (
            {"published": {"5010": "web"}, "listening": {"5010": {"pid": 1, "process": "docker-proxy"}}},
            "micro-cpu",
            "port-taken",
            "`web`",
        ),
        (
            {"models": {"smollm2-135m-instruct": {"present": True, "problem": "x is cut off"}}},
            "",
            "model-broken",
            "cut off",
        ),
        ({"networks": {"llm": False}}, "", "network-kind", "not internal"),
        ({"networks": {"llm-front": True}}, "", "network-kind", "is internal"),
        (
            {"images": {}, "disk": {"docker": {"path": "/d", "device": 1, "free": 2**30}, "root": None}},
            "",
            "disk-full",
            "/d has 1.0 GiB",
        ),
    ],
)
def test_what_only_the_host_can_tell(changes: dict[str, Any], place: str, finding: str, says: str) -> None:
    declared = catalogs.declared("demo")
    findings = on_host.look_at_host(declared, host(declared, **changes), ["micro-cpu"])
    found = [f for f in findings[place] if f.id == finding]
    assert found and says in found[0].message and found[0].remedy


@pytest.mark.parametrize(
    ("docker", "says"),
    [
        (
            {"running": False, "error": "The Docker daemon does not answer. Install it.", "named": "unix:///nowhere"},
            "unix:///nowhere",
        ),
        ({"running": False, "error": "not of the host", "named": "tcp://192.0.2.1:2375"}, "not of the host"),
    ],
)
def test_an_engine_that_somebody_chose_and_that_is_not_there_is_refused(docker: dict[str, Any], says: str) -> None:
    declared = catalogs.declared("demo")
    # Its own gateway's port must not be called taken meanwhile: nobody can tell whose it is.
    facts = host(
        declared, docker={"installed": True, **docker}, listening={"5010": {"pid": 1, "process": "docker-proxy"}}
    )
    findings = on_host.look_at_host(declared, facts, ["micro-cpu"])
    assert [f.id for own in findings.values() for f in own] == ["docker-unreachable"]
    assert says in findings[""][0].text() and "DOCKER_HOST" in findings[""][0].remedy


def test_a_stopped_engine_may_have_the_images() -> None:
    declared = catalogs.declared("demo", offline=True)
    docker = {
        "installed": True,
        "running": False,
        "error": "The Docker daemon does not answer. Install it.",
        "named": "",
    }
    assert not any(on_host.look_at_host(declared, host(declared, docker=docker, images={}), ["micro-cpu"]).values())


def test_our_own_gateway_may_hold_the_port() -> None:
    declared = catalogs.declared("demo")
    facts = host(declared, published={"5010": "llm-gateway"}, listening={"5010": {"pid": 1, "process": "docker-proxy"}})
    assert not any(on_host.look_at_host(declared, facts, ["micro-cpu"]).values())


def test_offline_without_the_files_is_refused() -> None:
    declared = catalogs.declared("demo", offline=True)
    findings = on_host.look_at_host(declared, host(declared, images={}, models={}), ["micro-cpu"])
    assert {f.id for f in findings[""]} == {"offline-model", "offline-image"}


@pytest.mark.fault(47, "it is listed, and not deployed", by="simulated")
def test_stopped_and_absent_services_and_orphans() -> None:
    declared = catalogs.declared("demo")
    facts = converged(declared)
    raw = catalogs.raw("demo")
    raw["services"] = parse.merge(raw["services"], {"micro-cpu": {"state": "stopped"}})
    stopped, _ = parse.parse(raw)
    assert stopped is not None
    assert [s["state"] for s in changes.to_stop(stopped, facts, ["micro-cpu"])] == ["stopped"]
    assert placement.orphans(stopped, facts) == []
    empty = catalogs.declared("demo", host_services=[])
    assert [o["service"] for o in placement.orphans(empty, facts)] == ["micro-cpu"]


def test_an_engine_that_is_no_longer_wanted_must_give_way_first() -> None:
    before = catalogs.declared("rtx4090x3", host_services=["mini-zwz"])
    facts = converged(before)
    after = catalogs.declared("rtx4090x3", host_services=["mini-solo"])
    found = on_host.look_at_host(after, facts, ["mini-solo"])["mini-solo"]
    assert {f.id for f in found} == {"held-port", "held-gpus", "held-hostname"}
    assert "`mini-zwz` still runs" in found[0].message and "llm_prune=true" in found[0].remedy
    pruning = catalogs.declared("rtx4090x3", host_services=["mini-solo"], prune=True)
    assert not any(on_host.look_at_host(pruning, facts, ["mini-solo"]).values())


def test_the_document_has_the_promised_shape() -> None:
    declared = catalogs.declared("rtx4090x3", host_services=["medium-coder", "mini-zwz"])
    document = declaration.document(declared, declaration.judge(declared))
    assert document["services"]["medium-coder"]["verdict"] == "refuse"
    assert set(document["services"]["mini-zwz"]) == {"verdict", "findings", "gpus", "kv_tokens"}
    assert set(document["services"]["medium-coder"]["findings"][0]) == {"id", "severity", "key", "message", "remedy"}


def test_an_image_that_is_not_proven_is_made_again() -> None:
    declared = catalogs.declared("rtx4090x3")
    ref = compose.image_ref(declared.images["glm-flash"])
    assert needs.images_to_make(declared, None, ["medium-glm"]) == ("glm-flash", "haproxy")
    assert needs.images_to_make(declared, host(declared), ["medium-glm"]) == ("glm-flash",)
    assert status.status(declared, host(declared), {}, {})["medium-glm"]["image"] == f"{ref}, not proven"
    proofs = [{"proof": "import vllm", "ok": True, "evidence": "1"}]
    facts = host(declared, image_records={ref: {"id": IMAGE, "names": [], "proofs": proofs}})
    assert needs.images_to_make(declared, facts, ["medium-glm"]) == ()
    assert status.status(declared, facts, {}, {})["medium-glm"]["image"] == f"{ref}, proven: import vllm"


def test_images_of_releases_bases_and_containers_are_kept() -> None:
    declared = catalogs.declared("rtx4090x3", host_services=["medium-glm"])
    facts = host(declared, images={compose.image_ref(declared.images["vllm-openai"]): "base"})
    names = {"llm/old:1": "current", "llm/old:0": "previous", "x/base:1": "base", "llm/gone:1": "none"}
    facts["owned_images"] = [{"name": n, "id": i, "size": 1, "containers": []} for n, i in names.items()]
    facts["release_images"] = {"medium-glm": {"current": "current", "previous": "previous"}}
    assert [g["name"] for g in needs.images_to_remove(declared, facts)] == ["llm/gone:1"]
    foreseen = needs.images_to_remove(declared, facts, upcoming=["medium-glm"])
    assert [g["name"] for g in foreseen] == ["llm/old:0", "llm/gone:1"]
    facts["owned_images"][3]["containers"] = ["somebody"]
    assert needs.images_to_remove(declared, facts) == []


def owned(name: str, image: str, *containers: str) -> OwnedImage:
    return {"name": name, "id": image, "size": 1, "containers": list(containers)}


def test_an_image_goes_when_neither_a_release_nor_a_container_needs_it() -> None:
    listed = [
        owned("llm/a:2", "new"),
        owned("vendor/a:2", "new"),
        owned("llm/a:1", "old"),
        owned("llm/a:0", "older"),
        owned("vendor/a:0", "older"),
        owned("llm/b:1", "run", "somebody's"),
        owned("llm/c:1", "orphan", "llm-c-1"),
    ]
    gone = needs.unneeded_images(listed, ["new", "old"], leaving=["llm-c-1"])
    assert [g["name"] for g in gone] == ["llm/a:0", "vendor/a:0", "llm/c:1"]
    assert needs.unneeded_images(listed, ["new", "old", "older"]) == []


def test_images_of_engines_that_nobody_declared_go_with_them() -> None:
    declared = catalogs.declared("rtx4090x3", host_services=["medium-glm"])
    orphan = {"name": "llm-micro-1", "service": "micro", "release": "1", "state": "running", "image_id": "x"}
    owned = {"name": "llm/old:1", "id": "x", "size": 1, "containers": ["llm-micro-1"]}
    facts = host(declared, containers=[orphan], owned_images=[owned])
    assert [g["name"] for g in needs.images_to_remove(declared, facts)] == ["llm/old:1"]


@pytest.mark.parametrize(
    ("base_there", "images", "refused"),
    [
        (False, {}, {"offline-image"}),
        (True, {}, set()),
        (False, {"vllm-openai": {"sources": [{"archive": "/a.tar"}]}}, set()),
        (
            True,
            {"glm-flash": {"sources": [{"build": {"base": "vllm-openai", "packages": ["git"]}}]}},
            {"offline-image"},
        ),
    ],
)
def test_without_a_network_a_build_needs_its_base(base_there: bool, images: Any, refused: set[str]) -> None:
    raw = catalogs.raw("rtx4090x3", offline=True, host_services=["medium-glm"])
    raw["images"] = parse.merge(raw["images"], images)
    declared, _ = parse.parse(raw)
    assert declared is not None
    base = compose.image_ref(declared.images["vllm-openai"])
    findings = on_host.look_at_host(
        declared, host(declared, images={base: IMAGE} if base_there else {}), ["medium-glm"]
    )
    assert ids(findings, "") == refused


def test_room_is_needed_for_a_base_that_is_not_there() -> None:
    declared = catalogs.declared("rtx4090x3", host_services=["medium-glm"])
    facts = host(declared, images={})
    facts["disk"]["docker"] = {"path": "/var/lib/docker", "device": 2, "free": 10 * 2**30}
    messages = [f.message for f in on_host.look_at_host(declared, facts, ["medium-glm"])[""] if f.id == "disk-full"]
    assert len(messages) == 1 and "image glm-flash 0.1 GiB, image vllm-openai 25 GiB" in messages[0]


def test_a_rotated_key_between_door_and_engine_is_a_release_of_its_own() -> None:
    """Under the same name it could not start beside the one that runs."""
    declared = catalogs.declared("demo")
    facts = converged(declared)
    before = changes.releases(declared, facts, {})
    facts["gateway"] = {**facts.get("gateway", {}), "engine_key": "0123456789abcdef"}
    after = changes.releases(declared, facts, {})
    assert after["micro-cpu"].container != before["micro-cpu"].container
    (why,) = changes.service_work(facts, ["micro-cpu"], after, {})["micro-cpu"]
    assert (why["name"], why["desired"]) == ("key between gateway and engine", "0123456789abcdef")


def asked(
    service: dict[str, Any] | None = None, model: dict[str, Any] | None = None, **shown: Any
) -> list[tuple[str, str]]:
    """Ids and keys of findings of the demo's known answer; shown: what the host's engine showed of it."""
    raw = catalogs.raw("demo")
    raw["services"]["micro-cpu"]["smoke"] = service or {}
    raw["models"][MODEL]["smoke"] |= model or {}
    declared, _ = parse.parse(raw)
    assert declared
    facts = host(declared, releases={"micro-cpu": {"known": shown or None}})
    return [(f.id, f.key) for f in declaration.answer_findings(declared, facts).get("micro-cpu", [])]


MODEL = "smollm2-135m-instruct"
OTHER: dict[str, Any] = {"question": "What is the capital of France?", "answer": "Paris"}


def test_a_known_answer_without_a_margin_is_told() -> None:
    assert asked() == []
    assert asked(model={"margin": 0.1}) == [("margin", f"llm_models.{MODEL}.smoke")]
    assert asked(OTHER) == [("margin-unknown", "llm_services.micro-cpu.smoke")], (
        "the model's margin is of another question"
    )
    assert asked({**OTHER, "margin": 3.0}) == []


def test_what_the_engine_showed_counts_where_nothing_is_declared() -> None:
    assert asked(OTHER, **OTHER, margin=2.0) == []
    assert asked(OTHER, **OTHER, margin=0.125) == [("margin", "llm_services.micro-cpu.smoke")]
    assert asked(OTHER, question="another", answer="Paris", margin=2.0)[0][0] == "margin-unknown"
    assert asked(margin=0.1, question="x", answer="y") == [], (
        "what is declared was measured with more than a box's own rounding"
    )


# -- what a run would take from a host that serves ----------------------------------------------------------------------

UP, GONE = {"state": "running"}, {"state": "absent"}


def lost(declared: Declared, facts: Any, stages: tuple[str, ...] = STAGES) -> list[str]:
    """Ids of what is refused."""
    found = on_host.loss_findings(declared, facts, stages)
    assert all(f.severity == "error" and "-e llm_prune=true" in f.remedy for f in found)
    return [f.id for f in found]


def serving(*services: str, state: str = "running", **changes: Any) -> Any:
    """Facts of a host where these services, a gateway and a supervisor run."""
    engines = [{"name": f"llm-{s}-1", "service": s, "release": "1", "state": state, "status": ""} for s in services]
    return {"containers": engines, "gateway": UP, "supervisor": UP, **changes}


def pair(**states: str) -> dict[str, Any]:
    """The demo's service and another one, with their `state`."""
    services = catalogs.raw("demo")["services"]
    other = {**services["micro-cpu"], "port": 5011, "served_model_name": "other"}
    both = {"micro-cpu": services["micro-cpu"], "other": other}
    return {**services, **{n: {**s, "state": states.get(n.replace("-", "_"), "present")} for n, s in both.items()}}


def with_pair(listed: list[str], **states: str) -> Declared:
    found, findings = parse.parse({**catalogs.raw("demo", host_services=listed), "services": pair(**states)})
    assert found is not None, findings
    return found


@pytest.mark.parametrize(
    "facts",
    [
        serving("micro-cpu"),
        serving("micro-cpu", gateway=GONE, supervisor=GONE),
        serving("micro-cpu", state="restarting", gateway=GONE, supervisor=GONE),
        serving("micro-cpu", state="exited", supervisor=GONE),  # as playbooks/stop.yml leaves it
        serving(supervisor=GONE),
        serving(gateway=GONE),
    ],
)
def test_a_host_that_serves_is_not_emptied_by_accident(facts: Any) -> None:
    assert lost(catalogs.declared("demo", host_services=[]), facts) == ["services-lost"]
    assert lost(catalogs.declared("demo", host_services=[], prune=True), facts) == []
    assert lost(catalogs.declared("demo"), facts) == []


def test_what_would_be_taken_is_named() -> None:
    (found,) = on_host.loss_findings(catalogs.declared("demo", host_services=[]), serving("b", "a"), STAGES)
    assert found.key == "llm_host_services" and "`a`, `b`, the gateway, the supervisor would be taken" in found.message
    facts = serving("a", gateway=GONE, supervisor=GONE)
    (found,) = on_host.loss_findings(catalogs.declared("demo", host_services=[]), facts, STAGES)
    assert "`a` would be taken" in found.message and "the gateway" not in found.message


@pytest.mark.parametrize(
    "facts",
    [
        serving(gateway=GONE, supervisor=GONE),
        serving("micro-cpu", state="exited", gateway={"state": "exited"}, supervisor={"state": "exited"}),
    ],
)
def test_a_host_that_serves_nothing_loses_nothing(facts: Any) -> None:
    assert lost(catalogs.declared("demo", host_services=[]), facts) == []


@pytest.mark.parametrize(
    ("stages", "refused"),
    [
        (STAGES, True),
        (("gateway",), True),
        (("observe",), True),
        (("services",), True),
        (("host",), False),
        (("images", "models"), False),
        (("verify",), False),
    ],
)
def test_only_a_run_that_would_take_something_is_refused(stages: tuple[str, ...], refused: bool) -> None:
    assert bool(lost(catalogs.declared("demo", host_services=[]), serving("micro-cpu"), stages)) == refused


@pytest.mark.parametrize(
    ("listed", "states", "running", "refused"),
    [
        (["micro-cpu"], {"micro_cpu": "stopped"}, ["micro-cpu"], False),
        (["micro-cpu"], {"micro_cpu": "absent"}, ["micro-cpu"], False),
        (["micro-cpu", "other"], {"micro_cpu": "stopped", "other": "absent"}, ["micro-cpu", "other"], False),
        # It has been stopped, and the gateway was not removed before the run broke off.
        (["micro-cpu"], {"micro_cpu": "stopped"}, [], False),
        # Another one runs, and nobody said anything of it.
        (["micro-cpu"], {"micro_cpu": "stopped"}, ["micro-cpu", "other"], True),
        (["micro-cpu"], {"micro_cpu": "stopped"}, ["other"], True),
        (["micro-cpu"], {"micro_cpu": "absent"}, ["other"], True),
        # One is left, or comes.
        (["micro-cpu"], {}, ["micro-cpu", "other"], False),
        (["micro-cpu"], {}, ["other"], False),
        (["micro-cpu", "other"], {"micro_cpu": "stopped"}, ["micro-cpu"], False),
    ],
)
def test_a_state_is_a_decision(listed: list[str], states: dict[str, str], running: list[str], refused: bool) -> None:
    assert bool(lost(with_pair(listed, **states), serving(*running))) == refused


def test_a_switch_to_what_is_kept_stopped_takes_the_last_one() -> None:
    services = pair(other="stopped")
    services["other"]["port"] = services["micro-cpu"]["port"]
    raw = catalogs.raw("demo", host_services=["micro-cpu", "other"], switch=["other"])
    found, _ = parse.parse({**raw, "services": services})
    assert found is not None and placement.deployed(found) == ()
    assert lost(found, serving("micro-cpu")) == ["services-lost"]


@pytest.mark.parametrize(
    ("supervisor", "facts", "stages", "refused"),
    [
        (False, serving("micro-cpu"), STAGES, True),
        (False, serving(), STAGES, True),
        (False, serving("micro-cpu"), ("observe",), True),
        (False, serving("micro-cpu"), ("services", "gateway"), False),
        (False, serving("micro-cpu", supervisor=GONE), STAGES, False),
        (False, serving("micro-cpu", supervisor={"state": "exited"}), STAGES, False),
        (True, serving("micro-cpu"), STAGES, False),
    ],
)
def test_the_supervisor_goes_only_when_asked(
    supervisor: bool, facts: Any, stages: tuple[str, ...], refused: bool
) -> None:
    declared = catalogs.declared("demo", supervisor=supervisor)
    assert lost(declared, facts, stages) == (["supervisor-lost"] if refused else [])
    assert lost(catalogs.declared("demo", supervisor=supervisor, prune=True), facts, stages) == []


def test_a_supervisor_without_anything_to_watch_is_no_loss() -> None:
    found, _ = parse.parse({**catalogs.raw("demo", supervisor=False), "services": pair(micro_cpu="stopped")})
    assert found is not None and lost(found, serving("micro-cpu")) == []


# -- attempts that failed -------------------------------------------------------------------------------------------------


def attempted(declared: Declared, service: str, release: str, *, proven_since: bool) -> Any:
    """Facts of a host that serves what is declared, where an attempt to deploy this release of a service failed."""
    facts = converged(declared)
    facts["releases"][service]["attempt"] = {
        "at": "2026-12-01T10:15:30Z",
        "release": release,
        "step": "Ask the engine",
        "cause": "answer: “Lyon” does not hold “Paris”.",
        "folder": "/opt/llm/services/micro-cpu/diagnostics/20261201T101531Z-feed",
        "proven_since": proven_since,
    }
    return facts


@pytest.mark.parametrize(
    ("attempt", "current", "proven_since", "told"),
    [
        ("feed", "as declared", False, True),
        ("feed", "as declared", True, False),
        ("feed", "older", True, False),  # what is declared now was never tried
        ("as declared", "older", True, True),  # answers of what serves prove nothing of what is declared
        ("as declared", "as declared", True, False),
        ("as declared", "none", False, True),
    ],
)
def test_an_attempt_that_failed_is_told_until_a_later_one_succeeds(
    attempt: str, current: str, proven_since: bool, told: bool
) -> None:
    declared = catalogs.declared("demo")
    rendered = changes.releases(declared, host(declared), {})
    names = {"as declared": rendered["micro-cpu"].hash, "none": None}
    facts = attempted(declared, "micro-cpu", names.get(attempt) or attempt, proven_since=proven_since)
    facts["releases"]["micro-cpu"]["current"] = names.get(current, current)
    entry = status.status(declared, facts, {}, work(declared, facts), rendered)["micro-cpu"]
    assert ("last attempt" in entry) is told
    if told:
        assert entry["last attempt"] == (
            f'2026-12-01T10:15:30Z, release {names.get(attempt) or attempt}, failed at "Ask the engine": answer: “Lyon” does not'
            " hold “Paris”; diagnostics in /opt/llm/services/micro-cpu/diagnostics/20261201T101531Z-feed"
        )


def test_a_service_whose_attempt_failed_is_asked_again_though_it_was_proven() -> None:
    declared = catalogs.declared("demo")
    rendered = changes.releases(declared, host(declared), {})
    for proven_since, asked in ((False, ("micro-cpu",)), (True, ())):
        facts = attempted(declared, "micro-cpu", "feed", proven_since=proven_since)
        assert changes.to_prove(facts, ["micro-cpu"], rendered) == asked
