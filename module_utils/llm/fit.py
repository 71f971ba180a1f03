"""Does a service fit on its GPUs, and how much KV cache is left: an estimate with a band, and its parts.

`shape` reads a config.json, `tensors` lists what its checkpoint would hold, `weights` shards tensors as vLLM does, and
`estimate` adds activations, CUDA graphs and the rest. A record of an earlier boot (`record`) replaces the parts that it
measured. Pure functions. GiB are 2**30 bytes, tokens are of one engine (one replica), and "per GPU" means the fullest rank.

Sources. The sum: vLLM 0.26 and 0.32, vllm/v1/worker/gpu_worker.py (determine_available_memory), v1/worker/utils.py
(request_memory). Blocks and tokens: v1/core/kv_cache_utils.py. Sharding: the model files under model_executor/models.
Constants marked "measured" were fitted to boot logs of vLLM 0.26 on H100s; docs/fit.md has them and what they miss by.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from ansible.module_utils.llm.spec import GIB, Declared, Finding, Gpu, Model, Service

DEFAULT_UTILIZATION = 0.92  # of the engine, since vLLM 0.21
PROFILES_ALL = (0, 32)  # from here on the engine's second model runner counts CUDA graphs and image encoders
IMAGE_TOKENS = 16384  # largest image of Qwen3-VL: 16,777,216 pixels in patches of 16 x 16, four patches a token
BYTES = {
    "F64": 8,
    "F32": 4,
    "F16": 2,
    "BF16": 2,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "I64": 8,
    "I32": 4,
    "I16": 2,
    "I8": 1,
    "U8": 1,
}
DTYPES = {"half": 2, "float16": 2, "bfloat16": 2, "float": 4, "float32": 4}
RECORD_FORMAT = 1


class Tensor(NamedTuple):
    """A kind of tensor: name (layers and experts numbered by one of them), dtype as safetensors spells it, shape, how many."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    times: int

    @property
    def elements(self) -> int:
        """Values of all of them."""
        return math.prod(self.shape) * self.times


class Band(NamedTuple):
    """A number that is known only so well."""

    low: float
    likely: float
    high: float

    def __add__(self, other: object) -> Band:
        """Sum of two bands; errors add up, which is cautious."""
        if not isinstance(other, Band):
            return NotImplemented
        return Band(self.low + other.low, self.likely + other.likely, self.high + other.high)

    def rounded(self) -> dict[str, float]:
        """For people: two digits."""
        return {"low": round(self.low, 2), "high": round(self.high, 2)}


NOTHING = Band(0.0, 0.0, 0.0)


def band(likely: float, down: float, up: float, fixed: float = 0.0) -> Band:
    """A band of shares `down` and `up` around a value, and `fixed` on both sides; never below zero."""
    return Band(max(0.0, likely * (1 - down) - fixed), likely, likely * (1 + up) + fixed)


# ---------------------------------------------------------------------------------------------------------------------
# What a config.json says.


@dataclasses.dataclass(frozen=True)
class Quantization:
    """How linear layers are packed. `ignored`: substrings, or regular expressions after `re:`, of modules left alone."""

    method: str
    bits: int = 16
    group: int = 128
    zero_points: bool = False
    ignored: tuple[str, ...] = ()

    def packs(self, module: str) -> bool:
        """Whether a linear layer of this name is packed. Embeddings and the output head never are here."""
        if self.method == "none" or module.endswith(("lm_head", "embed_tokens", "mlp.gate", "shared_expert_gate")):
            return False
        for word in self.ignored:
            if re.match(word[3:], module) if word.startswith("re:") else word.rstrip(".") + "." in module + ".":
                return False
            if not word.startswith("re:") and word in module:
                return False
        return True


@dataclasses.dataclass(frozen=True)
class Mla:
    """Multi-head latent attention: one compressed vector a token instead of keys and values a head."""

    kv_rank: int
    rope: int
    q_rank: int
    nope: int
    v: int


