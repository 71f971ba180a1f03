"""Module llm_quantize without a container: a stub does what llm-compressor would, so that every way to go wrong can be listed.

The real one quantizes in tests/e2e/test_quantize.py.
"""

import json
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llm_quantize
import pytest
from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.llm.base.units import GIB
from ansible.module_utils.llm.host import read as read_host
from ansible.module_utils.llm.models import artifacts, quantize, store

Run = Callable[..., dict[str, Any]]
MARK = "0123456789ab"
QUALITY = {"perplexity_source": 10.0, "perplexity": 10.5, "kl": 0.05, "same_top": 0.9, "tokens": 100}
GOOD_TEXT = "Words that say something.\n" * 100


def safetensors(path: Path, given: dict[str, tuple[str, list[int], bytes]]) -> None:
    header, at = {}, 0
    for name, (dtype, shape, data) in given.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + len(data)]}
        at += len(data)
    raw = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(raw)) + raw + b"".join(data for _, _, data in given.values()))


WEIGHTS = {
    "layer.weight": ("BF16", [2, 2], b"12345678"),
    "visual.weight": ("BF16", [2, 2], b"abcdefgh"),
    "lm_head.weight": ("BF16", [2, 2], b"ABCDEFGH"),
}


class Stub:
    """Stands in for Docker and what runs in the container. `wrong`: what it does wrong."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        self.wrong = ""
        self.quality: dict[str, float | None] = {**QUALITY}
        self.ran: list[list[str]] = []
        self.folder = tmp_path / "models" / "small" / MARK
        self.source = tmp_path / "models" / "big" / "main"
        self.source.mkdir(parents=True)
        config = {"architectures": ["A"], "hidden_size": 4, "vocab_size": 8}
        (self.source / "config.json").write_text(json.dumps(config), encoding="utf-8")
        safetensors(self.source / "model.safetensors", WEIGHTS)
        manifest = artifacts.make_manifest(self.source, {"source": "path"})
        (self.source / artifacts.MANIFEST).write_text(artifacts.manifest_text(manifest), encoding="utf-8")
        self.text = tmp_path / "text.txt"
        self.text.write_text(GOOD_TEXT, encoding="utf-8")
        program = tmp_path / "program.py"
        program.write_text("", encoding="utf-8")
        self.arguments: dict[str, Any] = {
            "name": "small",
            "folder": str(self.folder),
            "source": {"name": "big", "folder": str(self.source)},
            "recipe": {
                "name": "w4",
                "method": "gptq",
                "targets": ["Linear"],
                "ignore": ["lm_head", "re:.*visual.*"],
                "group_size": 2,
                "samples": 4,
                "length": 16,
                "seed": 1,
                "dataset": {"file": str(self.text)},
                "quality": {"samples": 2, "perplexity": 1.1, "kl": 0.1},
            },
            "image": "llm/compressor:1",
            "program": str(program),
        }
        monkeypatch.setattr(AnsibleModule, "run_command", self.command)
        monkeypatch.setattr(os, "chown", lambda *_: None)
        monkeypatch.setattr(read_host, "memory", lambda: {"total": 64 * GIB, "available": 32 * GIB})

    def command(self, argv: list[str], **_: Any) -> tuple[int, str, str]:
        self.ran.append(argv)
        if argv[:2] != ["/bin/sh", "-c"]:
            return 0, "", ""
        place = next(Path(a.removesuffix(":/job")) for a in argv if a.endswith(":/job"))
        Path(argv[4]).write_text("@ load 0/1\nValueError: what it said last\n", encoding="utf-8")
        if self.wrong == "killed":
            return 137, "", ""
        if self.wrong == "no image":
            Path(argv[4]).write_text("Unable to find image\ndocker: Error response: pull access denied\nRun --help\n")
            return 125, "", ""
        if self.wrong == "crash":
            return 1, "", ""
        if self.wrong == "refuses":
            (place / "result.json").write_text(json.dumps({"error": "has 1 pieces of 16 to 16 tokens, and ..."}))
            return 1, "", ""
        if self.wrong == "interrupted":
            raise KeyboardInterrupt
        out = place / "out"
        shutil.copy(self.source / "config.json", out)
        made = {k: v for k, v in WEIGHTS.items() if k != "layer.weight"}
        made["layer.weight_packed"], made["layer.weight_scale"] = ("I32", [1], b"1234"), ("BF16", [1], b"12")
        if self.wrong == "eyes":
            made["visual.weight"] = ("BF16", [2, 2], b"abcdefgX")
        if self.wrong == "unpacked":
            made["layer.weight"] = made.pop("layer.weight_packed")
        safetensors(out / "model.safetensors", made)
        result = {"packed": ["layer"], "smoothed": [], "left": ["lm_head"], "quality": self.quality, "device": "cpu"}
        more = {"versions": {"llmcompressor": "1"}, "pieces": {}, "peaks": {}, "seconds": {}}
        (place / "result.json").write_text(json.dumps(result | more), encoding="utf-8")
        return 0, "", ""

    @property
    def left(self) -> list[str]:
        """All that lies beside the model."""
        return sorted(p.name for p in self.folder.parent.iterdir()) if self.folder.parent.is_dir() else []

    @property
    def containers(self) -> int:
        """Containers that were started."""
        return sum(argv[:2] == ["/bin/sh", "-c"] for argv in self.ran)


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Stub:
    return Stub(monkeypatch, tmp_path)


def test_a_model_is_made_once_and_says_what_of(stub: Stub, run_module: Run) -> None:
    predicted = run_module(llm_quantize, stub.arguments, check_mode=True)
    assert predicted["changed"] and "gptq, groups of 2" in predicted["diff"]["after"] and not stub.left
    made = run_module(llm_quantize, stub.arguments)
    assert made["changed"] and stub.left == [MARK]
    kept = artifacts.look(stub.folder)
    assert kept["digest"] == made["digest"] and kept["made"] == made["made"]
    record = kept["made"]
    assert record and {k: v for k, v in record.items() if k in ("of", "recipe", "mark", "packed", "untouched")} == {
        "of": "big",
        "recipe": "w4",
        "mark": MARK,
        "packed": 1,
        "untouched": 2,
    }
    assert record["source_digest"] == artifacts.look(stub.source)["digest"]
    assert not quantize.foreign(record, MARK) and not store.damage(stub.folder, deep=True)
    assert not run_module(llm_quantize, stub.arguments)["changed"] and stub.containers == 1


def source_missing(stub: Stub) -> None:
    shutil.rmtree(stub.source)


def source_damaged(stub: Stub) -> None:
    (stub.source / "model.safetensors").write_bytes(b"x")


def source_quantized(stub: Stub) -> None:
    config = json.loads((stub.source / "config.json").read_text(encoding="utf-8"))
    (stub.source / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "gptq"}}))
    manifest = artifacts.make_manifest(stub.source, {"source": "path"})
    (stub.source / artifacts.MANIFEST).write_text(artifacts.manifest_text(manifest), encoding="utf-8")


def text_missing(stub: Stub) -> None:
    stub.text.unlink()


def text_empty(stub: Stub) -> None:
    stub.text.write_text("")


def text_binary(stub: Stub) -> None:
    stub.text.write_bytes(bytes(range(256)))


def offline(stub: Stub) -> None:
    stub.arguments["recipe"]["dataset"] = {"hub": "a/b", "match": "*.parquet"}
    stub.arguments["offline"] = True


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (source_missing, "its source big is not in"),
        (source_damaged, "its source big is damaged"),
        (source_quantized, "quantized already"),
        (text_missing, "cannot be read: No such file"),
        (text_empty, "text.txt is empty"),
        (text_binary, "is not text"),
        (offline, "llm_offline is set"),
    ],
)
def test_what_cannot_be_quantized_is_refused_before_anything_starts(
    stub: Stub, run_module: Run, spoil: Callable[[Stub], None], says: str
) -> None:
    spoil(stub)
    before = {p: p.read_bytes() for p in stub.source.rglob("*")}
    refused = run_module(llm_quantize, stub.arguments)
    assert refused["failed"] and says in refused["msg"] and refused["msg"].startswith("llm_models.small: ")
    predicted = run_module(llm_quantize, stub.arguments, check_mode=True)
    if spoil is source_missing:  # the run itself would fetch it
        assert predicted["changed"] and "failed" not in predicted
    else:
        assert predicted["msg"] == refused["msg"]
    assert not stub.left and not stub.containers and {p: p.read_bytes() for p in stub.source.rglob("*")} == before


def test_too_little_memory_is_refused(stub: Stub, run_module: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read_host, "memory", lambda: {"total": 4 * GIB, "available": GIB})
    refused = run_module(llm_quantize, stub.arguments)
    assert run_module(llm_quantize, stub.arguments, check_mode=True)["msg"] == refused["msg"]
    assert "takes about 2.0 GiB of memory, and 1.0 GiB are free" in refused["msg"] and not stub.containers
    assert not stub.left and not store.damage(stub.source, deep=True)


def test_too_little_disk_is_refused(stub: Stub, run_module: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage("/")._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    assert "has 1000 bytes free" in run_module(llm_quantize, stub.arguments)["msg"] and not stub.containers
    assert not stub.left and not store.damage(stub.source, deep=True)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ("killed", "wanted more than 31.0 GiB"),
        (
            "no image",
            "not started: docker: Error response: pull access denied. If its image is missing, `site.yml --tags images`",
        ),
        ("crash", "ended with 1: ValueError: what it said last"),
        ("refuses", "text.txt has 1 pieces"),
        ("eyes", "visual.weight has other bytes than in the source"),
        ("unpacked", "layer is not packed"),
    ],
)
def test_what_goes_wrong_leaves_nothing_and_the_source_as_it_was(
    stub: Stub, run_module: Run, wrong: str, says: str
) -> None:
    stub.wrong = wrong
    refused = run_module(llm_quantize, stub.arguments)
    assert refused["failed"] and says in refused["msg"]
    assert not stub.left and not store.damage(stub.source, deep=True)


def test_an_interrupted_run_is_begun_anew(stub: Stub, run_module: Run) -> None:
    place = store.partial(stub.folder, "quantize")
    (place / "out").mkdir(parents=True)
    (place / "out" / "stranger.safetensors").write_bytes(b"half")  # as a killed module leaves it
    assert run_module(llm_quantize, stub.arguments)["changed"]
    assert stub.left == [MARK] and not (stub.folder / "stranger.safetensors").exists()
    removed = ["docker", "rm", "--force", quantize.container(MARK)]
    assert stub.ran[0] == removed  # what that run may have left at work


def test_what_was_made_by_another_recipe_is_not_taken(stub: Stub, run_module: Run) -> None:
    run_module(llm_quantize, stub.arguments)
    other = stub.folder.with_name("ba9876543210")
    stub.folder.rename(other)
    refused = run_module(llm_quantize, {**stub.arguments, "folder": str(other)})
    assert "by another recipe (w4, 0123456789ab; wanted ba9876543210)" in refused["msg"]
    copied = stub.folder.with_name("cccccccccccc")
    shutil.copytree(stub.source, copied)
    assert "not made by this project" in run_module(llm_quantize, {**stub.arguments, "folder": str(copied)})["msg"]


def test_a_result_that_lost_too_much_is_set_aside_and_taken_when_the_limits_are_raised(
    stub: Stub, run_module: Run
) -> None:
    stub.quality = {**QUALITY, "perplexity": 12.0}
    refused = run_module(llm_quantize, stub.arguments)
    assert "perplexity 12.00 after 10.00, 1.200 times as much; allowed is 1.1" in refused["msg"]
    assert stub.left == [f".{MARK}.refused"] and str(store.aside(stub.folder)) in refused["msg"]
    assert read_host.model(str(stub.folder))["refused"]["quality"]["perplexity"] == 12.0
    again = run_module(llm_quantize, stub.arguments)
    assert again["failed"] and again["msg"] == refused["msg"] and stub.containers == 1
    stub.arguments["recipe"]["quality"]["perplexity"] = 1.5
    assert "within the limits now" in run_module(llm_quantize, stub.arguments, check_mode=True)["diff"]["after"]
    assert run_module(llm_quantize, stub.arguments)["changed"]
    assert stub.left == [MARK] and stub.containers == 1 and not store.damage(stub.folder, deep=True)


def test_a_check_leaves_nothing_and_minds_no_source_that_the_repair_would_mend(stub: Stub, run_module: Run) -> None:
    run_module(llm_quantize, stub.arguments, check_mode=True)
    assert not stub.folder.parent.exists()
    run_module(llm_quantize, stub.arguments)
    (stub.folder / "model.safetensors").write_bytes(b"x")
    source_damaged(stub)
    predicted = run_module(llm_quantize, {**stub.arguments, "state": "repaired"}, check_mode=True)
    assert predicted["changed"] and not predicted["ok"]
    text_empty(stub)
    refused = run_module(llm_quantize, {**stub.arguments, "state": "repaired"}, check_mode=True)
    assert "text.txt is empty" in refused["msg"]


def test_a_repair_whose_source_is_gone_says_what_ends_it(stub: Stub, run_module: Run) -> None:
    """`site.yml` refuses a damaged model, so that it cannot be what fetches the source."""
    run_module(llm_quantize, stub.arguments)
    (stub.folder / "model.safetensors").write_bytes(b"x")
    shutil.rmtree(stub.source)
    refused = run_module(llm_quantize, {**stub.arguments, "state": "repaired"})
    assert f"Remove {stub.folder}, and `site.yml --tags models` fetches it" in refused["msg"]


@pytest.mark.parametrize(
    ("quality", "says"),
    [
        ({"perplexity": None, "loss": None}, "perplexity no finite number after 10.00; allowed is 1.1 times as much"),
        ({"perplexity": None, "loss": 812.04}, "no finite number (812.0 nats a token) after 10.00"),
        ({"kl": None}, "KL divergence no finite number; allowed is 0.1"),
    ],
)
def test_a_result_that_computes_no_numbers_is_set_aside(
    stub: Stub, run_module: Run, quality: dict[str, float | None], says: str
) -> None:
    stub.quality |= quality
    refused = run_module(llm_quantize, stub.arguments)
    assert refused["failed"] and says in refused["msg"] and stub.left == [f".{MARK}.refused"]
    assert run_module(llm_quantize, stub.arguments)["msg"] == refused["msg"] and stub.containers == 1


def test_a_damaged_model_is_made_anew_only_when_that_is_asked(stub: Stub, run_module: Run) -> None:
    run_module(llm_quantize, stub.arguments)
    repaired = {**stub.arguments, "state": "repaired", "depth": "deep"}
    assert not run_module(llm_quantize, repaired)["changed"]
    weights = stub.folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    assert "-e llm_repair=true" in run_module(llm_quantize, stub.arguments)["msg"]
    predicted = run_module(llm_quantize, repaired, check_mode=True)
    assert predicted["changed"] and not predicted["ok"] and stub.containers == 1
    again = run_module(llm_quantize, repaired)
    assert again["ok"] and again["verdict"]["small"]["repaired"] == ["model.safetensors"]
    assert stub.left == [MARK] and not store.damage(stub.folder, deep=True)
