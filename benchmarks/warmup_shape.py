"""What a warm-up is worth on a GPU: the first request of each size after a boot, without a warm-up and after one.

Usage: python3 benchmarks/warmup_shape.py --model FOLDER --service NAME --out FILE [--images] [--set '{"dtype": "half"}']
           [--boots cold warmed unwarmed]

The engine gets flags and environment as the catalog declares them for the service, on one GPU, with `--set` over them. It makes up
the weights (`load-format: dummy`) unless `--set` says otherwise: speed is real then, answers are not. Boots, in turn: one without
caches, one with them that library/llm_warmup.py warms, one with them that it does not. After each, for each size: the first
request, and the median of five later ones. All are random words, so no cache answers.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ansible.module_utils
import yaml

ROOT = Path(__file__).resolve().parent.parent
ansible.module_utils.__path__.append(str(ROOT / "module_utils"))
sys.path.insert(0, str(ROOT))

from ansible.module_utils.llm.engine import warmup  # noqa: E402 - the path comes first

from benchmarks.engine_process import KEY, NAME, Engine, serving  # noqa: E402

SIZES = (50, 500, 5000, 30000, 50000, 100000)
LATER = 5
BOOTS = ("cold", "warmed", "unwarmed")
CROWD = 16
# For several GPUs, or of no account to the time of a first token.
LEFT_OUT = (
    "tensor-parallel-size",
    "enable-expert-parallel",
    "enable-auto-tool-choice",
    "tool-call-parser",
    "reasoning-parser",
)


def sender(engine: Engine) -> Any:
    """What the module asks with, so that a time means the same in all tables."""
    spec = importlib.util.spec_from_file_location("llm_warmup", ROOT / "library" / "llm_warmup.py")
    assert spec and spec.loader  # noqa: S101
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    params = {
        "seed": None,
        "base_url": f"{engine.url}/v1",
        "timeout": 300,
        "model": NAME,
        "answer_tokens": 4,
        "context": None,
    }
    return module.Sender(params, KEY)


def requests(engine: Engine, sizes: list[int], *, images: bool) -> list[dict[str, Any]]:
    """First request of each kind, and the median of later ones, in milliseconds."""
    asks = sender(engine)
    context = asks.context()
    # Two short prompts tell how many tokens a word has; they are the engine's first, and count in no row but the first.
    began = time.perf_counter()
    probes = [(words, asks.send(words)[0]) for words in (1, 100)]
    counted = round((time.perf_counter() - began) * 1000, 1)
    calibration = warmup.calibrate(probes)
    rows: list[dict[str, Any]] = [{"what": "the engine's first two, of 1 and 100 words", "first_ms": counted}]

    def row(what: str, ask: Callable[[], float]) -> None:
        try:
            first, *later = (round(ask() * 1000, 1) for _ in range(1 + LATER))
        except Exception as error:  # noqa: BLE001 - whatever it is, the other rows are worth having
            rows.append({"what": what, "failed": str(error)})
            return
        steady = statistics.median(later)
        rows.append({"what": what, "first_ms": first, "later_ms": sorted(later), "ratio": round(first / steady, 2)})
        print(json.dumps(rows[-1]), flush=True)

    for size in warmup.plan(sizes, context, 4):
        if not size.skip:
            words = calibration.words_for(size.target)
            row(f"{size.declared} tokens", lambda words=words: asks.send(words)[1])  # type: ignore[misc]
    row(f"{CROWD} at once, the last one's", lambda: asks.at_once(CROWD, calibration.words_for(50)))
    if images:
        row("a picture", asks.picture)
    return rows


def main() -> int:
    """Boot, ask, report."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--model", type=Path, required=True)
    asked.add_argument("--service", required=True)
    asked.add_argument("--out", type=Path, required=True)
    asked.add_argument("--set", type=json.loads, default={})
    asked.add_argument("--sizes", type=json.loads, default=list(SIZES))
    asked.add_argument("--images", action="store_true")
    asked.add_argument("--boots", nargs="+", choices=BOOTS, default=BOOTS)
    given = asked.parse_args()
    catalog = yaml.safe_load((ROOT / "group_vars" / "all" / "services.yml").read_text(encoding="utf-8"))["llm_services"]
    declared = catalog[given.service]
    args = {k: v for k, v in declared["args"].items() if k not in LEFT_OUT} | {"load-format": "dummy"} | given.set
    caches = Path(tempfile.mkdtemp(prefix="caches-"))  # they outlive boots, as on a host
    env = {k: str(v) for k, v in declared.get("env", {}).items()}
    env |= {
        "VLLM_CACHE_ROOT": f"{caches}/vllm",
        "TRITON_CACHE_DIR": f"{caches}/triton",
        "TORCHINDUCTOR_CACHE_DIR": f"{caches}/inductor",
    }
    report: dict[str, Any] = {"service": given.service, "args": args, "boots": []}
    try:
        for number, boot in enumerate(given.boots):
            with serving(given.model, args, env, given.out.with_suffix(f".{number}.log")) as engine:
                print(f"{boot}: answers after {engine.boot_seconds} s", flush=True)
                entry: dict[str, Any] = {"boot": boot, "boot_seconds": engine.boot_seconds}
                report["boots"].append(entry)
                if boot == "warmed":
                    began = time.monotonic()
                    entry["warmup"] = engine.module(
                        "llm_warmup",
                        {
                            "prompt_tokens": given.sizes,
                            "concurrency": [4, CROWD],
                            "shared_prefix": 5000,
                            "images": given.images,
                        },
                    )
                    entry["warmup_seconds"] = round(time.monotonic() - began, 1)
                    print(entry["warmup"].get("msg"), flush=True)
                entry["requests"] = requests(engine, given.sizes, images=given.images)
                if boot == "warmed":
                    again = engine.module("llm_warmup", {"prompt_tokens": given.sizes})
                    entry["found_warm"] = again.get("warm")
                given.out.write_text(json.dumps(report, indent=1), encoding="utf-8")
    finally:
        shutil.rmtree(caches, ignore_errors=True)
    print(json.dumps(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
