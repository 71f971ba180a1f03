"""Models that are made here: what decides which one it is, what is asked of the result, and what is refused."""

import dataclasses
import importlib.util
import json
import math
import struct
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible.module_utils.llm.base.units import GIB
from ansible.module_utils.llm.declare.objects import Declared
from ansible.module_utils.llm.models import artifacts, dataset_files, quantize, store
from ansible.module_utils.llm.plan import compose, handover, needs, on_host, status
from ansible.module_utils.llm.plan import quantize as quantize_plan
from ansible.module_utils.llm.plan import tables as plan_tables

from tests import catalogs, hosts
from tests.unit.plan.test_plan import host

BOX = catalogs.declared("rtx4090x3")
MODEL = BOX.models["zwz-8b-awq"]


def changed(**recipe: Any) -> Declared:
    """The box with another recipe for its model."""
    own = dataclasses.replace(BOX.recipes["awq-w4a16"], **recipe)
    return quantize_plan.settled(dataclasses.replace(BOX, recipes={**BOX.recipes, "awq-w4a16": own}))


# -- what a model is ---------------------------------------------------------------------------------------------------


def test_the_mark_is_the_revision_and_covers_source_recipe_and_tools() -> None:
    assert len(MODEL.revision) == 12 and MODEL.revision == quantize_plan.mark(BOX, MODEL)
    source = dataclasses.replace(BOX.models["zwz-8b"], revision="0" * 40)
    other_source = quantize_plan.settled(dataclasses.replace(BOX, models={**BOX.models, "zwz-8b": source}))
    tools = dataclasses.replace(BOX.images["llm-compressor"], sources=({"pull": "x/y:2"},))
    other_tools = quantize_plan.settled(dataclasses.replace(BOX, images={**BOX.images, "llm-compressor": tools}))
    other = [changed(samples=64), changed(seed=1), changed(ignore=("lm_head",)), changed(dataset={"file": "/t.txt"})]
    marks = {d.models["zwz-8b-awq"].revision for d in (BOX, other_source, other_tools, *other)}
    assert len(marks) == 7


def test_limits_and_words_make_no_other_model() -> None:
    same = changed(quality={"samples": 64, "perplexity": 2, "kl": 1}, description="other words")
    assert same.models["zwz-8b-awq"].revision == MODEL.revision


def test_a_model_that_is_missing_brings_its_source_and_the_image() -> None:
    facts = host(BOX)
    wanted = ["mini-zwz"]
    assert not quantize_plan.sources(BOX, ["zwz-8b-awq"], facts)
    assert needs.images_to_make(BOX, facts, wanted) == ()
    del facts["models"]["zwz-8b-awq"], facts["images"][BOX_IMAGE]
    assert quantize_plan.sources(BOX, ["zwz-8b-awq", "qwen3-1-7b"], facts) == ("zwz-8b",)
    assert needs.images_to_make(BOX, facts, wanted) == ("llm-compressor",)
    assert needs.host_models(BOX)[-1] == "zwz-8b"


def looked_at(facts: Any, repair: bool = False) -> dict[str, bool]:
    """What is verified for mini-zwz: model to whether a repair fetches it if it is not there; in the order of the work."""
    declared = dataclasses.replace(BOX, settings=dataclasses.replace(BOX.settings, repair=repair))
    found = needs.models_to_verify(declared, facts, ["mini-zwz"])
    assert list(found)[-1] == "zwz-8b-awq"  # after what it is made of
    return found


def test_a_source_that_lies_on_the_host_is_verified_too() -> None:
    facts = host(BOX)
    both = {"zwz-8b": False, "zwz-8b-awq": False}
    assert looked_at(facts) == looked_at(facts, repair=True) == both
    facts["models"]["zwz-8b"] |= {"problem": "cut off", "digest": None}
    facts["models"]["zwz-8b-awq"] |= {"problem": "cut off", "digest": None}
    assert looked_at(facts) == looked_at(facts, repair=True) == both


