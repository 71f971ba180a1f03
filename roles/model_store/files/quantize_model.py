"""Quantize a model by a recipe, and measure what that cost. Runs inside an image with llm-compressor, without network.

Usage: python3 quantize_model.py JOB. JOB is a folder with job.json: {source, text, out, recipe}, all but the recipe paths. What
came of it is written there as result.json: {error} or {versions, packed, left, smoothed, quality, pieces, peaks, seconds}.
Progress goes to the output, a line `@ PHASE DONE/TOTAL` each; llm-compressor adds `(LAYER/LAYERS): ...` of its own.
"""

from __future__ import annotations

import gc
import importlib.metadata
import json
import math
import os
import random
import resource
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

TOP = 256  # next tokens of the source that are kept of each position; the others count as one
SHORT = 16  # tokens below which a text says little
CHUNK = 256  # positions whose logits are turned into probabilities at once
ABANDONED = 120.0  # seconds without a sign of whoever started this
GPU = torch.cuda.is_available()


class Unfit(Exception):
    """What cannot be quantized; the text says why and what to do."""


def say(phase: str, done: int, total: int) -> None:
    """One line of progress."""
    print(f"@ {phase} {done}/{total}", flush=True)


def watch(sign: Path) -> None:
    """End with whoever started this: a file that is touched as long as somebody waits for the result."""
    while time.time() - sign.stat().st_mtime < ABANDONED:
        time.sleep(5)
    os._exit(70)


# ---------------------------------------------------------------------------------------------------------------------
# Text.


def rows(path: Path) -> Iterator[Any]:
    """Rows of a data set: mappings with `text` or `messages`."""
    if path.suffix == ".parquet":
        import pyarrow.parquet

        file = pyarrow.parquet.ParquetFile(path)
        wanted = [c for c in ("text", "messages") if c in file.schema_arrow.names]
        if not wanted:
            raise Unfit(f"has neither a column `text` nor `messages`, but {', '.join(file.schema_arrow.names)}")
        for batch in file.iter_batches(columns=wanted[:1]):
            yield from batch.to_pylist()
    else:
        with path.open(encoding="utf-8") as lines:
            yield from (json.loads(line) for line in lines if line.strip())


def pieces(path: Path, tokenizer: Any, need: int, length: int, seed: int) -> list[list[int]]:
    """`need` pieces of text as tokens, each at most `length`, in an order that `seed` decides."""
    order = random.Random(seed)  # noqa: S311 - to be repeatable, not to be secret
    if path.suffix in (".jsonl", ".parquet"):
        total = sum(1 for _ in rows(path))
        chosen = order.sample(range(total), min(total, 2 * need))
        kept = set(chosen)
        read = {i: _text(row, tokenizer) for i, row in enumerate(rows(path)) if i in kept}
        found = [tokenizer(read[i], truncation=True, max_length=length)["input_ids"] for i in chosen]
    else:
        tokens = tokenizer(path.read_text(encoding="utf-8"))["input_ids"]
        found = [tokens[i : i + length] for i in range(0, len(tokens), length)]
        order.shuffle(found)
    found = [p for p in found if len(p) >= SHORT][:need]
    if len(found) < need:
        raise Unfit(f"has {len(found)} pieces of {SHORT} to {length} tokens, and the recipe wants {need}")
    return found


def _text(row: Any, tokenizer: Any) -> str:
    if isinstance(row.get("text"), str):
        return str(row["text"])
    messages = row.get("messages") or []
    if tokenizer.chat_template:
        return str(tokenizer.apply_chat_template(messages, tokenize=False))
    return "\n\n".join(str(m["content"]) for m in messages)


# ---------------------------------------------------------------------------------------------------------------------
# Quality.


def logits(model: Any, tokens: list[int]) -> torch.Tensor:
    """What a model expects at each position but the last: [len(tokens) - 1, vocabulary]."""
    given = torch.tensor([tokens], device=model.device)
    with torch.inference_mode():
        found: torch.Tensor = model(input_ids=given, attention_mask=torch.ones_like(given), use_cache=False).logits[
            0, :-1
        ]
    return found


def baseline(model: Any, held: list[list[int]]) -> list[dict[str, torch.Tensor]]:
    """What the source expects: {nats of the token that came, tokens that were likeliest, their log-probabilities}."""
    found = []
    for done, tokens in enumerate(held):
        say("measure source", done, len(held))
        came, parts = torch.tensor(tokens[1:]), []
        for at, part in enumerate(logits(model, tokens).split(CHUNK)):
            expected = part.float().log_softmax(-1).cpu()
            top = expected.topk(min(TOP, expected.shape[-1]), dim=-1)
            nats = -expected.gather(1, came[at * CHUNK : at * CHUNK + len(part), None])[:, 0]
            parts.append({"nats": nats, "top": top.indices, "logp": top.values})
        found.append({key: torch.cat([p[key] for p in parts]) for key in parts[0]})
    return found


