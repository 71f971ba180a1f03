"""Does a service fit on its GPUs, and how much KV cache is left: an estimate with a band, and its parts.

`estimate` adds activations, CUDA graphs and the rest to a model's weights (module architecture). A record of an earlier boot
(module engine.records) replaces the parts that it measured. Pure functions. GiB are 2**30 bytes, tokens are of one engine (one
replica), and "per GPU" means the fullest rank.

Sources. The sum: vLLM 0.26 and 0.32, vllm/v1/worker/gpu_worker.py (determine_available_memory), v1/worker/utils.py
(request_memory). Blocks and tokens: v1/core/kv_cache_utils.py. Constants marked "measured" were fitted to boot logs of
vLLM 0.26 on H100s; docs/fit.md has them and what they miss by.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from ansible.module_utils.llm.base.units import GIB
from ansible.module_utils.llm.declare.findings import Finding
from ansible.module_utils.llm.declare.objects import Declared, Gpu, Model, Service
from ansible.module_utils.llm.declare.values import size_bytes
from ansible.module_utils.llm.engine.records import RECORD_FORMAT
from ansible.module_utils.llm.fit.architecture import (
    Architecture,
    Flags,
    Tensor,
    Unreadable,
    Vision,
    buffers,
    flags_of,
    read,
    stage_layers,
    tensors,
    version,
    weights,
)
from ansible.module_utils.llm.gpu.nvidia import capability


def record_key(model: str, image: str, gpu: str, engine: str, flags: Flags) -> dict[str, Any]:
    """What a boot record is kept under: all that its numbers depend on. model: digest of its files. image: id. gpu: name."""
    return {
        "format": RECORD_FORMAT,
        "model": model,
        "image": image,
        "gpu": gpu,
        "engine": engine,
        "flags": flags.key,
        "utilization": flags.utilization,
    }


PROFILES_ALL = (0, 32)  # from here on the engine's second model runner counts CUDA graphs and image encoders
IMAGE_TOKENS = 16384  # largest image of Qwen3-VL: 16,777,216 pixels in patches of 16 x 16, four patches a token


class Band(NamedTuple):
    """An estimated number: likely value, low and high end."""

    low: float
    likely: float
    high: float

    def __add__(self, other: object) -> Band:
        """Sum of two bands; errors add up, which is cautious."""
        if not isinstance(other, Band):
            return NotImplemented
        return Band(self.low + other.low, self.likely + other.likely, self.high + other.high)

    def rounded(self) -> dict[str, float]:
        """The band for a person: two digits."""
        return {"low": round(self.low, 2), "high": round(self.high, 2)}


NOTHING = Band(0.0, 0.0, 0.0)


def band(likely: float, down: float, up: float, fixed: float = 0.0) -> Band:
    """A band of shares `down` and `up` around a value, and `fixed` on both sides; never below zero."""
    return Band(max(0.0, likely * (1 - down) - fixed), likely, likely * (1 + up) + fixed)


# ---------------------------------------------------------------------------------------------------------------------
# Activations, graphs.


def second_runner(model: Architecture, engine: tuple[int, int]) -> bool:
    """Whether the engine's second model runner serves this model by default (0.26: config/vllm.py, dense models only)."""
    return engine >= PROFILES_ALL or (not model.moe and model.linear is None)


