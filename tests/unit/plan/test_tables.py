"""Tables for people: aligned, at most so wide, whole with long names and reasons."""

from ansible.module_utils.llm.base import tables
from ansible.module_utils.llm.declare.objects import Declared
from ansible.module_utils.llm.fit import estimate
from ansible.module_utils.llm.plan import changes, declaration, placement, status
from ansible.module_utils.llm.plan import tables as plan_tables

from tests import catalogs
from tests.unit.plan.test_placement import box, small
from tests.unit.plan.test_plan import converged


def shown(declared: Declared, fits: dict[str, estimate.Fit] | None = None) -> list[str]:
    return plan_tables.plan_table(declared, declaration.judge(declared), fits)


def test_a_service_has_one_line_and_its_reasons_below() -> None:
    declared = catalogs.declared("rtx4090x3")
    lines = shown(declared)
    assert lines[0].split() == ["service", "GPUs", "port", "memory", "weights", "KV", "KV", "tokens", "verdict"]
    at = next(i for i, line in enumerate(lines) if line.startswith("mini-zwz"))
    assert lines[at].split()[1:3] == ["2", "5001"] and lines[at].endswith("ok")
    at = next(i for i, line in enumerate(lines) if line.startswith("mini-solo"))
    assert lines[at].endswith("standby") and lines[at + 1].startswith("    info: ")
    assert next(line for line in lines if line.startswith("GPU 2")).endswith("0.88  mini-zwz 0.88")


def test_a_refusal_shows_the_table_and_lists_what_refuses_below_it() -> None:
    declared = catalogs.declared("rtx4090x3", force=["mini-solo"])
    wrong = declaration.judge(declared)
    text = "\n".join(plan_tables.plan_table(declared, wrong, errors=False))
    assert next(line for line in text.splitlines() if line.startswith("mini-zwz")).endswith("refuse")
    assert "error:" not in text and "error: clashes with `mini-solo`" in "\n".join(shown(declared))


def test_fifty_services_with_long_names_and_reasons_stay_within_the_width() -> None:
    services = {
        f"{'a-name-of-a-service-that-is-as-long-as-may-be'[:40]}-{i:03}": small(f"h{i}", 6000 + i, gpus=[i])
        for i in range(50)
    }
    gpus = [{"index": i, "model": "NVIDIA GeForce RTX 4090", "memory": "24 GiB"} for i in range(50)]
    first = next(iter(services))
    services[first] |= {"status": "archived", "reason": "because " * 60}
    declared = box(services, host_gpus=gpus)
    lines = shown(declared, declaration.estimates(declared, {}, None))
    assert max(map(len, lines)) <= tables.WIDTH
    assert all(name in "\n".join(lines) for name in services)
    assert sum(line.count("because") for line in lines) == 60
    assert len({line.index("[") for line in lines if line.startswith(" ") and "[" in line}) == 1


def test_a_bar_is_whole_whatever_it_is_told() -> None:
    for parts in ([("#", 1.0)], [("#", -3.0), ("=", 9.0)], [("#", 0.3), ("+", 0.3), ("=", 0.4)], []):
        for total in (0.0, 0.5, 1.0, 100.0):
            assert len(tables.bar(parts, total)) == tables.BAR + 2
    assert tables.bar([("#", 0.25), ("=", 0.5)], 1.0) == "[#####==========.....]"


def test_gpus_are_counted_in_few_characters() -> None:
    assert tables.numbers([0, 1]) == "0 1"
    assert tables.numbers(range(8)) == "0-7"
    assert tables.numbers([]) == "-"


def test_status_says_what_is_real_and_what_a_run_would_do() -> None:
    declared = catalogs.declared("rtx4090x3")
    facts = converged(declared)
    facts["containers"] = [
        {**c, "state": "running" if c["service"] != "mini-zwz" else "exited"}
        for c in facts["containers"]
        if c["service"] in ("medium-glm", "mini-zwz", "mini-solo")
    ]
    facts["releases"]["medium-glm"]["attempt"] = {
        "at": "2026-12-01T10:15:30Z",
        "release": "feed",
        "step": "Ask the engine",
        "cause": "“Lyon”",
        "folder": "/d",
        "proven_since": False,
    }
    work = changes.service_work(facts, placement.deployed(declared), changes.releases(declared, facts, {}), {})
    lines = plan_tables.status_table(declared, facts, status.status(declared, facts, {}, work), {})
    text = "\n".join(lines)
    assert max(map(len, lines)) <= tables.WIDTH
    assert next(line for line in lines if line.startswith("medium-glm")).endswith("nothing to do")
    assert next(line for line in lines if line.startswith("mini-zwz")).endswith("deploy")
    assert (
        '    last attempt 2026-12-01T10:15:30Z, release feed, failed at "Ask the engine": “Lyon”; diagnostics in /d'
        in lines
    )
    assert "deploy: container: exited -> running" in text and "deploy: stop llm-mini-solo-" in text