def test_a_source_that_is_gone_is_fetched_only_to_repair_what_is_made_of_it() -> None:
    facts = host(BOX)
    facts["models"]["zwz-8b"] = {"present": False, "digest": None, "problem": "", "bytes": 0}
    assert looked_at(facts) == looked_at(facts, repair=True) == {"zwz-8b-awq": False}
    facts["models"]["zwz-8b-awq"] |= {"problem": "cut off", "digest": None}
    assert looked_at(facts) == {"zwz-8b-awq": False}
    assert looked_at(facts, repair=True) == {"zwz-8b": True, "zwz-8b-awq": False}


def test_a_damaged_model_wants_its_source_and_the_image_as_one_that_is_missing() -> None:
    facts = host(BOX)
    for name in ("zwz-8b", "zwz-8b-awq"):
        facts["models"][name] |= {"problem": "cut off", "digest": None}
    del facts["images"][BOX_IMAGE]
    assert quantize_plan.sources(BOX, ["zwz-8b-awq"], facts) == ("zwz-8b",)
    assert needs.images_to_make(BOX, facts, ["mini-zwz"]) == ("llm-compressor",)
    broken = [f.key for f in on_host.look_at_host(BOX, facts, ["mini-zwz"])[""] if f.id == "model-broken"]
    assert broken == ["llm_models.zwz-8b", "llm_models.zwz-8b-awq"]


BOX_IMAGE = quantize_plan.job(BOX, MODEL)["image"]


def test_the_job_names_all_that_the_module_takes() -> None:
    job = quantize_plan.job(BOX, MODEL)
    assert job["source"] == {"name": "zwz-8b", "folder": "/opt/llm/models/zwz-8b/main"}
    assert job["recipe"]["name"] == "awq-w4a16" and job["recipe"]["ignore"] == list(BOX.recipes["awq-w4a16"].ignore)
    assert job["devices"] == ["--device", "nvidia.com/gpu=2"]
    plain = dataclasses.replace(BOX, settings=dataclasses.replace(BOX.settings, gpu_runtime="nvidia"))
    assert quantize_plan.job(plain, MODEL)["devices"] == ["--gpus", '"device=2"']


def test_the_container_has_no_network_no_rights_and_a_source_that_it_cannot_write() -> None:
    argv = quantize.argv("n", "i", "/place", "/models/big", 64000, 2**30)
    text = " ".join(argv)
    assert "--network none" in text and "--cap-drop ALL" in text and "--volume /models/big:/source:ro" in text
    assert argv[argv.index("--memory") + 1] == argv[argv.index("--memory-swap") + 1] == str(2**30)


# -- what is refused ---------------------------------------------------------------------------------------------------


def found(facts: Any, declared: Declared = BOX) -> dict[str, str]:
    """Findings about the model of mini-zwz: id to text."""
    return {f.id: f.text() for f in quantize_plan.findings(declared, facts, ["zwz-8b-awq"])}


@pytest.mark.parametrize(
    ("state", "finding", "says"),
    [
        ({}, None, ""),
        ({"made": None}, "model-foreign", "not made by this project"),
        ({"made": {**catalogs.made(BOX, "zwz-8b-awq"), "mark": "0123456789ab"}}, "model-foreign", "by another recipe"),
        (
            {"made": catalogs.made(BOX, "zwz-8b-awq", perplexity=9.0)},
            "model-quality",
            "1.125 times as much; allowed is 1.08",
        ),
        ({"made": catalogs.made(BOX, "zwz-8b-awq", kl=0.2)}, "model-quality", "KL divergence 0.2000 nats"),
        ({"made": {**catalogs.made(BOX, "zwz-8b-awq"), "source_digest": "d"}}, None, ""),
        (
            {"made": {**catalogs.made(BOX, "zwz-8b-awq"), "source_digest": "e"}},
            "model-source",
            "was made of other bytes of zwz-8b than those that lie on the host now",
        ),
        ({"problem": "model.safetensors is cut off"}, None, ""),  # told as `model-broken`
    ],
)
def test_what_lies_there_must_be_what_is_declared_and_good_enough(state: Any, finding: str | None, says: str) -> None:
    facts = host(BOX)
    facts["models"]["zwz-8b-awq"].update(state)
    texts = found(facts)
    assert list(texts) == ([finding] if finding else [])
    assert not finding or says in texts[finding]


