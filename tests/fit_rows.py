"""Measured boots beside their estimates. `python -m tests.fit_rows` writes the tables of docs/fit.md."""

import json
import statistics
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ansible.module_utils

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT / "module_utils") not in ansible.module_utils.__path__:
    ansible.module_utils.__path__.append(str(ROOT / "module_utils"))

from ansible.module_utils.llm.base.units import GIB  # noqa: E402 - the path comes first
from ansible.module_utils.llm.engine import boot, records  # noqa: E402 - the path comes first
from ansible.module_utils.llm.fit import architecture  # noqa: E402 - the path comes first
from ansible.module_utils.llm.fit import estimate as fit_estimate  # noqa: E402
from ansible.module_utils.llm.fit.estimate import tokens_text  # noqa: E402 - the path comes first

from tests import catalogs  # noqa: E402

DATA = ROOT / "tests" / "unit" / "data" / "fit"
PAGE = ROOT / "docs" / "fit.md"
BOX_TOTAL = 23.99  # GiB that the operator's engine saw of a 4090, under WSL
BOX_TOKENS = 222_000  # what the operator measured there, before CUDA graphs counted


@dataclass(frozen=True)
class Row:
    """One boot: the flags of an engine and what it measured."""

    name: str
    config: str
    flags: architecture.Flags
    harvest: dict[str, Any]
    booted: bool
    gpu: str
    engine: str
    total: float

    @property
    def known(self) -> fit_estimate.Known:
        """What the estimate knows of the model: its config.json alone."""
        config = json.loads((DATA / "configs" / f"{self.config}.json").read_text(encoding="utf-8"))
        return fit_estimate.Known(config, digest=self.config)

    @property
    def tokens(self) -> int:
        """The engine's own size of the KV cache."""
        return int(self.harvest["kv_cache_tokens"])

    @property
    def key(self) -> dict[str, Any]:
        """What a record of this boot is kept under."""
        return fit_estimate.record_key(self.config, "sha256:image", self.gpu, self.engine, self.flags)

    def record(self) -> dict[str, Any]:
        """The record that this boot leaves."""
        kept = records.record(self.harvest, self.key)
        assert kept is not None
        return kept

    def estimate(self, records: Iterable[dict[str, Any]] = (), image: str = "sha256:image") -> fit_estimate.Fit:
        """The estimate, with the memory that CUDA offers of this GPU."""
        memory = fit_estimate.Band(*[self.total * GIB] * 3)
        known = self.known
        return fit_estimate.estimate(
            known, self.flags, memory, gpu=self.gpu, image=image, engine=self.engine, records=records
        )

    def gpustack(self) -> int:
        """Tokens that gpustack's rule of thumb leaves: all GPUs together need weights * 1.2 + 2 GiB, whatever the context."""
        model = architecture.read(self.known.config or {})
        held = sum(t.elements * architecture.BYTES[t.dtype] for t in architecture.tensors(model)) / GIB
        ranks = self.flags.tp * self.flags.pp
        room = self.total * self.flags.utilization - (held * 1.2 + 2) / ranks
        return int(room * GIB / fit_estimate.kv_token_bytes(model, self.flags))


def rows() -> list[Row]:
    """All measured boots."""
    data = json.loads((DATA / "rows.json").read_text(encoding="utf-8"))
    found = []
    for raw in data["rows"]:
        gpu, total = raw.get("gpu", data["gpu"]), raw.get("total_gib", data["total_gib"])
        flags = architecture.flags_of(raw["args"], {}, int(total * GIB), gpu)
        if "log" in raw:
            harvest = boot.harvest((DATA / raw["log"]).read_text(encoding="utf-8").splitlines())
        else:
            harvest = dict(raw["measured"])
            config = json.loads((DATA / "configs" / f"{raw['config']}.json").read_text(encoding="utf-8"))
            size = fit_estimate.kv_token_bytes(architecture.read(config), flags) * harvest["kv_cache_tokens"] / GIB
            harvest |= {"kv_cache_gib": round(size, 2), "gpu_total_gib": total}
        booted = raw.get("booted", True)
        found.append(Row(raw["row"], raw["config"], flags, harvest, booted, gpu, data["engine"], total))
    return found


def _error(guess: float, truth: float) -> float:
    return 100 * (guess / truth - 1)


@dataclass(frozen=True)
class Judged:
    """A row with its estimates: likely tokens, None where there was nothing to calibrate with."""

    row: Row
    before: fit_estimate.Fit
    other: fit_estimate.Fit | None
    same: fit_estimate.Fit | None

    @property
    def off_gib(self) -> float:
        """GiB of KV cache a GPU by which the estimate before any boot is wrong."""
        tokens = self.before.tokens
        assert tokens is not None
        return (tokens.likely - self.row.tokens) * self.before.token_bytes / GIB

    @staticmethod
    def likely(found: fit_estimate.Fit | None) -> float | None:
        """Tokens of an estimate."""
        return found.tokens.likely if found and found.tokens else None

    def errors(self) -> dict[str, float | None]:
        """Percent by which each is wrong."""
        guesses = {k: self.likely(getattr(self, k)) for k in ("before", "other", "same")}
        found = {k: None if g is None else _error(g, self.row.tokens) for k, g in guesses.items()}
        return {**found, "gpustack": _error(self.row.gpustack(), self.row.tokens)}