def compare(model: Any, held: list[list[int]], source: list[dict[str, torch.Tensor]]) -> dict[str, float | None]:
    """Perplexities, and the mean divergence of the result's next tokens from the source's, in nats.

    The divergence counts all but the likeliest tokens as one; so it is at most the true one, and close to it.
    """
    before = after = kl = same = 0.0
    for done, (tokens, kept) in enumerate(zip(held, source, strict=True)):
        say("measure result", done, len(held))
        came = torch.tensor(tokens[1:])
        for at, part in enumerate(logits(model, tokens).split(CHUNK)):
            here = slice(at * CHUNK, at * CHUNK + len(part))
            got = part.float().log_softmax(-1).cpu()
            p, q = kept["logp"][here].double(), got.gather(1, kept["top"][here]).double()
            rest_p, rest_q = ((1 - x.exp().sum(-1)).clamp_min(1e-12) for x in (p, q))
            kl += float((p.exp() * (p - q)).sum() + (rest_p * (rest_p.log() - rest_q.log())).sum())
            after -= float(got.gather(1, came[here, None]).double().sum())
            same += float((got.argmax(-1) == kept["top"][here][:, 0]).sum())
        before += float(kept["nats"].double().sum())
    return quality(before, after, kl, same, sum(len(t) - 1 for t in held))


def quality(before: float, after: float, kl: float, same: float, count: int) -> dict[str, float | None]:
    """Sums over `count` tokens as means: loss (nats a token) and perplexity of source and result, divergence, same next token.

    None for what is no finite number: a result that computes NaN, or a loss whose perplexity is too large for a number. JSON
    knows neither, and whoever compares with a limit has to see it.
    """
    return {
        "loss_source": finite(before / count),
        "loss": finite(after / count),
        "perplexity_source": perplexity(before / count),
        "perplexity": perplexity(after / count),
        "kl": finite(max(kl / count, 0.0)),  # NaN stays NaN: nothing is larger than it
        "same_top": same / count,
        "tokens": count,
    }


def finite(value: float) -> float | None:
    """A finite number as it is, None for others."""
    return value if math.isfinite(value) else None


def perplexity(loss: float) -> float | None:
    """Perplexity of a loss in nats a token, None where that is no finite number."""
    try:
        return finite(math.exp(loss))
    except OverflowError:
        return None


# ---------------------------------------------------------------------------------------------------------------------
# Quantizing.


def load(folder: Path) -> Any:
    """A model in the precision of its files."""
    import transformers

    names = json.loads((folder / "config.json").read_text(encoding="utf-8"))["architectures"]
    cls = getattr(transformers, names[0], None)
    if cls is None:
        raise Unfit(f"has the architecture {names[0]}, which transformers {transformers.__version__} does not know")
    return cls.from_pretrained(folder, dtype="auto").eval()


def modifiers(recipe: dict[str, Any]) -> list[Any]:
    """llm-compressor's words for a recipe."""
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
    from llmcompressor.modifiers.gptq import GPTQModifier
    from llmcompressor.modifiers.quantization import QuantizationModifier
    from llmcompressor.modifiers.transform.awq import AWQModifier

    targets, ignore = list(recipe["targets"]), list(recipe["ignore"])
    if recipe["method"] == "fp8-dynamic":
        return [QuantizationModifier(targets=targets, ignore=ignore, scheme="FP8_DYNAMIC")]
    # Symmetric: the CPU engine loads no other W4A16.
    weights = QuantizationArgs(
        num_bits=4, type="int", symmetric=True, strategy="group", group_size=recipe["group_size"]
    )
    groups = {"group_0": QuantizationScheme(targets=targets, weights=weights)}
    if recipe["method"] == "gptq":
        return [GPTQModifier(config_groups=groups, ignore=ignore)]
    return [AWQModifier(), QuantizationModifier(config_groups=groups, ignore=ignore)]


def parts(model: Any, recipe: dict[str, Any]) -> dict[str, list[str]]:
    """Names of modules: to pack, Linear ones to leave, and those whose weights AWQ may scale (norms)."""
    from compressed_tensors.utils import match_named_modules

    pack = {n for n, _ in match_named_modules(model, recipe["targets"], recipe["ignore"])}
    linear = {n for n, m in model.named_modules() if isinstance(m, torch.nn.Linear)}
    if not pack:
        raise Unfit("has no module that the recipe's `targets` and `ignore` leave to quantize")
    ignored = {n for n, _ in match_named_modules(model, recipe["ignore"])}
    kept = (torch.nn.Linear, torch.nn.Embedding)
    norms = {
        n
        for n, m in model.named_modules()
        if not isinstance(m, kept) and n not in ignored and any(True for _ in m.parameters(recurse=False))
    }
    group = recipe["group_size"] if recipe["method"] != "fp8-dynamic" else 1
    for name, module in model.named_modules():
        if name in pack and module.weight.shape[-1] % group:
            raise Unfit(
                f"has {module.weight.shape[-1]} inputs in {name}, which `group_size` {group} does not divide. "
                "Choose one that does, such as 64 or 32"
            )
    return {
        "packed": sorted(pack),
        "left": sorted(linear - pack),
        "smoothed": sorted(norms) if recipe["method"] == "awq" else [],
    }


