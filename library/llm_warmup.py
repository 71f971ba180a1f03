#!/usr/bin/python
from __future__ import annotations

DOCUMENTATION = r"""
---
module: llm_warmup
short_description: Send prompts of declared sizes and measure the time to the first token
description:
  - A fresh engine takes seconds longer for its first prompt of a size, because kernels are compiled and tuned on first use.
    This module sends prompts of the declared sizes, each twice, then many at once, a long beginning that is repeated, and pictures,
    as far as asked to. It returns the time to the first token (TTFT) of the first and the second.
  - The content is random words and noise, different every time, so that the prefix cache does not answer in the engine's place.
  - An engine that has computed prompts of all these sizes since it started, by its own metrics, is warm and is sent nothing.
  - Two short probes tell how many tokens a word has, by the engine's own count, so that no prompt exceeds the context.
  - Every request has a time limit, and after two in a row without an answer nothing else is sent. What was measured until then is
    returned with the reasons.
  - Proxy settings of the environment are ignored.
requirements:
  - openai (Python package, in the environment of the interpreter that runs the module)
options:
  service:
    description: Name of the service in messages.
    type: str
    required: true
  base_url:
    description: Address of the OpenAI API, with its version path.
    type: str
    required: true
  api_key:
    description: Key of the service.
    type: str
  api_key_file:
    description: File on the host that holds the key, and nothing else.
    type: path
  ask:
    description: What is declared of the service, as the plan of M(llm_plan) has it in C(ask.warmup) of a service.
    type: dict
    required: true
    suboptions:
      model:
        description: Name under which the model is served.
        type: str
        required: true
      prompt_tokens:
        description: Sizes of the prompts in tokens, in the order in which they are sent. Without any, from 50 to the context.
        type: list
        elements: int
        default: []
      concurrency:
        description: Numbers of prompts of the first size to send at once, one number after the other, each twice.
        type: list
        elements: int
        default: []
      shared_prefix:
        description: Tokens of a beginning that two prompts share; 0 sends none.
        type: int
        default: 0
      images:
        description: Whether to send pictures, two.
        type: bool
        default: false
      timeout:
        description: Seconds for each request.
        type: int
        default: 300
  container:
    description: Container of the engine, for its metrics. Left out, C(/metrics) at host and port of O(base_url) is read.
    type: str
  again:
    description: Whether to send everything to a warm engine too.
    type: bool
    default: false
  context:
    description: Tokens of the engine's context. Left out, C(max_model_len) of the engine's list of models is taken.
    type: int
  answer_tokens:
    description: Tokens that the engine generates for each prompt.
    type: int
    default: 4
  seed:
    description: Seed of the random words, to send the same prompts again. Left out, they differ with every run.
    type: int
  progress_file:
    description:
      - File that gets one JSON line for each step. The action plugin of the same name fills it in and shows the lines.
    type: path
attributes:
  check_mode:
    support: full
    description: Sends nothing but a question for the list of models, and returns which sizes would be sent or skipped.
  diff_mode:
    support: none
    description: Nothing is changed, so there is nothing to show.
  idempotent:
    support: full
    description:
      - Never reports a change. What it warms are caches inside the engine; they are no state that a playbook declares, and
        sending the prompts again does no harm.
author:
  - ansible-vllm
"""

EXAMPLES = r"""
- name: Warm the engine up
  llm_warmup:
    service: medium-glm
    base_url: http://127.0.0.1:5002/v1
    api_key_file: /opt/llm/keys/medium-glm
    ask:
      model: glm-4.7-flash
      prompt_tokens: [50, 5000, 30000, 50000]
  vars:
    ansible_python_interpreter: /opt/llm/venv/bin/python
  register: warmup
"""

