"""What a vLLM engine says while it boots and serves, turned into data.

Pure functions and values: log lines in, phases, numbers and causes out. Nothing here does I/O, and nothing imports
Ansible. The log lines were recorded from vLLM 0.32 on a CPU; lines that only a GPU prints follow the format strings of
the same release's source.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypedDict

# --------------------------------------------------------------------------------------------------------- log lines

_PROCESS = re.compile(r"^\([^()]*\bpid=\d+\)\s?")
_LEVEL = re.compile(
    r"^(?P<level>DEBUG|INFO|WARNING|ERROR|CRITICAL):?\s+(?:\d\d-\d\d \d\d:\d\d:\d\d )?(?:\[[^\]]+\] ?)?"
)
_NOISE = re.compile(
    r"^\s*$"
    r"|\d+%.*\d+/\d+ \["  # a progress bar
    r"|^\s+\[-{1,2}\w|^usage: |^\s+\[\w+\]$"  # argparse
    r"|^Route: |^[\d.]+:\d+ - \""  # the API server's routes and requests
    r"|^  File \"|^ {4,}|^Traceback \(most recent|^[\s^~]+$"  # the frames of a traceback
)

_SECRETS = (
    re.compile(r"\b(hf_)[A-Za-z0-9]{8,}"),
    re.compile(r"\b(sk-)[A-Za-z0-9_-]{8,}"),
    re.compile(r"(?i)\b(bearer\s+)[A-Za-z0-9._~+/=-]{4,}"),
    re.compile(r"(?i)(\bapi[-_]?keys?['\"]?\s*[:=]\s*)(?!\s*None)(?:\[[^\]]*\]|'[^']*'|\"[^\"]*\"|[^\s,;}]+)"),
    re.compile(r"(?i)((?:--api-key|--hf-token)[= ])\S+"),
)


def strip_prefix(line: str) -> tuple[str, str]:
    """Split a log line into its level and its text, without process, time and source file.

    >>> strip_prefix("(EngineCore pid=24) INFO 11-23 06:30:08 [core.py:402] init engine took 4.49 s")
    ('INFO', 'init engine took 4.49 s')

    The level is "" for a line that states none (a traceback, a progress bar).
    """
    text = _PROCESS.sub("", line.rstrip())
    found = _LEVEL.match(text)
    if not found:
        return "", text
    return found["level"], text[found.end() :]


def redact(text: str, secrets: Iterable[str] = ()) -> str:
    """Replace given secrets, and what looks like a key or a token, by ``***``.

    Secrets shorter than 4 characters are ignored: blanking them would shred ordinary words.
    """
    for secret in sorted({item for item in secrets if len(item) >= 4}, key=len, reverse=True):
        text = text.replace(secret, "***")
    for pattern in _SECRETS:
        text = pattern.sub(r"\1***", text)
    return text


def tail(lines: Iterable[str], limit: int = 20, width: int = 400) -> list[str]:
    """Return the last lines worth reading, secrets blanked and length cut.

    Left out are blank lines, progress bars, usage text, requests, and the frames of tracebacks (their last line stays).
    """
    kept = [line.rstrip() for line in lines if not _NOISE.search(strip_prefix(line)[1])]
    return [shorten(redact(line), width) for line in kept[-limit:]]


def shorten(text: str, width: int) -> str:
    """Cut a text to ``width`` characters and mark the cut."""
    return text if len(text) <= width else text[: width - 1] + "…"


# ------------------------------------------------------------------------------------------------------- boot phases


@dataclass(frozen=True)
class Phase:
    """A stretch of the boot: its name, what a user reads, and the lines that show that it has begun."""

    name: str
    text: str
    begins: re.Pattern[str]


def _any(*patterns: str) -> re.Pattern[str]:
    return re.compile("|".join(f"(?:{pattern})" for pattern in patterns))


PHASES: tuple[Phase, ...] = (
    Phase("import", "starting Python and the engine's libraries", _any(r"(?!)")),
    Phase("config", "reading flags and model configuration", _any(r"^non-default args:", r"^Resolved architecture:")),
    Phase(
        "init", "starting the engine core and its workers", _any(r"^Initializing an? .*engine \(v", r"world_size=\d")
    ),
    Phase(
        "weights",
        "loading weights",
        _any(
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
        _any(
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
        _any(r"^Available KV cache memory", r"KV cache size: [\d,]+ tokens", r"GiB for KV cache on node"),
    ),
    Phase(
        "graphs",
        "capturing CUDA graphs",
        _any(r"^Capturing CUDA graphs", r"^Capturing model for ", r"^Graph capturing finished"),
    ),
    Phase("server", "starting the API server", _any(r"^init engine \(", r"^Starting vLLM .*server on ")),
    Phase("ready", "ready", _any(r"^Application startup complete")),
)
_ORDER = {phase.name: index for index, phase in enumerate(PHASES)}
_TEXT = {phase.name: phase.text for phase in PHASES}

_DETAILS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"^Loading .*checkpoint shards:.*?\| (\d+)/(\d+) \["), "shard {0} of {1}"),
    (re.compile(r"^Capturing CUDA graphs.*?\| (\d+)/(\d+) \["), "graph {0} of {1}"),
    (re.compile(r"Compiling a graph for compile range (\([\d, ]+\))"), "range {0}"),
    (re.compile(r"^Resolved architecture: (\S+)"), "{0}"),
    (re.compile(r"KV cache size: ([\d,]+) tokens"), "{0} tokens"),
)


class PhaseTime(TypedDict):
    """How long one phase took, or has taken so far, in seconds."""

    phase: str
    seconds: float


@dataclass(frozen=True)
class BootProgress:
    """How far a boot has come; ``feed`` gives the next state. Times are seconds since the epoch.

    Phases only move forward: with several workers the lines of one mix with those of another that is further on.
    """

    started: float
    marks: tuple[tuple[str, float], ...] = ()
    detail: str = ""
    last_line: str = ""

    @property
    def phase(self) -> str:
        """Name of the current phase."""
        return self.marks[-1][0] if self.marks else PHASES[0].name

    def feed(self, at: float, line: str) -> BootProgress:
        """Take one log line that the engine wrote at ``at``."""
        _level, text = strip_prefix(line)
        text = text.strip()
        if not text:
            return self
        state = replace(self, last_line=shorten(redact(text), 200))
        here = _ORDER[self.phase]
        for phase in reversed(PHASES[here + 1 :]):
            if phase.begins.search(text):
                state = replace(state, marks=(*self.marks, (phase.name, at)), detail="")
                break
        for pattern, form in _DETAILS:
            found = pattern.search(text)
            if found:
                return replace(state, detail=form.format(*found.groups()))
        return state

    def feed_all(self, lines: Iterable[tuple[float, str]]) -> BootProgress:
        """Take many (time, line) pairs."""
        state = self
        for at, line in lines:
            state = state.feed(at, line)
        return state

    def elapsed(self, now: float) -> float:
        """Seconds since the container started."""
        return max(0.0, now - self.started)

    def ready_at(self) -> float | None:
        """When the API server said that it was up, or None."""
        return next((at for name, at in self.marks if name == "ready"), None)

    def phases(self, now: float) -> list[PhaseTime]:
        """Return the time of every phase begun so far, in order; the last one counts up to ``now`` unless it is "ready"."""
        starts = [(PHASES[0].name, self.started), *self.marks]
        ends = [at for _name, at in self.marks] + [now]
        return [
            PhaseTime(phase=name, seconds=round(max(0.0, end - at), 1))
            for (name, at), end in zip(starts, ends, strict=True)
            if name != "ready"
        ]

    def describe(self) -> str:
        """Say in a few words what the engine is doing."""
        text = _TEXT[self.phase]
        return f"{text} ({self.detail})" if self.detail else text

    def quiet(self) -> str:
        """Say the same of a phase that goes on, with the last line of the log: it is what an operator would look up."""
        return f"{self.describe()}; its log's last line: {self.last_line}" if self.last_line else self.describe()


# ------------------------------------------------------------------------------------------------- the engine's numbers


@dataclass(frozen=True)
class _Number:
    key: str
    pattern: re.Pattern[str]
    convert: Callable[[str], Any]
    # Workers of one engine each report theirs: the largest need and the smallest room are the ones that count.
    choose: Callable[[Any, Any], Any] = max


def _integer(text: str) -> int:
    return int(text.replace(",", ""))


_NUMBERS: tuple[_Number, ...] = (
    _Number("version", re.compile(r"^Initializing an? .*engine \(v(\S+?)\)"), str),
    _Number("architecture", re.compile(r"^Resolved architecture: (\S+)"), str),
    _Number("attention_backend", re.compile(r"Using (\S+) attention backend"), str),
    _Number("max_model_len", re.compile(r"^Using max model len (\d+)"), _integer),
    _Number("checkpoint_gib", re.compile(r"Checkpoint size: ([\d.]+) GiB"), float),
    _Number("weights_seconds", re.compile(r"^Loading weights took ([\d.]+) seconds"), float),
    _Number("weights_gib", re.compile(r"^Model loading took ([\d.]+) GiB"), float),
    _Number("load_seconds", re.compile(r"^Model loading took [\d.]+ GiB(?: memory)? and ([\d.]+) seconds"), float),
    _Number("compile_seconds", re.compile(r"torch\.compile (?:.*)?(?:took|takes) ([\d.]+) s in total"), float),
    _Number("graph_seconds", re.compile(r"^Graph capturing finished in (\d+) secs"), float),
    _Number("graph_gib", re.compile(r"^Graph capturing finished in \d+ secs, took (-?[\d.]+) GiB"), float),
    _Number("graph_estimate_gib", re.compile(r"^Estimated CUDA graph memory: ([\d.]+) GiB"), float),
    _Number("kv_cache_gib", re.compile(r"^Available KV cache memory: ([\d.]+) GiB"), float, min),
    _Number("kv_cache_gib", re.compile(r"^(?:Explicitly|Auto) set \(([\d.]+)/"), float, min),
    _Number("kv_cache_tokens", re.compile(r"KV cache size: ([\d,]+) tokens"), _integer, min),
    _Number("kv_concurrency", re.compile(r"Maximum concurrency for [\d,]+ tokens per request: ([\d.]+)x"), float, min),
    # One long line sums up what the memory went to; until about 0.31 it told weights and the rest apart.
    _Number("gpu_free_gib", re.compile(r"^Free memory on device \(([\d.]+)/[\d.]+ GiB\) on startup"), float, min),
    _Number("gpu_total_gib", re.compile(r"^Free memory on device \([\d.]+/([\d.]+) GiB\) on startup"), float, min),
    _Number("requested_gib", re.compile(r"Desired GPU memory utilization is \([\d.]+, ([\d.]+) GiB\)"), float, min),
    _Number("activation_gib", re.compile(r" ([\d.]+) GiB for peak activation"), float),
    _Number("other_gib", re.compile(r" (-?[\d.]+) GiB for non-torch memory"), float),
    _Number("consumed_gib", re.compile(r"Actual usage is ([\d.]+) GiB for consumed memory"), float),
    _Number("init_seconds", re.compile(r"^init engine \(.*?\) took ([\d.]+) s"), float),
)


def harvest(lines: Iterable[str]) -> dict[str, Any]:
    """Collect the numbers that the engine measured about itself during one boot.

    Keys, where the log has them: version, architecture, attention_backend, max_model_len (tokens), checkpoint_gib (on
    disk), weights_gib (in the memory of one worker), weights_seconds, load_seconds, compile_seconds, graph_seconds,
    graph_gib, graph_estimate_gib (as counted before the KV cache is sized), kv_cache_gib, kv_cache_tokens, kv_concurrency
    (requests of full length), gpu_total_gib, gpu_free_gib (when the engine looks first), requested_gib, activation_gib,
    other_gib (not the framework's), consumed_gib (weights and those), init_seconds. GiB are 2**30 bytes.
    """
    result: dict[str, Any] = {}
    for line in lines:
        _level, text = strip_prefix(line)
        for number in _NUMBERS:
            found = number.pattern.search(text)
            if found:
                value = number.convert(found.group(1))
                held = result.get(number.key)
                result[number.key] = value if held is None else number.choose(held, value)
    return result


def compile_cache(lines: Iterable[str]) -> str:
    """What a boot found in its folder of compiled code: "warm" (it was loaded), "cold" (it was made), "unused" (neither).

    Parts may be loaded and others made, as after an aborted boot. That is "cold": the making is what takes time.
    """
    texts = [strip_prefix(line)[1] for line in lines]

    def seen(words: str) -> bool:
        return any(words in text for text in texts)

    if seen("Compiling a graph for "):
        return "cold"
    if seen("Directly load "):
        return "warm"
    return "cold" if seen("saved AOT compiled function") else "unused"


# ------------------------------------------------------------------------------------------------------ likely causes


@dataclass(frozen=True)
class Cause:
    """Why a boot failed, as far as the log tells: an id, a sentence, what to do, and the line that shows it."""

    id: str
    cause: str
    remedy: str
    line: str = ""

    def __str__(self) -> str:
        """Return the sentence for a user."""
        return f"{self.cause} {self.remedy}"


@dataclass(frozen=True)
class _Rule:
    id: str
    pattern: re.Pattern[str]
    cause: str
    remedy: str


def _rule(name: str, pattern: str, cause: str, remedy: str) -> _Rule:
    return _Rule(name, re.compile(pattern), cause, remedy)


_KILLED = "Look for the kernel's out-of-memory killer (`dmesg`), or for somebody who stopped it."
_CRASHED = "Check that the image is built for this CPU or GPU, and that its driver fits."
_TOO_SMALL = r"max seq len \((?P<want>\d+)\).*?\((?P<need>[\d.]+) GiB KV cache is needed.*?\((?P<have>[\d.]+) GiB\)"

# The first rule that matches any line wins, so the narrow ones stand first.
_RULES: tuple[_Rule, ...] = (
    _rule(
        "unknown_flag",
        r"error: unrecognized arguments?: (?P<what>.+)",
        "The engine does not know these arguments: {what}.",
        "Remove or rename them in `args` of the service: flags come and go between engine versions.",
    ),
    _rule(
        "bad_flag_value",
        r"error: argument (?P<flag>\S+): (?P<what>.+)",
        "The engine refuses the value of {flag}: {what}.",
        "Correct it in `args` of the service.",
    ),
    _rule(
        "unknown_parser",
        r"invalid (?P<kind>tool call|reasoning) parser: (?P<what>\S+)",
        "The engine has no {kind} parser named {what}.",
        "Name one that this engine version has, or mount the file that defines it as a plugin of the service.",
    ),
    _rule(
        "context_too_long",
        r"max_model_len \((?P<want>\d+)\) is greater than the derived max_model_len \([^=]*=(?P<have>[\d]+)",
        "max-model-len {want} is more than the model declares ({have} tokens).",
        "Lower `max-model-len` in `args` of the service.",
    ),
    _rule(
        "kv_cache_too_small",
        _TOO_SMALL + r".*?maximum model length is (?P<fits>\d+)",
        "One request of {want} tokens needs {need} GiB of KV cache, and {have} GiB are there: enough for {fits} tokens.",
        "Lower `max-model-len`, or give the engine more memory (`gpu-memory-utilization`).",
    ),
    _rule(
        "kv_cache_too_small",
        _TOO_SMALL,
        "One request of {want} tokens needs {need} GiB of KV cache, and {have} GiB are there.",
        "Lower `max-model-len`, or give the engine more memory (`gpu-memory-utilization`).",
    ),
    _rule(
        "no_kv_cache",
        r"No available memory for (?:the cache blocks|KV cache)",
        "The weights leave no memory for the KV cache.",
        "Raise `gpu-memory-utilization`, take a smaller or quantized model, or spread it over more GPUs.",
    ),
    _rule(
        "gpu_memory_taken",
        r"Free memory on device (?P<device>\S+) \((?P<free>[\d.]+)/(?P<total>[\d.]+) GiB\).*?"
        r"\((?P<util>[\d.]+), (?P<want>[\d.]+) GiB\)",
        "{device} has {free} of {total} GiB free, and the engine wants {want} GiB (utilization {util}).",
        "Stop what else uses this GPU, or lower `gpu-memory-utilization`.",
    ),
    _rule(
        "memory_taken",
        r"Available memory on node \S+ \((?P<free>[\d.]+)/(?P<total>[\d.]+) GiB\).*?\((?:[\d.]+, |[\d.]+/)?(?P<want>[\d.]+) GiB\)",
        "The host has {free} of {total} GiB of memory free, and the engine wants {want} GiB.",
        "Lower `gpu-memory-utilization` (it counts for the CPU too) or VLLM_CPU_KVCACHE_SPACE, or free memory.",
    ),
    _rule(
        "gpu_out_of_memory",
        r"CUDA out of memory|OutOfMemoryError|CUDA error: out of memory",
        "The GPU ran out of memory while the engine started.",
        "Lower `gpu-memory-utilization`, `max-num-seqs` or `max-num-batched-tokens`, or stop what else uses the GPU.",
    ),
    _rule(
        "no_gpu",
        r"No CUDA GPUs are available|NVML Shared Library Not Found|Failed to infer device type|libcuda\.so\.1: cannot open"
        r"|no CUDA-capable device|Found no NVIDIA driver",
        "The container sees no GPU.",
        "Check `nvidia-smi` on the host, the NVIDIA container toolkit, and `gpus` of the service.",
    ),
    _rule(
        "driver",
        r"CUDA driver version is insufficient|Driver/library version mismatch|driver/library version mismatch",
        "The NVIDIA driver does not fit the image, or was upgraded without a reboot.",
        "Reboot the host, or install the driver that the image's CUDA version asks for.",
    ),
    _rule(
        "shared_memory",
        r"Bus error|No space left on device.*?(?:/dev/shm|shm_)|(?:/dev/shm|shm_).*?No space left on device",
        "Shared memory (/dev/shm) is too small for the engine's workers.",
        "Raise `limits.shm_size` of the service.",
    ),
    _rule(
        "disk_full",
        r"No space left on device",
        "A disk that the engine writes to is full.",
        "Free space under the cache folder of the service, then start it again.",
    ),
    _rule(
        "permission",
        r"PermissionError: \[Errno 13\] Permission denied: (?P<what>'[^']+'|\S+)",
        "The engine's user may not read or write {what}.",
        "Give that file or folder to the numeric user that the container runs as.",
    ),
    _rule(
        "port_in_use",
        r"\[Errno 98\]|[Aa]ddress already in use",
        "The port that the engine wants is in use inside its network.",
        "Find the process that listens there (`ss -ltnp`), or leave the engine's port at its default.",
    ),
    _rule(
        "no_model",
        r"Invalid repository ID or local directory specified: (?P<what>\S+)",
        "There is no model at {what}: the folder is empty or lacks config.json.",
        "Check the model's folder on the host and its volume; an empty bind mount looks exactly like this.",
    ),
    _rule(
        "model_not_here",
        r"LocalEntryNotFoundError|outgoing traffic has been disabled|OfflineModeIsEnabled|couldn't connect to 'https://huggingface",
        "The engine looks for the model on the hub, and it runs offline.",
        "Put the model in the model store first; services read it from their /model folder only.",
    ),
    _rule(
        "model_gated",
        r"GatedRepoError|Cannot access gated repo",
        "The model's owner asks for an accepted licence and a token.",
        "Accept the licence on the hub and give a token to the model store, not to the engine.",
    ),
    _rule(
        "architecture",
        r"Model architectures (?P<what>\[[^\]]+\]) are not supported",
        "This engine version does not know the model architecture {what}.",
        "Take an engine version that lists it, or another model.",
    ),
    _rule(
        "broken_weights",
        r"SafetensorError: (?P<what>.+)",
        "A weight file is damaged or cut short: {what}.",
        "Verify the model's folder against its manifest and fetch the file again.",
    ),
    _rule(
        "dtype",
        r"expected scalar type (?P<want>\w+) but found (?P<have>\w+)",
        "A kernel got {have} where it takes {want} only.",
        "Change `dtype` or `kv-cache-dtype` of the service: not every pair works with every attention backend.",
    ),
    _rule(
        "missing_module",
        r"(?:ModuleNotFoundError|ImportError): (?P<what>.+)",
        "The image lacks something that the engine imports: {what}.",
        "Rebuild the image, or remove the plugin or flag that asks for it.",
    ),
    _rule(
        "config",
        r"^\s*Value error, (?P<what>.+?)(?: \[type=|$)",
        "The engine refuses its configuration: {what}.",
        "Correct `args` or `env` of the service.",
    ),
    _rule(
        "killed",
        r"Failed core proc\(s\): \{[^}]*: -9\b",
        "A process of the engine was killed while it started (SIGKILL).",
        _KILLED,
    ),
    _rule(
        "crashed",
        r"Failed core proc\(s\): \{[^}]*: -(?P<signal>\d+)\b",
        "A process of the engine crashed while it started (signal {signal}).",
        _CRASHED,
    ),
    # The frame that reads, and not the error: a damaged file fails as whatever it was (syntax, encoding, pickle).
    _rule(
        "damaged_cache",
        r'File "\S*?(?P<where>vllm/compilation/backends|triton/runtime/cache)\.py", line \d+, '
        r"in (?:initialize_cache|get_group|get_file)$",
        "The engine could not read its own compile cache ({where}): a file there is damaged or cut short.",
        "Move the image's folder below `llm_root`/cache away and run again: the engine makes it anew, in one cold boot.",
    ),
)

_EXCEPTION = re.compile(r"^(?:[A-Za-z_][\w.]*\.)?[A-Z]\w*(?:Error|Exception|Interrupt)\b: *\S")
_CONSEQUENCE = re.compile(
    r"Engine core initialization failed|WorkerProc initialization failed|EngineDeadError|EngineCore encountered"
    r"|See root cause above|cancelled|BrokenPipeError|resource_tracker"
)


def likely_cause(lines: Sequence[str], *, exit_code: int | None = None, oom_killed: bool = False) -> Cause | None:
    """Name the likely cause of a failed boot, or None when neither state nor log tells.

    Lines of level DEBUG, INFO and WARNING are not looked at: a warning may quote the very error it warns of.
    """
    texts = [text for level, text in map(strip_prefix, lines) if level in ("", "ERROR", "CRITICAL")]
    if oom_killed:
        return Cause(
            "out_of_memory",
            "The container reached its memory limit and was killed.",
            "Raise `limits.memory` of the service, or lower VLLM_CPU_KVCACHE_SPACE or `max-num-batched-tokens`.",
        )
    for rule in _RULES:
        for text in reversed(texts):
            found = rule.pattern.search(text)
            if found:
                values = {
                    key: redact(shorten(value or "", 200)).rstrip(". ") for key, value in found.groupdict().items()
                }
                line = shorten(redact(text.strip()), 300)
                return Cause(rule.id, rule.cause.format(**values), rule.remedy, line)
    for text in reversed(texts):
        if _EXCEPTION.search(text) and not _CONSEQUENCE.search(text):
            line = shorten(redact(text.strip()), 300)
            return Cause("exception", f"The engine stopped with: {line}", "Read the log lines below.", line)
    if exit_code == 137:
        return Cause(
            "killed",
            "The engine was killed (SIGKILL).",
            _KILLED,
        )
    if exit_code in (139, 134, 132):
        return Cause(
            "crashed",
            f"The engine's process crashed (exit code {exit_code}: a fault in native code).",
            _CRASHED,
        )
    return None


# ------------------------------------------------------------------------------------------------------------ metrics


@dataclass(frozen=True)
class Sample:
    """One sample of the Prometheus text format."""

    name: str
    value: float
    labels: Mapping[str, str] = field(default_factory=dict)


_SAMPLE = re.compile(r"^(?P<name>[A-Za-z_:][\w:]*)(?:\{(?P<labels>.*)\})?\s+(?P<value>\S+)(?:\s+-?\d+)?$")
_LABEL = re.compile(r'([A-Za-z_]\w*)="((?:[^"\\]|\\.)*)"')
_ESCAPE = re.compile(r"\\(.)")


def parse_metrics(text: str) -> list[Sample]:
    """Read Prometheus' text exposition format (version 0.0.4); lines that are not samples are left out."""
    samples = []
    for line in text.splitlines():
        found = _SAMPLE.match(line.strip())
        if not found:
            continue
        try:
            value = float(found["value"].replace("Inf", "inf"))
        except ValueError:
            continue
        labels = {
            key: _ESCAPE.sub(lambda match: "\n" if match[1] == "n" else match[1], raw)
            for key, raw in _LABEL.findall(found["labels"] or "")
        }
        samples.append(Sample(found["name"], value, labels))
    return samples


def metric_sum(samples: Iterable[Sample], name: str, **labels: str) -> float | None:
    """Add up all samples of a name whose labels hold the given values; None when there is none."""
    values = [
        sample.value
        for sample in samples
        if sample.name == name and all(sample.labels.get(key) == value for key, value in labels.items())
    ]
    return sum(values) if values else None


# ------------------------------------------------------------------------------------------------------------ verdict


class Check(TypedDict):
    """One question put to a service: ``evidence`` says what came back, ``remedy`` what to do.

    A remedy beside ``ok`` is a warning; ``remedy`` is "" when there is nothing to do.
    """

    id: str
    ok: bool
    seconds: float
    evidence: str
    remedy: str


class Numbers(TypedDict):
    """What a service's log-probabilities told: of its known answer, and of a fixed text (see numbers.Reading), None if nothing."""

    question: str
    answer: str
    margin: float | None
    reading: dict[str, Any] | None


class _Told(TypedDict, total=False):
    numbers: Numbers


class ServiceVerdict(_Told):
    """All checks of one service; ok only when each is. numbers: where log-probabilities were asked for."""

    ok: bool
    checks: list[Check]


class Verdict(TypedDict):
    """The answer of a run: ok only when every service is, and there is at least one."""

    ok: bool
    services: dict[str, ServiceVerdict]


def service_verdict(checks: Sequence[Check]) -> ServiceVerdict:
    """Sum up one service. No check at all proves nothing, so it is not ok."""
    return ServiceVerdict(ok=bool(checks) and all(check["ok"] for check in checks), checks=list(checks))


def verdict(services: Mapping[str, ServiceVerdict]) -> Verdict:
    """Sum up a run."""
    ordered = {name: services[name] for name in sorted(services)}
    return Verdict(ok=bool(ordered) and all(item["ok"] for item in ordered.values()), services=ordered)


def merge_verdict(held: object, name: str, result: ServiceVerdict) -> Verdict:
    """Put one service's result into a verdict read from a file; anything in there that is no verdict is dropped."""
    services: dict[str, ServiceVerdict] = {}
    if isinstance(held, dict) and isinstance(held.get("services"), dict):
        for key, item in held["services"].items():
            if isinstance(item, dict) and isinstance(item.get("ok"), bool) and isinstance(item.get("checks"), list):
                services[str(key)] = ServiceVerdict(ok=item["ok"], checks=item["checks"])
                if isinstance(item.get("numbers"), dict):
                    services[str(key)]["numbers"] = item["numbers"]
    services[name] = result
    return verdict(services)
