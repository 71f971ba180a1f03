"""Quantize a model of a real shape with random weights: how long, how much memory, how large, and is the rest untouched.

Usage: python3 benchmarks/quantize_shape.py [--config FILE] [--recipe NAME] [--samples 64] [--length 2048] [--small]
           [--work DIR] [--keep DIR]

It runs the project's own program and proof in the Python that it is started with, which needs the packages of image
`llm-compressor` (group_vars/all/images.yml), on a GPU if there is one. `--small` keeps the architecture and shrinks its sizes, for
a machine without a GPU. What quality is measured means nothing here. `--keep` leaves the result there. Its last line is one JSON
object.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import types
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
PROGRAM = ROOT / "roles" / "model_store" / "files" / "quantize_model.py"
MARKS = {
    "<|vision_start|>": "vision_start_token_id",
    "<|vision_end|>": "vision_end_token_id",
    "<|image_pad|>": "image_token_id",
    "<|video_pad|>": "video_token_id",
}
HELD_OUT = 2  # pieces; enough to see that the result loads and computes

# The project's code without Ansible, which this Python need not have.
for name in ("ansible", "ansible.module_utils"):
    module = types.ModuleType(name)
    module.__path__ = [str(ROOT / "module_utils")]
    sys.modules.setdefault(name, module)

from ansible.module_utils.llm.engine import warmup  # noqa: E402 - the path comes first
from ansible.module_utils.llm.models import artifacts, quantize  # noqa: E402 - the path comes first


def small(config: dict[str, Any]) -> dict[str, Any]:
    """The same architecture, with two language layers and three of vision."""
    text, vision = config["text_config"], config["vision_config"]
    text |= {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2, "head_dim": 64, "vocab_size": 4096}
    text |= {"num_attention_heads": 4, "num_key_value_heads": 2}
    text["rope_scaling"] = text["rope_scaling"] | {"mrope_section": [12, 10, 10]}
    vision |= {"hidden_size": 128, "intermediate_size": 256, "depth": 3, "num_heads": 2, "out_hidden_size": 256}
    vision["deepstack_visual_indexes"] = [0, 1]
    return config | {key: 4000 + n for n, key in enumerate(MARKS.values())}


def vocabulary(config: dict[str, Any]) -> list[str]:
    """Made-up words, among them those of warm-ups, and the marks of pictures where the configuration has them."""
    names = [f"w{i}" for i in range(int((config.get("text_config") or config)["vocab_size"]))]
    names[1 : 1 + len(warmup.WORDS)] = warmup.WORDS
    for mark, key in MARKS.items():
        if config.get(key, len(names)) < len(names):
            names[config[key]] = mark
    return names


def make(folder: Path, config: dict[str, Any]) -> None:
    """A model folder with random weights and a tokenizer of that vocabulary."""
    import torch
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers

    settings = transformers.AutoConfig.for_model(**config)
    torch.manual_seed(0)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        cls = getattr(transformers, config["architectures"][0])
        model = cls._from_config(settings, dtype=torch.bfloat16)
    model.to("cpu").save_pretrained(folder)
    names = vocabulary(settings.to_dict())
    tokenizer = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="w0"))  # noqa: S106 - a word
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens([name for name in names if name.startswith("<|")])
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(folder)


def program() -> Any:
    """The program that module llm_quantize runs in a container."""
    spec = importlib.util.spec_from_file_location("quantize_model", PROGRAM)
    assert spec and spec.loader  # noqa: S101
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def watched(own: Any) -> dict[str, int]:
    """What is filled in with the GPU's peak of quantizing alone: measuring has the whole model there."""
    import torch

    found: dict[str, int] = {}
    plain = own.quantize

    def quantize(*given: Any) -> None:
        if torch.cuda.is_available():
            found["before"] = torch.cuda.max_memory_allocated()
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        plain(*given)
        found["gpu"] = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0

    own.quantize = quantize
    return found


def main() -> int:
    """Make, quantize, prove, report."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--config", type=Path, default=ROOT / "files" / "configs" / "zwz-8b-awq.json")
    asked.add_argument("--recipe", default="gptq-w4a16")
    asked.add_argument("--samples", type=int, default=64)
    asked.add_argument("--length", type=int, default=2048)
    asked.add_argument("--small", action="store_true")
    asked.add_argument("--work", type=Path)
    asked.add_argument("--keep", type=Path)
    asked.add_argument("--make", type=Path, help="make the model there, and nothing else")
    given = asked.parse_args()
    config = json.loads(given.config.read_text(encoding="utf-8"))["config"]
    config.pop("quantization_config", None)
    config = small(config) if given.small else config
    if given.make:
        make(given.make, config)
        return 0
    declared = yaml.safe_load((ROOT / "group_vars" / "all" / "recipes.yml").read_text(encoding="utf-8"))["llm_recipes"]
    recipe = {"targets": ["Linear"], "group_size": 128, "seed": 42, **declared[given.recipe]}
    recipe |= {"samples": given.samples, "length": given.length, "quality": {"samples": HELD_OUT}}
    work = Path(tempfile.mkdtemp(prefix="quantize-", dir=given.work))
    try:
        source, out = work / "source", work / "out"
        # In a process of its own, so that what it takes is in no peak.
        again = ["--config", str(given.config), *(["--small"] if given.small else []), "--make", str(source)]
        subprocess.run([sys.executable, __file__, *again], check=True)
        names = vocabulary(json.loads((source / "config.json").read_text(encoding="utf-8")))
        chance = random.Random(0)  # noqa: S311
        count = (given.samples + HELD_OUT) * given.length
        text = work / "text.txt"
        text.write_text(" ".join(names[chance.randrange(len(names) // 2)] for _ in range(count)), encoding="utf-8")
        out.mkdir()
        began = time.monotonic()
        own = program()
        alone = watched(own)
        result = own.run({"source": str(source), "text": str(text), "out": str(out), "recipe": recipe})
        wall = time.monotonic() - began
        before, after = artifacts.tensors(source), artifacts.tensors(out)
        proof = quantize.prove(before, after, result, recipe["method"], bool(config.get("tie_word_embeddings")))
        changed = [n for n in proof.compare if not artifacts.same_bytes(source, before[n], out, after[n])]
        weights = [sum(p.stat().st_size for p in folder.glob("*.safetensors")) for folder in (source, out)]
        seconds = result["seconds"]["quantize"]
        report = {
            "ok": not proof.problems and not changed,
            "problems": [*proof.problems, *changed][:20],
            "recipe": given.recipe,
            "device": result["device"],
            "samples": given.samples,
            "length": given.length,
            "wall_seconds": round(wall, 1),
            "seconds": result["seconds"],
            # Upper bound: what is spent on each matrix, whatever flows through it, is not proportional to the tokens.
            "seconds_of_512_x_4096": None
            if given.small
            else round(seconds * 512 * 4096 / (given.samples * given.length)),
            "peak_memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            "peak_gpu_memory": max(result["peaks"]["gpu"], alone.get("before", 0)),
            "peak_gpu_memory_to_quantize": alone.get("gpu", 0),
            "expected_memory": quantize.memory_need(weights[0], config, recipe),
            "source_bytes": weights[0],
            "result_bytes": weights[1],
            "packed": len(proof.packed),
            "untouched": len(proof.compare),
            "vision_untouched": sum("visual" in n for n in proof.compare),
            "scaled": len(result["smoothed"]),
            "versions": result["versions"],
        }
        if given.keep:
            shutil.move(out, given.keep)
    finally:
        shutil.rmtree(work)
    print(json.dumps(report))
    return 0 if report["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