def judged() -> list[Judged]:
    """Every row: estimated before any boot, after boots with other flags, after its own (when it booted)."""
    measured = rows()
    found = []
    for row in measured:
        alike = [r for r in measured if (r.config, r.gpu) == (row.config, row.gpu)]
        others = [r.record() for r in alike if r.booted and r.flags.key != row.flags.key]
        found.append(
            Judged(
                row,
                row.estimate(),
                row.estimate(others) if others else None,
                row.estimate([row.record()]) if row.booted else None,
            )
        )
    return found


def table() -> str:
    """The table of rows, with mean and worst."""
    lines = [
        "| boot | engine, tokens | before any boot | error | GiB off | after other flags | error | after the same | error "
        "| gpustack's rule | error |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    found = judged()
    for one in found:
        error = one.errors()
        cells = [one.row.name, f"{one.row.tokens:,}"]
        for kind in ("before", "other", "same"):
            guess = one.likely(getattr(one, kind))
            cells += ["-", "-"] if guess is None else [f"{guess:,.0f}", f"{error[kind]:+.1f} %"]
            if kind == "before":
                cells.append(f"{one.off_gib:+.2f}")
        cells += [f"{one.row.gpustack():,}", f"{error['gpustack']:+.1f} %"]
        lines.append(f"| {' | '.join(cells)} |")
    for word, choose in (("mean", statistics.mean), ("worst", max)):
        cells = [f"**{word}**", ""]
        for kind in ("before", "other", "same", "gpustack"):
            sizes = [abs(e) for o in found if (e := o.errors()[kind]) is not None]
            cells += ["", f"{choose(sizes):.1f} %"]
            if kind == "before":
                cells.append(f"{choose([abs(o.off_gib) for o in found]):.2f}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def parts() -> str:
    """The table of parts, GiB per GPU: estimate before any boot and measured."""
    lines = [
        "| boot | weights | measured | activations | measured | graphs | measured |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for one in judged():
        model = architecture.read(one.row.known.config or {})
        guesses = (one.before.weights.likely, one.before.activation.likely, fit_estimate.graphs(model, one.row.flags))
        cells = [one.row.name]
        for guess, key in zip(guesses, ("weights_gib", "activation_gib", "graph_gib"), strict=True):
            measured = one.row.harvest.get(key)
            cells += [f"{guess:.2f}", "-" if measured is None else f"{measured:.2f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def box() -> dict[str, fit_estimate.Fit]:
    """The services of the three-GPU box, before any boot."""
    services = ["medium-glm", "mini-zwz", "medium", "medium-vl", "mini-solo", "micro", "medium-coder"]
    declared = catalogs.declared("rtx4090x3", host_services=services, force=["medium-coder"])
    known = {}
    for path in sorted((ROOT / "files" / "configs").glob("*.json")):
        known[path.stem] = fit_estimate.Known(json.loads(path.read_text(encoding="utf-8"))["config"])
    return {s: fit_estimate.for_service(declared, declared.services[s], known) for s in services}


def operator() -> fit_estimate.Fit:
    """medium-glm with the memory that the operator's engine saw: 23.99 GiB a GPU."""
    declared = catalogs.declared("rtx4090x3")
    service = declared.services["medium-glm"]
    config = json.loads((ROOT / "files" / "configs" / "glm-4-7-flash-awq.json").read_text(encoding="utf-8"))["config"]
    flags = fit_estimate.service_flags(declared, service)
    memory = fit_estimate.Band(*[BOX_TOTAL * GIB] * 3)
    return fit_estimate.estimate(
        fit_estimate.Known(config), flags, memory, gpu="NVIDIA GeForce RTX 4090", engine="0.33.0"
    )


def box_table() -> str:
    """What the box should give."""
    lines = [
        "| service | weights | activations | graphs | other | KV cache, GiB | tokens | requests of max-model-len |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    named = {**box(), "medium-glm with 23.99 GiB (WSL)": operator()}
    for name, found in named.items():
        assert found.tokens and found.requests
        sizes = [getattr(found, k) for k in ("weights", "activation", "graphs", "other", "kv")]
        cells = [f"{s.low:.1f} to {s.high:.1f}" for s in sizes]
        cells += [tokens_text(found), f"{found.requests.low:.1f} to {found.requests.high:.1f}"]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def page(text: str) -> str:
    """The page with its tables as the data gives them."""
    for name, content in (("rows", table()), ("parts", parts()), ("box", box_table())):
        begin, end = f"<!-- table: {name} -->\n", f"<!-- end: {name} -->"
        head, _, rest = text.partition(begin)
        _, _, tail = rest.partition(end)
        text = f"{head}{begin}{content}\n{end}{tail}"
    return text


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    sys.stdout.write(f"{table()}\n\n{parts()}\n\n{box_table()}\n")
