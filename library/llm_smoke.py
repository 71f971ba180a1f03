#!/usr/bin/python
from __future__ import annotations

DOCUMENTATION = r"""
---
module: llm_smoke
short_description: Ask a service real questions and judge the answers
description:
  - Sends real requests with the OpenAI SDK and checks health, the served model, the refusal of requests without a key and
    with a wrong one, a known answer, and the same answer as a stream.
  - All checks run, also after one has failed; the module fails at the end when any did, with the verdict in its result.
  - Every check has a hard time limit, so the module never hangs. Proxy settings of the environment are ignored.
requirements:
  - openai (Python package, in the environment of the interpreter that runs the module)
options:
  service:
    description: Name of the service in the verdict.
    type: str
    required: true
  base_url:
    description: Address of the OpenAI API, with its version path.
    type: str
    required: true
  model:
    description: Name under which the model is served.
    type: str
    required: true
  api_key:
    description: Key of the service.
    type: str
  api_key_file:
    description: File on the host that holds the key, and nothing else.
    type: path
  question:
    description: Question with a known answer.
    type: str
    default: What is the capital of France?
  answer:
    description: Words that a right answer holds; upper and lower case count the same.
    type: str
    default: Paris
  max_tokens:
    description: Most tokens of an answer; a model that thinks needs more.
    type: int
    default: 512
  health_url:
    description: Health address. Left out, C(/health) at host and port of O(base_url).
    type: str
  timeout:
    description: Seconds for each check.
    type: int
    default: 60
  wait:
    description:
      - Seconds that the health address may take to answer 200, of those that O(timeout) leaves.
      - A gateway needs a few to find an engine that has just been started.
    type: int
    default: 0
  verdict_file:
    description:
      - JSON file on the host that the verdict is put into, written in one step with mode 0644.
      - Other services' results in it are kept.
    type: path
  progress_file:
    description:
      - File that gets one JSON line for each step. The action plugin of the same name fills it in and shows the lines.
    type: path
attributes:
  check_mode:
    support: full
    description: The same requests are sent, which changes nothing on the engine; O(verdict_file) is not written.
  diff_mode:
    support: none
    description: Nothing is changed, so there is nothing to show.
  idempotent:
    support: full
    description: Never reports a change. The verdict is a report of this run, not a state of the host.
author:
  - ansible-vllm
"""

EXAMPLES = r"""
- name: Ask the service
  llm_smoke:
    service: micro-cpu
    base_url: http://127.0.0.1:5010/v1
    health_url: http://172.18.0.2:8000/health
    model: smollm2-135m
    api_key_file: /opt/llm/keys/micro-cpu
    question: What is the capital of France?
    answer: Paris
  vars:
    ansible_python_interpreter: /opt/llm/venv/bin/python
  register: smoke
"""

RETURN = r"""
ok:
  description: Whether every check passed.
  returned: always
  type: bool
verdict:
  description: The verdict of this service, in the shape of the verdict file.
  returned: always
  type: dict
  sample:
    ok: true
    services:
      micro-cpu:
        ok: true
        checks:
          - {id: health, ok: true, seconds: 0.01, evidence: 200 from http://172.18.0.2:8000/health}
answer:
  description: What the model said; empty when it said nothing.
  returned: always
  type: str
ttft_ms:
  description: Milliseconds to the first piece of the streamed answer; null when there was none.
  returned: always
  type: float
endpoint:
  description: The address that was asked.
  returned: always
  type: str
verdict_file:
  description: Where the verdict was written.
  returned: when it was written
  type: str
"""

import json
import secrets
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.llm import client, engine, files, smoke
from ansible.module_utils.llm.deadline import DeadlineExceeded, deadline
from ansible.module_utils.llm.progress import Progress

try:
    import openai

    OPENAI_ERROR = ""
except ImportError as missing:
    OPENAI_ERROR = str(missing)


POLL = 0.5


class Service:
    """The service under test: each method is one check and returns (ok, evidence)."""

    def __init__(self, params: Mapping[str, Any], key: str) -> None:
        self.params = params
        self.base_url: str = params["base_url"]
        self.health_url: str = params["health_url"] or smoke.health_url(self.base_url)
        self.wrong_key = "wrong-" + secrets.token_hex(16)
        self.key = key
        self.sdk = openai.OpenAI(
            base_url=self.base_url,
            api_key=key,
            timeout=params["timeout"],
            max_retries=0,
            # Services run on this very host; a proxy that the environment names is for other places.
            http_client=openai.DefaultHttpxClient(trust_env=False),
        )
        self.text: str | None = None
        self.ttft: float | None = None

    def health(self) -> smoke.Judgement:
        end = time.monotonic() + self.params["wait"]
        while True:
            ok, evidence = self.ask_health()
            if ok or time.monotonic() >= end:
                return ok, evidence
            time.sleep(POLL)

    def ask_health(self) -> smoke.Judgement:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(self.health_url, timeout=self.params["timeout"]) as answer:
                return smoke.judge_health(answer.status, "", self.health_url)
        except urllib.error.HTTPError as error:
            return smoke.judge_health(error.code, str(error.reason), self.health_url)
        except (OSError, ValueError) as error:
            return smoke.judge_health(0, client.explain(error)[1], self.health_url)

    def models(self) -> smoke.Judgement:
        served = [model.id for model in self.sdk.models.list().data]
        return smoke.judge_models(served, self.params["model"])

    def refusal(self, sdk: Any, who: str, **options: Any) -> smoke.Judgement:
        try:
            sdk.chat.completions.create(**self.request(), max_tokens=1, **options)
        except openai.OpenAIError as error:
            status, why = client.explain(error, [self.key, self.wrong_key])
            return smoke.judge_refusal(status, why, who)
        return smoke.judge_refusal(200, "", who)

    def no_key_refused(self) -> smoke.Judgement:
        return self.refusal(self.sdk, "no key", extra_headers={"Authorization": openai.Omit()})

    def wrong_key_refused(self) -> smoke.Judgement:
        return self.refusal(self.sdk.with_options(api_key=self.wrong_key), "a wrong key")

    def request(self) -> dict[str, Any]:
        return {
            "model": self.params["model"],
            "messages": [{"role": "user", "content": self.params["question"]}],
            "temperature": 0,
        }

    def answer(self) -> smoke.Judgement:
        done = self.sdk.chat.completions.create(**self.request(), max_tokens=self.params["max_tokens"])
        choice = done.choices[0]
        self.text = choice.message.content or ""
        return smoke.judge_answer(
            self.text, self.params["answer"], choice.finish_reason, thinking=thinking(choice.message)
        )

    def streaming(self) -> smoke.Judgement:
        start = time.perf_counter()
        pieces: list[str] = []
        finish = tokens = None
        stream = self.sdk.chat.completions.create(
            **self.request(),
            max_tokens=self.params["max_tokens"],
            stream=True,
            stream_options={"include_usage": True},
        )
        with stream:
            for chunk in stream:
                if chunk.usage:
                    tokens = chunk.usage.completion_tokens
                for choice in chunk.choices:
                    if self.ttft is None and (choice.delta.content or thinking(choice.delta)):
                        self.ttft = time.perf_counter() - start
                    if choice.delta.content:
                        pieces.append(choice.delta.content)
                    finish = choice.finish_reason or finish
        return smoke.judge_stream(
            pieces,
            self.params["answer"],
            finish_reason=finish,
            completion_tokens=tokens,
            whole=self.text,
            first_seconds=self.ttft,
        )