RETURN = r"""
context:
  description: The context that the sizes were held against, in tokens.
  returned: when the engine said it, or it was given
  type: int
sizes:
  description: One row for each declared size, in order.
  returned: always
  type: list
  elements: dict
  contains:
    prompt_tokens: {description: Declared size., type: int}
    status: {description: "V(ok), V(skipped), V(failed), V(warm), or V(planned) in check mode.", type: str}
    sent_tokens: {description: "Tokens of the two prompts, by the engine's count.", type: list, elements: int}
    first_ms: {description: TTFT of the first prompt of this size in milliseconds., type: float}
    second_ms: {description: TTFT of the second one., type: float}
    reason: {description: Why a size was skipped or failed., type: str}
  sample:
    - {prompt_tokens: 50, status: ok, sent_tokens: [49, 50], first_ms: 412.0, second_ms: 98.5}
    - {prompt_tokens: 50000, status: skipped, reason: longer than the context of 2048 tokens}
concurrency:
  description: One row for each number of O(ask.concurrency), with the longest TTFT of its prompts.
  returned: when prompts were sent
  type: list
  elements: dict
  sample: [{concurrency: 16, status: ok, first_ms: 820.0, second_ms: 310.0}]
prefix:
  description: One row when O(ask.shared_prefix) asks for it; the second prompt is the one that shares its beginning.
  returned: when prompts were sent
  type: list
  elements: dict
images:
  description: One row when O(ask.images) asks for it.
  returned: when prompts were sent
  type: list
  elements: dict
ok:
  description: Whether nothing failed of what was sent.
  returned: always
  type: bool
warm:
  description: Whether the engine was warm, so that nothing was sent.
  returned: always
  type: bool
calibration:
  description: Tokens of a word, and of the chat template around the prompt.
  returned: when prompts were sent
  type: dict
  sample: {per_word: 1.02, overhead: 30.0}
"""

import base64
import random
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.llm.base.deadline import DeadlineExceeded, at_once, deadline
from ansible.module_utils.llm.base.progress import Progress
from ansible.module_utils.llm.engine import sdk as engine_sdk
from ansible.module_utils.llm.engine import warmup
from ansible.module_utils.llm.engine.metrics import parse_metrics

try:
    import openai

    OPENAI_ERROR = ""
except ImportError as missing:
    OPENAI_ERROR = str(missing)


PATIENCE = 2  # requests in a row without an answer, after which nothing else is sent
METRICS = 10  # seconds for the engine's metrics


class WarmupError(Exception):
    """The warm-up cannot go on; the text is for the user."""


class Sender:
    """Sends prompts to one service and times them."""

    def __init__(self, params: Mapping[str, Any], key: str) -> None:
        self.params = params
        self.key = key
        self.rng = random.Random(params["seed"])  # noqa: S311 - words for a prompt, no secret
        self.silent = 0  # how many of what was sent last got no answer
        self.sdk = openai.OpenAI(
            base_url=params["base_url"],
            api_key=key,
            timeout=params["timeout"],
            max_retries=0,
            # Services run on this very host; a proxy that the environment names is for other places.
            http_client=openai.DefaultHttpxClient(trust_env=False),
        )

    def context(self) -> int:
        """Return the engine's context in tokens; raises WarmupError when nobody knows it."""
        with self.limit("the list of models"):
            models = self.sdk.models.list().data
        if self.params["context"]:
            return int(self.params["context"])
        for model in models:
            if model.id == self.params["model"]:
                length = getattr(model, "max_model_len", None)
                if length:
                    return int(length)
                raise WarmupError(f"{self.params['base_url']} does not tell max_model_len. Set `context`.")
        names = ", ".join(model.id for model in models) or "none"
        raise WarmupError(f"{self.params['base_url']} serves {names}, not {self.params['model']}. Correct `model`.")

    def send(self, words: int) -> tuple[int, float]:
        """Send so many random words; return the prompt's tokens and the seconds to the first token."""
        with self.limit(f"a prompt of {words} words"):
            return self.ask(warmup.prompt(words, self.rng))

    def ask(self, content: Any) -> tuple[int, float]:
        """Send a user's message; return the prompt's tokens and the seconds to the first token."""
        first: float | None = None
        tokens = 0
        start = time.perf_counter()
        stream = self.sdk.chat.completions.create(
            model=self.params["model"],
            messages=[{"role": "user", "content": content}],
            temperature=0,
            max_tokens=self.params["answer_tokens"],
            stream=True,
            stream_options={"include_usage": True},
        )
        with stream:
            for chunk in stream:
                # The first chunk comes with the first token, also where it holds no text (a special token).
                if first is None and chunk.choices:
                    first = time.perf_counter() - start
                if chunk.usage:
                    tokens = chunk.usage.prompt_tokens
        if first is None or not tokens:
            raise WarmupError("the stream ended without a token or without usage. Read the engine's log.")
        return tokens, first

    def at_once(self, count: int, words: int) -> float:
        """Send so many prompts at once; return the seconds to the last one's first token."""
        prompts = [warmup.prompt(words, self.rng) for _ in range(count)]
        last = 0.0
        with self.limit(f"{count} prompts at once"):
            for _number, given in at_once(count, lambda number: self.ask(prompts[number])):
                if isinstance(given, BaseException):
                    raise given
                last = max(last, given[1])
        return last

    def beginning(self, words: int) -> tuple[float, float]:
        """Send two prompts with a long beginning in common; return the seconds to the first token of both."""
        shared = warmup.prompt(words, self.rng)
        with self.limit(f"a beginning of {words} words"):
            first, second = (self.ask(f"{shared} {warmup.prompt(8, self.rng)}")[1] for _ in range(2))
        return first, second

    def picture(self) -> float:
        """Send a picture; return the seconds to the first token."""
        url = "data:image/png;base64," + base64.b64encode(warmup.picture(self.rng)).decode()
        content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "What is this?"}]
        with self.limit("a picture"):
            return self.ask(content)[1]

    def is_warm(self, sizes: list[warmup.Size]) -> bool:
        """Whether the engine's metrics say so; one that does not tell is cold."""
        url = engine_sdk.metrics_url(self.params)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with deadline(METRICS), opener.open(url, timeout=METRICS) as answer:
                text = answer.read().decode("utf-8", "replace")
        except (OSError, ValueError, DeadlineExceeded):
            return False
        return warmup.warm(parse_metrics(text), [size.target for size in sizes if not size.skip])

    @contextmanager
    def limit(self, what: str) -> Iterator[None]:
        """Turn time-outs and SDK errors of the block into WarmupError; the block is not entered when nobody answers any more."""
        if self.silent >= PATIENCE:
            raise WarmupError(f"not sent: {PATIENCE} requests in a row got no answer. Read the engine's log.")
        try:
            with deadline(self.params["timeout"]):
                yield
        except (DeadlineExceeded, openai.APITimeoutError):
            self.silent += 1
            raise WarmupError(
                f"{what}: no complete answer within {self.params['timeout']} s. Raise `timeout`, or read the engine's log."
            ) from None
        except openai.APIConnectionError as error:
            self.silent += 1
            raise WarmupError(f"{what}: {'. '.join(engine_sdk.failure(error, [self.key]))}") from None
        except openai.OpenAIError as error:
            self.silent = 0
            raise WarmupError(f"{what}: {'. '.join(engine_sdk.failure(error, [self.key]))}") from None
        self.silent = 0


