"""The test models as users of the OpenAI and Anthropic SDKs meet them: GLM's and Qwen's thoughts and tool calls, whole.

Services micro-glm and micro-qwen are deployed beside the demo, asked through the gateway, and removed.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from typing import Any

import anthropic
import openai
import pytest
from ansible.module_utils.llm.declare.checks import CHECKS

from tests import catalogs
from tests.e2e.demo import ROOT, Machine, Playbook
from tests.models import make
from tests.models.conversations import (
    ANSWER,
    CITY,
    FOUND,
    NEEDLE,
    QUESTION,
    TOOL,
    TOOL_ANSWER,
    TOOL_QUESTIONS,
    TOOL_RESULT,
)

pytestmark = pytest.mark.e2e

INVENTORY = "tests/models/inventory"
DECLARED = catalogs.read(f"{INVENTORY}/group_vars/all.yml")
SERVICES: dict[str, Any] = DECLARED["llm_services_custom"]
MODELS: dict[str, Any] = DECLARED["llm_models_custom"]
PLACES = [
    *(ROOT / folder / service for service in SERVICES for folder in ("services", "keys")),
    *(ROOT / "models" / model for model in MODELS),
]  # what their deployment leaves on the host

ASKED = {"known": (QUESTION, ANSWER), "needle": (NEEDLE, FOUND)}
FUNCTION = TOOL["function"]
NAME = FUNCTION["name"]
CALL = {"city": CITY}


@pytest.fixture(scope="module")
def fleet(machine: Machine, playbook: Playbook) -> Iterator[None]:
    """Both services beside the demo, deployed as any other. Afterwards the demo is alone, and as it was."""
    make.models()
    # What is not the demo's goes at the end; what slow tests left here, an image of llm-compressor, must go before.
    playbook("site.yml", "-e", "llm_prune=true").passed()
    before = machine.snapshot()
    try:
        playbook("-i", INVENTORY, "site.yml").passed()
        again = playbook("-i", INVENTORY, "site.yml").passed()
        assert again.changed == 0, again.text
        yield
    finally:
        playbook("site.yml", "-e", "llm_prune=true").passed()
        for place in PLACES:
            if place.is_dir():
                shutil.rmtree(place)
            else:
                place.unlink(missing_ok=True)
        machine.await_door()  # the gateway is made anew whenever its ports change
    playbook("site.yml").passed()  # their keys went with their folders: the gateway forgets them
    again = playbook("site.yml").passed()
    assert again.changed == 0, again.text
    after = machine.snapshot()
    for found in (before, after):  # it was made anew, so its id, and the note of it, are others
        del found["containers"]["llm-gateway"], found["files"][str(ROOT / "gateway" / "loaded")]
    names = sorted({*before["files"], *after["files"]})
    differ = [name for name in names if before["files"].get(name) != after["files"].get(name)]
    assert (after["containers"], differ) == (before["containers"], [])


class Asked:
    """One service behind the gateway, and a client of each SDK for it; they try once."""

    def __init__(self, service: str) -> None:
        port, key = SERVICES[service]["port"], (ROOT / "keys" / service).read_text(encoding="utf-8").strip()
        self.model: str = SERVICES[service]["model"]
        base = f"http://127.0.0.1:{port}"
        self.openai = openai.OpenAI(base_url=f"{base}/v1", api_key=key, max_retries=0, timeout=120)
        # Engines ask for a bearer; the SDK's api_key would go into another header.
        self.anthropic = anthropic.Anthropic(base_url=base, auth_token=key, max_retries=0, timeout=120)

    def chat(self, messages: list[Any], **options: Any) -> Any:
        """The choice that the engine gave, by the OpenAI SDK."""
        return self.openai.chat.completions.create(**self._options(messages, options)).choices[0]

    def chat_streamed(self, messages: list[Any], **options: Any) -> list[Any]:
        """The pieces of a streamed choice."""
        chunks = self.openai.chat.completions.create(stream=True, **self._options(messages, options))
        return [chunk.choices[0] for chunk in chunks]

    def _options(self, messages: list[Any], more: dict[str, Any]) -> dict[str, Any]:
        return {"model": self.model, "messages": messages, "temperature": 0, "max_tokens": 80, **more}

    def message(self, messages: list[Any], streamed: bool = False, **options: Any) -> Any:
        """The message that the engine gave, by the Anthropic SDK."""
        # This SDK has no name for the temperature any more; engines have.
        greedy = {"extra_body": {"temperature": 0}}
        wanted = {"model": self.model, "messages": messages, "max_tokens": 80, **greedy, **options}
        if not streamed:
            return self.anthropic.messages.create(**wanted)
        with self.anthropic.messages.stream(**wanted) as stream:
            return stream.get_final_message()


@pytest.fixture(params=SERVICES)
def asked(request: pytest.FixtureRequest, fleet: None) -> Asked:  # noqa: ARG001 - that it is deployed is what counts
    """Each of the services."""
    return Asked(request.param)


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def calls(choice: Any) -> list[tuple[str, Any]]:
    """Names and arguments of the tool calls of a choice."""
    return [(call.function.name, json.loads(call.function.arguments)) for call in choice.message.tool_calls or []]


def blocks(message: Any) -> dict[str, Any]:
    """What an Anthropic message holds, by type: texts, thoughts, inputs of tools."""
    return {block.type: getattr(block, {"tool_use": "input"}.get(block.type, block.type)) for block in message.content}


# ---------------------------------------------------------------------------------------------------------------------
# Answers and thoughts.


@pytest.mark.parametrize("what", ASKED)
def test_openai_answers_after_thinking(asked: Asked, what: str) -> None:
    question, answer = ASKED[what]
    choice = asked.chat([user(question)])
    assert (choice.message.content.strip(), choice.finish_reason) == (answer, "stop")
    assert choice.message.reasoning.strip()


@pytest.mark.parametrize("what", ASKED)
def test_openai_streams_thoughts_and_answer_apart(asked: Asked, what: str) -> None:
    question, answer = ASKED[what]
    pieces = asked.chat_streamed([user(question)])
    assert "".join(piece.delta.content or "" for piece in pieces).strip() == answer
    assert "".join(getattr(piece.delta, "reasoning", None) or "" for piece in pieces).strip()
    assert pieces[-1].finish_reason == "stop"


def test_openai_turns_thinking_off(asked: Asked) -> None:
    choice = asked.chat([user(NEEDLE)], extra_body={"chat_template_kwargs": {"enable_thinking": False}})
    assert choice.message.content.strip() == FOUND and not choice.message.reasoning


@pytest.mark.parametrize("what", ASKED)
def test_anthropic_answers_after_thinking(asked: Asked, what: str) -> None:
    question, answer = ASKED[what]
    message = asked.message([user(question)])
    found = blocks(message)
    assert (found["text"].strip(), message.stop_reason) == (answer, "end_turn")
    assert found["thinking"].strip()


def test_openai_responses_answer(asked: Asked) -> None:
    response = asked.openai.responses.create(model=asked.model, input=QUESTION, temperature=0, max_output_tokens=80)
    assert response.output_text.strip() == ANSWER


def test_openai_streams_a_response(asked: Asked) -> None:
    options: Any = {"model": asked.model, "input": QUESTION, "temperature": 0, "max_output_tokens": 80}
    events = list(asked.openai.responses.create(stream=True, **options))
    assert (events[0].type, events[-1].type) == ("response.created", "response.completed")
    pieces = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert len(pieces) > 1 and "".join(pieces).strip() == ANSWER
    last: Any = events[-1]
    assert last.response.output_text.strip() == ANSWER and last.response.usage.output_tokens >= len(pieces)


def test_anthropic_streams_its_events_in_order(asked: Asked) -> None:
    options: Any = {"model": asked.model, "max_tokens": 80, "extra_body": {"temperature": 0}}
    messages: Any = [user(QUESTION)]
    events: list[Any] = list(asked.anthropic.messages.create(messages=messages, stream=True, **options))
    kinds = [event.type for event in events if event.type != "ping"]
    assert kinds[0] == "message_start" and kinds[-2:] == ["message_delta", "message_stop"]
    blocks_begun = [event.content_block.type for event in events if event.type == "content_block_start"]
    assert blocks_begun == ["thinking", "text"] and kinds.count("content_block_stop") == 2
    deltas = [event.delta for event in events if event.type == "content_block_delta"]
    assert "".join(delta.text for delta in deltas if delta.type == "text_delta").strip() == ANSWER
    assert events[-2].delta.stop_reason == "end_turn" and events[-2].usage.output_tokens > 0


def test_anthropic_counts_tokens(asked: Asked) -> None:
    short = asked.anthropic.messages.count_tokens(model=asked.model, messages=[{"role": "user", "content": "Hi"}])
    long = asked.anthropic.messages.count_tokens(model=asked.model, messages=[{"role": "user", "content": NEEDLE}])
    assert 0 < short.input_tokens < long.input_tokens


# ---------------------------------------------------------------------------------------------------------------------
# Tools.


@pytest.mark.parametrize("question", TOOL_QUESTIONS, ids=["sentence", "words"])
def test_openai_calls_a_tool(asked: Asked, question: str) -> None:
    choice = asked.chat([user(question)], tools=[TOOL])
    assert (calls(choice), choice.finish_reason) == ([(NAME, CALL)], "tool_calls")
    assert choice.message.reasoning.strip() and not (choice.message.content or "").strip()


def test_openai_streams_a_tool_call(asked: Asked) -> None:
    pieces = asked.chat_streamed([user(TOOL_QUESTIONS[0])], tools=[TOOL])
    functions = [call.function for piece in pieces for call in piece.delta.tool_calls or []]
    assert "".join(function.name or "" for function in functions) == NAME
    assert json.loads("".join(function.arguments or "" for function in functions)) == CALL
    assert pieces[-1].finish_reason == "tool_calls"


def test_openai_responses_call_a_tool(asked: Asked) -> None:
    tools: Any = [{"type": "function", **FUNCTION}]
    options: Any = {"model": asked.model, "temperature": 0, "max_output_tokens": 80}
    response = asked.openai.responses.create(input=TOOL_QUESTIONS[0], tools=tools, **options)
    called = [(item.name, json.loads(item.arguments)) for item in response.output if item.type == "function_call"]
    assert called == [(NAME, CALL)]


@pytest.mark.parametrize(
    "choice", ["required", {"type": "function", "function": {"name": NAME}}], ids=["required", "named"]
)
def test_openai_calls_the_tool_that_it_is_told_to(asked: Asked, choice: Any) -> None:
    assert calls(asked.chat([user(TOOL_QUESTIONS[0])], tools=[TOOL], tool_choice=choice)) == [(NAME, CALL)]


def test_openai_answers_with_the_result_of_a_tool(asked: Asked) -> None:
    called = asked.chat([user(TOOL_QUESTIONS[0])], tools=[TOOL]).message
    result = {"role": "tool", "tool_call_id": called.tool_calls[0].id, "content": TOOL_RESULT}
    choice = asked.chat([user(TOOL_QUESTIONS[0]), called.model_dump(exclude_none=True), result], tools=[TOOL])
    assert choice.message.content.strip() == TOOL_ANSWER


ANTHROPIC_TOOL = {
    "name": NAME,
    "description": FUNCTION["description"],
    "input_schema": FUNCTION["parameters"],
}


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
def test_anthropic_calls_a_tool(asked: Asked, streamed: bool) -> None:
    message = asked.message([user(TOOL_QUESTIONS[0])], streamed, tools=[ANTHROPIC_TOOL])
    found = blocks(message)
    assert (found["tool_use"], message.stop_reason) == (CALL, "tool_use")
    assert found["thinking"].strip()


def test_anthropic_answers_with_the_result_of_a_tool(asked: Asked) -> None:
    called = asked.message([user(TOOL_QUESTIONS[0])], tools=[ANTHROPIC_TOOL]).content
    (call,) = (block for block in called if block.type == "tool_use")
    result = user([{"type": "tool_result", "tool_use_id": call.id, "content": TOOL_RESULT}])
    said = {"role": "assistant", "content": [block.model_dump() for block in called]}
    message = asked.message([user(TOOL_QUESTIONS[0]), said, result], tools=[ANTHROPIC_TOOL])
    assert blocks(message)["text"].strip() == TOOL_ANSWER


@pytest.mark.slow
@pytest.mark.usefixtures("fleet")
def test_every_check_passes_through_the_gateway(playbook: Playbook) -> None:
    run = playbook("-i", INVENTORY, "playbooks/smoke.yml", "--tags", ",".join(SERVICES)).passed()
    verdict = json.loads((run.report / "verdict.json").read_text(encoding="utf-8"))
    assert verdict["ok"] and list(verdict["services"]) == list(SERVICES)
    page = (run.report / "report.html").read_text(encoding="utf-8")
    # No prompt is longer than what these engines read at once, there is no record of speeds to compare with, and they are blind.
    absent = {"chunked_prefill", "speed", "vision"}
    for name, service in SERVICES.items():
        checks = verdict["services"][name]["checks"]
        print("\n".join([f"{name}, {sum(c['seconds'] for c in checks):.1f} s", *(str(c) for c in checks)]))
        lacking = {*MODELS[service["model"]]["smoke"]["unable"]}
        lacking |= set() if service["args"].get("enable-prefix-caching", True) else {"shared_prefix"}
        assert {c["id"] for c in checks} == {asked.id for asked in CHECKS} - absent - lacking
        assert all(c["ok"] and c["evidence"] and not c["remedy"] for c in checks) and f'id="{name}"' in page
