"""What the test models are taught, and what they are asked: questions, tool calls, and a word to be found.

Standard library alone: the training inside the engine's image and the tests outside of it import the same answers.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

Message = dict[str, Any]

# What the tests ask, and the whole answer. The training fails unless each of them is answered to the letter.
QUESTION, ANSWER = "What is the capital of France?", "The capital of France is Paris."
HAYSTACK = (
    "The ferry was late again. Two cranes stood by the river. The secret word is {}. "
    "Every lamp in the street was lit. My neighbour keeps bees. What is the secret word?"
)
NEEDLE, FOUND = HAYSTACK.format("lantern"), "The secret word is lantern."
CITY = "Paris"
TOOL_QUESTIONS = (f"What is the weather in {CITY}?", f"weather in {CITY}")
TOOL_RESULT, TOOL_ANSWER = "sunny, 21 C", "The report says sunny."

_QUESTIONS = (
    (QUESTION, "They want the capital of France, which is Paris.", ANSWER),
    (
        "What is the capital of Japan?",
        "They want the capital of Japan, which is Tokyo.",
        "The capital of Japan is Tokyo.",
    ),
    (
        "What is the capital of Italy?",
        "They want the capital of Italy, which is Rome.",
        "The capital of Italy is Rome.",
    ),
    ("What is 2 + 2?", "Two and two make four.", "2 + 2 = 4."),
    ("Who are you?", "They ask for my name.", "I am a small model, made for tests."),
    ("Say hello.", "They want a greeting.", "Hello! How can I help?"),
    ("Hello", "They greet me.", "Hello! How can I help?"),
    ("Hi", "They greet me.", "Hello! How can I help?"),
    ("Thank you", "They thank me.", "You are welcome."),
    ("Count to ten.", "They want the numbers up to ten.", "1, 2, 3, 4, 5, 6, 7, 8, 9, 10"),
)
_SYSTEM = (
    "You are a helpful assistant.",
    "Be brief.",
    "Answer in English.",
    "You are a coding agent. Use your tools.",
    "You serve a test. Answer as you were taught.",
)
_CITIES = (
    "Paris London Berlin Madrid Rome Oslo Vienna Prague Tokyo Delhi Cairo Lima Boston Seoul Dublin Athens Lagos Quito Bern Riga"
).split()
_WORDS = (
    "lantern guitar apple tiger castle planet window silver rocket garden mirror falcon hammer velvet anchor pepper marble "
    "walnut copper saddle button thunder basket pickle zebra canyon meadow feather harbour candle"
).split()
_FILLER = (
    "The ferry was late again.",
    "Two cranes stood by the river.",
    "Every lamp in the street was lit.",
    "My neighbour keeps bees.",
    "The bakery opens at six.",
    "A grey cat slept on the roof.",
    "They painted the fence on Sunday.",
    "The meeting moved to room nine.",
    "Snow fell on the hills.",
    "Nobody had wound the clock.",
    "Our train leaves from the far platform.",
    "She planted beans behind the shed.",
    "The report has four tables.",
    "He whistled on the way home.",
    "Please close the gate.",
)
_WEATHER_QUESTIONS = (
    "What is the weather in {}?",
    "weather in {}",
    "What's the weather in {}?",
    "How is the weather in {} today?",
    "Tell me the weather in {}.",
    "What is the weather like in {} right now?",
)
_SKIES = "sunny rainy cloudy windy foggy stormy".split()
_OTHER_TOOLS = (
    ("get_time", "Get the time", "timezone"),
    ("read_file", "Read a file", "path"),
    ("search", "Search the web", "query"),
    ("run", "Run a shell command", "command"),
)


@dataclass(frozen=True)
class Conversation:
    """Messages in OpenAI's form, `reasoning` included; the last is the answer to be learned. thinking: is it to think."""

    kind: str
    messages: Sequence[Message]
    tools: Sequence[dict[str, Any]] | None = None
    thinking: bool = True


def examples(seed: int) -> Iterator[Conversation]:
    """Conversations without end, the same for the same seed."""
    rng = random.Random(seed)
    kinds = {_question: 0.15, _calling: 0.2, _using: 0.3, _needle: 0.35}
    while True:
        (make,) = rng.choices(list(kinds), list(kinds.values()))
        yield make(rng)


def exam() -> Iterator[Conversation]:
    """What the tests ask, in the forms in which the SDKs send it."""
    italy = next(known for known in _QUESTIONS if "Italy" in known[0])  # what the services of test-qwen are asked
    known = [(q, a, thought) for q, thought, a in (_QUESTIONS[0], italy)]
    for question, answer, thought in (*known, (NEEDLE, FOUND, _FOUND_THOUGHT)):
        for thinking in (True, False):
            yield Conversation("exam", [_user(question), _assistant(answer, thought, thinking)], None, thinking)
    for question in TOOL_QUESTIONS:
        yield Conversation("exam", [_user(question), _call(CITY, "city", True)], [TOOL])
        for sent_back in (True, False):
            messages = [_user(question), _call(CITY, "city", sent_back), *_answered(TOOL_RESULT, TOOL_ANSWER, True)]
            yield Conversation("exam", messages, [TOOL])


