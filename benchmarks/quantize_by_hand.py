"""Quantize a model with llm-compressor's own calls, as its documentation shows, to compare with module llm_quantize.

Usage: python3 benchmarks/quantize_by_hand.py gptq|awq|fp8 SOURCE TEXT OUT GROUP_SIZE SAMPLES LENGTH

Runs in the Python of image `llm-compressor-cpu`. TEXT: plain text, cut into SAMPLES pieces of LENGTH tokens. Its last line is one
JSON object. Quality is measured by the project's program, on the pieces that module llm_quantize would hold out.
"""

from __future__ import annotations

import importlib.util
import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

HELD_OUT = 8


def by_hand(method: str, source: str, texts: list[str], out: str, group: int, length: int) -> None:
    """What somebody writes who has read the documentation."""
    from datasets import Dataset
    from llmcompressor import oneshot
    from llmcompressor.modifiers.gptq import GPTQModifier
    from llmcompressor.modifiers.quantization import QuantizationModifier
    from llmcompressor.modifiers.transform.awq import AWQModifier
    from llmcompressor.pipelines.cache import IntermediatesCache
    from transformers import AutoModelForCausalLM, AutoTokenizer

    IntermediatesCache.pin_memory = lambda *_, **__: None  # else AWQ ends on a machine without an accelerator
    weights = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": group}
    groups = {"group_0": {"targets": ["Linear"], "weights": weights}}
    recipes: dict[str, list[Any]] = {
        "gptq": [GPTQModifier(config_groups=groups, ignore=["lm_head"])],
        "awq": [AWQModifier(), QuantizationModifier(config_groups=groups, ignore=["lm_head"])],
        "fp8": [QuantizationModifier(targets="Linear", scheme="FP8_DYNAMIC", ignore=["lm_head"])],
    }
    model = AutoModelForCausalLM.from_pretrained(source, dtype="auto")
    tokenizer = AutoTokenizer.from_pretrained(source)
    data: dict[str, Any] = {}
    if method != "fp8":
        encoded = [dict(tokenizer(t, truncation=True, max_length=length)) for t in texts]
        data = {"dataset": Dataset.from_list(encoded), "num_calibration_samples": len(texts), "max_seq_length": length}
    oneshot(model=model, processor=tokenizer, recipe=recipes[method], **data)
    model.save_pretrained(out, save_compressed=True)
    tokenizer.save_pretrained(out)


def program() -> Any:
    """The program of module llm_quantize."""
    path = Path(__file__).resolve().parent.parent / "roles" / "model_store" / "files" / "quantize_model.py"
    spec = importlib.util.spec_from_file_location("quantize_model", path)
    assert spec and spec.loader  # noqa: S101
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def main() -> None:
    """Quantize by hand, then measure with the same ruler."""
    from transformers import AutoTokenizer

    method, source, text, out, *numbers = sys.argv[1:]
    group, samples, length = map(int, numbers)
    own = program()
    tokenizer = AutoTokenizer.from_pretrained(source)
    calibrate = 0 if method == "fp8" else samples
    pieces = own.pieces(Path(text), tokenizer, calibrate + HELD_OUT, length, 42)
    began = time.monotonic()
    by_hand(method, source, [tokenizer.decode(p) for p in pieces[:calibrate]], out, group, length)
    seconds = time.monotonic() - began
    held = pieces[calibrate:]
    before = own.baseline(own.load(Path(source)), held)
    quality = own.compare(own.load(Path(out)), held, before)
    size = sum(p.stat().st_size for p in Path(out).glob("*.safetensors"))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"method": method, "seconds": round(seconds, 1), "bytes": size, "peak_memory": peak, **quality}))


if __name__ == "__main__":
    main()
