"""The requests of a smoke test: one method a check of checks.CHECKS, each gives its judgement.

The SDK is handed in, so that nothing here needs it to be imported.
"""

# ruff: noqa: D102 - a method is the check of its name, and docs/smoke.md says what that asks
from __future__ import annotations

import base64
import json
import os
import random
import secrets
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ansible.module_utils.llm.base import deadline
from ansible.module_utils.llm.engine import judge, numbers, warmup
from ansible.module_utils.llm.engine import sdk as engine_sdk
from ansible.module_utils.llm.engine.metrics import metric_sum, parse_metrics

POLL = 0.5
LOOK = 0.1  # seconds between two looks at how many requests the engine has
LONG = 4096  # tokens of a stream that is left before its end
TELLING = 1024  # tokens of such a stream from which on it is too long to be computed before the engine learns that it was left
SHOWN = 5.0  # seconds in which the engine's metrics show a stream that it has begun
TRIES = 4  # streams that are timed at most: the best one counts, since what else a machine does only makes them slower
UNCOMPARED = 2  # where there is nothing to compare them with
TIMED = 48  # tokens of such a stream
PREFIX = 2000  # tokens that two requests share
NUMBERED = "token_id:"  # how the engine names a token by its number
BRANCH = 64  # tokens of an answer that goes on behind another token
LIKELIEST = 3  # likeliest tokens that are asked for at each place of the known answer
MARGIN = 48  # tokens between a long prompt and the end of the context, beside the answer's


