"""What a plan hands over to roles and modules, and what it takes from the findings of a host."""

import json
from typing import Any

import pytest
from ansible.module_utils.llm.declare.findings import Finding
from ansible.module_utils.llm.declare.objects import Declared
from ansible.module_utils.llm.plan import changes, compose, handover, judgement, on_host
from ansible.module_utils.llm.plan.selection import STAGES, Selection
from ansible.module_utils.llm.plan.types import Plan

from tests import catalogs
from tests.unit.plan.test_plan import converged, host

DEMO = catalogs.declared("demo")
BOX = catalogs.declared("rtx4090x3")


def judged(declared: Declared, facts: Any, **given: Any) -> judgement.Judged:
    selection = Selection(STAGES, declared.host_services)
    return judgement.judge(declared, judgement.Given(selection, facts, **given), {}, "ansible-playbook site.yml")


def plan(declared: Declared, facts: Any, **given: Any) -> Plan:
    return handover.plan(judged(declared, facts, **given), "box", lambda release: f"compose file of {release.service}")


@pytest.mark.parametrize("declared", [DEMO, BOX], ids=["demo", "box"])
@pytest.mark.parametrize("read", [False, True])
def test_a_plan_is_data_as_json_has_it(declared: Declared, read: bool) -> None:
    found = plan(declared, converged(declared) if read else None)
    assert json.loads(json.dumps(found)) == found
    assert ("work" in found, "rollback" in found, "status" in found) == (read, read, read)


def test_only_a_service_that_is_to_be_deployed_comes_with_its_files() -> None:
    facts = converged(DEMO)
    assert "files" not in plan(DEMO, facts)["services"]["micro-cpu"]
    facts["containers"][0]["state"] = "exited"
    found = plan(DEMO, facts)
    assert found["services"]["micro-cpu"]["files"]["compose.yml"] == "compose file of micro-cpu"
    assert [d["name"] for d in found["work"]["deploy"]] == ["micro-cpu"]


def test_before_the_host_is_read_every_service_comes_with_its_files_and_none_fits_beside_another() -> None:
    found = plan(DEMO, None)["services"]["micro-cpu"]
    assert found["files"] and not found["side_by_side"] and found["side_by_side_why"] == "the host was not looked at"


def test_engines_that_nobody_declares_are_told_and_removed_on_request_alone() -> None:
    facts = converged(DEMO)
    other = {**facts["containers"][0], "name": "llm-other-1", "service": "other"}
    facts["containers"].append(other)
    for prune, kept, gone in ((False, ["llm-other-1"], []), (True, [], ["llm-other-1"])):
        work = plan(catalogs.declared("demo", prune=prune), facts)["work"]
        assert [o["container"] for o in work["orphans"]] == kept
        assert [o["container"] for o in work["removed"]] == gone


def test_check_mode_routes_to_the_release_that_would_be_deployed() -> None:
    facts = host(DEMO)
    (route,) = plan(DEMO, facts, check=True)["gateway"]["routes"]
    assert route["container"] == changes.releases(DEMO, facts, {})["micro-cpu"].container
    (route,) = plan(DEMO, facts)["gateway"]["routes"]
    assert not route["container"]
    assert plan(DEMO, None)["gateway"]["routes"] == []


def test_a_service_comes_with_what_it_is_asked_and_without_what_the_plan_alone_needs() -> None:
    ask = plan(BOX, None)["services"]["mini-zwz"]["ask"]
    assert ask["smoke"]["args"] == BOX.services["mini-zwz"].args and ask["smoke"]["accelerator"] == "nvidia"
    assert ask["smoke"]["catalog_model"] == "zwz-8b-awq" and ask["smoke"]["vision"] is True
    assert ask["smoke"]["model"] == ask["warmup"]["model"] == BOX.services["mini-zwz"].served_model_name
    assert ask["warmup"]["prompt_tokens"] == BOX.services["mini-zwz"].warmup["prompt_tokens"]
    demo = DEMO.services["micro-cpu"]
    assert "margin" in DEMO.models[demo.model].smoke
    assert "margin" not in plan(DEMO, None)["services"]["micro-cpu"]["ask"]["smoke"]