@pytest.mark.parametrize("source", [hosts.model(), hosts.model(problem="cut off")])
def test_a_source_that_cannot_be_compared_says_nothing_of_what_is_made_of_it(source: dict[str, Any]) -> None:
    facts = host(BOX)
    facts["models"]["zwz-8b-awq"]["made"]["source_digest"] = "e"
    (finding,) = quantize_plan.findings(BOX, facts, ["zwz-8b-awq"])
    assert finding.severity == "warn" and "remove /opt/llm/models/zwz-8b-awq/" in finding.text()
    facts["models"]["zwz-8b"] = source
    assert not found(facts)


def test_what_was_refused_stays_refused_until_the_limits_are_raised() -> None:
    facts = host(BOX)
    refused = catalogs.made(BOX, "zwz-8b-awq", perplexity=9.0)
    facts["models"]["zwz-8b-awq"] = hosts.model(refused=refused, aside="/opt/llm/models/zwz-8b-awq/.1.refused")
    text = found(facts)["model-refused"]
    assert "perplexity 9.00 after 8.00" in text and "/.1.refused" in text and "Raise the limits" in text
    assert not found(facts, changed(quality={"samples": 8, "perplexity": 1.2, "kl": 0.1}))


@pytest.mark.parametrize("bad", [math.nan, math.inf, None])
@pytest.mark.parametrize("name", ["perplexity", "perplexity_source", "kl"])
def test_what_is_no_finite_number_is_beyond_every_limit(name: str, bad: float | None) -> None:
    numbers: dict[str, float | None] = {"perplexity_source": 8.0, "perplexity": 8.0, "kl": 0.0}
    assert not quantize.beyond(numbers, {"perplexity": 100, "kl": 100})
    (why,) = quantize.beyond({**numbers, name: bad}, {"perplexity": 100, "kl": 100})
    assert "no finite number" in why
    shown = {**numbers, "same_top": 0.5, "tokens": 2, name: bad}
    assert "252 modules" in quantize.summary({**catalogs.made(BOX, "zwz-8b-awq"), "quality": shown})


@pytest.fixture(scope="module")
def program() -> Any:
    """The program that quantizes, as far as it needs no tensors: torch is in its image alone."""
    file = catalogs.ROOT / "roles/model_store/files/quantize_model.py"
    found = importlib.util.spec_from_file_location("quantize_model", file)
    assert found and found.loader
    module = importlib.util.module_from_spec(found)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "torch", SimpleNamespace(cuda=SimpleNamespace(is_available=lambda: False)))
        found.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("after", "kl", "loss", "perplexity", "divergence"),
    [
        (1.0, -1e-9, 0.5, math.exp(0.5), 0.0),
        (math.nan, math.nan, None, None, None),
        (math.inf, math.inf, None, None, None),
        (2000.0, 1.0, 1000.0, None, 0.5),  # exp(1000) is no number any more
    ],
)
def test_what_was_measured_is_valid_json_and_refused_if_it_is_no_number(
    program: Any, after: float, kl: float, loss: float | None, perplexity: float | None, divergence: float | None
) -> None:
    found = json.loads(json.dumps(program.quality(2.0, after, kl, 1.0, 2), allow_nan=False))
    assert (found["loss"], found["perplexity"], found["kl"]) == (loss, perplexity, divergence)
    assert found["perplexity_source"] == math.exp(1.0) and found["same_top"] == 0.5
    assert bool(quantize.beyond(found, {"perplexity": 100, "kl": 100})) == (perplexity is None)


def test_a_job_whose_result_computes_no_numbers_ends_with_a_result(
    program: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "job.json").write_text("{}", encoding="utf-8")
    (tmp_path / "watched").touch()
    monkeypatch.setattr(program, "run", lambda _: {"quality": program.quality(2.0, 1e9, math.nan, 0.0, 2)})
    assert program.main(tmp_path) == 0
    text = (tmp_path / "result.json").read_text(encoding="utf-8")
    assert "NaN" not in text and json.loads(text)["quality"]["kl"] is None


