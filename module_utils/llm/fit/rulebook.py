"""Rules, as data: what a declaration may say and engines, cards or models are known not to bear. Module rules reads them.

Add an entry here and it is judged, documented (docs/reference/rules.md) and tested: the test declares `example` on top of a
clean service and expects a finding, its acceptance by the rule's id, and no finding without the example.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple


class Rule(NamedTuple):
    """One rule: when it applies, what it says, and why it is known.

    id: what `accept` names. severity: error (refuses) or warn. when: fact to condition, all of which must hold; see
    rules.facts for the facts and rules.holds for conditions. unless: likewise; when all of them hold there is no finding.
    at: key of the service that is to be changed; one that begins with `llm_` is taken as it is. message, remedy: for people;
    `{fact}` is replaced. reason: why it is a rule. source: where that is from. experiments: ids in docs/experiments that
    showed it. by: the module that decides instead of `when`. example: a declaration that breaks it, by kind.
    """

    id: str
    severity: str
    when: Mapping[str, Any]
    at: str
    message: str
    reason: str
    remedy: str
    source: tuple[str, ...]
    example: Mapping[str, Any]
    unless: Mapping[str, Any] = {}
    experiments: tuple[str, ...] = ()
    by: str = ""


class Gone(NamedTuple):
    """A flag or variable that engines no longer know. since: the first version that was looked at and does not have it."""

    name: str
    since: str
    instead: str
    value: Any = "1"


class Range(NamedTuple):
    """Values of a flag that make no sense, though the engine's parser takes them. bad: condition. must: what it must be."""

    flag: str
    bad: Any
    must: str
    example: Any
    but: tuple[Any, ...] = ()


class Advisory(NamedTuple):
    """A published vulnerability of an engine. below: first version without it. what: in a few words. when: what else must hold."""

    id: str
    below: str
    what: str
    source: str = "vLLM's security advisories"
    when: Mapping[str, Any] = {}


class Family(NamedTuple):
    """Parsers that models of a family are served with. architectures: for models that declare no family."""

    tools: tuple[str, ...]
    reasoning: tuple[str, ...]
    architectures: tuple[str, ...] = ()


OPERATOR = "operator's notes on three RTX 4090"
MEASURED = "measured on H100 with vLLM 0.26"
READ = "read in vLLM 0.20, 0.26, 0.32 and 0.33"
FLAGS_LINK = "https://docs.vllm.ai/en/latest/cli/serve/"
SECURITY_LINK = "https://docs.vllm.ai/en/latest/usage/security/"

H100 = {"index": 0, "model": "NVIDIA H100 80GB HBM3", "memory": "80 GiB"}
# Numbers of Qwen3-8B; GLM-4.7-Flash's for latent attention.
DENSE = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 12288,
    "num_hidden_layers": 36,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 151936,
    "max_position_embeddings": 40960,
}
LATENT = {
    **DENSE,
    "hidden_size": 2048,
    "intermediate_size": 10240,
    "num_attention_heads": 20,
    "num_key_value_heads": 20,
    "kv_lora_rank": 512,
    "qk_rope_head_dim": 64,
    "qk_nope_head_dim": 192,
    "v_head_dim": 256,
}


# ---------------------------------------------------------------------------------------------------------------------
# What does not work, or costs more than it gives.

