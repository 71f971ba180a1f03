"""Models that are made on the host: of which other model, by which recipe, with which tools, and whether the result is good.

No I/O; module llm_quantize acts. What a model is made of has a hash, its mark, which is the model's revision: another recipe is
another folder, and whatever serves the old one keeps it.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from ansible.module_utils.llm.base.units import GIB
from ansible.module_utils.llm.models.store import size

SPARE = 2 * GIB  # of memory: Python with its libraries, and what the host keeps
PROGRAM = "quantize_model.py"


def other_text(recipe: str) -> str:
    """Remedy for calibration text that is of no use: name other text in the recipe."""
    return f"Correct llm_recipes.{recipe}.dataset, or bring another file"


REMEDY = "Raise the limits, and it is taken as it is; or change the recipe; or remove that folder, and it is made anew"


def refusal(recipe: str, why: Iterable[str], aside: str) -> str:
    """Message about a result that lost more quality than its recipe allows."""
    return f"was made by `{recipe}`, and refused: {'; '.join(why)}. It is set aside in {aside}"


NO_MEMORY = "Stop what runs beside it, quantize with fewer or shorter samples, or on another host and bring the result"


def no_memory(need: int, free: int) -> str:
    """Message that quantizing needs more memory than is free."""
    return f"quantizing takes about {size(need)} of memory, and {size(free)} are free; nothing was touched"


def memory_need(source: int, config: Mapping[str, Any], recipe: Mapping[str, Any]) -> int:
    """Bytes of memory that quantizing takes, at most: the model, what flows between its layers, and logits of one piece.

    source: bytes of its weights.
    """
    text = config.get("text_config") or config
    # Older architectures have other names for it; where none is known, that of a model of 30B.
    width = next((text[name] for name in ("hidden_size", "n_embd", "d_model") if name in text), 8192)
    flow = 0 if recipe["method"] == "fp8-dynamic" else 2 * recipe["samples"] * recipe["length"] * width
    return int(source * 1.5 + flow + 2 * recipe["length"] * text.get("vocab_size", 2**18) + SPARE)


def foreign(made: Mapping[str, object] | None, wanted: str) -> str:
    """Why a quantized model that is on the host is not the declared one; "" when it is."""
    if not made or "quality" not in made:
        return "was not made by this project"
    if made.get("mark") != wanted:
        return f"was made of {made.get('of')} by another recipe ({made.get('recipe')}, {made.get('mark')}; wanted {wanted})"
    return ""


def beyond(quality: Mapping[str, object], limits: Mapping[str, float]) -> list[str]:
    """What a result lost beyond the limits, with the numbers. What is no finite number is within no limit."""
    before, after, kl = (_finite(quality.get(k)) for k in ("perplexity_source", "perplexity", "kl"))
    why = []
    if not before:
        why.append(f"perplexity of the source is {_shown(quality, 'perplexity_source', 'loss_source')}")
    elif after is None:
        text = f"perplexity {_shown(quality, 'perplexity', 'loss')} after {before:.2f}"
        why.append(f"{text}; allowed is {limits['perplexity']:g} times as much")
    elif (ratio := after / before) > limits["perplexity"]:
        why.append(
            f"perplexity {after:.2f} after {before:.2f}, {ratio:.3f} times as much; allowed is {limits['perplexity']:g}"
        )
    if kl is None:
        why.append(f"KL divergence {_shown(quality, 'kl')}; allowed is {limits['kl']:g}")
    elif kl > limits["kl"]:
        why.append(f"KL divergence {kl:.4f} nats a token; allowed is {limits['kl']:g}")
    return why


def _finite(value: object) -> float | None:
    """A finite number as it is; None for all else, such as NaN, which no comparison finds too large."""
    return value if isinstance(value, (int, float)) and math.isfinite(value) else None


def _shown(quality: Mapping[str, object], name: str, loss: str = "") -> str:
    """Message about a measured number that is no finite one. loss: nats a token, from which a perplexity was to be computed."""
    nats = _finite(quality.get(loss))
    measured = f" ({nats:.1f} nats a token)" if nats is not None else ""
    return f"{'no finite number' if _finite(quality.get(name)) is None else quality[name]}{measured}"


def summary(made: Mapping[str, Any]) -> str:
    """One line about a quantized model: what was made, and what quality it lost."""
    quality = {k: math.nan if v is None else v for k, v in made["quality"].items()}
    ratio = quality["perplexity"] / quality["perplexity_source"]
    return (
        f"{made['of']} by {made['recipe']}: {made['packed']} modules packed, {made['untouched']} tensors untouched; perplexity "
        f"{quality['perplexity_source']:.2f} -> {quality['perplexity']:.2f} (x {ratio:.3f}), KL {quality['kl']:.4f} nats a token, "
        f"same next token {100 * quality['same_top']:.1f} % (of {quality['tokens']} held out)"
    )


def allowed(limits: Mapping[str, float]) -> str:
    """The limits of a recipe, as `summary` writes what was measured."""
    return f"allowed: perplexity x {limits['perplexity']:g}, KL {limits['kl']:g}"


# ---------------------------------------------------------------------------------------------------------------------
# Running it.


def container(wanted: str) -> str:
    """Name of the container that makes a model: one a mark, so that what was interrupted is found again."""
    return f"llm-quantize-{wanted}"


def argv(
    name: str, image: str, place: str, source: str, uid: int, memory: int, devices: Iterable[str] = ()
) -> list[str]:
    """Docker's command: no network, no rights, the source read-only, and less weight than what serves. memory: bytes at most."""
    command = ["docker", "run", "--rm", "--init", "--name", name, "--network", "none", "--user", f"{uid}:{uid}"]
    command += ["--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--read-only", "--cpu-shares", "512"]
    command += ["--memory", str(memory), "--memory-swap", str(memory), "--tmpfs", "/tmp:exec,mode=1777"]  # noqa: S108
    for variable in ("HOME=/tmp", "HF_HUB_OFFLINE=1", "PYTHONUNBUFFERED=1", "TOKENIZERS_PARALLELISM=false"):
        command += ["--env", variable]
    command += ["--volume", f"{source}:/source:ro", "--volume", f"{place}:/job", *devices]
    return [*command, "--entrypoint", "python3", image, f"/job/{PROGRAM}", "/job"]


