"""What vLLM alone says while it boots: phases, numbers, and the causes of failures, as tables."""

from __future__ import annotations

import re

from ansible.module_utils.llm.engine.patterns import Number, Phase, Rule, any_of, integer, rule

PHASES: tuple[Phase, ...] = (
    Phase("import", "starting Python and the engine's libraries", any_of(r"(?!)")),
    Phase("config", "reading flags and model configuration", any_of(r"^non-default args:", r"^Resolved architecture:")),
    Phase(
        "init", "starting the engine core and its workers", any_of(r"^Initializing an? .*engine \(v", r"world_size=\d")
    ),
    Phase(
        "weights",
        "loading weights",
        any_of(
            r"^Starting to load model",
            r"^Loading model from scratch",
            r"^Loading .*checkpoint shards:",
            r"^Loading weights took",
            r"^Time spent downloading weights",
        ),
    ),
    Phase(
        "compile",
        "profiling and compiling",
        any_of(
            r"^Model loading took",
            r"Starting torch\.compile",
            r"for vLLM's torch\.compile",
            r"Dynamo bytecode transform time",
            r"Compiling a graph for",
            r"Directly load ",
            r"torch\.compile (?:took|takes|and initial)",
            r"^Profiling CUDA graph memory",
            r"^Warming up model for the compilation",
        ),
    ),
    Phase(
        "kv_cache",
        "allocating the KV cache",
        any_of(r"^Available KV cache memory", r"KV cache size: [\d,]+ tokens", r"GiB for KV cache on node"),
    ),
    Phase(
        "graphs",
        "capturing CUDA graphs",
        any_of(r"^Capturing CUDA graphs", r"^Capturing model for ", r"^Graph capturing finished"),
    ),
    Phase("server", "starting the API server", any_of(r"^init engine \(", r"^Starting vLLM .*server on ")),
    Phase("ready", "ready", any_of(r"^Application startup complete")),
)


NUMBERS: tuple[Number, ...] = (
    Number("version", re.compile(r"^Initializing an? .*engine \(v(\S+?)\)"), str),
    Number("architecture", re.compile(r"^Resolved architecture: (\S+)"), str),
    Number("attention_backend", re.compile(r"Using (\S+) attention backend"), str),
    Number("max_model_len", re.compile(r"^Using max model len (\d+)"), integer),
    Number("checkpoint_gib", re.compile(r"Checkpoint size: ([\d.]+) GiB"), float),
    Number("weights_seconds", re.compile(r"^Loading weights took ([\d.]+) seconds"), float),
    Number("weights_gib", re.compile(r"^Model loading took ([\d.]+) GiB"), float),
    Number("load_seconds", re.compile(r"^Model loading took [\d.]+ GiB(?: memory)? and ([\d.]+) seconds"), float),
    Number("compile_seconds", re.compile(r"torch\.compile (?:.*)?(?:took|takes) ([\d.]+) s in total"), float),
    Number("graph_seconds", re.compile(r"^Graph capturing finished in (\d+) secs"), float),
    Number("graph_gib", re.compile(r"^Graph capturing finished in \d+ secs, took (-?[\d.]+) GiB"), float),
    Number("graph_estimate_gib", re.compile(r"^Estimated CUDA graph memory: ([\d.]+) GiB"), float),
    Number("kv_cache_gib", re.compile(r"^Available KV cache memory: ([\d.]+) GiB"), float, min),
    Number("kv_cache_gib", re.compile(r"^(?:Explicitly|Auto) set \(([\d.]+)/"), float, min),
    Number("kv_cache_tokens", re.compile(r"KV cache size: ([\d,]+) tokens"), integer, min),
    Number("kv_concurrency", re.compile(r"Maximum concurrency for [\d,]+ tokens per request: ([\d.]+)x"), float, min),
    # One long line sums up what the memory went to; until about 0.31 it named weights and the rest separately.
    Number("gpu_free_gib", re.compile(r"^Free memory on device \(([\d.]+)/[\d.]+ GiB\) on startup"), float, min),
    Number("gpu_total_gib", re.compile(r"^Free memory on device \([\d.]+/([\d.]+) GiB\) on startup"), float, min),
    Number("requested_gib", re.compile(r"Desired GPU memory utilization is \([\d.]+, ([\d.]+) GiB\)"), float, min),
    Number("activation_gib", re.compile(r" ([\d.]+) GiB for peak activation"), float),
    Number("other_gib", re.compile(r" (-?[\d.]+) GiB for non-torch memory"), float),
    Number("consumed_gib", re.compile(r"Actual usage is ([\d.]+) GiB for consumed memory"), float),
    Number("init_seconds", re.compile(r"^init engine \(.*?\) took ([\d.]+) s"), float),
)