RULES: tuple[Rule, ...] = (
    Rule(
        id="eager-on-gpu",
        severity="error",
        when={"accelerator": "nvidia", "args.enforce-eager": True},
        at="args.enforce-eager",
        message="switches CUDA graphs off",
        reason="tokens then come 3 to 20 times slower",
        remedy="Remove it, or accept the rule with what it is needed for",
        source=(OPERATOR, MEASURED),
        experiments=("eager-rtx4090", "eager-h100"),
        example={"args": {"enforce-eager": True}},
    ),
    Rule(
        id="chunked-prefill-redundant",
        severity="warn",
        when={"engine": ">=0.11", "args.enable-chunked-prefill": True},
        at="args.enable-chunked-prefill",
        message="says what holds anyway",
        reason="the engine has read prompts in chunks by default since 0.11",
        remedy="Remove it",
        source=(READ, FLAGS_LINK),
        example={"args": {"enable-chunked-prefill": True}},
    ),
    Rule(
        id="quantization-flag",
        severity="error",
        when={"args.quantization": "set"},
        at="args.quantization",
        message="names the format of the weights",
        reason="the engine reads it from the checkpoint, and a wrong name loads garbage or nothing",
        remedy="Remove it",
        source=(READ,),
        example={"args": {"quantization": "awq"}},
    ),
    Rule(
        id="speculative-4bit",
        severity="error",
        when={"args.speculative-config": "set", "model.bits": "<=4"},
        unless={"args.speculative-config.method": ("ngram", "suffix")},
        at="args.speculative-config",
        message="drafts tokens for weights of {model.bits} bits",
        reason="of the drafts of MTP about none were accepted, so that all of them are work for nothing",
        remedy="Remove it, or accept the rule with the acceptance that you measured",
        source=(OPERATOR,),
        experiments=("mtp-awq",),
        example={
            "model": {"quantization": "awq"},
            "args": {"speculative-config": {"method": "mtp", "num_speculative_tokens": 1}},
        },
    ),
    Rule(
        id="fp8-kv-half-hopper",
        severity="error",
        when={"capability": "9.0", "args.kv-cache-dtype": "fp8*", "dtype": "float16", "model.mla": False},
        at="args.kv-cache-dtype",
        message="with 16-bit floats of type half ends the boot on this GPU, after minutes, while CUDA graphs are captured",
        reason="FlashAttention 3, which compute capability 9.0 gets, takes FP8 keys only beside bfloat16",
        remedy="Set `dtype: bfloat16`, or leave the KV cache at 16 bit",
        source=(MEASURED,),
        experiments=("fp8-kv-half-gqa-h100",),
        example={"gpus": [H100], "config": DENSE, "args": {"kv-cache-dtype": "fp8", "dtype": "half"}},
    ),
    Rule(
        id="fp8-kv-half-mla",
        severity="error",
        when={"capability": "9.0", "args.kv-cache-dtype": "fp8*", "dtype": "float16", "model.mla": True},
        at="args.kv-cache-dtype",
        message="with 16-bit floats of type half ends the boot on this GPU, after minutes",
        reason="FlashMLA expects bfloat16 there",
        remedy="Set `dtype: bfloat16`, or leave the KV cache at 16 bit",
        source=(MEASURED,),
        experiments=("fp8-kv-half-mla-h100",),
        example={"gpus": [H100], "config": LATENT, "args": {"kv-cache-dtype": "fp8", "dtype": "half"}},
    ),
    Rule(
        id="fp8-kv-mla-ada",
        severity="warn",
        when={"capability": "8.9", "args.kv-cache-dtype": "fp8*", "model.mla": True},
        at="args.kv-cache-dtype",
        message="compresses a latent KV cache once more",
        reason="compute capability 8.9 has Triton's kernel alone for it, a late one; what it does to answers is not known",
        remedy="Compare answers with and without it, and accept the rule with the result",
        source=(OPERATOR, READ),
        example={"config": LATENT, "args": {"kv-cache-dtype": "fp8"}},
    ),
    Rule(
        id="batched-tokens-high",
        severity="warn",
        when={"accelerator": "nvidia", "batched": ">=32768", "seqs": ">=64"},
        at="args.max-num-batched-tokens",
        message="lets {batched} tokens into one step of {seqs} sequences",
        reason="64 short prompts at once ran an engine out of memory that its start had not foreseen, and everybody waits "
        "0.8 to 1.2 s while a 30K prompt is read",
        remedy="Prove it with a burst of short prompts, or lower it to 8192",
        source=(MEASURED,),
        experiments=("glm-batched-32k-h100",),
        example={"args": {"max-num-batched-tokens": 32768, "max-num-seqs": 64}},
    ),
    Rule(
        id="shm-small",
        severity="warn",
        when={"ranks": ">1", "shm.gib": "<4"},
        at="limits.shm_size",
        message="leaves {ranks} processes {shm.gib} GiB of shared memory",
        reason="ranks exchange tensors through it; the operator's engines on two GPUs run with 16 GiB. That less than 4 GiB is too "
        "little is a guess: nothing between was tried",
        remedy="Set `limits.shm_size: 16g`",
        source=(OPERATOR,),
        example={"gpus": 2, "args": {"tensor-parallel-size": 2}, "service": {"limits": {"shm_size": "1g"}}},
    ),
    Rule(
        id="metrics-off",
        severity="error",
        when={"args.disable-log-stats": True},
        at="args.disable-log-stats",
        message="switches the engine's metrics off",
        reason="a hung engine answers /health with 200 for ever, and only its counters tell it from one that works; idle ones "
        "died within 10 minutes to hours",
        remedy="Remove it",
        source=(OPERATOR, READ),
        example={"args": {"disable-log-stats": True}},
    ),
    Rule(
        id="mount-over-model",
        severity="error",
        when={"mounts": ("*/.cache/huggingface*",)},
        at="volumes",
        message="mounts something over the place where an engine looks for models",
        reason="an empty folder there looked like a slow boot for an hour, and the model is mounted by the project",
        remedy="Remove the mount; a folder of your own is a `path` source of the model",
        source=(OPERATOR,),
        experiments=("empty-model-mount",),
        example={"service": {"volumes": ["/srv/hf:/root/.cache/huggingface"]}},
    ),
    # -- parallel sizes
    Rule(
        id="tp-heads",
        severity="error",
        when={"rest.heads": ">0"},
        at="args.tensor-parallel-size",
        message="is {tp}, which does not divide the model's {model.heads} attention heads",
        reason="every rank computes the same number of heads",
        remedy="Choose a size that divides them, or split layers instead with pipeline-parallel-size",
        source=(OPERATOR, READ),
        example={"gpus": 3, "config": DENSE, "args": {"tensor-parallel-size": 3}},
    ),
    Rule(
        id="tp-kv-heads",
        severity="error",
        when={"rest.kv_heads": ">0"},
        at="args.tensor-parallel-size",
        message="is {tp}, and neither divides the model's {model.kv_heads} KV heads nor is a multiple of them",
        reason="every rank keeps the same number of KV heads, or one head is kept by the same number of ranks",
        remedy="Choose a size that fits them, or split layers instead with pipeline-parallel-size",
        source=(READ,),
        example={
            "gpus": 3,
            "config": {**DENSE, "num_attention_heads": 36, "num_key_value_heads": 4, "intermediate_size": 12288},
            "args": {"tensor-parallel-size": 3},
        },
    ),
    Rule(
        id="tp-intermediate",
        severity="error",
        when={"rest.intermediate": ">0"},
        at="args.tensor-parallel-size",
        message="is {tp}, which does not divide the model's intermediate size {model.intermediate}",
        reason="every rank holds the same share of each layer (8192 by 3 gives none)",
        remedy="Choose a size that divides it, or split layers instead with pipeline-parallel-size",
        source=(OPERATOR,),
        example={
            "gpus": 3,
            "config": {**DENSE, "num_attention_heads": 24, "num_key_value_heads": 3, "intermediate_size": 8192},
            "args": {"tensor-parallel-size": 3},
        },
    ),
    Rule(
        id="gpu-count",
        severity="error",
        when={"accelerator": "nvidia", "missing.gpus": "!=0"},
        at="args.tensor-parallel-size",
        message="tensor, pipeline and data parallel sizes make {ranks} ranks, and {gpus} GPUs are given",
        reason="the engine waits for GPUs that it does not get, or leaves some idle",
        remedy="Make the two agree (`gpus` and the flags)",
        source=(OPERATOR,),
        example={"args": {"tensor-parallel-size": 2}, "service": {"limits": {"shm_size": "16g"}}},
    ),
    # -- parsers
    Rule(
        id="tool-parser-family",
        severity="error",
        when={"fits.tool_parser": False},
        at="args.tool-call-parser",
        message="is `{args.tool-call-parser}`, and models of family {family} write tool calls for {family.tools}",
        reason="the wrong parser leaves tool calls as text in the answer",
        remedy="Write one of these, or accept the rule with the tool calls that you tested",
        source=(OPERATOR, "https://docs.vllm.ai/en/latest/features/tool_calling/"),
        example={
            "model": {"family": "glm-4.7"},
            "args": {"tool-call-parser": "hermes", "enable-auto-tool-choice": True},
        },
    ),
    Rule(
        id="reasoning-parser-family",
        severity="error",
        when={"fits.reasoning_parser": False, "model.thinking": True},
        at="args.reasoning-parser",
        message="is `{args.reasoning-parser}`, and models of family {family} write thoughts for {family.reasoning}",
        reason="the wrong parser mixes thoughts and answers",
        remedy="Write one of these, or accept the rule with the answers that you tested",
        source=(OPERATOR, "https://docs.vllm.ai/en/latest/features/reasoning_outputs/"),
        example={"model": {"family": "qwen3", "thinking": True}, "args": {"reasoning-parser": "glm45"}},
    ),
    Rule(
        id="reasoning-parser-unused",
        severity="error",
        when={"args.reasoning-parser": "set", "model.thinking": False},
        at="args.reasoning-parser",
        message="looks for thoughts, and the model is declared not to think",
        reason="a parser that waits for the end of thoughts calls the whole answer a thought",
        remedy="Remove it, or declare `thinking: true` on the model",
        source=(OPERATOR,),
        example={"model": {"thinking": False}, "args": {"reasoning-parser": "qwen3"}},
    ),
    # -- what comes from outside
    Rule(
        id="remote-code-unpinned",
        severity="error",
        when={"args.trust-remote-code": True, "model.pinned": False},
        at="args.trust-remote-code",
        message="runs Python from the model's repository, whose revision `{model.revision}` moves",
        reason="whoever may write there runs code here with the next fetch",
        remedy="Run playbooks/lock.yml, or write the commit as the model's `revision`, after reading the code",
        source=(SECURITY_LINK,),
        example={"args": {"trust-remote-code": True}},
    ),
    Rule(
        id="media-domains",
        severity="warn",
        when={"model.vision": True, "args.allowed-media-domains": "unset"},
        at="args.allowed-media-domains",
        message="is not set, and the model takes addresses of images",
        reason="the engine then asks any host that a client names, other engines included",
        remedy="List the hosts that images may come from; a name that does not exist leaves images inside requests",
        source=(SECURITY_LINK, "https://github.com/vllm-project/vllm/issues/57157"),
        example={"model": {"vision": True}},
    ),
    Rule(
        id="image-nightly",
        severity="error",
        when={"image.tags": ("*nightly*",)},
        at="image",
        message="comes from a nightly build ({image.tags})",
        reason="the registry keeps about 14 of them: the image cannot be fetched again, nor the one before it",
        remedy="Use a release, or add an `archive` source with the image and accept the rule",
        source=(OPERATOR, READ),
        experiments=("nightly-gone",),
        example={"image": {"sources": [{"pull": "docker.io/vllm/vllm-openai:nightly-2026-11-01"}]}},
    ),
    Rule(
        id="image-unpinned",
        severity="warn",
        when={"image.tags": ("latest", "")},
        at="image",
        message="comes by a tag that moves with every release",
        reason="two hosts, or two runs, get different engines under one name",
        remedy="Write a release and its digest (`name:tag@sha256:...`), or run playbooks/lock.yml",
        source=(OPERATOR,),
        example={"image": {"sources": [{"pull": "docker.io/vllm/vllm-openai:latest"}]}},
    ),
    Rule(
        id="limit-mm-text",
        severity="error",
        when={"engine": ">=0.11", "args.limit-mm-per-prompt": "*=*"},
        at="args.limit-mm-per-prompt",
        message="is not JSON",
        reason="the form image=2 is gone, and the engine does not start with it",
        remedy="Write a mapping: `{image: 2}`",
        source=(READ,),
        example={"args": {"limit-mm-per-prompt": "image=2"}},
    ),
    # -- what the estimate decides (module fit)
    Rule(
        id="does-not-fit",
        severity="error",
        when={},
        by="fit",
        at="args.max-model-len",
        message="one request of max-model-len does not fit into the KV cache",
        reason="weights, activations, graphs and KV cache share what the engine reserves: 46 GB in 48 GB do not run",
        remedy="What the message says: a length, a utilization, or less to hold",
        source=(OPERATOR, "docs/fit.md"),
        example={
            "gpus": [{"index": 0, "model": "NVIDIA GeForce RTX 4090", "memory": "24 GiB"}],
            "config": {**DENSE, "num_hidden_layers": 64, "intermediate_size": 25600, "hidden_size": 5120},
            "args": {"max-model-len": 32768},
        },
    ),
    Rule(
        id="utilization-too-high",
        severity="warn",
        when={},
        by="fit",
        at="args.gpu-memory-utilization",
        message="asks for more of a GPU than is free when the engine looks",
        reason="driver and desktop hold some of it, and the engine ends at once where less is free than it reserves",
        remedy="What the message says: a lower utilization",
        source=(OPERATOR, "docs/fit.md"),
        experiments=("utilization-095-rtx4090",),
        example={"args": {"gpu-memory-utilization": 0.99}},
    ),
    Rule(
        id="memory-limit",
        severity="warn",
        when={},
        by="fit",
        at="limits.memory",
        message="is less than what the engine needs of the host's memory to start",
        reason="the kernel ends an engine that passes its limit, in the middle of a boot",
        remedy="Raise it",
        source=("docs/fit.md",),
        example={"config": DENSE, "service": {"limits": {"memory": "1g"}}},
    ),
)


