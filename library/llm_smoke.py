#!/usr/bin/python
from __future__ import annotations

DOCUMENTATION = r"""
---
module: llm_smoke
short_description: Ask a service real questions and judge the answers
description:
  - Sends real requests with the OpenAI SDK, and plain ones for what it has no name for, and judges the answers. What is asked
    follows from O(ask.args) and from what is known of the model; O(depth) says how much of it.
  - All checks run, also after one has failed; the module fails at the end when any did, with the verdict in its result. Nobody
    there, or two checks in a row without an answer, end it early; what was not asked by then has failed.
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
  api_key:
    description: Key of the service.
    type: str
  api_key_file:
    description: File on the host that holds the key, and nothing else.
    type: path
  ask:
    description: What is declared of the service and of its model, as the plan of M(llm_plan) has it in C(ask.smoke) of a service.
    type: dict
    required: true
    suboptions:
      model:
        description: Name under which the model is served.
        type: str
        required: true
      args:
        description: The service's engine flags. A check for which they lack the means is left out.
        type: dict
        default: {}
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
      timeout:
        description: Seconds for each check. Those with long prompts or many requests may take up to five times as long.
        type: int
        default: 60
      unable:
        description: Checks that this model can't pass, with the reason of each. They are left out, and the message says so.
        type: dict
        default: {}
      slowest:
        description: Share of its recorded speed that a release must reach; 0 asks for none. See O(history_folder).
        type: float
        default: 0.3
      vision:
        description: Whether the model sees images.
        type: bool
        default: false
      context:
        description: The engine's context in tokens. Without it, no prompt is made to be longer than what the engine reads at once.
        type: int
        default: 0
      needle:
        description: Tokens within which the model finds a word again. Left out or 0, none is hidden.
        type: int
      accelerator:
        description: What the engine computes on, V(cpu) or V(nvidia); remedies follow from it.
        type: str
        default: ""
      catalog_model:
        description:
          - Name of the model in the declaration. Log-probabilities of a fixed text are kept with it, and compared with those of the
            same model in O(compare_file).
        type: str
        default: ""
  depth:
    description:
      - V(gate) is what a deployment waits for - health, model, keys, a known answer, whole and as a stream, thoughts, a tool call,
        and speed where O(history_folder) is given. V(full) adds everything else; the table is in docs/smoke.md.
    type: str
    choices: [gate, full]
    default: gate
  compare_file:
    description:
      - Verdict of the release whose log-probabilities are compared; those of O(verdict_file) before this run when it is left out.
        None is there before the first deployment.
    type: path
  history_folder:
    description:
      - Folder with the records of releases (see module_utils/llm/engine/history.py). With it and O(release), the speed of a stream
        is held against the median of what this release reached on this host, and recorded if every check passed.
    type: path
  release:
    description: The release that is asked, for its record.
    type: str
    default: ""
  health_url:
    description: Health address. Left out, C(/health) at host and port of O(base_url).
    type: str
  container:
    description:
      - Container of the engine, whose metrics tell of its cache and of requests that it gave up. Left out, C(/metrics) at host and
        port of O(base_url) is read; a gateway keeps it closed.
    type: str
  wait:
    description:
      - Seconds that the health address may take to answer 200, of those that O(ask.timeout) leaves.
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
    api_key_file: /opt/llm/keys/micro-cpu
    ask:
      model: smollm2-135m
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
  description:
    - The verdict of this service, in the shape of the verdict file. Each check has id, ok, seconds, evidence (what came back) and
      remedy (what to do; empty when there is nothing to do). A remedy of a check that passed is a warning.
    - C(numbers) has question, answer, the margin that the engine showed (null when it is not known), and the reading, its
      log-probabilities of a fixed text (null when it gave none).
  returned: always
  type: dict
  sample:
    ok: true
    services:
      micro-cpu:
        ok: true
        checks:
          - {id: health, ok: true, seconds: 0.01, evidence: 200 from http://172.18.0.2:8000/health, remedy: ""}
answer:
  description: What the model said; empty when it said nothing.
  returned: always
  type: str
ttft_ms:
  description: Milliseconds to the first piece of the streamed answer; null when there was none.
  returned: always
  type: float
slow:
  description: Whether all is right but the speed, and there is one to compare it with.
  returned: always
  type: bool
left_out:
  description: Checks of O(ask.unable) that would apply, with the reason of each.
  returned: always
  type: dict
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
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.llm.base import files
from ansible.module_utils.llm.base.deadline import DeadlineExceeded, deadline
from ansible.module_utils.llm.base.progress import Progress
from ansible.module_utils.llm.base.redact import redact
from ansible.module_utils.llm.declare.checks import Asked
from ansible.module_utils.llm.engine import checks, history, judge, numbers, verdict
from ansible.module_utils.llm.engine import sdk as engine_sdk

try:
    import openai

    OPENAI_ERROR = ""
except ImportError as missing:
    OPENAI_ERROR = str(missing)

PATIENCE = 2  # checks in a row without an answer, after which nothing else is asked
NO_ANSWER = "no complete answer within"


def make_service(
    params: Mapping[str, Any], key: str, usual: judge.Speed | None, before: numbers.Reading | None = None
) -> checks.Client:
    """The service with a client for it. Services run on this very host; a proxy that the environment names is for other places."""
    sdk = openai.OpenAI(
        base_url=params["base_url"],
        api_key=key,
        timeout=params["timeout"] * 5,  # the limit of each check is stricter
        max_retries=0,
        http_client=openai.DefaultHttpxClient(trust_env=False),
    )

    return checks.Client(params, key, sdk, openai.Omit(), usual, before)


def judged(
    name: str, question: Callable[[], judge.Judgement], seconds: float, hidden: list[str]
) -> verdict.CheckResult:
    """Run one check inside its time limit; whatever goes wrong becomes its evidence."""
    start = time.perf_counter()
    try:
        with deadline(seconds):
            found = question()
    except DeadlineExceeded:
        remedy = "Raise `timeout` of the service's `smoke`, or look at the engine's log (`docker logs`)."
        found = judge.Judgement(False, f"{NO_ANSWER} {seconds:g} s", remedy)
    except Exception as error:  # noqa: BLE001 - one broken answer must not hide the other checks
        found = judge.Judgement(False, *engine_sdk.failure(error, hidden))
    return made(name, found, round(time.perf_counter() - start, 3), hidden)


def made(name: str, found: judge.Judgement, seconds: float, hidden: list[str]) -> verdict.CheckResult:
    """A check as the verdict has it."""
    return verdict.CheckResult(
        id=name,
        ok=found.ok,
        seconds=seconds,
        evidence=redact(found.evidence, hidden),
        remedy=redact(found.remedy, hidden),
    )


def read_before(path: Path, service: str) -> numbers.Reading | None:
    """The reading that a verdict keeps of a service; None when there is none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))["services"][service]["numbers"]["reading"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return numbers.held(found)


def numbers_of(service: checks.Client) -> verdict.Numbers:
    """What the log-probabilities told, as a verdict keeps it."""
    margin, now = service.margin, service.reading
    return verdict.Numbers(
        question=service.params["question"],
        answer=service.params["answer"],
        margin=None if margin is None else round(margin, 3),
        reading=numbers.merged(now, service.before).as_dict() if now else None,
    )


def write_verdict(path: Path, service: str, result: verdict.ServiceVerdict) -> None:
    """Put one service's result into the verdict file; one that cannot be read is replaced."""
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        held = None
    merged = verdict.merge_verdict(held, service, result)
    files.write(path, json.dumps(merged, indent=2, ensure_ascii=False) + "\n")


def why_stop(checks: list[verdict.CheckResult], service: checks.Client) -> str:
    """Why it is no use to ask any more, "" while it is."""
    if service.unreachable:
        return "nobody answers there"
    last = checks[-PATIENCE:]
    if len(last) == PATIENCE and all(not c["ok"] and NO_ANSWER in c["evidence"] for c in last):
        return f"{PATIENCE} checks in a row got no complete answer"
    return ""


def run(
    service: checks.Client,
    asked: list[Asked],
    progress: Progress,
    keep: Callable[[list[verdict.CheckResult]], None],
) -> list[verdict.CheckResult]:
    """Put the checks to the service, one after the other; what is there is kept after each, in case this is killed."""
    hidden = [service.key, service.wrong_key]
    checks: list[verdict.CheckResult] = []
    useless = ""
    for number, one in enumerate(asked, 1):
        progress.say("smoke", f"{one.id} ({number} of {len(asked)})")
        useless = useless or why_stop(checks, service)
        if useless:
            checks.append(made(one.id, judge.not_asked(useless), 0.0, hidden))
            continue
        checks.append(judged(one.id, getattr(service, one.id), service.params["timeout"] * one.patience, hidden))
        if number < len(asked):
            keep(checks)
    return checks


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
                    "args": {"type": "dict", "default": {}},
                    "question": {"type": "str", "default": "What is the capital of France?"},
                    "answer": {"type": "str", "default": "Paris"},
                    "max_tokens": {"type": "int", "default": 512, "no_log": False},
                    "timeout": {"type": "int", "default": 60},
                    "unable": {"type": "dict", "default": {}},
                    "slowest": {"type": "float", "default": 0.3},
                    "vision": {"type": "bool", "default": False},
                    "context": {"type": "int", "default": 0},
                    "needle": {"type": "int"},
                    "accelerator": {"type": "str", "default": ""},
                    "catalog_model": {"type": "str", "default": ""},
                },
            },
            "depth": {"type": "str", "choices": ["gate", "full"], "default": "gate"},
            "compare_file": {"type": "path"},
            "history_folder": {"type": "path"},
            "release": {"type": "str", "default": ""},
            "health_url": {"type": "str"},
            "container": {"type": "str"},
            "wait": {"type": "int", "default": 0},
            "verdict_file": {"type": "path"},
            "progress_file": {"type": "path"},
        },
        mutually_exclusive=[("api_key", "api_key_file")],
        required_one_of=[("api_key", "api_key_file")],
        supports_check_mode=True,
    )
    if OPENAI_ERROR:
        module.fail_json(msg=engine_sdk.missing_sdk(OPENAI_ERROR))
    params = {**module.params, **module.params["ask"], "metrics_url": engine_sdk.metrics_url(module.params)}
    params["needle"] = params["needle"] or 0
    name, folder, release = params["service"], params["history_folder"], params["release"]
    try:
        key = engine_sdk.read_key(params)
    except ValueError as error:
        module.fail_json(msg=str(error))
    record = Path(folder) / history.file_name(name, release) if folder and release else None
    usual = history.usual_speed(history.read(record)) if record else None
    applying = judge.applying(
        params["args"],
        params["depth"],
        vision=params["vision"],
        room=params["context"],
        needle=params["needle"],
        history=record is not None,
    )
    left_out = {a.id: str(params["unable"][a.id]) for a in applying if a.id in params["unable"]}
    file = Path(params["verdict_file"]) if params["verdict_file"] and not module.check_mode else None

    def keep(checks: list[verdict.CheckResult]) -> None:
        """What there is while more is asked; that it cannot be written is reported at the end."""
        if file is not None:
            try:
                write_verdict(file, name, verdict.ServiceVerdict(ok=False, checks=checks))
            except OSError:
                return

    before = read_before(Path(params["compare_file"] or params["verdict_file"] or "/"), name)
    service = make_service(params, key, judge.Speed(*usual) if usual else None, before)
    checks = run(service, [a for a in applying if a.id not in left_out], Progress(params["progress_file"]), keep)
    own = verdict.service_verdict(checks)
    if any(c["id"] == "answer" for c in checks):
        own["numbers"] = numbers_of(service)
    for text in judge.warnings(name, checks):
        module.warn(text)
    result: dict[str, Any] = {
        "changed": False,
        "ok": own["ok"],
        "slow": usual is not None and {c["id"] for c in checks if not c["ok"]} == {"speed"},
        "left_out": left_out,
        "verdict": verdict.verdict({name: own}),
        "answer": redact(service.text or "", [key]),
        "ttft_ms": None if service.ttft is None else round(service.ttft * 1000, 1),
        "endpoint": params["base_url"],
    }
    if record and own["ok"] and service.speed_found and not module.check_mode:
        keep_speed(record, service.speed_found)
    if file is not None:
        try:
            write_verdict(file, name, own)
        except OSError as error:
            module.fail_json(
                msg=f"verdict_file {file}: {error.strerror}. Name a folder that can be written.",
                **result,
            )
        result["verdict_file"] = params["verdict_file"]
    message = judge.summary(name, checks, left_out)
    if not own["ok"]:
        module.fail_json(msg=message, **result)
    module.exit_json(msg=message, **result)


def keep_speed(record: Path, found: judge.Speed) -> None:
    """Add a speed to the history of its release; no room for it is no failure."""
    speed: history.Speed = {
        "at": round(time.time(), 3),
        "tokens_per_second": round(found.tokens_per_second, 2),
        "ttft_ms": round(found.ttft_ms, 1),
    }
    try:
        history.add_speed(record, speed)
    except OSError:
        return


if __name__ == "__main__":
    main()
