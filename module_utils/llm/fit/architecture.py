"""What a model is made of and how an engine spreads it: config.json to a shape, a shape to tensors, tensors to ranks.

Pure functions; limits of memory are the part of module estimate. Counts are of values, sizes in bytes where
they say so, GiB are 2**30 bytes. Sharding follows vLLM 0.26 to 0.32 (model files under model_executor/models).
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from ansible.module_utils.llm.base.units import GIB

DEFAULT_UTILIZATION = 0.92  # of the engine, since vLLM 0.21
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


class Tensor(NamedTuple):
    """A kind of tensor: name (layers and experts numbered by one of them), dtype as safetensors spells it, shape, how many."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    times: int

    @property
    def elements(self) -> int:
        """Values in all tensors of this kind together."""
        return math.prod(self.shape) * self.times


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
class Architecture:
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
        """Whether the model has experts."""
        return self.experts > 0

    @property
    def attention_layers(self) -> int:
        """Number of layers with a KV cache."""
        return self.layers - (self.linear.layers if self.linear else 0)


class Unreadable(ValueError):
    """A config.json without the numbers that an estimate needs; the text names the first one missing."""


def read(config: Mapping[str, Any]) -> Architecture:
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
    found = Architecture(
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
# Flags that an engine was started with.


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
    kv_memory: int = 0  # bytes for the KV cache, when declared instead of measured
    cpu_kv: float = 0.0  # the same on a CPU, in GiB
    images: bool = True
    encoder_tp: bool = True
    draft_tokens: int = 0
    offload: float = 0.0  # GiB of weights kept in the host's memory

    @property
    def key(self) -> dict[str, Any]:
        """The part of a boot record's key that flags give: without those flags that only scale the room for the KV cache."""
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


def flags_of(
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


def tensors(model: Architecture) -> list[Tensor]:
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


def _feed_forward(model: Architecture, name: str, size: int, times: int, linear: Any) -> None:
    linear(f"{name}.gate_proj", size, model.hidden, times)
    linear(f"{name}.up_proj", size, model.hidden, times)
    linear(f"{name}.down_proj", model.hidden, size, times)


def _attention(model: Architecture, layer: str, times: int, linear: Any, plain: Any) -> None:
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


def _delta_net(model: Architecture, net: Linear, layer: str, times: int, linear: Any, plain: Any) -> None:
    keys, values = net.k_heads * net.k_dim, net.v_heads * net.v_dim
    linear(f"{layer}.linear_attn.in_proj_qkvz", 2 * keys + 2 * values, model.hidden, times)
    linear(f"{layer}.linear_attn.in_proj_ba", 2 * net.v_heads, model.hidden, times)
    linear(f"{layer}.linear_attn.out_proj", model.hidden, values, times)
    plain(f"{layer}.linear_attn.conv1d.weight", (2 * keys + values, 1, net.kernel), times)


def _encoder(vision: Vision, linear: Any, plain: Any) -> None:
    """List Qwen3-VL's image encoder (transformers, models/qwen3_vl/modeling_qwen3_vl.py). Two pictures in time share a patch."""
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


def weights(listed: Iterable[Tensor], model: Architecture, flags: Flags, hopper: bool = False) -> list[float]:
    """GiB of weights on one rank of each pipeline stage.

    hopper: compute capability 9.0, where packed linear layers with zero points run on Machete, which holds the zero points
    times the scales in 16 bit (kernels/linear/mixed_precision/machete.py); measured: the packed zero points stay in memory as well.
    """
    stages = stage_layers(model.layers, flags.pp)
    found = [0.0] * flags.pp
    value = flags.dtype_bytes or model.value_bytes
    for tensor in listed:
        if _DRAFT.search(tensor.name) and not flags.draft_tokens:
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
        share = one / _split(tensor.name, len(tensor.shape), model, flags)
        if _LAYER.search(tensor.name):
            for stage, layers in enumerate(stages):
                found[stage] += share * layers / model.layers
        elif "lm_head" in tensor.name or re.search(r"(^|\.)norm\.weight$", tensor.name):
            found[-1] += share
        else:
            found[0] += share
            if "embed_tokens" in tensor.name and model.tied and flags.pp > 1:
                found[-1] += share
    return [max(0.0, f / GIB - flags.offload) for f in found]


def _split(name: str, dimensions: int, model: Architecture, flags: Flags) -> int:
    """Number of ranks that a tensor is split over."""
    if ".experts." in name:
        return flags.tp * flags.dp if flags.ep else flags.tp
    if _VISION.search(name):
        return flags.tp if flags.encoder_tp and dimensions > 1 and not _REPLICATED.search(name) else 1
    if dimensions < 2 or _REPLICATED.search(name):
        return 1
    if re.search(r"\.(k_proj|v_proj)\.", name) and not model.mla:
        return min(flags.tp, model.kv_heads)
    return flags.tp


def buffers(model: Architecture, flags: Flags) -> float:
    """GiB that the engine reports as weights though no checkpoint holds them: rotary tables, deepstack inputs, small ones."""
    value = flags.dtype_bytes or model.value_bytes
    rotary = model.mla.rope if model.mla else model.head_dim
    # Multimodal rotary tables are four times as long: layers/rotary_embedding/mrope.py.
    size = model.context * (4 if model.mrope else 1) * rotary * value
    if model.vision and flags.images:
        size += model.vision.deepstack * flags.batched * model.hidden * value
    return size / GIB + 0.05  # measured: 0.02 to 0.08