def test_status_shows_what_a_model_lost_and_what_it_may_lose() -> None:
    facts = host(BOX)
    shown = status.status(BOX, facts, {}, {})
    assert "quantized" not in shown["medium-glm"]
    text = " ".join(" ".join(plan_tables.status_table(BOX, facts, shown, {})).split())
    assert (
        "model zwz-8b by awq-w4a16: 252 modules packed, 351 tensors untouched; perplexity 8.00 -> 8.20 (x 1.025)"
        in text
    )
    assert "KL 0.0200 nats a token" in text and "allowed: perplexity x 1.08, KL 0.1" in text


def test_services_of_one_model_share_its_folder_and_it_is_made_once() -> None:
    first = BOX.services["mini-zwz"]
    both = {**BOX.services, "other": dataclasses.replace(first, name="other", port=5099)}
    declared = dataclasses.replace(BOX, services=both)
    assert needs.needed_models(declared, ["mini-zwz", "other"]) == ("zwz-8b-awq",)
    folder = compose.model_dir(declared.settings, declared.models["zwz-8b-awq"])
    for name in ("mini-zwz", "other"):
        engine: Any = compose.release(declared, declared.services[name], "sha256:1", "d").compose["services"]["engine"]
        (bound,) = (v for v in engine["volumes"] if v["target"] == "/model")
        assert (bound["source"], bound["read_only"]) == (folder, True)


@pytest.mark.parametrize(
    ("config", "width"),
    [({"hidden_size": 64}, 64), ({"text_config": {"hidden_size": 32}}, 32), ({"n_embd": 16}, 16), ({}, 8192)],
)
def test_memory_is_estimated_for_configurations_of_any_kind(config: dict[str, Any], width: int) -> None:
    config.setdefault("text_config", {**config})["vocab_size"] = 100
    recipe = {"method": "gptq", "samples": 3, "length": 5}
    assert quantize.memory_need(1000, config, recipe) == 1500 + 2 * 3 * 5 * width + 2 * 5 * 100 + quantize.SPARE


@pytest.mark.parametrize(("available", "refused"), [(10, True), (40, False)])
def test_too_little_memory_is_found_before_anything_is_fetched(available: int, refused: bool) -> None:
    facts = host(BOX, memory={"total": 64 * GIB, "available": available * GIB})
    del facts["models"]["zwz-8b-awq"]
    assert ("quantize-memory" in found(facts)) == refused


@pytest.mark.parametrize(
    ("state", "problem", "refused"),
    [
        ({}, "is empty", True),
        ({}, "", False),
        ({"present": True}, "is empty", False),
        ({"aside": True}, "is empty", False),
    ],
)
def test_text_of_no_use_is_found_before_anything_is_fetched(state: Any, problem: str, refused: bool) -> None:
    declared = changed(dataset={"file": "/srv/chats.jsonl"})
    facts = host(declared, texts={"/srv/chats.jsonl": problem})
    if "present" not in state:
        facts["models"]["zwz-8b-awq"] = hosts.model()
    if "aside" in state:  # made before, and good enough by now
        facts["models"]["zwz-8b-awq"] |= {"refused": catalogs.made(declared, "zwz-8b-awq"), "aside": "/x"}
    texts_found = [f.text() for f in quantize_plan.findings(declared, facts, ["zwz-8b-awq"]) if f.id == "quantize-text"]
    assert bool(texts_found) == refused
    assert not refused or "the text /srv/chats.jsonl is empty. Correct llm_recipes.awq-w4a16.dataset" in texts_found[0]


def test_the_host_is_asked_for_the_text_of_models_that_are_made_of_files() -> None:
    declared = changed(dataset={"file": "/srv/chats.jsonl"})
    assert quantize_plan.text_file(declared, declared.models["zwz-8b-awq"]) == "/srv/chats.jsonl"
    assert handover.host(declared)["texts"] == ["/srv/chats.jsonl"] and not handover.host(BOX)["texts"]
    assert not quantize_plan.text_file(BOX, MODEL) and not quantize_plan.text_file(BOX, BOX.models["zwz-8b"])