class Client:
    """The service under test.

    params: options of module llm_smoke and those below its `ask`, `metrics_url` found out. usual: see judge.judge_speed.
    before: see judge.judge_fixed_text.
    """

    def __init__(
        self,
        params: Mapping[str, Any],
        key: str,
        sdk: Any,
        omit: Any,
        usual: judge.Speed | None = None,
        before: numbers.Reading | None = None,
    ) -> None:
        self.params = params
        self.base_url: str = params["base_url"]
        self.health_url: str = params["health_url"] or judge.health_url(self.base_url)
        self.key = key
        self.wrong_key = "wrong-" + secrets.token_hex(16)
        self.sdk, self.omit = sdk, omit
        self.usual, self.before = usual, before
        self.expected: str = params["answer"]
        self.rng = random.Random()  # noqa: S311 - words for prompts, no secret
        self.text: str | None = None
        self.thoughts = ""
        self.finish: str | None = None
        self.tokens: int | None = None
        self.margin: float | None = None
        self.reading: numbers.Reading | None = None
        self.ttft: float | None = None
        self.speed_found: judge.Speed | None = None
        self.unreachable = False
        self._calibration: warmup.Calibration | None = None

    # -- asking ---------------------------------------------------------------------------------------------------

    def request(self, question: Any = None) -> dict[str, Any]:
        """A request for an answer to the known question, or to another one."""
        return {
            "model": self.params["model"],
            "messages": [{"role": "user", "content": self.params["question"] if question is None else question}],
            "temperature": 0,
            "max_tokens": self.params["max_tokens"],
        }

    def create(self, **options: Any) -> Any:
        """What the engine gave to the known question, or to what the options say instead."""
        return self.sdk.chat.completions.create(**{**self.request(), **options})

    def ask(self, **options: Any) -> Any:
        """First choice of the engine's answer to the known question, or to what the options say instead."""
        return self.create(**options).choices[0]

    @contextmanager
    def stream(self, **options: Any) -> Iterator[Any]:
        with self.create(stream=True, stream_options={"include_usage": True}, **options) as chunks:
            yield chunks

    def get(self, url: str) -> tuple[int, str]:
        """HTTP status, and the text or the reason; 0 when nobody answers."""
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(url, timeout=self.params["timeout"]) as answer:
                return answer.status, answer.read().decode("utf-8", "replace")
        except urllib.error.HTTPError as error:
            return error.code, str(error.reason)
        except (OSError, ValueError) as error:
            return 0, engine_sdk.explain(error)[1]

    def open(self, path: str, body: bytes) -> Any:
        """The answer to a request that the SDK has no method for. Raises urllib's errors."""
        headers = {"Authorization": f"Bearer {self.key}", "Content-Type": "application/json"}
        request = urllib.request.Request(self.base_url.rstrip("/") + path, body, headers)  # noqa: S310 - as base_url is
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        return opener.open(request, timeout=self.params["timeout"])

    def status(self, path: str, body: bytes) -> int:
        """Status of a request; 0 when nobody answers."""
        try:
            with self.open(path, body) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return 0

    def metric(self, *names: str) -> tuple[float | None, ...]:
        """Sum of each of these metrics of the engine, at one moment; None for what it does not tell."""
        status, text = self.get(self.params["metrics_url"])
        samples = parse_metrics(text) if status == 200 else []
        return tuple(metric_sum(samples, name) for name in names)

    def load(self) -> float | None:
        """Requests that the engine has, all clients' together; None when it does not tell."""
        running, waiting = self.metric("vllm:num_requests_running", "vllm:num_requests_waiting")
        return None if running is None else running + (waiting or 0)

    def load_when(self, right: Callable[[float], bool], seconds: float) -> float | None:
        """The load as soon as `right` accepts it, or as it is after so many seconds."""
        end = time.monotonic() + seconds
        while True:
            found = self.load()
            if found is None or right(found) or time.monotonic() >= end:
                return found
            time.sleep(LOOK)

    # -- the gateway and plain answers -------------------------------------------------------------------------------

    def health(self) -> judge.Judgement:
        end = time.monotonic() + self.params["wait"]
        while True:
            found = self.ask_health()
            if found.ok or time.monotonic() >= end:
                return found
            time.sleep(POLL)

    def ask_health(self) -> judge.Judgement:
        status, why = self.get(self.health_url)
        self.unreachable = status == 0
        return judge.judge_health(status, why, self.health_url)

    def models(self) -> judge.Judgement:
        return judge.judge_models([model.id for model in self.sdk.models.list().data], self.params["model"])

    def refusal(self, sdk: Any, who: str, **options: Any) -> judge.Judgement:
        try:
            sdk.chat.completions.create(**{**self.request(), "max_tokens": 1}, **options)
        except Exception as error:  # noqa: BLE001 - the SDK's own; which one it is says the status
            status, why = engine_sdk.explain(error, [self.key, self.wrong_key])
            return judge.judge_refusal(status, why, who)
        return judge.judge_refusal(200, "", who)

    def no_key_refused(self) -> judge.Judgement:
        return self.refusal(self.sdk, "no key", extra_headers={"Authorization": self.omit})

    def wrong_key_refused(self) -> judge.Judgement:
        return self.refusal(self.sdk.with_options(api_key=self.wrong_key), "a wrong key")

    def answer(self) -> judge.Judgement:
        given, measured = self.with_numbers()
        choice = given.choices[0]
        self.text, self.thoughts = choice.message.content or "", thinking(choice.message)
        self.finish = choice.finish_reason
        self.tokens = given.usage.completion_tokens if given.usage else None
        found = self.judged(choice)
        if found.ok:
            self.margin = numbers.margin(steps(choice), self.text, self.params["answer"])
            found = judge.judge_known(found, self.margin, measured=measured)
        elif measured and self.text.strip():
            found = self.tell(found)
        if found.ok and found.remedy:
            self.expected = ""  # what hangs on a near tie is asked of no other check
        return found

    def with_numbers(self, **options: Any) -> tuple[Any, bool]:
        """The answer to the known question, and whether it comes with log-probabilities: not every engine gives them."""
        try:
            given = self.create(logprobs=True, top_logprobs=LIKELIEST, **options)
        except Exception as error:
            if engine_sdk.explain(error)[0] not in (400, 422, 501):
                raise
            return self.create(**options), False
        return given, bool(given.choices[0].logprobs and given.choices[0].logprobs.content)

    def tell(self, wrong: judge.Judgement) -> judge.Judgement:
        """Judge a wrong answer: after the other token of a near tie the answer is right, after nonsense it is not.

        Asked without thoughts, of which near ties are many and mean little. The answer is continued after the other token by
        token ids, which needs no chat template.
        """
        options = self.without_thoughts()
        body = {**options.pop("extra_body", {}), "return_token_ids": True, "return_tokens_as_token_ids": True}
        given, _told = self.with_numbers(extra_body=body, **options)
        choice = given.choices[0]
        prompt: list[int] = getattr(given, "prompt_token_ids", None) or []
        made: list[int] = getattr(choice, "token_ids", None) or []
        taken = steps(choice)
        forks = [f for f in numbers.forks(taken) if prompt and made and f.other.startswith(NUMBERED)]
        for fork in forks:
            tail = self.sdk.completions.create(
                model=self.params["model"],
                prompt=[*prompt, *made[: fork.at], int(fork.other.removeprefix(NUMBERED))],
                echo=True,
                logprobs=1,  # gives the texts of tokens one by one
                temperature=0,
                max_tokens=min(BRANCH, self.params["max_tokens"]),
            )
            said = tail.choices[0].logprobs.tokens[len(prompt) :]
            text = "".join(said)
            if judge.judge_answer(text, self.params["answer"], None).ok:
                return judge.judge_near_tie(wrong, fork._replace(other=said[fork.at]), text)
        return judge.judge_nonsense(wrong, taken, len(forks), self.params["accelerator"])

    def repetition(self) -> judge.Judgement:
        if self.text is None:
            choice = self.ask()
            self.text, self.thoughts = choice.message.content or "", thinking(choice.message)
            self.finish = choice.finish_reason
        return judge.judge_repetition(f"{self.thoughts} {self.text or ''}", self.finish)

    def fixed_text(self) -> judge.Judgement:
        try:
            given = self.sdk.completions.create(
                model=self.params["model"], prompt=numbers.TEXT, echo=True, logprobs=1, temperature=0, max_tokens=1
            )
        except Exception as error:
            if engine_sdk.explain(error)[0] not in (400, 404, 405, 422, 501):
                raise
            return judge.judge_fixed_text(None, self.before, self.params["accelerator"])
        listed = given.choices[0].logprobs
        if listed and listed.tokens and listed.token_logprobs:
            name, release = self.params["catalog_model"], self.params["release"]
            self.reading = numbers.reading(name, release, listed.tokens, listed.token_logprobs)
        return judge.judge_fixed_text(self.reading, self.before, self.params["accelerator"])

    def streaming(self) -> judge.Judgement:
        start = time.perf_counter()
        pieces: list[str] = []
        finish = tokens = None
        with self.stream() as chunks:
            for chunk in chunks:
                tokens = chunk.usage.completion_tokens if chunk.usage else None
                for choice in chunk.choices:
                    if self.ttft is None and (choice.delta.content or thinking(choice.delta)):
                        self.ttft = time.perf_counter() - start
                    if choice.delta.content:
                        pieces.append(choice.delta.content)
                    finish = choice.finish_reason or finish
        return judge.judge_stream(
            pieces,
            self.expected,
            finish_reason=finish,
            completion_tokens=tokens,
            whole=self.text,
            whole_tokens=self.tokens,
            first_seconds=self.ttft,
        )

    def judged(self, choice: Any) -> judge.Judgement:
        """Whether a choice is the known answer."""
        text, thoughts = choice.message.content or "", thinking(choice.message)
        return judge.judge_answer(text, self.expected, choice.finish_reason, thinking=thoughts)

    def stop(self) -> judge.Judgement:
        choice = self.ask(stop=[judge.STOP_WORD], **self.forced(judge.STOP_TEXT))
        return judge.judge_stop(choice.message.content or "", judge.STOP_WORD, choice.finish_reason)

    def forced(self, text: str) -> dict[str, Any]:
        """Options by which the engine can say nothing but this text."""
        body = self.without_thoughts().get("extra_body", {})
        return {"extra_body": {**body, "structured_outputs": {"choice": [text]}}}

    def n(self) -> judge.Judgement:
        # Greedy, all choices would be the same one, and engines refuse that.
        choices = self.create(n=2, temperature=judge.NEARLY_GREEDY, **self.without_thoughts()).choices
        return judge.judge_choices([self.judged(choice) for choice in choices], 2)

    def logprobs(self) -> judge.Judgement:
        choice = self.ask(logprobs=True, top_logprobs=2, max_tokens=4)
        listed = choice.logprobs.content if choice.logprobs else None
        return judge.judge_logprobs([(t.token, t.logprob, len(t.top_logprobs)) for t in listed or []], 2)

    def structured(self) -> judge.Judgement:
        schema = {"name": "city", "schema": judge.SCHEMA, "strict": True}
        choice = self.ask(
            messages=[{"role": "user", "content": judge.SCHEMA_QUESTION}],
            response_format={"type": "json_schema", "json_schema": schema},
            **self.without_thoughts(),
        )
        return judge.judge_structured(choice.message.content or "", choice.finish_reason)

    def unicode(self) -> judge.Judgement:
        with self.stream(**self.forced(judge.UNICODE)) as chunks:
            return judge.judge_unicode([c.delta.content for chunk in chunks for c in chunk.choices if c.delta.content])

    def responses(self) -> judge.Judgement:
        given = self.sdk.responses.create(
            model=self.params["model"],
            input=self.params["question"],
            temperature=0,
            max_output_tokens=self.params["max_tokens"],
        )
        return judge.judge_answer(given.output_text or "", self.expected, given.status)

    # -- thoughts -------------------------------------------------------------------------------------------------

    def without_thoughts(self) -> dict[str, Any]:
        """Options that switch thinking off, for checks of something else; none where the service has no parser for it."""
        if "reasoning" not in judge.features(self.params["args"]) or "reasoning_off" in self.params["unable"]:
            return {}
        return {"extra_body": {"chat_template_kwargs": {"enable_thinking": False}}}

    def reasoning(self) -> judge.Judgement:
        choice = self.ask()
        text = choice.message.content or ""
        return judge.judge_reasoning(thinking(choice.message), text, self.expected, choice.finish_reason)

    def reasoning_streamed(self) -> judge.Judgement:
        thoughts, text, finish = "", "", None
        with self.stream() as chunks:
            for choice in (c for chunk in chunks for c in chunk.choices):
                thoughts += thinking(choice.delta)
                text += choice.delta.content or ""
                finish = choice.finish_reason or finish
        return judge.judge_reasoning(thoughts, text, self.expected, finish)

    def reasoning_off(self) -> judge.Judgement:
        choice = self.ask(**self.without_thoughts())
        text = choice.message.content or ""
        return judge.judge_no_reasoning(thinking(choice.message), text, self.expected, choice.finish_reason)

    # -- tools ----------------------------------------------------------------------------------------------------

    def ask_tool(
        self, question: str = judge.TOOL_QUESTION, tool: Mapping[str, Any] = judge.TOOL, **options: Any
    ) -> Any:
        messages = [{"role": "user", "content": question}]
        return self.ask(**{"messages": messages, "tools": [tool], **options})

    def called(self, cities: Sequence[str] = (judge.TOOL_CITY,), **options: Any) -> judge.Judgement:
        choice = self.ask_tool(**options)
        return judge.judge_calls(calls(choice.message), cities, choice.message.content or "", choice.finish_reason)

    def tool_auto(self) -> judge.Judgement:
        return self.called()

    def tool_required(self) -> judge.Judgement:
        return self.called(tool_choice="required")

    def tool_named(self) -> judge.Judgement:
        return self.called(tool_choice={"type": "function", "function": {"name": judge.TOOL["function"]["name"]}})

    def tool_none(self) -> judge.Judgement:
        found = calls(self.ask_tool(tool_choice="none").message)
        if found:
            return judge.Judgement(False, f"called {found[0][0]} although tools were ruled out", judge.VERSION)
        return judge.Judgement(True, "no call")

    def tool_zero_argument(self) -> judge.Judgement:
        choice = self.ask_tool(judge.BARE_QUESTION, judge.BARE_TOOL)
        return judge.judge_bare_call(calls(choice.message), choice.message.content or "", choice.finish_reason)

    def tool_parallel(self) -> judge.Judgement:
        return self.called((judge.TOOL_CITY, judge.TOOL_OTHER_CITY), question=judge.TOOL_PARALLEL_QUESTION)

    def tool_streamed(self) -> judge.Judgement:
        parts: dict[int, list[str]] = {}
        text, finish = "", None
        messages = [{"role": "user", "content": judge.TOOL_QUESTION}]
        with self.stream(messages=messages, tools=[judge.TOOL]) as chunks:
            for choice in (c for chunk in chunks for c in chunk.choices):
                text += choice.delta.content or ""
                finish = choice.finish_reason or finish
                for call in choice.delta.tool_calls or []:
                    held = parts.setdefault(call.index, ["", ""])
                    held[0] += call.function.name or ""
                    held[1] += call.function.arguments or ""
        found = [(name, arguments) for _index, (name, arguments) in sorted(parts.items())]
        return judge.judge_calls(found, [judge.TOOL_CITY], text, finish)

    def tool_result(self) -> judge.Judgement:
        call = {"name": judge.TOOL["function"]["name"], "arguments": json.dumps({"city": judge.TOOL_CITY})}
        messages = [
            {"role": "user", "content": judge.TOOL_QUESTION},
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [{"id": "call_1", "type": "function", "function": call}],
            },
            {"role": "tool", "tool_call_id": "call_1", "content": judge.TOOL_RESULT},
        ]
        choice = self.ask_tool(messages=messages)
        text = choice.message.content or ""
        return judge.judge_answer(text, judge.TOOL_ANSWER, choice.finish_reason, thinking=thinking(choice.message))

    # -- images ---------------------------------------------------------------------------------------------------

    def vision(self) -> judge.Judgement:
        left, right = self.rng.sample(list(judge.COLOURS), 2)
        image = "data:image/png;base64," + base64.b64encode(judge.picture(left, right)).decode()
        content = [
            {"type": "image_url", "image_url": {"url": image}},
            {"type": "text", "text": judge.VISION_QUESTION},
        ]
        choice = self.ask(messages=[{"role": "user", "content": content}])
        return judge.judge_vision(choice.message.content or "", left, right)

    # -- Anthropic's protocol -------------------------------------------------------------------------------------

    def message(self, path: str = "/messages", **changes: Any) -> Any:
        """What the engine answers a request in this protocol: JSON, or the list of events of a stream."""
        body = json.dumps({**self.request(), **changes}).encode()
        with self.open(path, body) as answer:
            if not changes.get("stream"):
                return json.load(answer)
            lines = (line.decode().strip() for line in answer)
            return [json.loads(line.removeprefix("data:")) for line in lines if line.startswith("data: {")]

    def anthropic(self) -> judge.Judgement:
        given = self.message()
        text = "".join(block.get("text") or "" for block in given["content"])
        return judge.judge_answer(text, self.expected, given.get("stop_reason"))

    def anthropic_streaming(self) -> judge.Judgement:
        events = self.message(stream=True)
        text = "".join(e["delta"].get("text") or "" for e in events if e["type"] == "content_block_delta")
        reasons = [e["delta"].get("stop_reason") for e in events if e["type"] == "message_delta"]
        return judge.judge_events([e["type"] for e in events], text, self.expected, reasons[-1] if reasons else None)

    def count_tokens(self) -> judge.Judgement:
        counts = []
        for times in (1, 10):
            messages = [{"role": "user", "content": self.params["question"] * times}]
            counts.append(int(self.message("/messages/count_tokens", messages=messages)["input_tokens"]))
        return judge.judge_counts(*counts)

    # -- long prompts ---------------------------------------------------------------------------------------------

    def words_for(self, tokens: int) -> int:
        """Words of judge.haystack that make a prompt of no more than so many tokens, by the engine's own count."""
        if self._calibration is None:
            probes = []
            for words in (5, 100):
                text = judge.haystack(words, 0.5, judge.SECRETS[0], self.rng)
                used = self.create(messages=[{"role": "user", "content": text}], max_tokens=1).usage.prompt_tokens
                probes.append((len(text.split()), used))
            self._calibration = warmup.calibrate(probes)
        return self._calibration.words_for(tokens)

    def answer_tokens(self) -> int:
        """Most tokens that an answer to a long prompt may have: prompt and answer share the context."""
        context, most = self.params["context"], int(self.params["max_tokens"])
        return min(most, context // 4) if context else most

    def needle(self, share: float) -> judge.Judgement:
        context, answer = self.params["context"], self.answer_tokens()
        longest = min(self.params["needle"], context - answer - MARGIN) if context else self.params["needle"]
        word = self.rng.choice(judge.SECRETS)
        # The words that tell and ask are in the haystack as well.
        text = judge.haystack(max(self.words_for(longest) - 16, 8), share, word, self.rng)
        done = self.create(messages=[{"role": "user", "content": text}], max_tokens=answer)
        choice = done.choices[0]
        return judge.judge_needle(
            choice.message.content or "",
            word,
            choice.finish_reason,
            done.usage.prompt_tokens,
            thinking=thinking(choice.message),
        )

    def needle_10(self) -> judge.Judgement:
        return self.needle(0.1)

    def needle_50(self) -> judge.Judgement:
        return self.needle(0.5)

    def needle_90(self) -> judge.Judgement:
        return self.needle(0.9)

    def shared_prefix(self) -> judge.Judgement:
        found = self.share_prefix()
        return found if found.ok else self.share_prefix()  # others' requests may have failed it

    def share_prefix(self) -> judge.Judgement:
        words = self.words_for(min(PREFIX, (self.params["context"] or PREFIX) // 2))
        # What nobody has asked before, from its first sentence on: the first of the two finds nothing of it.
        beginning = judge.haystack(words, 0.0, secrets.token_hex(4), self.rng)
        names = ("vllm:prefix_cache_hits_total", "vllm:prefix_cache_queries_total")
        times, shared, hits, queries, tokens, cached = [], 0, None, None, 0, None
        for question in ("What is this?", self.params["question"]):
            hits, queries = self.metric(*names)
            start = time.perf_counter()
            messages = [{"role": "user", "content": f"{beginning}\n{question}"}]
            used = self.create(messages=messages, max_tokens=1).usage
            times.append(time.perf_counter() - start)
            tokens = used.prompt_tokens
            shared = min(shared or tokens, tokens)
            cached = used.prompt_tokens_details.cached_tokens if used.prompt_tokens_details else None
        hits_then, queries_then = self.metric(*names)
        sure = None if cached is None else float(cached)
        if sure is None and hits is not None and hits_then is not None:
            looked_for = None if queries is None or queries_then is None else queries_then - queries
            sure = judge.own_hits(hits_then - hits, looked_for, tokens)
        return judge.judge_prefix(sure, shared, times)

    def chunked_prefill(self) -> judge.Judgement:
        size = judge.chunk(self.params["args"])
        longest, answer, word = int(size * 1.1), self.answer_tokens(), self.rng.choice(judge.SECRETS)
        # Too long rather than too short: random words differ in their tokens.
        text = judge.haystack(self.words_for(longest) + 16, 0.5, word, self.rng)
        room = self.params["context"] - longest - 2 * MARGIN
        if room < answer or not judge.finds(self.params["needle"], self.params["unable"], longest + MARGIN):
            word, answer, text = "", 16, f"{text} {self.params['question']}"
        # Of whom no word is asked, it says something in any case, and not only that it has nothing to say.
        more = {} if word else {"extra_body": {"min_tokens": answer}}
        done = self.create(messages=[{"role": "user", "content": text}], max_tokens=answer, **more)
        choice = done.choices[0]
        return judge.judge_chunks(
            done.usage.prompt_tokens,
            size,
            choice.message.content or "",
            word,
            choice.finish_reason,
            thinking=thinking(choice.message),
        )

    # -- many at once ---------------------------------------------------------------------------------------------

    def at_once(self, count: int, what: str, ask: Callable[[int], judge.Judgement]) -> judge.Judgement:
        start = time.perf_counter()
        given = dict(deadline.at_once(count, ask))
        answers = [
            judge.Judgement(False, engine_sdk.explain(found, [self.key])[1], judge.LOG)
            if isinstance(found, BaseException)
            else found
            for _number, found in sorted(given.items())
        ]
        return judge.judge_all(answers, what, time.perf_counter() - start)

    def together(self) -> judge.Judgement:
        options = self.without_thoughts()
        return self.at_once(judge.TOGETHER, "requests at once", lambda _number: self.judged(self.ask(**options)))

    def burst(self) -> judge.Judgement:
        def short(number: int) -> judge.Judgement:
            given = self.create(messages=[{"role": "user", "content": f"{number}?"}], max_tokens=1)
            tokens = given.usage.completion_tokens if given.usage else None
            return judge.judge_short(given.choices[0].finish_reason, tokens)

        return self.at_once(judge.BURST, "short prompts at once", short)

    def cancel(self) -> judge.Judgement:
        found = judge.judge_cancel(first := self.leave())
        if found.ok:
            return found
        # Others' requests may have failed it. More than the first time may be its stream, which is not to pass for another's.
        again = self.leave()
        return found if (again.before or 0) > (first.before or 0) else judge.judge_cancel(again)

    def leave(self) -> judge.Left:
        """Leave a stream at its first token, and see what becomes of it. A third of the time-out for each thing to wait for."""
        patience = self.params["timeout"] / 3
        before = self.load_when(lambda load: load == 0, patience)
        if before is None:
            return judge.Left(before)
        most = min(LONG, max(64, (self.params["context"] or LONG) - 256))
        (made,) = self.metric("vllm:generation_tokens_total")
        ended = True
        with self.stream(max_tokens=most, extra_body={"ignore_eos": True}) as chunks:
            for chunk in chunks:
                if chunk.choices:
                    ended = chunk.choices[0].finish_reason is not None
                    break
            if not ended:  # else a count from before the stream would be taken for one of after it
                self.load_when(lambda load: load > before, min(SHOWN, patience))
        start = time.perf_counter()
        after = self.load_when(lambda load: load <= before, patience)
        seconds = time.perf_counter() - start
        (made_then,) = self.metric("vllm:generation_tokens_total")
        telling = most >= TELLING and not before
        computed = made_then - made if telling and made is not None and made_then is not None else None
        return judge.Left(before, after, seconds, ended, most, computed)

    def bad_requests(self) -> judge.Judgement:
        answers = {}
        for what, wrong in judge.BAD_REQUESTS.items():
            body = wrong if isinstance(wrong, str) else json.dumps({**self.request(), **wrong})
            answers[what] = self.status("/chat/completions", body.encode())
        return judge.judge_bad_requests(answers, alive=self.ask_health().ok)

    # -- speed ----------------------------------------------------------------------------------------------------

    def speed(self) -> judge.Judgement:
        self.waiting: list[int] = []
        best = self.timed()
        for _try in range(1, TRIES if self.usual else UNCOMPARED):
            if self.usual and judge.fast_enough(best, self.usual, self.params["slowest"]):
                break
            again = self.timed()
            best = judge.Speed(max(best.tokens_per_second, again.tokens_per_second), min(best.ttft_ms, again.ttft_ms))
        busy = judge.crowded(self.waiting, os.cpu_count() or 1)
        self.speed_found = None if busy else best
        return judge.judge_speed(best, self.usual, self.params["slowest"], busy=busy)

    def timed(self) -> judge.Speed:
        """The speed of one stream, alone. ValueError when it gave too little to be timed."""
        start = time.perf_counter()
        first = last = 0.0
        tokens = 0
        with self.stream(max_tokens=TIMED, extra_body={"ignore_eos": True}) as chunks:
            for chunk in chunks:
                if chunk.choices:
                    last = time.perf_counter()
                    first = first or last
                    self.waiting.append(runnable())
                if chunk.usage:
                    tokens = chunk.usage.completion_tokens
        if tokens < 2 or last <= first:
            raise ValueError(f"a stream of {TIMED} tokens had {tokens}")
        # From the request on: where the client gets the processor late, all chunks but the first come at one moment.
        return judge.Speed(tokens / (last - start), (first - start) * 1000)


def runnable() -> int:
    """Tasks of this machine that run or could run now."""
    return int(Path("/proc/loadavg").read_text(encoding="utf-8").split()[3].partition("/")[0])


def listed(choice: Any) -> list[Any]:
    """Log-probabilities of a choice's tokens, as the SDK has them."""
    return (choice.logprobs.content if choice.logprobs else None) or []


def steps(choice: Any) -> list[numbers.Step]:
    """Log-probabilities of a choice's tokens, as module numbers takes them."""
    return [
        numbers.Step(
            bytes(one.bytes or one.token.encode()),
            one.logprob,
            tuple((t.token, t.logprob) for t in one.top_logprobs if t.token != one.token),
        )
        for one in listed(choice)
    ]


def calls(message: Any) -> list[tuple[str, str]]:
    """Name and arguments of each tool call of a message."""
    return [(call.function.name, call.function.arguments) for call in message.tool_calls or []]


def thinking(message: Any) -> str:
    """Return what a reasoning parser split off: engines name the field either way."""
    return getattr(message, "reasoning", None) or getattr(message, "reasoning_content", None) or ""