@dataclasses.dataclass(frozen=True)
class Linear:
    """Layers with a state of fixed size instead of a KV cache (gated delta net)."""

    layers: int
    k_heads: int
    v_heads: int
    k_dim: int
    v_dim: int
    kernel: int

    def state_bytes(self, tp: int, value: int) -> int:
        """Bytes of one layer's state of one request on one rank: convolution and recurrent state."""
        conv = (self.k_dim * self.k_heads * 2 + self.v_dim * self.v_heads) // tp * (self.kernel - 1)
        return (conv + self.v_heads // tp * self.v_dim * self.k_dim) * value


@dataclasses.dataclass(frozen=True)
class Vision:
    """An image encoder. `known`: its tensors can be listed from these numbers."""

    depth: int
    hidden: int
    intermediate: int
    out: int
    patch: int
    positions: int
    merge: int
    deepstack: int
    known: bool


@dataclasses.dataclass(frozen=True)
class Shape:
    """Facts of a config.json that memory depends on. Counts of values, not bytes."""

    architecture: str
    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    context: int
    tied: bool
    value_bytes: int
    quantization: Quantization
    mla: Mla | None = None
    linear: Linear | None = None
    vision: Vision | None = None
    experts: int = 0
    experts_per_token: int = 0
    moe_intermediate: int = 0
    shared_intermediate: int = 0
    dense_layers: int = 0  # layers with an ordinary feed-forward part; all of them without experts
    window: int = 0
    window_layers: int = 0
    qk_norm: bool = False
    gated_attention: bool = False
    mrope: bool = False

    @property
    def moe(self) -> bool:
        """Whether it has experts."""
        return self.experts > 0

    @property
    def attention_layers(self) -> int:
        """Layers with a KV cache."""
        return self.layers - (self.linear.layers if self.linear else 0)


class Unreadable(ValueError):
    """A config.json without the numbers that an estimate needs; the text names the first one missing."""


def shape(config: Mapping[str, Any]) -> Shape:
    """Facts of a config.json; raises Unreadable. Models with images keep those of their language part in text_config."""
    text: Mapping[str, Any] = config.get("text_config") or config.get("llm_config") or config
    get = text.get

    def number(*names: str, default: int | None = None) -> int:
        for name in names:
            value = get(name, config.get(name))
            if isinstance(value, int) and not isinstance(value, bool):
                if value < (0 if default is not None else 1):
                    raise Unreadable(f"config.json has {value} for `{name}`")
                return value
        if default is None:
            raise Unreadable(f"config.json has no number `{names[0]}`")
        return default

    hidden, layers = number("hidden_size"), number("num_hidden_layers")
    heads = number("num_attention_heads")
    architectures = config.get("architectures") or [""]
    kind = str(get("model_type") or config.get("model_type") or "")
    mla = None
    if number("kv_lora_rank", default=0):
        mla = Mla(
            number("kv_lora_rank"),
            number("qk_rope_head_dim"),
            number("q_lora_rank", default=0),
            number("qk_nope_head_dim"),
            number("v_head_dim"),
        )
    experts = number("n_routed_experts", "num_experts", "num_local_experts", default=0)
    moe_intermediate = number("moe_intermediate_size", default=number("intermediate_size")) if experts else 0
    first = number("first_k_dense_replace", default=0)
    shared = number("shared_expert_intermediate_size", default=number("n_shared_experts", default=0) * moe_intermediate)
    kinds = get("layer_types") or []
    window = number("sliding_window", default=0) if get("use_sliding_window", True) else 0
    dtype = str(get("dtype") or get("torch_dtype") or config.get("dtype") or config.get("torch_dtype") or "bfloat16")
    rope = get("rope_scaling") or get("rope_parameters") or {}
    found = Shape(
        architecture=str(architectures[0]),
        layers=layers,
        hidden=hidden,
        intermediate=number("intermediate_size", default=moe_intermediate),
        heads=heads,
        kv_heads=number("num_key_value_heads", default=heads),
        head_dim=number("head_dim", default=hidden // heads),
        vocab=number("vocab_size"),
        context=number("max_position_embeddings"),
        tied=bool(config.get("tie_word_embeddings", get("tie_word_embeddings", False))),
        value_bytes=DTYPES.get(dtype, 2),
        quantization=_quantization(config.get("quantization_config") or get("quantization_config") or {}),
        mla=mla,
        linear=_linear(text, layers, kinds),
        vision=_vision(config),
        experts=experts,
        experts_per_token=number("num_experts_per_tok", default=0),
        moe_intermediate=moe_intermediate,
        shared_intermediate=shared,
        dense_layers=min(first, layers) if experts else layers,
        window=window,
        window_layers=sum(k == "sliding_attention" for k in kinds) if kinds else (layers if window else 0),
        qk_norm=kind.startswith("qwen3"),
        gated_attention="linear_num_value_heads" in text,
        mrope="mrope_section" in rope,
    )
    needed = [found.heads, found.kv_heads, found.head_dim, found.intermediate, found.attention_layers]
    needed += dataclasses.astuple(found.linear) if found.linear else ()
    needed += [found.experts_per_token, found.moe_intermediate] if experts else ()
    if min(needed) < 1 or max(layers, experts) > 100_000:
        raise Unreadable("config.json has numbers that no model has")
    return found


def _quantization(raw: Mapping[str, Any]) -> Quantization:
    method = str(raw.get("quant_method") or "none")
    if method == "none":
        return Quantization("none")
    ignored = [
        str(w) for w in raw.get("modules_to_not_convert") or raw.get("ignore") or raw.get("ignored_layers") or []
    ]
    weights: Mapping[str, Any] = raw
    for group in (raw.get("config_groups") or {}).values():
        weights = group.get("weights") or {}
    bits = int(weights.get("bits") or weights.get("num_bits") or (8 if "fp8" in method else 4))
    zero = bool(weights.get("zero_point", not weights.get("symmetric", not weights.get("sym", True))))
    size = weights.get("group_size") or 0
    return Quantization(method, bits, size if isinstance(size, int) and size > 0 else 0, zero, tuple(ignored))


def _linear(text: Mapping[str, Any], layers: int, kinds: Sequence[str]) -> Linear | None:
    if "linear_num_value_heads" not in text:
        return None
    every = int(text.get("full_attention_interval") or 4)
    count = sum(k == "linear_attention" for k in kinds) if kinds else layers - layers // every
    return Linear(
        count,
        int(text["linear_num_key_heads"]),
        int(text["linear_num_value_heads"]),
        int(text["linear_key_head_dim"]),
        int(text["linear_value_head_dim"]),
        int(text.get("linear_conv_kernel_dim", 4)),
    )


def _vision(config: Mapping[str, Any]) -> Vision | None:
    raw = config.get("vision_config")
    if not isinstance(raw, Mapping):
        return None
    wanted = ("depth", "hidden_size", "intermediate_size", "out_hidden_size", "patch_size", "num_position_embeddings")
    known = str(raw.get("model_type", config.get("model_type", ""))).startswith("qwen3_vl")
    depth, hidden, inner, out, patch, positions = (int(raw[w]) if isinstance(raw.get(w), int) else 0 for w in wanted)
    merge, deepstack = int(raw.get("spatial_merge_size", 2)), len(raw.get("deepstack_visual_indexes") or ())
    known = known and all((depth, hidden, inner, out, patch, positions))
    return Vision(depth, hidden, inner, out, patch, positions, merge, deepstack, known)


# ---------------------------------------------------------------------------------------------------------------------
# What the engine was told.


@dataclasses.dataclass(frozen=True)
class Flags:
    """Flags that memory depends on, with the engine's defaults filled in. Lengths in tokens; 0 for unknown or automatic."""

    tp: int = 1
    pp: int = 1
    dp: int = 1
    dcp: int = 1
    ep: bool = False
    utilization: float = DEFAULT_UTILIZATION
    max_len: int = 0
    batched: int = 8192
    seqs: int = 256
    block: int = 16
    kv_bytes: int = 0  # of a value in the KV cache; 0 as the weights
    dtype_bytes: int = 0  # of a weight; 0 as the checkpoint
    eager: bool = False
    graph_size: int = 0
    kv_memory: int = 0  # bytes for the KV cache, when told instead of found
    cpu_kv: float = 0.0  # the same on a CPU, in GiB
    images: bool = True
    encoder_tp: bool = True
    draft_tokens: int = 0
    offload: float = 0.0  # GiB of weights kept in the host's memory

    @property
    def key(self) -> dict[str, Any]:
        """What a record of a boot is kept under: all but what only scales the room that is left."""
        return {k: v for k, v in dataclasses.asdict(self).items() if k not in ("utilization", "kv_memory", "cpu_kv")}


def count(value: Any, default: int = 0) -> int:
    """A number of tokens as the engine takes it: 131072, "131072", "128k" (thousands) or "128K" (times 1024)."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return int(value)
    found = re.fullmatch(r"(-?\d+(?:\.\d+)?)([kKmMgG]?)", str(value).strip())
    if not found:
        return default
    scale = {"k": 10**3, "K": 2**10, "m": 10**6, "M": 2**20, "g": 10**9, "G": 2**30}
    return int(float(found[1]) * scale.get(found[2], 1))


def flags(
    args: Mapping[str, Any], env: Mapping[str, str], gpu_memory: int = 0, gpu_name: str = "", cpu: bool = False
) -> Flags:
    """Flags from a service's `args` and `env`. Defaults: vllm/engine/arg_utils.py (get_batch_defaults).

    gpu_memory: bytes of the smallest GPU, 0 where unknown.
    """

    def whole(name: str, default: int) -> int:
        return count(args[name], default) if name in args else default

    large = gpu_memory >= 70 * GIB and "a100" not in gpu_name.lower()
    kv = str(args.get("kv-cache-dtype", "auto"))
    limit = args.get("limit-mm-per-prompt")
    speculative = args.get("speculative-config")

    def real(given: Mapping[str, Any], name: str, default: float) -> float:
        try:
            return float(given.get(name, default))
        except (TypeError, ValueError):
            return default

    def ranks(name: str) -> int:
        return min(1024, max(1, whole(f"{name}-parallel-size", 1)))

    images = not (isinstance(limit, Mapping) and not any(_limit(v) for v in limit.values()))
    return Flags(
        tp=ranks("tensor"),
        pp=ranks("pipeline"),
        dp=ranks("data"),
        dcp=ranks("decode-context"),
        ep=bool(args.get("enable-expert-parallel", False)),
        utilization=real(args, "gpu-memory-utilization", DEFAULT_UTILIZATION),
        max_len=max(0, whole("max-model-len", 0)),
        batched=max(1, whole("max-num-batched-tokens", 4096 if cpu else 8192 if large else 2048)),
        seqs=max(1, whole("max-num-seqs", 256 if cpu or not large else 1024)),
        block=max(1, whole("block-size", 128 if cpu else 16)),
        kv_bytes=1 if kv.startswith("fp8") else DTYPES.get(kv, 0),
        dtype_bytes=DTYPES.get(str(args.get("dtype", "auto")), 0),
        eager=bool(args.get("enforce-eager", False)),
        graph_size=min(65536, max(0, whole("max-cudagraph-capture-size", 0))),
        kv_memory=max(0, whole("kv-cache-memory-bytes", 0)),
        cpu_kv=max(0.0, real(env, "VLLM_CPU_KVCACHE_SPACE", 0.0)),
        images=images and not args.get("language-model-only", False),
        encoder_tp=args.get("mm-encoder-tp-mode", "weights") == "weights",
        draft_tokens=count(speculative.get("num_speculative_tokens", 1), 1) if isinstance(speculative, Mapping) else 0,
        offload=max(0.0, real(args, "cpu-offload-gb", 0.0)),
    )


def _limit(value: Any) -> int:
    return count(value.get("count", 1), 1) if isinstance(value, Mapping) else count(value, 1)


def version(text: str) -> tuple[int, int]:
    """Major and minor of an engine's version; one that cannot be read counts as the newest."""
    found = re.match(r"v?(\d+)\.(\d+)", text)
    return (int(found[1]), int(found[2])) if found else (999, 0)


# ---------------------------------------------------------------------------------------------------------------------
# Weights.


def tensors(model: Shape) -> list[Tensor]:
    """Tensors that a checkpoint of this shape holds. Which layers are packed follows its quantization_config.

    Raises Unreadable for an image encoder whose layers are not known here.
    """
    if model.vision and not model.vision.known:
        raise Unreadable("config.json has an image encoder of a kind whose layers are not known here")
    found: list[Tensor] = []
    whole = "F32" if model.value_bytes == 4 else "BF16"

    def plain(name: str, size: tuple[int, ...], times: int = 1) -> None:
        if times:
            found.append(Tensor(name, whole, size, times))

    def linear(name: str, out: int, into: int, times: int = 1) -> None:
        if not times:
            return
        quantization = model.quantization
        if not quantization.packs(name):
            plain(f"{name}.weight", (out, into), times)
            return
        if quantization.bits >= 8:
            found.append(Tensor(f"{name}.weight", "F8_E4M3", (out, into), times))
            found.append(Tensor(f"{name}.weight_scale", "F32", (-(-out // 128), -(-into // 128)), times))
            return
        per_word = 32 // quantization.bits
        groups = into // quantization.group if quantization.group else 1
        found.append(Tensor(f"{name}.qweight", "I32", (into // per_word, out), times))
        found.append(Tensor(f"{name}.scales", whole, (groups, out), times))
        if quantization.zero_points:
            found.append(Tensor(f"{name}.qzeros", "I32", (groups, out // per_word), times))

    plain("model.embed_tokens.weight", (model.vocab, model.hidden))
    if not model.tied:
        plain("lm_head.weight", (model.vocab, model.hidden))
    plain("model.norm.weight", (model.hidden,))
    moe_layers = model.layers - model.dense_layers
    linear_layers = model.linear.layers if model.linear else 0
    for first, times in ((0, model.dense_layers), (model.dense_layers, moe_layers)):
        if not times:
            continue
        layer = f"model.layers.{first}"
        plain(f"{layer}.input_layernorm.weight", (model.hidden,), 2 * times)
        # Linear attention takes its share of the layers of each kind.
        states = linear_layers * times // model.layers
        _attention(model, layer, times - states, linear, plain)
        if model.linear:
            _delta_net(model, model.linear, layer, states, linear, plain)
        if first == 0 and model.dense_layers:
            _feed_forward(model, f"{layer}.mlp", model.intermediate, times, linear)
        else:
            plain(f"{layer}.mlp.gate.weight", (model.experts, model.hidden), times)
            _feed_forward(model, f"{layer}.mlp.experts.0", model.moe_intermediate, times * model.experts, linear)
            if model.shared_intermediate:
                _feed_forward(model, f"{layer}.mlp.shared_experts", model.shared_intermediate, times, linear)
    if model.vision:
        _encoder(model.vision, linear, plain)
    return found


def _feed_forward(model: Shape, name: str, size: int, times: int, linear: Any) -> None:
    linear(f"{name}.gate_proj", size, model.hidden, times)
    linear(f"{name}.up_proj", size, model.hidden, times)
    linear(f"{name}.down_proj", model.hidden, size, times)


def _attention(model: Shape, layer: str, times: int, linear: Any, plain: Any) -> None:
    name, heads = f"{layer}.self_attn", model.heads
    if model.mla:
        mla = model.mla
        query = heads * (mla.nope + mla.rope)
        if mla.q_rank:
            linear(f"{name}.q_a_proj", mla.q_rank, model.hidden, times)
            linear(f"{name}.q_b_proj", query, mla.q_rank, times)
        else:
            linear(f"{name}.q_proj", query, model.hidden, times)
        linear(f"{name}.kv_a_proj_with_mqa", mla.kv_rank + mla.rope, model.hidden, times)
        linear(f"{name}.kv_b_proj", heads * (mla.nope + mla.v), mla.kv_rank, times)
        linear(f"{name}.o_proj", model.hidden, heads * mla.v, times)
        return
    size = heads * model.head_dim
    linear(f"{name}.q_proj", size * (2 if model.gated_attention else 1), model.hidden, times)
    linear(f"{name}.k_proj", model.kv_heads * model.head_dim, model.hidden, times)
    linear(f"{name}.v_proj", model.kv_heads * model.head_dim, model.hidden, times)
    linear(f"{name}.o_proj", model.hidden, size, times)
    if model.qk_norm:
        plain(f"{name}.q_norm.weight", (model.head_dim,), 2 * times)


def _delta_net(model: Shape, net: Linear, layer: str, times: int, linear: Any, plain: Any) -> None:
    keys, values = net.k_heads * net.k_dim, net.v_heads * net.v_dim
    linear(f"{layer}.linear_attn.in_proj_qkvz", 2 * keys + 2 * values, model.hidden, times)
    linear(f"{layer}.linear_attn.in_proj_ba", 2 * net.v_heads, model.hidden, times)
    linear(f"{layer}.linear_attn.out_proj", model.hidden, values, times)
    plain(f"{layer}.linear_attn.conv1d.weight", (2 * keys + values, 1, net.kernel), times)


def _encoder(vision: Vision, linear: Any, plain: Any) -> None:
    """Qwen3-VL: transformers, models/qwen3_vl/modeling_qwen3_vl.py. Two pictures in time share a patch."""
    size, merged = vision.hidden, vision.hidden * vision.merge**2
    plain("visual.patch_embed.proj.weight", (size, 3, 2, vision.patch, vision.patch))
    plain("visual.pos_embed.weight", (vision.positions, size))
    linear("visual.blocks.0.attn.qkv", 3 * size, size, vision.depth)
    linear("visual.blocks.0.attn.proj", size, size, vision.depth)
    linear("visual.blocks.0.mlp.linear_fc1", vision.intermediate, size, vision.depth)
    linear("visual.blocks.0.mlp.linear_fc2", size, vision.intermediate, vision.depth)
    for name, times in (("visual.merger", 1), ("visual.deepstack_merger_list.0", vision.deepstack)):
        linear(f"{name}.linear_fc1", merged, merged, times)
        linear(f"{name}.linear_fc2", vision.out, merged, times)


# Replicated on every rank: ReplicatedLinear and plain modules in vLLM's model files.
_REPLICATED = re.compile(
    r"norm|\.gate\.|shared_expert_gate|q_a_proj|kv_a_proj|\.weight_shape$|g_idx|patch_embed|pos_embed|e_score|rotary"
)
_VISION = re.compile(r"(^|\.)(visual|vision_tower|vision_model|vit)\.")
_DRAFT = re.compile(r"(^|\.)(mtp|draft)\.|layers\.draft\.")
_LAYER = re.compile(r"(^|\.)layers\.(\d+|#)\.")
_INTEGER = ("I32", "I64", "I16", "I8", "U8")


def stage_layers(layers: int, pp: int) -> list[int]:
    """Layers of each pipeline stage: vllm/distributed/utils.py (get_pp_indices); the rest goes to the stages before the last."""
    found = [layers // pp] * pp
    for position in range(2, layers % pp + 2):
        found[-position] += 1
    return found


def weights(listed: Iterable[Tensor], model: Shape, told: Flags, hopper: bool = False) -> list[float]:
    """GiB of weights on one rank of each pipeline stage.

    hopper: compute capability 9.0, where packed linear layers with zero points run on Machete, which holds the zero
    points times the scales in 16 bit beside the packed ones (kernels/linear/mixed_precision/machete.py).
    """
    stages = stage_layers(model.layers, told.pp)
    found = [0.0] * told.pp
    value = told.dtype_bytes or model.value_bytes
    for tensor in listed:
        if _DRAFT.search(tensor.name) and not told.draft_tokens:
            continue
        one = tensor.elements * (value if tensor.dtype in ("F32", "F16", "BF16") else BYTES.get(tensor.dtype, 2))
        if tensor.name.endswith((".weight_scale", ".weight_scale_inv", ".scales")) or "e_score" in tensor.name:
            one = tensor.elements * BYTES.get(tensor.dtype, 2)
        experts = ".experts." in tensor.name
        if (
            hopper
            and not experts
            and tensor.dtype in _INTEGER
            and tensor.name.endswith((".qzeros", ".weight_zero_point"))
        ):
            one += tensor.elements * 32 // max(1, model.quantization.bits) * value
        share = one / _split(tensor.name, len(tensor.shape), model, told)
        if _LAYER.search(tensor.name):
            for stage, layers in enumerate(stages):
                found[stage] += share * layers / model.layers
        elif "lm_head" in tensor.name or re.search(r"(^|\.)norm\.weight$", tensor.name):
            found[-1] += share
        else:
            found[0] += share
            if "embed_tokens" in tensor.name and model.tied and told.pp > 1:
                found[-1] += share
    return [max(0.0, f / GIB - told.offload) for f in found]


def _split(name: str, dimensions: int, model: Shape, told: Flags) -> int:
    """Over how many ranks a tensor is spread."""
    if ".experts." in name:
        return told.tp * told.dp if told.ep else told.tp
    if _VISION.search(name):
        return told.tp if told.encoder_tp and dimensions > 1 and not _REPLICATED.search(name) else 1
    if dimensions < 2 or _REPLICATED.search(name):
        return 1
    if re.search(r"\.(k_proj|v_proj)\.", name) and not model.mla:
        return min(told.tp, model.kv_heads)
    return told.tp


def buffers(model: Shape, told: Flags) -> float:
    """GiB that the engine reports as weights though no checkpoint holds them: rotary tables, deepstack inputs, small ones."""
    value = told.dtype_bytes or model.value_bytes
    rotary = model.mla.rope if model.mla else model.head_dim
    # Multimodal rotary tables are four times as long: layers/rotary_embedding/mrope.py.
    size = model.context * (4 if model.mrope else 1) * rotary * value
    if model.vision and told.images:
        size += model.vision.deepstack * told.batched * model.hidden * value
    return size / GIB + 0.05  # measured: 0.02 to 0.08


# ---------------------------------------------------------------------------------------------------------------------
# Activations, graphs.


def second_runner(model: Shape, engine: tuple[int, int]) -> bool:
    """Whether the engine's second model runner serves this model by default (0.26: config/vllm.py, dense models only)."""
    return engine >= PROFILES_ALL or (not model.moe and model.linear is None)


def activation(model: Shape, told: Flags, engine: tuple[int, int]) -> float:
    """GiB at the peak of the start-up profile: one step of max_num_batched_tokens, the largest of what may be alive at once.

    Shares of hidden sizes are measured; the sizes they multiply are those of the kernels' work spaces.
    """
    value = told.dtype_bytes or model.value_bytes
    token = told.batched * value
    hidden = model.hidden
    parts = []
    if model.dense_layers:
        parts.append(token * (3.3 * model.intermediate / told.tp + 2.5 * hidden))
    if model.moe:
        # fused_marlin_moe.py: two work spaces a chosen expert.
        inner = model.moe_intermediate / (1 if told.ep else told.tp)
        parts.append(token * (model.experts_per_token * (max(2 * inner, hidden) + inner) + 9.5 * hidden))
    if model.mla:
        # mla_attention.py: the profile stands in for the up-projected context of a chunked prefill, at most 64K rows.
        rows = min(max(8 * (told.max_len or model.context), 4 * told.seqs * told.block), 65536)
        heads = model.heads / told.tp
        up = model.mla.nope + model.mla.v
        space = max(rows, told.seqs * told.block) * heads * up * value
        parts.append(space + token * (7 * hidden + heads * (model.mla.nope + model.mla.rope + up + model.mla.v)))
    else:
        size = (model.heads + 2 * model.kv_heads) * model.head_dim / told.tp
        parts.append(token * (2 * size + 3 * hidden))
    if told.eager:
        parts = [p + token * 2 * hidden for p in parts]
    new = second_runner(model, engine)
    sampler = (1.3 if new else 4.2) * told.seqs * model.vocab * 4
    peak = max(*parts, sampler)
    if model.vision and told.images and (engine >= PROFILES_ALL or not new):
        inside, cached = _encoder_bytes(model.vision, told, value)
        peak = max(inside + cached, peak + cached)
    return peak / GIB


def _encoder_bytes(vision: Vision, told: Flags, value: int) -> tuple[float, float]:
    """Bytes inside the image encoder while the largest images are profiled, and of its outputs, which the profile keeps.

    vllm/v1/worker/gpu/model_runner.py (profile_run): as many largest images as fit in max_num_batched_tokens, at least one.
    """
    images = max(1, told.batched // IMAGE_TOKENS)
    tokens = images * IMAGE_TOKENS
    patches = tokens * vision.merge**2
    tp = told.tp if told.encoder_tp else 1
    inside = patches * value * (2 * vision.intermediate / tp + 3 * vision.hidden)
    return inside, tokens * vision.out * (1 + vision.deepstack) * value


def captures(told: Flags) -> int:
    """CUDA graphs that are captured: sizes up to twice max_num_seqs and 512, and those for decoding alone once more.

    vllm/config/vllm.py (_set_cudagraph_sizes), mode FULL_AND_PIECEWISE.
    """
    if told.eager:
        return 0
    largest = told.graph_size or min(2 * told.seqs, 512)
    largest = min(largest, told.batched)
    sizes = [s for s in (1, 2, 4) if s <= largest]
    sizes += [*range(8, min(largest + 1, 256), 8), *range(256, largest + 1, 16)]
    return len(sizes) + sum(s <= told.seqs for s in sizes)


def graphs(model: Shape, told: Flags) -> float:
    """GiB of CUDA graphs, measured: grows with layers and a little faster than the number of graphs."""
    taken = captures(told)
    return model.layers / told.pp * (1.775e-4 * taken + 1.234e-6 * taken**2)


# ---------------------------------------------------------------------------------------------------------------------
# KV cache.


def kv_token_bytes(model: Shape, told: Flags, layers: int | None = None) -> float:
    """Bytes that one token takes on one rank, in layers with full attention; `layers` of them, or all.

    MLA is replicated on every rank of tensor parallelism, keys and values of grouped heads are spread down to one head.
    """
    value = told.kv_bytes or told.dtype_bytes or model.value_bytes
    if layers is None:
        layers = model.attention_layers
    if model.mla:
        return layers * (model.mla.kv_rank + model.mla.rope) * value / told.dcp
    return layers * 2 * max(1, model.kv_heads // told.tp) * model.head_dim * value / told.dcp


def kv_tokens(model: Shape, told: Flags, room: float, layers: int | None = None, cpu: bool = False) -> int:
    """Tokens that `room` bytes of KV cache hold, counted as the engine counts them.

    Blocks of layers of one kind are as large as those of another; a group has as many layers as the rarest kind. A request
    of max_model_len takes whole blocks of each group, and the engine prints blocks / those * max_model_len.
    layers: of one pipeline stage, whose kinds are taken in proportion.
    """
    max_len = told.max_len or model.context
    share = (layers or model.layers) / model.layers
    linear = round(model.linear.layers * share) if model.linear else 0
    window = round(model.window_layers * share)
    full = round(model.layers * share) - linear - window
    kinds = [n for n in (full, window, linear) if n > 0]
    size = min(kinds)
    if max(kinds) < 1.5 * size:
        size = max(kinds)
    block = 16 if cpu and model.mla else told.block
    one = kv_token_bytes(model, told, 1)
    if model.linear:  # a block must hold a state: platforms/interface.py (_align_hybrid_block_size)
        state = model.linear.state_bytes(told.tp, told.dtype_bytes or model.value_bytes)
        block *= max(1, math.ceil(state / (block * one)))
    per_request = 0
    if full > 0:
        per_request += math.ceil(full / size) * math.ceil(max_len / block)
    if window > 0:
        held = min(model.window - 1 + told.batched, max_len)
        per_request += math.ceil(window / size) * (math.ceil(held / block) + 1)
    if linear > 0:
        per_request += math.ceil(linear / size) * 2
    blocks = int(max(0.0, room) // (one * block * size))
    return int(blocks / per_request * max_len)


def kv_needed(model: Shape, told: Flags, max_len: int, layers: int | None = None, cpu: bool = False) -> float:
    """Bytes that one request of max_len tokens needs: the smallest room that holds as many."""
    told = dataclasses.replace(told, max_len=max_len)
    return _smallest(lambda room: kv_tokens(model, told, room, layers, cpu) >= max_len, 2.0**50)


def longest(model: Shape, told: Flags, room: float, layers: int | None = None, cpu: bool = False) -> int:
    """The largest max_model_len (a multiple of 1024, or below that of 16) of which one request fits into `room` bytes."""

    def fits(length: int) -> bool:
        return kv_tokens(model, dataclasses.replace(told, max_len=length), room, layers, cpu) >= length

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


# ---------------------------------------------------------------------------------------------------------------------
# Records of boots.


def record_key(model: str, image: str, gpu: str, engine: str, told: Flags) -> dict[str, Any]:
    """What a record is kept under, and how its engine was told to run. model: digest of its files. image: id. gpu: name."""
    return {
        "format": RECORD_FORMAT,
        "model": model,
        "image": image,
        "gpu": gpu,
        "engine": engine,
        "flags": told.key,
        "utilization": told.utilization,
    }


def record(harvest: Mapping[str, Any], key: Mapping[str, Any]) -> dict[str, Any] | None:
    """What a boot measured, to be kept and used by `estimate`; None when its log lacks the size of the KV cache.

    harvest: see engine.harvest. key: see record_key. GiB a GPU, tokens of the engine.
    """
    wanted = ("kv_cache_tokens", "kv_cache_gib", "weights_gib")
    if not all(k in harvest for k in wanted):
        return None
    more = ("gpu_total_gib", "gpu_free_gib", "requested_gib", "activation_gib", "other_gib", "consumed_gib")
    measured = {k: harvest[k] for k in (*wanted, *more, "graph_gib", "graph_estimate_gib") if k in harvest}
    return {**key, "measured": measured}


def record_name(kept: Mapping[str, Any]) -> str:
    """File name of a record: one for each model, image, GPU and set of flags, so that a new boot replaces the old one."""
    key = {k: kept[k] for k in ("format", "model", "image", "gpu", "flags")}
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16] + ".json"


def _nearest_record(
    records: Iterable[Mapping[str, Any]], model: str, image: str, gpu: str, told: Flags
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
        differs = sum(kept["flags"].get(k) != v for k, v in told.key.items())
        if kept.get("image") == image:
            rank, how = (0, "same") if not differs else (1, "flags")
        else:
            rank, how = 2, "image"
        # Parallelism changes most of all; a record with the same comes before one with another.
        differs += 10 * sum(kept["flags"].get(k) != getattr(told, k) for k in ("tp", "pp", "ep"))
        if best is None or (rank, differs) < best[:2]:
            best = (rank, differs, kept, how)
    return (best[2], best[3]) if best else None


# ---------------------------------------------------------------------------------------------------------------------
# The estimate.


@dataclasses.dataclass(frozen=True)
class Known:
    """What is known of a model: its config.json, its tensors (see artifacts.summary), its size on disk, its digest."""

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


def _known_shape(known: Known) -> tuple[Shape | None, str]:
    try:
        return (shape(known.config), "") if known.config else (None, "the model's config.json is not known yet")
    except (Unreadable, TypeError, ValueError, KeyError, AttributeError, IndexError, ZeroDivisionError) as problem:
        return None, str(problem) or type(problem).__name__


def _weights(known: Known, model: Shape, told: Flags, hopper: bool) -> tuple[list[Band], str]:
    """Bands of GiB of weights a stage, buffers included, and what they rest on."""
    extra = buffers(model, told)
    if known.tensors:
        listed = [Tensor(str(n), str(d), tuple(s), int(c)) for n, d, s, c in known.tensors]
        return [band(w + extra, 0.01, 0.01, 0.08) for w in weights(listed, model, told, hopper)], "checkpoint"
    try:
        listed = tensors(model)
    except Unreadable:
        return [_by_size(known.size_gib, told)] * told.pp, "size"
    return [band(w + extra, 0.02, 0.03, 0.1) for w in weights(listed, model, told, hopper)], "shape"


def _by_size(size_gib: float, told: Flags) -> Band:
    share = size_gib / (told.tp * told.pp)
    return band(share + 0.15, 0.1, 0.12 if told.tp * told.pp == 1 else 0.2, 0.1)


def estimate(
    known: Known,
    told: Flags,
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
    hopper = any(w in gpu for w in ("H100", "H200", "GH200", "H800", "H20"))
    outside = band(0.55 if told.tp * told.pp == 1 else 1.5, 0.2, 0.25)  # measured: 0.52 and 1.47
    disk = known.size_gib
    # Ours, from the outside of a few engines: the API server and the core, each worker, decoded images.
    ram = Band(3.0 + 2.0 * told.tp * told.pp, 5.0 + 3.0 * told.tp * told.pp, 8.0 + 5.0 * told.tp * told.pp)
    model, note = _known_shape(known)
    total = Band(*(m / GIB for m in gpu_memory))
    requested = Band(*(math.ceil(m * told.utilization) / GIB for m in gpu_memory))
    common: dict[str, Any] = {"total": total, "requested": requested, "outside": outside, "disk": disk, "ram": ram}
    if model is None:
        if not known.size_gib:
            return Fit("unknown", **common, note=note)
        held = _by_size(known.size_gib, told)
        rest = Band(0.4, 2.0, 5.0)
        room = _room(requested, held + rest, told)
        return Fit("size", **common, weights=held, activation=rest, kv=room, note=note)
    if not gpu_memory.high:
        return Fit("unknown", **common, note="the memory of its GPUs is not known")
    nearest = _nearest_record(records, known.digest, image, gpu, told) if known.digest else None
    told = dataclasses.replace(told, max_len=told.max_len or model.context)
    stages = stage_layers(model.layers, told.pp)
    parts = _parts(known, model, told, hopper, released)
    if nearest:
        parts = _calibrate(parts, known, model, told, hopper, *nearest)
        if "gpu_total_gib" in nearest[0]["measured"]:
            exact = float(nearest[0]["measured"]["gpu_total_gib"])
            total = Band(exact, exact, exact)
            requested = Band(*[exact * told.utilization] * 3)
        if nearest[1] != "image" and {"gpu_total_gib", "gpu_free_gib"} <= set(nearest[0]["measured"]):
            gone = exact - float(nearest[0]["measured"]["gpu_free_gib"])
            outside = band(gone, 0.02, 0.02, 0.05)
        common |= {"total": total, "requested": requested, "outside": outside}
    rooms = [_room(requested, parts.taken(stage), told) for stage in range(told.pp)]
    tokens = Band(
        *(min(kv_tokens(model, told, r[end] * GIB, n) for r, n in zip(rooms, stages, strict=True)) for end in range(3))
    )
    fullest = min(range(told.pp), key=lambda stage: rooms[stage].likely)
    layers, room, taken = stages[fullest], rooms[fullest], parts.taken(fullest)
    need = kv_needed(model, told, told.max_len, layers) / GIB
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
        token_bytes=kv_token_bytes(model, told, round(model.attention_layers * layers / model.layers)),
        tokens=tokens,
        max_len=told.max_len,
        longest=min(model.context, longest(model, told, room.low * GIB, layers)),
        utilization=best if best <= 1 - outside.likely / total.likely else 0.0,
        note=parts.note,
    )


def _room(requested: Band, taken: Band, told: Flags) -> Band:
    """GiB for the KV cache; the cautious end has the least memory and the largest parts. Negative where weights do not fit."""
    if told.kv_memory:
        return Band(*[told.kv_memory / GIB] * 3)
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


def _parts(known: Known, model: Shape, told: Flags, hopper: bool, engine: tuple[int, int]) -> _Parts:
    held, basis = _weights(known, model, told, hopper)
    peak = activation(model, told, engine)
    images = model.vision is not None and told.images and (engine >= PROFILES_ALL or not second_runner(model, engine))
    counted = engine >= PROFILES_ALL or not second_runner(model, engine)
    captured = graphs(model, told) if counted else 0.0
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
    model: Shape,
    told: Flags,
    hopper: bool,
    kept: Mapping[str, Any],
    how: str,
) -> _Parts:
    """Parts with what a boot measured, scaled by what the same formulas say of both sets of flags."""
    before = Flags(**{**dataclasses.asdict(told), **kept["flags"]})
    before = dataclasses.replace(before, max_len=before.max_len or model.context)
    measured = kept["measured"]
    then = _parts(known, model, before, hopper, version(str(kept.get("engine", ""))))
    fullest = max(w.likely for w in then.weights)
    ratio = float(measured["weights_gib"]) / fullest if fullest else 1.0
    exact = how == "same"
    held = [
        band(w.likely * ratio, *((0.0, 0.0, 0.02) if exact or _same_layout(before, told) else (0.01, 0.01, 0.05)))
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


def estimate_cpu(known: Known, told: Flags) -> Fit:
    """The same for an engine on the CPU: the KV cache is as large as VLLM_CPU_KVCACHE_SPACE says."""
    model, note = _known_shape(known)
    space = told.kv_memory / GIB or told.cpu_kv
    kv = Band(space, space, space)
    if model is None:
        return Fit("unknown", kv=kv, disk=known.size_gib, cpu=True, note=note)
    told = dataclasses.replace(told, max_len=told.max_len or model.context)
    held, basis = _weights(known, model, told, hopper=False)
    ram = Band(1.0, 2.0, 3.0) + held[0] + kv  # measured: 2.4 to 4.2 in all for 135M parameters and 1 GiB of cache
    if not space:
        return Fit(
            basis, weights=held[0], disk=known.size_gib, ram=ram, cpu=True, note="VLLM_CPU_KVCACHE_SPACE is not set"
        )
    tokens = float(kv_tokens(model, told, space * GIB, cpu=True))
    return Fit(
        basis,
        weights=held[0],
        kv=kv,
        token_bytes=kv_token_bytes(model, told),
        tokens=Band(tokens, tokens, tokens),
        max_len=told.max_len,
        longest=min(model.context, longest(model, told, space * GIB, cpu=True)),
        disk=known.size_gib,
        ram=ram,
        cpu=True,
    )


def gpustack_gib(weights_gib: float) -> float:
    """GiB that gpustack's rule of thumb asks for, all GPUs together: weights * 1.2 + 2, whatever the context."""
    return weights_gib * 1.2 + 2


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
    told, name = service_flags(declared, service), gpus[0].model if gpus else ""
    if image.accelerator == "cpu" or not service.gpus:
        return estimate_cpu(found, told)
    memory = min((usable(g) for g in gpus), default=NOTHING)
    engine = str(image.engine.get("version", ""))
    return estimate(found, told, memory, gpu=name, image=image_id or "", engine=engine, records=records)


def service_flags(declared: Declared, service: Service) -> Flags:
    """Flags of a declared service, with the defaults that its smallest GPU gives."""
    gpus = [g for g in declared.gpus if g.index in service.gpus or g.uuid in service.gpus]
    smallest = min(gpus, key=lambda g: g.memory, default=None)
    cpu = declared.images[service.image].accelerator == "cpu" or not service.gpus
    return flags(service.args, service.env, smallest.memory if smallest else 0, smallest.model if smallest else "", cpu)


def service_key(declared: Declared, service: Service, image_id: str | None, digest: str | None) -> dict[str, Any]:
    """See record_key; empty while image or model are not there, and for an engine on the CPU, whose log lacks the numbers."""
    gpus = [g for g in declared.gpus if g.index in service.gpus or g.uuid in service.gpus]
    image = declared.images[service.image]
    if not (gpus and image_id and digest) or image.accelerator == "cpu":
        return {}
    engine = str(image.engine.get("version", ""))
    return record_key(digest, image_id, gpus[0].model, engine, service_flags(declared, service))


def with_size(known: Known, model: Model) -> Known:
    """With the size that the catalog states, where files have not told it."""
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
            "take more GPUs, a smaller or more quantized model, fp8 for the KV cache, or less max-num-batched-tokens or max-num-seqs"
        )
    text = ", or ".join(ways)
    return text[0].upper() + text[1:]


def parts_text(fit: Fit) -> str:
    """The parts in a few words."""
    if fit.cpu:
        return f"weights {fit.weights.likely:.2f}, KV {fit.kv.likely:.2f} GiB"
    names = ("weights", "activation", "graphs", "other")
    taken = ", ".join(f"{n} {getattr(fit, n).likely:.2f}" for n in names)
    return f"of {fit.requested.likely:.2f} GiB: {taken}, KV {fit.kv.likely:.2f}"


def tokens_text(fit: Fit) -> str:
    """The size of the KV cache in a few words."""
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