def test_a_gpu_that_is_taken_is_found() -> None:
    one = {
        "index": 2,
        "uuid": "GPU-2",
        "model": "NVIDIA GeForce RTX 4090",
        "memory": 24 * GIB,
        "free": 4 * GIB,
    }
    facts = host(BOX, gpu={"trouble": None, "gpus": [one]})
    del facts["models"]["zwz-8b-awq"]
    assert "GPU 2 has 4.0 GiB free" in found(facts)["quantize-gpu"]


def test_an_image_that_is_not_declared_is_named() -> None:
    without = dataclasses.replace(BOX, images={n: i for n, i in BOX.images.items() if n != "llm-compressor"})
    without = quantize_plan.settled(without)
    assert [f.key for f in quantize_plan.judge(without, without.models["zwz-8b-awq"])] == ["llm_images.llm-compressor"]
    assert not quantize_plan.judge(without, without.models["zwz-8b"])


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.txt", b"Words.\n", ""),
        ("a.md", b"W\xc3\xb6rter", ""),
        ("a.md", b"W\xc3", "UTF-8"),
        ("a.txt", b"", "empty"),
        ("a.txt", b" \n\n", "empty"),
        ("a.txt", b"\x00\x01\x02", "zero bytes"),
        ("a.txt", b"\xff\xfe\x00a", "UTF-8"),
        ("a.jsonl", b'{"text": "a"}\n{"text": "b"}\n', ""),
        ("a.jsonl", b'{"messages": []}', ""),
        ("a.jsonl", b'{"prompt": "a"}\n', "neither `text` nor `messages`"),
        ("a.jsonl", b"[1]\n", "neither"),
        ("a.jsonl", b"{\n", "no JSON"),
        ("a.parquet", b"PAR1 and so on", ""),
        ("a.parquet", b"nonsense", "PAR1"),
        ("a.bin", b"text", "no .txt"),
    ],
)
def test_text_that_cannot_be_used_is_named(name: str, content: bytes, says: str) -> None:
    problem = dataset_files.problem(name, content, len(content))
    assert (says in problem) if says else not problem


def test_a_character_that_is_cut_off_by_looking_at_the_start_only_is_no_fault() -> None:
    assert not dataset_files.problem("a.txt", "Wörter".encode()[:2], 100)


# -- how far it is -----------------------------------------------------------------------------------------------------


def test_progress_says_layer_and_time_left() -> None:
    pace = quantize.Pace()
    assert pace.line("Loading weights: 10%", 0) is None
    assert pace.line("@ load 0/1\n", 1) == ("load", "")
    assert pace.line("@ load 0/1\n@ measure source 0/8\n", 2) == ("measure source", "piece 1 of 8")
    assert pace.line("(1/31): Calibrating:   0%|\r(1/31): Calibrating:  50%|", 10) == ("quantize", "layer 1 of 31")
    third = ("quantize", "layer 3 of 31, 4:50 left")
    assert pace.line("(3/31): Propagating: 12%| noise\nGPTQ | METRIC", 30) == third
    assert pace.line("(3/31): Propagating: 90%|", 40) == pace.line("METRIC", 41) == third  # a line a step, not a look


# -- the proof ---------------------------------------------------------------------------------------------------------

SOURCE = {
    "model.embed.weight": ("BF16", [8, 4]),
    "model.norm.weight": ("BF16", [4]),
    "model.layers.0.q_proj.weight": ("BF16", [4, 4]),
    "model.layers.0.q_proj.bias": ("BF16", [4]),
    "model.visual.qkv.weight": ("BF16", [4, 4]),
    "lm_head.weight": ("BF16", [8, 4]),
}
NAMES = {"packed": ["model.layers.0.q_proj"], "smoothed": []}


def tensors(given: dict[str, tuple[str, list[int]]]) -> dict[str, dict[str, Any]]:
    return {name: {"dtype": dtype, "shape": shape} for name, (dtype, shape) in given.items()}


def result(**more: Any) -> dict[str, dict[str, Any]]:
    """SOURCE, packed; `more` changes it by the name of a tensor with dots as underscores, None removes one."""
    made: dict[str, Any] = {k: v for k, v in SOURCE.items() if k != "model.layers.0.q_proj.weight"}
    made["model.layers.0.q_proj.weight_packed"] = ("I32", [4, 1])
    made["model.layers.0.q_proj.weight_scale"] = ("BF16", [4, 1])
    for name, value in more.items():
        real = next((k for k in made if k.replace(".", "_") == name), name)
        made[real] = value
    return tensors({k: v for k, v in made.items() if v is not None})