def activation(model: Architecture, flags: Flags, engine: tuple[int, int]) -> float:
    """GiB at the peak of the start-up profile: one step of max_num_batched_tokens, the largest of what may be alive at once.

    Shares of hidden sizes are measured; the sizes they multiply are those of the kernels' work spaces.
    """
    value = flags.dtype_bytes or model.value_bytes
    token = flags.batched * value
    hidden = model.hidden
    parts = []
    if model.dense_layers:
        parts.append(token * (3.3 * model.intermediate / flags.tp + 2.5 * hidden))
    if model.moe:
        # fused_marlin_moe.py: two work spaces a chosen expert.
        inner = model.moe_intermediate / (1 if flags.ep else flags.tp)
        parts.append(token * (model.experts_per_token * (max(2 * inner, hidden) + inner) + 9.5 * hidden))
    if model.mla:
        # mla_attention.py: the profile stands in for the up-projected context of a chunked prefill, at most 64K rows.
        rows = min(max(8 * (flags.max_len or model.context), 4 * flags.seqs * flags.block), 65536)
        heads = model.heads / flags.tp
        up = model.mla.nope + model.mla.v
        space = max(rows, flags.seqs * flags.block) * heads * up * value
        parts.append(space + token * (7 * hidden + heads * (model.mla.nope + model.mla.rope + up + model.mla.v)))
    else:
        size = (model.heads + 2 * model.kv_heads) * model.head_dim / flags.tp
        parts.append(token * (2 * size + 3 * hidden))
    if flags.eager:
        parts = [p + token * 2 * hidden for p in parts]
    new = second_runner(model, engine)
    sampler = (1.3 if new else 4.2) * flags.seqs * model.vocab * 4
    peak = max(*parts, sampler)
    if model.vision and flags.images and (engine >= PROFILES_ALL or not new):
        inside, cached = _encoder_bytes(model.vision, flags, value)
        peak = max(inside + cached, peak + cached)
    return peak / GIB