_STEP = re.compile(
    r"^@ (?P<phase>[a-z ]+?) (?P<done>\d+)/(?P<total>\d+)$|\((?P<layer>\d+)/(?P<layers>\d+)\): ", re.MULTILINE
)


@dataclasses.dataclass
class Pace:
    """Turns the output of the quantizing program into lines of progress: the step it is at, and for how long."""

    phase: str = ""
    since: float = 0.0
    first: int = 0
    done: int = -1
    said: tuple[str, str] | None = None

    def line(self, output: str, now: float) -> tuple[str, str] | None:
        """(phase, message) of the newest step in an output, None before the first; the same until the next step.

        now: seconds of any clock.
        """
        steps = list(_STEP.finditer(output.replace("\r", "\n")))
        if not steps:
            return self.said
        last = steps[-1]
        if last["phase"]:
            phase, done, total = last["phase"], int(last["done"]), int(last["total"])
        else:
            phase, done, total = "quantize", int(last["layer"]) - 1, int(last["layers"])
        if (phase, done) == (self.phase, self.done):
            return self.said
        if phase != self.phase:
            self.phase, self.since, self.first = phase, now, done
        self.done = done
        text = f"{'layer' if phase == 'quantize' else 'piece'} {done + 1} of {total}" if total > 1 else ""
        if done > self.first:
            left = int((now - self.since) / (done - self.first) * (total - done))
            text += f", {left // 60}:{left % 60:02d} left"
        self.said = phase, text
        return self.said


# ---------------------------------------------------------------------------------------------------------------------
# Proving the result.


@dataclasses.dataclass(frozen=True)
class Proof:
    """What headers say of a quantized model. compare: tensors whose bytes must be the source's; problems: [] for a good one."""

    packed: tuple[str, ...]
    compare: tuple[str, ...]
    problems: tuple[str, ...]


def prove(
    source: Mapping[str, Mapping[str, Any]],
    result: Mapping[str, Mapping[str, Any]],
    names: Mapping[str, Iterable[str]],
    method: str,
    tied: bool = False,
) -> Proof:
    """Whether every module that is to be packed is, and what is left of the others.

    source, result: tensors by name, {dtype, shape}. names: modules that are to be packed, and those that AWQ scales (`smoothed`).
    tied: whether the head is the embedding, and so need not be stored.
    """
    wanted, smoothed = set(names["packed"]), set(names["smoothed"])
    packed, compare, problems, accounted = [], [], [], set()
    for name, tensor in source.items():
        module, _, part = name.rpartition(".")
        if module in wanted and part == "weight":
            made = f"{name}_packed" if method != "fp8-dynamic" else name
            good = {f"{name}_scale", made} <= set(result)
            if good and (method != "fp8-dynamic" or result[made]["dtype"] == "F8_E4M3"):
                packed.append(module)
            else:
                problems.append(f"{module} is not packed")
            continue
        if name not in result:
            if not (tied and module.endswith("lm_head")):
                problems.append(f"{name} is missing")
            continue
        accounted.add(name)
        if (result[name]["dtype"], result[name]["shape"]) != (tensor["dtype"], tensor["shape"]):
            problems.append(
                f"{name} is {result[name]['dtype']} {result[name]['shape']} instead of {tensor['dtype']} {tensor['shape']}"
            )
        elif module not in smoothed and not (method == "awq" and module in wanted):
            compare.append(name)
    problems += [
        f"{module} is not in the source's files"
        for module in sorted(wanted - set(packed))
        if f"{module}.weight" not in source
    ]
    strangers = [n for n in result if n not in accounted and n.rpartition(".")[0] not in wanted]
    problems += [f"{name} was added" for name in sorted(strangers)]
    return Proof(tuple(packed), tuple(compare), tuple(problems))