def test_a_good_result_is_packed_and_everything_else_is_compared() -> None:
    proof = quantize.prove(tensors(SOURCE), result(), NAMES, "gptq")
    assert proof.packed == ("model.layers.0.q_proj",) and not proof.problems
    assert set(proof.compare) == set(SOURCE) - {"model.layers.0.q_proj.weight"}


def test_awq_may_scale_norms_and_the_bias_of_what_it_packs_and_nothing_else() -> None:
    names = {**NAMES, "smoothed": ["model.norm"]}
    proof = quantize.prove(tensors(SOURCE), result(), names, "awq")
    assert set(SOURCE) - set(proof.compare) == {
        "model.layers.0.q_proj.weight",
        "model.layers.0.q_proj.bias",
        "model.norm.weight",
    }


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"model_layers_0_q_proj_weight_packed": None}, "model.layers.0.q_proj is not packed"),
        ({"model_visual_qkv_weight": None}, "model.visual.qkv.weight is missing"),
        ({"model_visual_qkv_weight": ("F16", [4, 4])}, "is F16 [4, 4] instead of BF16"),
        ({"lm_head_weight": None}, "lm_head.weight is missing"),
        ({"stranger.weight": ("BF16", [1])}, "stranger.weight was added"),
    ],
)
def test_a_result_that_is_not_what_the_recipe_says_is_found(change: dict[str, Any], says: str) -> None:
    proof = quantize.prove(tensors(SOURCE), result(**change), NAMES, "gptq")
    assert len(proof.problems) == 1 and says in proof.problems[0]


def test_a_head_that_is_the_embedding_need_not_be_stored() -> None:
    assert not quantize.prove(tensors(SOURCE), result(lm_head_weight=None), NAMES, "gptq", tied=True).problems


def test_fp8_keeps_the_name_and_changes_the_type() -> None:
    fp8 = result(model_layers_0_q_proj_weight_packed=None)
    fp8 |= tensors({"model.layers.0.q_proj.weight": ("F8_E4M3", [4, 4])})
    assert not quantize.prove(tensors(SOURCE), fp8, NAMES, "fp8-dynamic").problems
    fp8 |= tensors({"model.layers.0.q_proj.weight": ("BF16", [4, 4])})
    assert quantize.prove(tensors(SOURCE), fp8, NAMES, "fp8-dynamic").problems == (
        "model.layers.0.q_proj is not packed",
    )


def safetensors(path: Path, **given: bytes) -> None:
    """A file with tensors of single bytes."""
    header, at = {}, 0
    for name, data in given.items():
        header[name] = {"dtype": "U8", "shape": [len(data)], "data_offsets": [at, at + len(data)]}
        at += len(data)
    raw = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(raw)) + raw + b"".join(given.values()))


def test_tensors_are_compared_by_their_bytes_wherever_they_lie(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    one.mkdir()
    other.mkdir()
    safetensors(one / "a.safetensors", x=b"12345", y=b"678")
    safetensors(other / "1.safetensors", y=b"678")
    safetensors(other / "2.safetensors", z=b"0", x=b"12x45")
    a, b = artifacts.tensors(one), artifacts.tensors(other)
    assert artifacts.same_bytes(one, a["y"], other, b["y"])
    assert not artifacts.same_bytes(one, a["x"], other, b["x"])
    assert not artifacts.same_bytes(one, a["x"], other, b["y"])


def test_what_is_set_aside_is_pruned_like_what_is_on_its_way(tmp_path: Path) -> None:
    folder = tmp_path / "small" / "0123456789ab"
    store.aside(folder).mkdir(parents=True)
    found: Any = store.stored(tmp_path)
    (entry,) = found
    assert entry["partial"] and entry["revision"] == folder.name
    assert needs.unneeded_models(found, [str(folder)], []) == []
    assert needs.unneeded_models(found, [], []) == found