def calibrate(sender: Sender, context: int) -> warmup.Calibration:
    """Learn from two short prompts how many tokens a word has."""
    many = max(2, min(100, context // 8))
    probes = [(words, sender.send(words)[0]) for words in (1, many)]
    try:
        return warmup.calibrate(probes)
    except ValueError as error:
        raise WarmupError(str(error)) from error


def warm(
    sender: Sender, sizes: list[warmup.Size], calibration: warmup.Calibration, progress: Progress
) -> list[dict[str, Any]]:
    """Send each size twice and return the table."""
    rows = []
    for number, size in enumerate(sizes, 1):
        row: dict[str, Any] = {"prompt_tokens": size.declared}
        rows.append(row)
        if size.skip:
            row.update(status="skipped", reason=size.skip)
            progress.say("warmup", f"{size.declared:,} tokens: skipped, {size.skip}")
            continue
        progress.say("warmup", f"{size.declared:,} tokens ({number} of {len(sizes)})")
        words = calibration.words_for(size.target)
        try:
            (tokens, first), (again, second) = sender.send(words), sender.send(words)
        except WarmupError as error:
            row.update(status="failed", reason=str(error))
            progress.say("warmup", f"{size.declared:,} tokens: failed")
            continue
        row.update(
            status="ok",
            sent_tokens=[tokens, again],
            first_ms=round(first * 1000, 1),
            second_ms=round(second * 1000, 1),
        )
        progress.say(
            "warmup", f"{size.declared:,} tokens: first {first * 1000:,.0f} ms, second {second * 1000:,.0f} ms"
        )
    return rows


def timed(
    row: dict[str, Any], both: Callable[[], tuple[float, float]], progress: Progress, what: str
) -> dict[str, Any]:
    """The row with the times of what is sent twice, or with why that failed."""
    progress.say("warmup", what)
    try:
        first, second = both()
    except WarmupError as error:
        return {**row, "status": "failed", "reason": str(error)}
    return {**row, "status": "ok", "first_ms": round(first * 1000, 1), "second_ms": round(second * 1000, 1)}


def more(
    sender: Sender, sizes: list[warmup.Size], calibration: warmup.Calibration, context: int, progress: Progress
) -> dict[str, list[dict[str, Any]]]:
    """Send what is asked for beside the sizes, and return its rows."""
    params = sender.params
    found: dict[str, list[dict[str, Any]]] = {"concurrency": [], "prefix": [], "images": []}
    words = calibration.words_for(next((size.target for size in sizes if not size.skip), warmup.FIRST))
    for count in params["concurrency"]:

        def crowd(count: int = count) -> tuple[float, float]:
            return sender.at_once(count, words), sender.at_once(count, words)

        found["concurrency"].append(timed({"concurrency": count}, crowd, progress, f"{count} prompts at once"))
    if params["shared_prefix"]:
        (size,) = warmup.plan([params["shared_prefix"]], context - 16, params["answer_tokens"])
        row = {"prompt_tokens": size.declared}
        if size.skip:
            found["prefix"].append({**row, "status": "skipped", "reason": size.skip})
        else:
            shared = calibration.words_for(size.target)
            found["prefix"].append(timed(row, lambda: sender.beginning(shared), progress, "a beginning in common"))
    if params["images"]:
        found["images"].append(timed({}, lambda: (sender.picture(), sender.picture()), progress, "pictures"))
    return found


def run(params: Mapping[str, Any], key: str, progress: Progress, *, check_mode: bool) -> dict[str, Any]:
    """Warm up and return the result; raises WarmupError."""
    sender = Sender(params, key)
    context = sender.context()
    sizes = warmup.plan(params["prompt_tokens"] or warmup.ladder(context), context, params["answer_tokens"])
    is_warm = not params["again"] and sender.is_warm(sizes)
    result: dict[str, Any] = {"changed": False, "context": context, "warm": is_warm}
    if check_mode or is_warm:
        status = "warm" if is_warm else "planned"
        result["sizes"] = [
            {"prompt_tokens": size.declared, "status": "skipped", "reason": size.skip}
            if size.skip
            else {"prompt_tokens": size.declared, "status": status}
            for size in sizes
        ]
        return result
    if all(size.skip for size in sizes):
        return result | {"sizes": warm(sender, sizes, warmup.Calibration(1, 0), progress)}
    progress.say("warmup", "counting tokens")
    calibration = calibrate(sender, context)
    return result | {
        "calibration": {"per_word": round(calibration.per_word, 4), "overhead": round(calibration.overhead, 1)},
        "sizes": warm(sender, sizes, calibration, progress),
        **more(sender, sizes, calibration, context, progress),
    }


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "service": {"type": "str", "required": True},
            "base_url": {"type": "str", "required": True},
            "api_key": {"type": "str", "no_log": True},
            "api_key_file": {"type": "path", "no_log": False},
            "ask": {
                "type": "dict",
                "required": True,
                "options": {
                    "model": {"type": "str", "required": True},
                    "prompt_tokens": {"type": "list", "elements": "int", "default": [], "no_log": False},
                    "concurrency": {"type": "list", "elements": "int", "default": []},
                    "shared_prefix": {"type": "int", "default": 0},
                    "images": {"type": "bool", "default": False},
                    "timeout": {"type": "int", "default": 300},
                },
            },
            "container": {"type": "str"},
            "again": {"type": "bool", "default": False},
            "context": {"type": "int"},
            "answer_tokens": {"type": "int", "default": 4, "no_log": False},
            "seed": {"type": "int"},
            "progress_file": {"type": "path"},
        },
        mutually_exclusive=[("api_key", "api_key_file")],
        required_one_of=[("api_key", "api_key_file")],
        supports_check_mode=True,
    )
    params = {**module.params, **module.params["ask"]}
    service = params["service"]
    if OPENAI_ERROR:
        module.fail_json(msg=engine_sdk.missing_sdk(OPENAI_ERROR))
    try:
        key = engine_sdk.read_key(params)
        result = run(params, key, Progress(params["progress_file"]), check_mode=module.check_mode)
    except (WarmupError, ValueError) as error:
        module.fail_json(msg=f"{service}: {error}", ok=False, sizes=[])
    message = warmup.summary(service, result)
    rows = [row for kind in ("sizes", "concurrency", "prefix", "images") for row in result.get(kind, [])]
    if any(row["status"] == "failed" for row in rows):
        module.fail_json(msg=message, ok=False, **result)
    module.exit_json(msg=message, ok=True, **result)


if __name__ == "__main__":
    main()