def quantize(model: Any, recipe: dict[str, Any], calibration: list[list[int]], tokenizer: Any) -> None:
    """Quantize a model in memory."""
    from datasets import Dataset
    from llmcompressor import oneshot
    from llmcompressor.pipelines.cache import IntermediatesCache

    if not GPU:  # AWQ pins memory for a faster way to the GPU; without one, PyTorch refuses to
        IntermediatesCache.pin_memory = lambda *_, **__: None
    given: dict[str, Any] = {"processor": tokenizer}
    if calibration:
        samples = [{"input_ids": tokens, "attention_mask": [1] * len(tokens)} for tokens in calibration]
        given |= {
            "dataset": Dataset.from_list(samples),
            "num_calibration_samples": len(samples),
            "max_seq_length": recipe["length"],
            "shuffle_calibration_samples": False,
        }
    oneshot(model=model, recipe=modifiers(recipe), **given)


def save(model: Any, source: Path, out: Path) -> None:
    """The result, with everything but weights and configuration as it is in the source."""
    model.save_pretrained(out, save_compressed=True)
    for path in sorted(p for p in source.rglob("*") if p.is_file()):
        name = path.relative_to(source)
        weights = path.name.endswith((".safetensors", ".safetensors.index.json", ".bin", ".pt", ".pth", ".gguf"))
        if weights or str(name) in ("config.json", "manifest.json") or name.parts[0].startswith("."):
            continue
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, out / name)


def settle(model: Any) -> Any:
    """On the GPU, where there is one: measuring needs the whole model there."""
    return model.to("cuda") if GPU else model


def run(job: dict[str, Any]) -> dict[str, Any]:
    """All of it; what came of it, as result.json wants it."""
    from transformers import AutoTokenizer

    recipe, source, out, text = job["recipe"], Path(job["source"]), Path(job["out"]), Path(job["text"])
    started = time.monotonic()
    torch.manual_seed(recipe["seed"])
    tokenizer = AutoTokenizer.from_pretrained(source)
    calibrate = 0 if recipe["method"] == "fp8-dynamic" else recipe["samples"]
    try:
        found = pieces(text, tokenizer, calibrate + recipe["quality"]["samples"], recipe["length"], recipe["seed"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Unfit(f"cannot be read as {text.suffix} ({type(error).__name__}: {error})") from error
    say("load", 0, 1)
    model = load(source)
    names = parts(model, recipe)
    seconds = {"load": time.monotonic() - started}
    before = baseline(settle(model), found[calibrate:])
    seconds["measure source"] = time.monotonic() - started - sum(seconds.values())
    quantize(model.to("cpu"), recipe, found[:calibrate], tokenizer)
    seconds["quantize"] = time.monotonic() - started - sum(seconds.values())
    say("save", 0, 1)
    save(model, source, out)
    seconds["save"] = time.monotonic() - started - sum(seconds.values())
    del model
    gc.collect()
    measured = compare(settle(load(out)), found[calibrate:], before)
    seconds["measure result"] = time.monotonic() - started - sum(seconds.values())
    return {
        "versions": {
            p: importlib.metadata.version(p) for p in ("llmcompressor", "compressed-tensors", "transformers", "torch")
        },
        **names,
        "quality": measured,
        "pieces": {"calibrated": calibrate, "held_out": len(found) - calibrate},
        "peaks": {
            "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            "gpu": torch.cuda.max_memory_allocated() if GPU else 0,
        },
        "device": torch.cuda.get_device_name() if GPU else "cpu",
        "seconds": {phase: round(value, 1) for phase, value in seconds.items()},
    }


def main(place: Path) -> int:
    """Do the job in a folder, and write down what came of it."""
    job = json.loads((place / "job.json").read_text(encoding="utf-8"))
    threading.Thread(target=watch, args=(place / "watched",), daemon=True).start()
    try:
        result = run(job)
    except Unfit as unfit:
        result = {"error": str(unfit)}
    except (RuntimeError, MemoryError) as error:  # torch: out of memory, of the GPU or of the host
        if "out of memory" not in str(error).lower() and "not enough memory" not in str(error).lower():
            raise
        result = {"error": f"ran out of memory ({str(error).splitlines()[0][:200]})"}
    written = json.dumps(result, indent=1, sort_keys=True, allow_nan=False)
    (place / "result.json").write_text(written, encoding="utf-8")
    return 1 if "error" in result else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