KILLED = "Look for the kernel's out-of-memory killer (`dmesg`), or for somebody who stopped it."
CRASHED = "Check that the image is built for this CPU or GPU, and that its driver fits."
_TOO_SMALL = r"max seq len \((?P<want>\d+)\).*?\((?P<need>[\d.]+) GiB KV cache is needed.*?\((?P<have>[\d.]+) GiB\)"

# The first rule that matches any line wins, so the narrow ones stand first.
RULES: tuple[Rule, ...] = (
    rule(
        "unknown_flag",
        r"error: unrecognized arguments?: (?P<what>.+)",
        "The engine does not know these arguments: {what}.",
        "Remove or rename them in `args` of the service: flags come and go between engine versions.",
    ),
    rule(
        "bad_flag_value",
        r"error: argument (?P<flag>\S+): (?P<what>.+)",
        "The engine refuses the value of {flag}: {what}.",
        "Correct it in `args` of the service.",
    ),
    rule(
        "unknown_parser",
        r"invalid (?P<kind>tool call|reasoning) parser: (?P<what>\S+)",
        "The engine has no {kind} parser named {what}.",
        "Name one that this engine version has, or mount the file that defines it as a plugin of the service.",
    ),
    rule(
        "context_too_long",
        r"max_model_len \((?P<want>\d+)\) is greater than the derived max_model_len \([^=]*=(?P<have>[\d]+)",
        "max-model-len {want} is more than the model declares ({have} tokens).",
        "Lower `max-model-len` in `args` of the service.",
    ),
    rule(
        "kv_cache_too_small",
        _TOO_SMALL + r".*?maximum model length is (?P<fits>\d+)",
        "One request of {want} tokens needs {need} GiB of KV cache, and {have} GiB are there: enough for {fits} tokens.",
        "Lower `max-model-len`, or give the engine more memory (`gpu-memory-utilization`).",
    ),
    rule(
        "kv_cache_too_small",
        _TOO_SMALL,
        "One request of {want} tokens needs {need} GiB of KV cache, and {have} GiB are there.",
        "Lower `max-model-len`, or give the engine more memory (`gpu-memory-utilization`).",
    ),
    rule(
        "no_kv_cache",
        r"No available memory for (?:the cache blocks|KV cache)",
        "The weights leave no memory for the KV cache.",
        "Raise `gpu-memory-utilization`, take a smaller or quantized model, or spread it over more GPUs.",
    ),
    rule(
        "gpu_memory_taken",
        r"Free memory on device (?P<device>\S+) \((?P<free>[\d.]+)/(?P<total>[\d.]+) GiB\).*?"
        r"\((?P<util>[\d.]+), (?P<want>[\d.]+) GiB\)",
        "{device} has {free} of {total} GiB free, and the engine wants {want} GiB (utilization {util}).",
        "Stop what else uses this GPU, or lower `gpu-memory-utilization`.",
    ),
    rule(
        "memory_taken",
        r"Available memory on node \S+ \((?P<free>[\d.]+)/(?P<total>[\d.]+) GiB\).*?\((?:[\d.]+, |[\d.]+/)?(?P<want>[\d.]+) GiB\)",
        "The host has {free} of {total} GiB of memory free, and the engine wants {want} GiB.",
        "Lower `gpu-memory-utilization` (it counts for the CPU too) or VLLM_CPU_KVCACHE_SPACE, or free memory.",
    ),
    rule(
        "gpu_out_of_memory",
        r"CUDA out of memory|OutOfMemoryError|CUDA error: out of memory",
        "The GPU ran out of memory while the engine started.",
        "Lower `gpu-memory-utilization`, `max-num-seqs` or `max-num-batched-tokens`, or stop what else uses the GPU.",
    ),
    rule(
        "no_gpu",
        r"No CUDA GPUs are available|NVML Shared Library Not Found|Failed to infer device type|libcuda\.so\.1: cannot open"
        r"|no CUDA-capable device|Found no NVIDIA driver",
        "The container sees no GPU.",
        "Check `nvidia-smi` on the host, the NVIDIA container toolkit, and `gpus` of the service.",
    ),
    rule(
        "driver",
        r"CUDA driver version is insufficient|Driver/library version mismatch|driver/library version mismatch",
        "The NVIDIA driver does not fit the image, or was upgraded without a reboot.",
        "Reboot the host, or install the driver that the image's CUDA version asks for.",
    ),
    rule(
        "shared_memory",
        r"Bus error|No space left on device.*?(?:/dev/shm|shm_)|(?:/dev/shm|shm_).*?No space left on device",
        "Shared memory (/dev/shm) is too small for the engine's workers.",
        "Raise `limits.shm_size` of the service.",
    ),
    rule(
        "disk_full",
        r"No space left on device",
        "A disk that the engine writes to is full.",
        "Free space under the cache folder of the service, then start it again.",
    ),
    rule(
        "permission",
        r"PermissionError: \[Errno 13\] Permission denied: (?P<what>'[^']+'|\S+)",
        "The engine's user may not read or write {what}.",
        "Give that file or folder to the numeric user that the container runs as.",
    ),
    rule(
        "port_in_use",
        r"\[Errno 98\]|[Aa]ddress already in use",
        "The port that the engine wants is in use inside its network.",
        "Find the process that listens there (`ss -ltnp`), or leave the engine's port at its default.",
    ),
    rule(
        "no_model",
        r"Invalid repository ID or local directory specified: (?P<what>\S+)",
        "There is no model at {what}: the folder is empty or lacks config.json.",
        "Check the model's folder on the host and its volume; an empty bind mount looks exactly like this.",
    ),
    rule(
        "model_not_here",
        r"LocalEntryNotFoundError|outgoing traffic has been disabled|OfflineModeIsEnabled|couldn't connect to 'https://huggingface",
        "The engine looks for the model on the hub, and it runs offline.",
        "Put the model in the model store first; services read it from their /model folder only.",
    ),
    rule(
        "model_gated",
        r"GatedRepoError|Cannot access gated repo",
        "The model's owner asks for an accepted licence and a token.",
        "Accept the licence on the hub and give a token to the model store, not to the engine.",
    ),
    rule(
        "architecture",
        r"Model architectures (?P<what>\[[^\]]+\]) are not supported",
        "This engine version does not know the model architecture {what}.",
        "Take an engine version that lists it, or another model.",
    ),
    rule(
        "broken_weights",
        r"SafetensorError: (?P<what>.+)",
        "A weight file is damaged or cut short: {what}.",
        "Verify the model's folder against its manifest and fetch the file again.",
    ),
    rule(
        "dtype",
        r"expected scalar type (?P<want>\w+) but found (?P<have>\w+)",
        "A kernel got {have} where it takes {want} only.",
        "Change `dtype` or `kv-cache-dtype` of the service: not every pair works with every attention backend.",
    ),
    rule(
        "missing_module",
        r"(?:ModuleNotFoundError|ImportError): (?P<what>.+)",
        "The image lacks something that the engine imports: {what}.",
        "Rebuild the image, or remove the plugin or flag that asks for it.",
    ),
    rule(
        "config",
        r"^\s*Value error, (?P<what>.+?)(?: \[type=|$)",
        "The engine refuses its configuration: {what}.",
        "Correct `args` or `env` of the service.",
    ),
    rule(
        "killed",
        r"Failed core proc\(s\): \{[^}]*: -9\b",
        "A process of the engine was killed while it started (SIGKILL).",
        KILLED,
    ),
    rule(
        "crashed",
        r"Failed core proc\(s\): \{[^}]*: -(?P<signal>\d+)\b",
        "A process of the engine crashed while it started (signal {signal}).",
        CRASHED,
    ),
    # The frame that reads, and not the error: a damaged file fails as whatever it was (syntax, encoding, pickle).
    rule(
        "damaged_cache",
        r'File "\S*?(?P<where>vllm/compilation/backends|triton/runtime/cache)\.py", line \d+, '
        r"in (?:initialize_cache|get_group|get_file)$",
        "The engine could not read its own compile cache ({where}): a file there is damaged or cut short.",
        "Move the image's folder below `llm_root`/cache away and run again: the engine makes it anew, in one cold boot.",
    ),
)

EXCEPTION = re.compile(r"^(?:[A-Za-z_][\w.]*\.)?[A-Z]\w*(?:Error|Exception|Interrupt)\b: *\S")
CONSEQUENCE = re.compile(
    r"Engine core initialization failed|WorkerProc initialization failed|EngineDeadError|EngineCore encountered"
    r"|See root cause above|cancelled|BrokenPipeError|resource_tracker"
)