# ---------------------------------------------------------------------------------------------------------------------
# Values that the engine's parser takes and nothing can be done with.

RANGES: tuple[Range, ...] = (
    Range("gpu-memory-utilization", ("<=0", ">1"), "above 0 and at most 1: a share of a GPU's memory", 1.4),
    Range("max-model-len", "<1", "at least 1 (or -1 for what fits)", 0, but=(-1, "-1", "auto")),
    Range("max-num-batched-tokens", "<1", "at least 1", 0),
    Range("max-num-seqs", "<1", "at least 1", 0),
    Range("block-size", "<1", "at least 1", 0),
    Range("decode-context-parallel-size", "<1", "at least 1", 0),
    Range("kv-cache-memory-bytes", "<1", "at least 1", 0),
    Range("max-num-queued-reqs", "<0", "0 or more", -5),
    Range("cpu-offload-gb", "<0", "0 or more", -1),
    Range("kv-offloading-size", "<0", "0 or more", -1),
    Range("shutdown-timeout", "<0", "0 or more", -1),
    Range("max-logprobs", "<-1", "0 or more (or -1 for all)", -2),
    Range("limit-mm-per-prompt.image", "<0", "0 or more", {"image": -1}),
    Range("limit-mm-per-prompt.video", "<0", "0 or more", {"video": -1}),
    Range("speculative-config.num_speculative_tokens", "<1", "at least 1", {"num_speculative_tokens": 0}),
)