def test_the_gateway_asks_for_an_image_to_get_certificates_only_where_they_are_asked_for() -> None:
    acme = {"acme": {"email": "me@example.org", "terms_agreed": True}, "https_port": 443, "http_port": 80}
    for declared, asked in ((BOX, False), (catalogs.declared("rtx4090x3", gateway=acme), True)):
        found = handover.gateway(declared)
        assert bool(found["acme_image"]) is asked and found["image"]
        assert (found["root"], found["bind_address"]) == (declared.settings.root, declared.settings.bind_address)


def test_an_image_with_proofs_has_to_take_the_command_lines_of_its_services() -> None:
    rendered = changes.releases(BOX, None, {})
    proven = next(s for s in BOX.host_services if BOX.images[BOX.services[s].image].proofs)
    image = BOX.services[proven].image
    job = handover.image_job(BOX, image, rendered)
    assert job["services"][proven]["argv"] == rendered[proven].facts["command"]
    assert set(job["services"]) == {s for s in BOX.host_services if BOX.services[s].image == image}
    bases = {s["build"]["base"] for s in BOX.images[image].sources if "build" in s}
    assert {b["name"] for b in job["bases"]} == bases and all(b["services"] == {} for b in job["bases"])


def test_models_that_are_there_are_not_fetched_and_a_made_one_waits_for_its_source() -> None:
    facts = host(BOX)
    assert handover.missing_models(BOX, BOX.host_services, facts) == []
    facts["models"] = {}
    names = [job["name"] for job in handover.missing_models(BOX, ["mini-zwz"], facts)]
    assert names == ["zwz-8b", "zwz-8b-awq"]
    made = handover.model_job(BOX, "zwz-8b-awq", facts)
    assert made["folder"] == compose.model_dir(BOX.settings, BOX.models["zwz-8b-awq"]) and "quantize" in made


def test_the_host_is_asked_for_the_ports_of_its_services_and_of_the_gateway() -> None:
    found = handover.host(BOX)
    assert {443, *(BOX.services[s].port for s in ("medium-glm", "mini-zwz"))} <= set(found["ports"])
    assert found["gpus"] and not handover.host(DEMO)["gpus"]


def test_nothing_is_locked_where_no_service_is_selected() -> None:
    assert not any(handover.to_lock(BOX, []).values())
    assert any(handover.to_lock(BOX, BOX.host_services).values())


def test_what_was_found_while_reading_stands_before_what_was_judged() -> None:
    read = Finding("unknown-tag", "error", "--tags", "is no stage", "Name one")
    own = Finding("plugin-missing", "error", "llm_services.micro-cpu.plugins", "is gone", "Put it there")
    given = judgement.Given(Selection(STAGES, DEMO.host_services))
    found = judgement.judge(DEMO, given, {"": [read], "micro-cpu": [own]}, "ansible-playbook site.yml").findings
    assert found[""][0] == read and own in found["micro-cpu"]
    assert [f.id for f in judgement.errors(found)] == ["plugin-missing", "unknown-tag"]


def test_a_warning_of_the_host_is_noticed_and_one_of_the_declaration_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    warn, info = (Finding("gpu", severity, "llm_host_gpus", "differs", "Look") for severity in ("warn", "info"))
    monkeypatch.setattr(on_host, "look_at_host", lambda *_: {"": [info], "micro-cpu": [warn]})
    seen = judged(DEMO, host(DEMO))
    assert seen.noticed == [warn] and info in seen.findings[""] and warn in seen.findings["micro-cpu"]
    assert any(f.severity == "warn" for own in judged(BOX, None).findings.values() for f in own)
    assert not judged(BOX, None).noticed


def test_findings_go_to_the_service_that_their_key_names() -> None:
    keys = ("llm_services.a.args.x", "llm_services.b", "llm_services", "llm_images.a", "llm_services.c.port")
    one, two, *others = [Finding("x", "error", key, "is wrong", "Mend it") for key in keys]
    found = judgement.by_service([one, two, *others], {"a": {}, "b": {}})
    assert found == {"": others, "a": [one], "b": [two]}
    assert judgement.by_service([one], "no mapping") == {"": [one]}


def test_a_malformed_declaration_still_has_its_report() -> None:
    found = {"": [], "a": [Finding("x", "error", "llm_services.a", "is wrong", "Mend it")]}
    report = judgement.malformed(found, ["b"])
    assert {s: e["verdict"] for s, e in report["services"].items()} == {"b": "ok", "a": "refuse"}
    assert list(judgement.malformed(found, 5)["services"]) == ["a"]