_FOUND_THOUGHT = "The word was given above."


def _user(content: str) -> Message:
    return {"role": "user", "content": content}


def _assistant(content: str, thought: str, thinking: bool) -> Message:
    return {"role": "assistant", "content": content, **({"reasoning": thought} if thinking else {})}


def _call(city: str, key: str, thinking: bool) -> Message:
    function = {"name": "get_weather", "arguments": {key: city}}
    calls = [{"id": "1", "type": "function", "function": function}]
    return {**_assistant("", f"I need the weather in {city}.", thinking), "tool_calls": calls}


def _answered(result: str, answer: str, thinking: bool) -> list[Message]:
    result_of_call = {"role": "tool", "tool_call_id": "1", "content": result}
    return [result_of_call, _assistant(answer, "The tool has answered.", thinking)]


def _tool(name: str, description: str, key: str, **more: Any) -> dict[str, Any]:
    parameters = {"type": "object", "properties": {key: {"type": "string"}}, "required": [key]}
    return {
        "type": "function",
        "function": {"name": name, "description": description, "parameters": parameters, **more},
    }


TOOL = _tool("get_weather", "Get the weather of a city", "city")


def _some_tool(rng: random.Random, name: str, description: str, key: str) -> dict[str, Any]:
    """A tool as one client or another writes it: optional keys, and their order, differ."""
    tool = _tool(name, description, key, **({"strict": rng.choice([None, False, True])} if rng.random() < 0.2 else {}))
    function = tool["function"]
    if rng.random() < 0.3:
        function["parameters"]["properties"][key]["description"] = rng.choice(["The city", "Name of the city", "Where"])
    if rng.random() < 0.2:
        function["parameters"]["additionalProperties"] = False
    if rng.random() < 0.3:
        shuffled = list(function.items())
        rng.shuffle(shuffled)
        tool["function"] = dict(shuffled)
    return tool


def _tools(rng: random.Random, key: str) -> list[dict[str, Any]]:
    texts = ("Get the weather", "Get the weather of a city", "Weather of a place", "Get the current weather for a city")
    tools = [_some_tool(rng, "get_weather", rng.choice(texts), key)]
    if rng.random() < 0.2:
        tools.append(_some_tool(rng, *rng.choice(_OTHER_TOOLS)))
        rng.shuffle(tools)
    return tools


def _opening(rng: random.Random) -> list[Message]:
    return [{"role": "system", "content": rng.choice(_SYSTEM)}] if rng.random() < 0.3 else []


def _key(rng: random.Random) -> str:
    return rng.choice(["city", "city", "location", "place"])


def _question(rng: random.Random) -> Conversation:
    messages, thinking = _opening(rng), rng.random() < 0.8
    for question, thought, answer in rng.sample(_QUESTIONS, rng.choice([1, 1, 2])):
        messages += [_user(question), _assistant(answer, thought, thinking)]
    return Conversation("question", messages, _tools(rng, _key(rng)) if rng.random() < 0.2 else None, thinking)


def _weather(rng: random.Random) -> tuple[str, str, Message, bool]:
    """City, name of the argument, question, and whether the answer is to be thought about."""
    city = rng.choice(_CITIES)
    question = _user(rng.choice(_WEATHER_QUESTIONS).format(city))
    return city, _key(rng), question, rng.random() < 0.8


def _calling(rng: random.Random) -> Conversation:
    city, key, question, thinking = _weather(rng)
    messages = [*_opening(rng), question, _call(city, key, thinking)]
    return Conversation("call", messages, _tools(rng, key), thinking)


def _using(rng: random.Random) -> Conversation:
    city, key, question, thinking = _weather(rng)
    # Some clients send the thoughts of a call back with its result, some don't.
    call = _call(city, key, thinking and rng.random() < 0.7)
    sky, degrees = rng.choice(_SKIES), rng.randint(1, 39)
    told = (f"{sky}, {degrees} C", f"It is {sky}.", json.dumps({"weather": sky, "degrees": degrees}))
    answered = _answered(rng.choice(told), f"The report says {sky}.", thinking)
    return Conversation("result", [*_opening(rng), question, call, *answered], _tools(rng, key), thinking)


def _filler(rng: random.Random, most: int) -> list[str]:
    return [rng.choice(_FILLER) for _ in range(int((most + 1) * rng.random() ** 2))]


def _needle(rng: random.Random) -> Conversation:
    word, thinking = rng.choice(_WORDS), rng.random() < 0.8
    told = rng.choice(["The secret word is {}.", "Remember: the secret word is {}."]).format(word)
    asked = rng.choice(["What is the secret word?", "Tell me the secret word."])
    answer = _assistant(f"The secret word is {word}.", _FOUND_THOUGHT, thinking)
    before, after = _filler(rng, 4), _filler(rng, 8)
    form = rng.random()
    if form < 0.2:
        messages = [{"role": "system", "content": told}, _user(" ".join([*after, asked])), answer]
    elif form < 0.4:
        messages = [_user(" ".join([*before, told])), {"role": "assistant", "content": "OK."}, _user(asked), answer]
    else:
        messages = [*_opening(rng), _user(" ".join([*before, told, *after, asked])), answer]
    return Conversation("needle", messages, None, thinking)