# ---------------------------------------------------------------------------------------------------------------------
# What engines no longer know. Preflight asks the image itself; this refuses it before there is an image.

_DEFAULT_OFF = "Remove it: nothing is logged of requests by default"
GONE: tuple[Gone, ...] = (
    Gone("disable-log-requests", "0.20", _DEFAULT_OFF, True),
    Gone("swap-space", "0.20", "Remove it: preempted requests are computed anew"),
    Gone("num-scheduler-steps", "0.20", "Remove it: the scheduler runs beside the GPU by itself"),
    Gone("use-v2-block-manager", "0.20", "Remove it: there is one block manager", True),
    Gone("preemption-mode", "0.20", "Remove it: preempted requests are computed anew", "recompute"),
    Gone("calculate-kv-scales", "0.32", "Remove it: scales come with the checkpoint, or are 1", True),
    Gone("guided-decoding-backend", "0.20", "Write `structured-outputs-config.backend`", "xgrammar"),
    Gone("enable-reasoning", "0.20", "Remove it: `reasoning-parser` is enough", True),
    Gone("max-seq-len-to-capture", "0.20", "Write `max-cudagraph-capture-size`, which counts tokens of a step"),
    Gone("cuda-graph-sizes", "0.20", "Write `cudagraph-capture-sizes`"),
    Gone("task", "0.20", "Write `runner`", "generate"),
    Gone("rope-scaling", "0.20", "Write it into `hf-overrides`", {"rope_type": "yarn"}),
    Gone("device", "0.20", "Remove it: the image decides", "cuda"),
    Gone("compilation-config.level", "0.20", "Write `mode`", {"level": 3}),
    Gone("VLLM_USE_FLASHINFER_MOE_FP16", "0.26", "Write the flag `moe-backend`"),
    Gone("VLLM_ATTENTION_BACKEND", "0.20", "Write the flag `attention-backend`", "FLASH_ATTN"),
    Gone("VLLM_USE_V1", "0.20", "Remove it: there is one engine"),
    Gone("VLLM_LOG_DIR", "0.20", "Remove it: the container's log is Docker's", "/logs"),
)