def _encoder_bytes(vision: Vision, flags: Flags, value: int) -> tuple[float, float]:
    """Bytes inside the image encoder while the largest images are profiled, and of its outputs, which the profile keeps.

    vllm/v1/worker/gpu/model_runner.py (profile_run): as many largest images as fit in max_num_batched_tokens, at least one.
    """
    images = max(1, flags.batched // IMAGE_TOKENS)
    tokens = images * IMAGE_TOKENS
    patches = tokens * vision.merge**2
    tp = flags.tp if flags.encoder_tp else 1
    inside = patches * value * (2 * vision.intermediate / tp + 3 * vision.hidden)
    return inside, tokens * vision.out * (1 + vision.deepstack) * value


def captures(flags: Flags) -> int:
    """CUDA graphs that are captured: sizes up to twice max_num_seqs and 512, and those for decoding once more.

    vllm/config/vllm.py (_set_cudagraph_sizes), mode FULL_AND_PIECEWISE.
    """
    if flags.eager:
        return 0
    largest = flags.graph_size or min(2 * flags.seqs, 512)
    largest = min(largest, flags.batched)
    sizes = [s for s in (1, 2, 4) if s <= largest]
    sizes += [*range(8, min(largest + 1, 256), 8), *range(256, largest + 1, 16)]
    return len(sizes) + sum(s <= flags.seqs for s in sizes)


def graphs(model: Architecture, flags: Flags) -> float:
    """GiB of CUDA graphs, measured: grows with layers and a little faster than the number of graphs."""
    taken = captures(flags)
    return model.layers / flags.pp * (1.775e-4 * taken + 1.234e-6 * taken**2)


# ---------------------------------------------------------------------------------------------------------------------
# KV cache.


def kv_token_bytes(model: Architecture, flags: Flags, layers: int | None = None) -> float:
    """Bytes that one token takes on one rank, in layers with full attention; `layers` of them, or all.

    MLA is replicated on every rank of tensor parallelism, keys and values of grouped heads are spread down to one head.
    """
    value = flags.kv_bytes or flags.dtype_bytes or model.value_bytes
    if layers is None:
        layers = model.attention_layers
    if model.mla:
        return layers * (model.mla.kv_rank + model.mla.rope) * value / flags.dcp
    return layers * 2 * max(1, model.kv_heads // flags.tp) * model.head_dim * value / flags.dcp


def kv_tokens(model: Architecture, flags: Flags, room: float, layers: int | None = None, cpu: bool = False) -> int:
    """Tokens that `room` bytes of KV cache hold, counted as the engine counts them.

    Blocks of layers of one kind are as large as those of another; a group has as many layers as the rarest kind. A request
    of max_model_len takes whole blocks of each group, and the engine prints blocks / those * max_model_len.
    layers: of one pipeline stage, whose kinds are taken in proportion.
    """
    max_len = flags.max_len or model.context
    share = (layers or model.layers) / model.layers
    linear = round(model.linear.layers * share) if model.linear else 0
    window = round(model.window_layers * share)
    full = round(model.layers * share) - linear - window
    kinds = [n for n in (full, window, linear) if n > 0]
    size = min(kinds)
    if max(kinds) < 1.5 * size:
        size = max(kinds)
    block = 16 if cpu and model.mla else flags.block
    one = kv_token_bytes(model, flags, 1)
    if model.linear:  # a block must hold a state: platforms/interface.py (_align_hybrid_block_size)
        state = model.linear.state_bytes(flags.tp, flags.dtype_bytes or model.value_bytes)
        block *= max(1, math.ceil(state / (block * one)))
    per_request = 0
    if full > 0:
        per_request += math.ceil(full / size) * math.ceil(max_len / block)
    if window > 0:
        held = min(model.window - 1 + flags.batched, max_len)
        per_request += math.ceil(window / size) * (math.ceil(held / block) + 1)
    if linear > 0:
        per_request += math.ceil(linear / size) * 2
    blocks = int(max(0.0, room) // (one * block * size))
    return int(blocks / per_request * max_len)


def kv_needed(model: Architecture, flags: Flags, max_len: int, layers: int | None = None, cpu: bool = False) -> float:
    """Bytes that one request of max_len tokens needs: the smallest room that holds as many."""
    flags = dataclasses.replace(flags, max_len=max_len)
    return _smallest(lambda room: kv_tokens(model, flags, room, layers, cpu) >= max_len, 2.0**50)


def longest(model: Architecture, flags: Flags, room: float, layers: int | None = None, cpu: bool = False) -> int:
    """The largest max_model_len (a multiple of 1024, or below that of 16) of which one request fits into `room` bytes."""

    def fits(length: int) -> bool:
        return kv_tokens(model, dataclasses.replace(flags, max_len=length), room, layers, cpu) >= length

    for step in (1024, 16):
        best, high = 0, (model.context // step) + 1
        while high - best > 1:
            middle = (best + high) // 2
            best, high = (middle, high) if fits(middle * step) else (best, middle)
        if best:
            return best * step
    return 0


def _smallest(enough: Any, high: float) -> float:
    """The smallest positive number, to about one part in a million, that is enough."""
    low = 0.0
    while high - low > max(1.0, high * 1e-6):
        middle = (low + high) / 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def _nearest_record(
    records: Iterable[Mapping[str, Any]], model: str, image: str, gpu: str, flags: Flags
) -> tuple[Mapping[str, Any], str] | None:
    """The record that tells most about a service, and how near it is: same, flags, image.

    flags: same image and GPU, other flags. image: another image on the same GPU; its weights still hold, but what the
    profile counts and how graphs are taken changes between versions, so its activations and graphs are worth nothing.
    A record of another GPU is not used: kernels, and with them weights, differ.
    """
    best: tuple[int, int, Mapping[str, Any], str] | None = None
    for kept in records:
        if kept.get("format") != RECORD_FORMAT or kept.get("model") != model or kept.get("gpu") != gpu:
            continue
        differs = sum(kept["flags"].get(k) != v for k, v in flags.key.items())
        if kept.get("image") == image:
            rank, how = (0, "same") if not differs else (1, "flags")
        else:
            rank, how = 2, "image"
        # Parallelism changes most of all; a record with the same comes before one with another.
        differs += 10 * sum(kept["flags"].get(k) != getattr(flags, k) for k in ("tp", "pp", "ep"))
        if best is None or (rank, differs) < best[:2]:
            best = (rank, differs, kept, how)
    return (best[2], best[3]) if best else None


# ---------------------------------------------------------------------------------------------------------------------
# The estimate.


@dataclasses.dataclass(frozen=True)
class Known:
    """What an estimate knows of a model: its config.json, its tensors (see artifacts.summary), its size on disk, its digest."""

    config: Mapping[str, Any] | None = None
    tensors: Sequence[Sequence[Any]] | None = None
    size_gib: float = 0.0
    digest: str = ""


@dataclasses.dataclass(frozen=True)
class Fit:
    """An estimate for one service. Bands in GiB per GPU, tokens of the engine.

    basis: calibrated (a boot was measured), checkpoint (tensors of the real files), shape (config.json), size (only the
    size on disk), unknown. tokens is None where the KV cache's layout is unknown. longest: largest max_model_len that
    fits at the cautious end. utilization: what would fit one request, 0 when nothing does.
    """

    basis: str
    total: Band = NOTHING
    requested: Band = NOTHING
    weights: Band = NOTHING
    activation: Band = NOTHING
    graphs: Band = NOTHING
    other: Band = NOTHING
    kv: Band = NOTHING
    outside: Band = NOTHING  # taken before the engine counts: driver, CUDA context, communication
    token_bytes: float = 0.0
    tokens: Band | None = None
    max_len: int = 0
    longest: int = 0
    utilization: float = 0.0
    disk: float = 0.0
    ram: Band = NOTHING
    cpu: bool = False
    note: str = ""

    @property
    def requests(self) -> Band | None:
        """Requests of max_model_len that fit at once."""
        if self.tokens is None or not self.max_len:
            return None
        return Band(*(t / self.max_len for t in self.tokens))

    def as_dict(self) -> dict[str, Any]:
        """JSON shape for plan.json."""
        names = ("total", "requested", "weights", "activation", "graphs", "other", "kv")
        found: dict[str, Any] = {"basis": self.basis, "parts_gib": {n: getattr(self, n).rounded() for n in names}}
        if self.cpu:
            found["parts_gib"] = {n: getattr(self, n).rounded() for n in ("weights", "kv")}
        found["kv_bytes_per_token"] = round(self.token_bytes)
        if self.requests:
            found["requests_of_max_model_len"] = self.requests.rounded()
        found["max_model_len"], found["longest"] = self.max_len, self.longest
        found["disk_gib"], found["ram_gib"] = round(self.disk, 2), self.ram.rounded()
        return {**found, "note": self.note} if self.note else found


def _known_shape(known: Known) -> tuple[Architecture | None, str]:
    try:
        return (read(known.config), "") if known.config else (None, "the model's config.json is not known yet")
    except (Unreadable, TypeError, ValueError, KeyError, AttributeError, IndexError, ZeroDivisionError) as problem:
        return None, str(problem) or type(problem).__name__


def _weights(known: Known, model: Architecture, flags: Flags, hopper: bool) -> tuple[list[Band], str]:
    """GiB of weights of each pipeline stage as bands, buffers included, and the estimate's basis (see Fit)."""
    extra = buffers(model, flags)
    if known.tensors:
        listed = [Tensor(str(n), str(d), tuple(s), int(c)) for n, d, s, c in known.tensors]
        return [band(w + extra, 0.01, 0.01, 0.08) for w in weights(listed, model, flags, hopper)], "checkpoint"
    try:
        listed = tensors(model)
    except Unreadable:
        return [_by_size(known.size_gib, flags)] * flags.pp, "size"
    return [band(w + extra, 0.02, 0.03, 0.1) for w in weights(listed, model, flags, hopper)], "shape"


def _by_size(size_gib: float, flags: Flags) -> Band:
    share = size_gib / (flags.tp * flags.pp)
    return band(share + 0.15, 0.1, 0.12 if flags.tp * flags.pp == 1 else 0.2, 0.1)


def estimate(
    known: Known,
    flags: Flags,
    gpu_memory: Band,
    *,
    gpu: str = "",
    image: str = "",
    engine: str = "",
    records: Iterable[Mapping[str, Any]] = (),
) -> Fit:
    """What a service takes of each of its GPUs and what is left for the KV cache.

    gpu_memory: bytes that the smallest of its GPUs offers to programs (CUDA's total). engine: its version.
    """
    released = version(engine)
    hopper = capability(gpu) == "9.0"
    outside = band(0.55 if flags.tp * flags.pp == 1 else 1.5, 0.2, 0.25)  # measured: 0.52 and 1.47
    disk = known.size_gib
    # Ours, from the outside of a few engines: the API server and the core, each worker, decoded images.
    ram = Band(3.0 + 2.0 * flags.tp * flags.pp, 5.0 + 3.0 * flags.tp * flags.pp, 8.0 + 5.0 * flags.tp * flags.pp)
    model, note = _known_shape(known)
    total = Band(*(m / GIB for m in gpu_memory))
    requested = Band(*(math.ceil(m * flags.utilization) / GIB for m in gpu_memory))
    common: dict[str, Any] = {"total": total, "requested": requested, "outside": outside, "disk": disk, "ram": ram}
    if model is None:
        if not known.size_gib:
            return Fit("unknown", **common, note=note)
        held = _by_size(known.size_gib, flags)
        rest = Band(0.4, 2.0, 5.0)
        room = _room(requested, held + rest, flags)
        return Fit("size", **common, weights=held, activation=rest, kv=room, note=note)
    if not gpu_memory.high:
        return Fit("unknown", **common, note="the memory of its GPUs is not known")
    nearest = _nearest_record(records, known.digest, image, gpu, flags) if known.digest else None
    flags = dataclasses.replace(flags, max_len=flags.max_len or model.context)
    stages = stage_layers(model.layers, flags.pp)
    parts = _parts(known, model, flags, hopper, released)
    if nearest:
        parts = _calibrate(parts, known, model, flags, hopper, *nearest)
        if "gpu_total_gib" in nearest[0]["measured"]:
            exact = float(nearest[0]["measured"]["gpu_total_gib"])
            total = Band(exact, exact, exact)
            requested = Band(*[exact * flags.utilization] * 3)
        if nearest[1] != "image" and {"gpu_total_gib", "gpu_free_gib"} <= set(nearest[0]["measured"]):
            gone = exact - float(nearest[0]["measured"]["gpu_free_gib"])
            outside = band(gone, 0.02, 0.02, 0.05)
        common |= {"total": total, "requested": requested, "outside": outside}
    rooms = [_room(requested, parts.taken(stage), flags) for stage in range(flags.pp)]
    tokens = Band(
        *(min(kv_tokens(model, flags, r[end] * GIB, n) for r, n in zip(rooms, stages, strict=True)) for end in range(3))
    )
    fullest = min(range(flags.pp), key=lambda stage: rooms[stage].likely)
    layers, room, taken = stages[fullest], rooms[fullest], parts.taken(fullest)
    need = kv_needed(model, flags, flags.max_len, layers) / GIB
    wanted = (taken.high + need) / total.likely if total.likely else 0.0
    best = math.ceil(wanted * 100) / 100
    return Fit(
        parts.basis,
        **common,
        weights=parts.weights[fullest],
        activation=parts.activation,
        graphs=parts.graphs,
        other=parts.other,
        kv=room,
        token_bytes=kv_token_bytes(model, flags, round(model.attention_layers * layers / model.layers)),
        tokens=tokens,
        max_len=flags.max_len,
        longest=min(model.context, longest(model, flags, room.low * GIB, layers)),
        utilization=best if best <= 1 - outside.likely / total.likely else 0.0,
        note=parts.note,
    )


def _room(requested: Band, taken: Band, flags: Flags) -> Band:
    """GiB for the KV cache; the cautious end has the least memory and the largest parts. Negative where weights do not fit."""
    if flags.kv_memory:
        return Band(*[flags.kv_memory / GIB] * 3)
    return Band(requested.low - taken.high, requested.likely - taken.likely, requested.high - taken.low)


@dataclasses.dataclass(frozen=True)
class _Parts:
    weights: list[Band]
    activation: Band
    graphs: Band  # as the engine counts them before it sizes the cache
    other: Band
    basis: str
    note: str = ""

    def taken(self, stage: int) -> Band:
        return self.weights[stage] + self.activation + self.graphs + self.other


def _parts(known: Known, model: Architecture, flags: Flags, hopper: bool, engine: tuple[int, int]) -> _Parts:
    held, basis = _weights(known, model, flags, hopper)
    peak = activation(model, flags, engine)
    images = model.vision is not None and flags.images and (engine >= PROFILES_ALL or not second_runner(model, engine))
    counted = engine >= PROFILES_ALL or not second_runner(model, engine)
    captured = graphs(model, flags) if counted else 0.0
    return _Parts(
        held,
        band(peak, 0.4 if images else 0.2, 0.5 if images else 0.25, 0.1),
        band(0.9 * captured, 0.4, 0.5),  # measured: the engine's estimate is 0.87 of what it takes in the end
        Band(0.05, 0.2, 0.5),  # measured: 0.07 to 0.26
        basis,
    )


def _calibrate(
    parts: _Parts,
    known: Known,
    model: Architecture,
    flags: Flags,
    hopper: bool,
    kept: Mapping[str, Any],
    how: str,
) -> _Parts:
    """Estimated parts, replaced by those that an earlier boot measured: scaled by the formulas' ratio for the two sets of flags."""
    before = Flags(**{**dataclasses.asdict(flags), **kept["flags"]})
    before = dataclasses.replace(before, max_len=before.max_len or model.context)
    measured = kept["measured"]
    then = _parts(known, model, before, hopper, version(str(kept.get("engine", ""))))
    fullest = max(w.likely for w in then.weights)
    ratio = float(measured["weights_gib"]) / fullest if fullest else 1.0
    exact = how == "same"
    held = [
        band(w.likely * ratio, *((0.0, 0.0, 0.02) if exact or _same_layout(before, flags) else (0.01, 0.01, 0.05)))
        for w in parts.weights
    ]
    if how == "image":
        return dataclasses.replace(
            parts, weights=held, basis="calibrated", note="weights as another image measured them, the rest estimated"
        )
    requested = measured.get("requested_gib") or (
        float(measured["gpu_total_gib"]) * float(kept["utilization"]) if "gpu_total_gib" in measured else None
    )
    if requested is None:
        return dataclasses.replace(parts, weights=held, basis="calibrated", note="only its weights were measured")
    # All that the engine took besides weights: from the two numbers that decide, not from parts whose meaning moves.
    rest = float(requested) - float(measured["kv_cache_gib"]) - float(measured["weights_gib"])
    guess_then = then.activation.likely + then.graphs.likely + then.other.likely
    guess_now = parts.activation.likely + parts.graphs.likely + parts.other.likely
    rest_now = rest if exact else max(0.1, rest + (guess_now - guess_then))
    moved = sum(abs(getattr(parts, n).likely - getattr(then, n).likely) for n in ("activation", "graphs", "other"))
    doubt = 0.03 if exact else 0.1 + 0.5 * moved
    split = rest_now / guess_now if guess_now else 1.0
    return _Parts(
        held,
        band(parts.activation.likely * split, 0.0, 0.0, doubt),
        band(parts.graphs.likely * split, 0.0, 0.0),
        band(parts.other.likely * split, 0.0, 0.0),
        "calibrated",
        "" if exact else "from a boot with other flags",
    )


def _same_layout(one: Flags, other: Flags) -> bool:
    return all(getattr(one, k) == getattr(other, k) for k in ("tp", "pp", "ep", "dp", "dtype_bytes", "batched"))


def estimate_cpu(known: Known, flags: Flags) -> Fit:
    """The estimate for an engine on the CPU, whose KV cache is as large as VLLM_CPU_KVCACHE_SPACE says."""
    model, note = _known_shape(known)
    space = flags.kv_memory / GIB or flags.cpu_kv
    kv = Band(space, space, space)
    if model is None:
        return Fit("unknown", kv=kv, disk=known.size_gib, cpu=True, note=note)
    flags = dataclasses.replace(flags, max_len=flags.max_len or model.context)
    held, basis = _weights(known, model, flags, hopper=False)
    ram = Band(1.0, 2.0, 3.0) + held[0] + kv  # measured: 2.4 to 4.2 in all for 135M parameters and 1 GiB of cache
    if not space:
        return Fit(
            basis, weights=held[0], disk=known.size_gib, ram=ram, cpu=True, note="VLLM_CPU_KVCACHE_SPACE is not set"
        )
    tokens = float(kv_tokens(model, flags, space * GIB, cpu=True))
    return Fit(
        basis,
        weights=held[0],
        kv=kv,
        token_bytes=kv_token_bytes(model, flags),
        tokens=Band(tokens, tokens, tokens),
        max_len=flags.max_len,
        longest=min(model.context, longest(model, flags, space * GIB, cpu=True)),
        disk=known.size_gib,
        ram=ram,
        cpu=True,
    )


# ---------------------------------------------------------------------------------------------------------------------
# Services.


def usable(gpu: Gpu) -> Band:
    """Bytes that CUDA offers of a declared GPU. Drivers keep up to 1.5 % (24 GiB: 23.99 under WSL, 23.64 on Linux)."""
    return Band(gpu.memory * 0.985, gpu.memory * 0.993, float(gpu.memory))


def for_service(
    declared: Declared,
    service: Service,
    known: Mapping[str, Known],
    image_id: str | None = None,
    records: Iterable[Mapping[str, Any]] = (),
) -> Fit:
    """The estimate of a declared service, on the smallest of its GPUs. known: by model; what is missing there is unknown."""
    image, model = declared.images[service.image], declared.models[service.model]
    found = with_size(known.get(model.name, Known()), model)
    gpus = [g for g in declared.gpus if g.index in service.gpus or g.uuid in service.gpus]
    flags, name = service_flags(declared, service), gpus[0].model if gpus else ""
    if image.accelerator == "cpu" or not service.gpus:
        return estimate_cpu(found, flags)
    memory = min((usable(g) for g in gpus), default=NOTHING)
    engine = str(image.engine.get("version", ""))
    return estimate(found, flags, memory, gpu=name, image=image_id or "", engine=engine, records=records)


def service_flags(declared: Declared, service: Service) -> Flags:
    """Flags of a declared service, with the defaults that its smallest GPU gives."""
    gpus = [g for g in declared.gpus if g.index in service.gpus or g.uuid in service.gpus]
    smallest = min(gpus, key=lambda g: g.memory, default=None)
    cpu = declared.images[service.image].accelerator == "cpu" or not service.gpus
    return flags_of(
        service.args, service.env, smallest.memory if smallest else 0, smallest.model if smallest else "", cpu
    )


def service_key(declared: Declared, service: Service, image_id: str | None, digest: str | None) -> dict[str, Any]:
    """The record_key of a declared service; {} while image or model are not there, and on the CPU: its log lacks the numbers."""
    gpus = [g for g in declared.gpus if g.index in service.gpus or g.uuid in service.gpus]
    image = declared.images[service.image]
    if not (gpus and image_id and digest) or image.accelerator == "cpu":
        return {}
    engine = str(image.engine.get("version", ""))
    return record_key(digest, image_id, gpus[0].model, engine, service_flags(declared, service))


def with_size(known: Known, model: Model) -> Known:
    """`known` of a model, with the catalog's `size_gib` where its files gave no size."""
    return known if known.size_gib else dataclasses.replace(known, size_gib=model.size_gib)


def findings(service: Service, fit: Fit) -> list[Finding]:
    """What an estimate means for a service: does it start, does one request of max_model_len fit."""
    key = f"llm_services.{service.name}.args"
    sure = fit.basis in ("checkpoint", "calibrated")
    found = []
    if not fit.cpu and fit.requested.low > fit.total.low - fit.outside.low > 0:
        free = fit.total.likely - fit.outside.likely
        message = (
            f"asks for {fit.requested.likely:.2f} GiB of each GPU, and about {free:.2f} of {fit.total.likely:.2f} GiB are "
            "free when the engine looks"
        )
        remedy = f"Set gpu-memory-utilization to {math.floor(free / fit.total.likely * 100) / 100:g} or less"
        severity = "error" if fit.basis == "calibrated" else "warn"
        found.append(Finding("utilization-too-high", severity, f"{key}.gpu-memory-utilization", message, remedy))
    limit = service.limits.get("memory")
    if limit and size_bytes(str(limit)) < fit.ram.low * GIB:
        message = f"is {limit}, and the engine needs at least about {fit.ram.low:.1f} GiB of the host's memory to start"
        remedy = "Raise it" + (", or lower VLLM_CPU_KVCACHE_SPACE" if fit.cpu else "")
        found.append(Finding("memory-limit", "warn", f"llm_services.{service.name}.limits.memory", message, remedy))
    if fit.tokens is None:
        if not fit.cpu and fit.basis == "size" and fit.kv.high <= 0:
            message = f"its weights alone ({fit.weights.likely:.1f} GiB a GPU) leave no memory for a KV cache"
            found.append(Finding("does-not-fit", "warn", f"{key}.gpu-memory-utilization", message, _more(fit)))
        return found
    auto = service.flag("max-model-len") in (-1, "-1", "auto")
    wanted = 1 if auto else fit.max_len
    if fit.tokens.low >= wanted:
        return found
    never = fit.tokens.high < wanted
    room = tokens_text(fit) if fit.tokens.high > 0 else "no token"
    kind = "does not fit" if never else "may not fit"
    message = f"one request of {fit.max_len:,} tokens {kind}: the KV cache holds {room} ({parts_text(fit)}; {basis_text(fit)})"
    severity = "error" if never and sure else "warn"
    found.append(Finding("does-not-fit", severity, f"{key}.max-model-len", message, _more(fit)))
    return found


def _more(fit: Fit) -> str:
    ways = []
    if fit.longest:
        ways.append(f"set max-model-len to {fit.longest} or less")
    if fit.cpu:
        ways.append("raise VLLM_CPU_KVCACHE_SPACE")
    elif fit.utilization:
        ways.append(f"set gpu-memory-utilization to {fit.utilization:g}")
    else:
        ways.append(
            "take more GPUs, a smaller or more quantized model, fp8 for the KV cache, or fewer max-num-batched-tokens or seqs"
        )
    text = ", or ".join(ways)
    return text[0].upper() + text[1:]


def parts_text(fit: Fit) -> str:
    """The parts of an estimate in a few words, for a person."""
    if fit.cpu:
        return f"weights {fit.weights.likely:.2f}, KV {fit.kv.likely:.2f} GiB"
    names = ("weights", "activation", "graphs", "other")
    taken = ", ".join(f"{n} {getattr(fit, n).likely:.2f}" for n in names)
    return f"of {fit.requested.likely:.2f} GiB: {taken}, KV {fit.kv.likely:.2f}"


def tokens_text(fit: Fit) -> str:
    """The estimated size of the KV cache in a few words, for a person."""
    if fit.tokens is None:
        return "unknown"
    low, high = int(fit.tokens.low), int(fit.tokens.high)
    return f"{low:,} tokens" if low == high else f"{low:,} to {high:,} tokens"


def basis_text(fit: Fit) -> str:
    """What an estimate rests on, for a person."""
    return {
        "calibrated": "measured at an earlier boot",
        "checkpoint": "from the model's files",
        "shape": "from the model's configuration",
        "size": "from the size on disk",
    }.get(fit.basis, "unknown")