def thinking(message: Any) -> str:
    """Return what a reasoning parser split off: engines name the field either way."""
    return getattr(message, "reasoning", None) or getattr(message, "reasoning_content", None) or ""


def judged(name: str, question: Callable[[], smoke.Judgement], seconds: float, hidden: list[str]) -> engine.Check:
    """Run one check inside its time limit; whatever goes wrong becomes its evidence."""
    start = time.perf_counter()
    try:
        with deadline(seconds):
            ok, evidence = question()
    except DeadlineExceeded:
        ok, evidence = False, f"no complete answer within {seconds:g} s. Raise `timeout`, or look at the engine's log."
    except Exception as error:  # noqa: BLE001 - one broken answer must not hide the other checks
        ok, evidence = False, client.failure(error, hidden)
    return engine.Check(
        id=name,
        ok=ok,
        seconds=round(time.perf_counter() - start, 3),
        evidence=engine.redact(evidence, hidden),
    )


def write_verdict(path: Path, service: str, result: engine.ServiceVerdict) -> None:
    """Put one service's result into the verdict file; one that cannot be read is replaced."""
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        held = None
    merged = engine.merge_verdict(held, service, result)
    files.write(path, json.dumps(merged, indent=2, ensure_ascii=False) + "\n")


def run(params: Mapping[str, Any], key: str, progress: Progress) -> tuple[Service, list[engine.Check]]:
    """Put every check to the service."""
    service = Service(params, key)
    hidden = [key, service.wrong_key]
    checks: list[engine.Check] = []
    for number, name in enumerate(smoke.CHECKS, 1):
        progress.say("smoke", f"{name} ({number} of {len(smoke.CHECKS)})")
        checks.append(judged(name, getattr(service, name), params["timeout"], hidden))
    return service, checks


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "service": {"type": "str", "required": True},
            "base_url": {"type": "str", "required": True},
            "model": {"type": "str", "required": True},
            "api_key": {"type": "str", "no_log": True},
            "api_key_file": {"type": "path", "no_log": False},
            "question": {"type": "str", "default": "What is the capital of France?"},
            "answer": {"type": "str", "default": "Paris"},
            "max_tokens": {"type": "int", "default": 512, "no_log": False},
            "health_url": {"type": "str"},
            "timeout": {"type": "int", "default": 60},
            "wait": {"type": "int", "default": 0},
            "verdict_file": {"type": "path"},
            "progress_file": {"type": "path"},
        },
        mutually_exclusive=[("api_key", "api_key_file")],
        required_one_of=[("api_key", "api_key_file")],
        supports_check_mode=True,
    )
    if OPENAI_ERROR:
        module.fail_json(msg=client.missing_sdk(OPENAI_ERROR))
    params = module.params
    try:
        key = client.read_key(params)
    except ValueError as error:
        module.fail_json(msg=str(error))
    service, checks = run(params, key, Progress(params["progress_file"]))
    own = engine.service_verdict(checks)
    result: dict[str, Any] = {
        "changed": False,
        "ok": own["ok"],
        "verdict": engine.verdict({params["service"]: own}),
        "answer": engine.redact(service.text or "", [key]),
        "ttft_ms": None if service.ttft is None else round(service.ttft * 1000, 1),
        "endpoint": params["base_url"],
    }
    if params["verdict_file"] and not module.check_mode:
        try:
            write_verdict(Path(params["verdict_file"]), params["service"], own)
        except OSError as error:
            module.fail_json(
                msg=f"verdict_file {params['verdict_file']}: {error.strerror}. Name a folder that can be written.",
                **result,
            )
        result["verdict_file"] = params["verdict_file"]
    message = smoke.summary(params["service"], [(check["id"], check["ok"], check["evidence"]) for check in checks])
    if not own["ok"]:
        module.fail_json(msg=message, **result)
    module.exit_json(msg=message, **result)


if __name__ == "__main__":
    main()