# ---------------------------------------------------------------------------------------------------------------------
# Published weaknesses.

# What was at hand when this was written.
_UNREAD = "only its id and the version that ends it are known here, so read the advisory"
_CRAFTED = "a crafted request does harm; more is not known here, so read the advisory"
ADVISORIES: tuple[Advisory, ...] = (
    Advisory(
        "CVE-2026-24779",
        "0.14.1",
        "clients make the engine ask hosts inside your network, past the list of media domains",
    ),
    Advisory("CVE-2026-25960", "0.17", "the same, past the fix of CVE-2026-24779"),
    Advisory("CVE-2026-27893", "0.18", "code of a model's repository runs although it was not allowed"),
    Advisory("GHSA-v97p-wpxp-px84", "0.21", _UNREAD),
    Advisory("CVE-2026-48746", "0.22", "a crafted Host header passes by the API key"),
    Advisory("CVE-2026-47155", "0.22", "a pinned revision is not applied to every file"),
    Advisory("CVE-2026-41523", "0.22", "checks are gone where Python runs with -O"),
    Advisory("PYSEC-2026-2303", "0.24", "embeddings sent as a prompt end the engine"),
    Advisory("GHSA-fpch-3xrf-7q96", "0.28", _UNREAD),
    Advisory("CVE-2026-100650", "0.29", "media are read whole before their limits are looked at"),
    Advisory("CVE-2026-105754", "0.30", _CRAFTED),
    Advisory("CVE-2026-105757", "0.30", _CRAFTED),
    Advisory("CVE-2026-105760", "0.30", _CRAFTED),
    Advisory("GHSA-5r3c-5x4v-8gjh", "0.33", _UNREAD),
)


# ---------------------------------------------------------------------------------------------------------------------
# Which parsers belong to which models.

FAMILIES: Mapping[str, Family] = {
    "glm-4.7": Family(("glm47", "glm45"), ("glm45", "glm47"), ("Glm4MoeForCausalLM", "Glm4MoeLiteForCausalLM")),
    "glm-4.6v": Family(("glm45",), ("glm45",), ("Glm4vForConditionalGeneration",)),
    "qwen3": Family(("hermes",), ("qwen3", "deepseek_r1"), ("Qwen3ForCausalLM", "Qwen3MoeForCausalLM")),
    "qwen3-vl": Family(("hermes",), ("qwen3", "deepseek_r1"), ("Qwen3VLForConditionalGeneration",)),
    "qwen3-coder": Family(("qwen3_coder", "qwen3_xml"), ()),
}
