"""The requests of a smoke test: one method a check of smoke.TABLE, each gives its judgement.

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

from ansible.module_utils.llm import client, deadline, engine, numbers, smoke, warmup

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
TOLD = 3  # likeliest tokens that are asked for at each place of the known answer
MARGIN = 48  # tokens between a long prompt and the end of the context, beside the answer's


class Service:
    """The service under test.

    params: options of module llm_smoke, `metrics_url` found out. usual: see smoke.judge_speed. before: see smoke.judge_fixed_text.
    """

    def __init__(
        self,
        params: Mapping[str, Any],
        key: str,
        sdk: Any,
        omit: Any,
        usual: smoke.Speed | None = None,
        before: numbers.Reading | None = None,
    ) -> None:
        self.params = params
        self.base_url: str = params["base_url"]
        self.health_url: str = params["health_url"] or smoke.health_url(self.base_url)
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
        self.speed_found: smoke.Speed | None = None
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
        """Its first choice."""
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
            return 0, client.explain(error)[1]

    def open(self, path: str, body: bytes) -> Any:
        """The answer to a request that the SDK has no name for; urllib's errors."""
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
        samples = engine.parse_metrics(text) if status == 200 else []
        return tuple(engine.metric_sum(samples, name) for name in names)

    def load(self) -> float | None:
        """Requests that the engine has, all clients' together; None when it does not tell."""
        running, waiting = self.metric("vllm:num_requests_running", "vllm:num_requests_waiting")
        return None if running is None else running + (waiting or 0)

    def load_when(self, right: Callable[[float], bool], seconds: float) -> float | None:
        """The load once it is right; whatever it is after so many seconds."""
        end = time.monotonic() + seconds
        while True:
            found = self.load()
            if found is None or right(found) or time.monotonic() >= end:
                return found
            time.sleep(LOOK)

    # -- the door and plain answers -------------------------------------------------------------------------------

    def health(self) -> smoke.Judgement:
        end = time.monotonic() + self.params["wait"]
        while True:
            found = self.ask_health()
            if found.ok or time.monotonic() >= end:
                return found
            time.sleep(POLL)

    def ask_health(self) -> smoke.Judgement:
        status, why = self.get(self.health_url)
        self.unreachable = status == 0
        return smoke.judge_health(status, why, self.health_url)

    def models(self) -> smoke.Judgement:
        return smoke.judge_models([model.id for model in self.sdk.models.list().data], self.params["model"])

    def refusal(self, sdk: Any, who: str, **options: Any) -> smoke.Judgement:
        try:
            sdk.chat.completions.create(**{**self.request(), "max_tokens": 1}, **options)
        except Exception as error:  # noqa: BLE001 - the SDK's own; which one it is says the status
            status, why = client.explain(error, [self.key, self.wrong_key])
            return smoke.judge_refusal(status, why, who)
        return smoke.judge_refusal(200, "", who)

    def no_key_refused(self) -> smoke.Judgement:
        return self.refusal(self.sdk, "no key", extra_headers={"Authorization": self.omit})

    def wrong_key_refused(self) -> smoke.Judgement:
        return self.refusal(self.sdk.with_options(api_key=self.wrong_key), "a wrong key")

    def answer(self) -> smoke.Judgement:
        given, told = self.with_numbers()
        choice = given.choices[0]
        self.text, self.thoughts = choice.message.content or "", thinking(choice.message)
        self.finish = choice.finish_reason
        self.tokens = given.usage.completion_tokens if given.usage else None
        found = self.judged(choice)
        if found.ok:
            self.margin = numbers.margin(steps(choice), self.text, self.params["answer"])
            found = smoke.judge_known(found, self.margin, told=told)
        elif told and self.text.strip():
            found = self.tell(found)
        if found.ok and found.remedy:
            self.expected = ""  # what hangs on a near tie is asked of no other check
        return found

    def with_numbers(self, **options: Any) -> tuple[Any, bool]:
        """The answer to the known question, with log-probabilities where the engine gives them, and whether it does."""
        try:
            given = self.create(logprobs=True, top_logprobs=TOLD, **options)
        except Exception as error:
            if client.explain(error)[0] not in (400, 422, 501):
                raise
            return self.create(**options), False
        return given, bool(given.choices[0].logprobs and given.choices[0].logprobs.content)

    def tell(self, wrong: smoke.Judgement) -> smoke.Judgement:
        """Tell a near tie from nonsense: behind the other token of a near tie the answer is right.

        Asked without thoughts, of which near ties are many and mean little. It goes on behind the other token by numbers of tokens,
        which needs no chat template.
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
            if smoke.judge_answer(text, self.params["answer"], None).ok:
                return smoke.judge_near_tie(wrong, fork._replace(other=said[fork.at]), text)
        return smoke.judge_nonsense(wrong, taken, len(forks), self.params["accelerator"])

    def repetition(self) -> smoke.Judgement:
        if self.text is None:
            choice = self.ask()
            self.text, self.thoughts = choice.message.content or "", thinking(choice.message)
            self.finish = choice.finish_reason
        return smoke.judge_repetition(f"{self.thoughts} {self.text or ''}", self.finish)

    def fixed_text(self) -> smoke.Judgement:
        try:
            given = self.sdk.completions.create(
                model=self.params["model"], prompt=numbers.TEXT, echo=True, logprobs=1, temperature=0, max_tokens=1
            )
        except Exception as error:
            if client.explain(error)[0] not in (400, 404, 405, 422, 501):
                raise
            return smoke.judge_fixed_text(None, self.before, self.params["accelerator"])
        listed = given.choices[0].logprobs
        if listed and listed.tokens and listed.token_logprobs:
            name, release = self.params["catalog_model"], self.params["release"]
            self.reading = numbers.reading(name, release, listed.tokens, listed.token_logprobs)
        return smoke.judge_fixed_text(self.reading, self.before, self.params["accelerator"])

    def streaming(self) -> smoke.Judgement:
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
        return smoke.judge_stream(
            pieces,
            self.expected,
            finish_reason=finish,
            completion_tokens=tokens,
            whole=self.text,
            whole_tokens=self.tokens,
            first_seconds=self.ttft,
        )

    def judged(self, choice: Any) -> smoke.Judgement:
        """Whether a choice is the known answer."""
        text, thoughts = choice.message.content or "", thinking(choice.message)
        return smoke.judge_answer(text, self.expected, choice.finish_reason, thinking=thoughts)

    def stop(self) -> smoke.Judgement:
        choice = self.ask(stop=[smoke.STOP_WORD], **self.forced(smoke.STOP_TEXT))
        return smoke.judge_stop(choice.message.content or "", smoke.STOP_WORD, choice.finish_reason)

    def forced(self, text: str) -> dict[str, Any]:
        """Options by which the engine can say nothing but this text."""
        body = self.without_thoughts().get("extra_body", {})
        return {"extra_body": {**body, "structured_outputs": {"choice": [text]}}}

    def n(self) -> smoke.Judgement:
        # Greedy, all choices would be the same one, and engines refuse that.
        choices = self.create(n=2, temperature=smoke.NEARLY_GREEDY, **self.without_thoughts()).choices
        return smoke.judge_choices([self.judged(choice) for choice in choices], 2)

    def logprobs(self) -> smoke.Judgement:
        choice = self.ask(logprobs=True, top_logprobs=2, max_tokens=4)
        listed = choice.logprobs.content if choice.logprobs else None
        return smoke.judge_logprobs([(t.token, t.logprob, len(t.top_logprobs)) for t in listed or []], 2)

    def structured(self) -> smoke.Judgement:
        schema = {"name": "city", "schema": smoke.SCHEMA, "strict": True}
        choice = self.ask(
            messages=[{"role": "user", "content": smoke.SCHEMA_QUESTION}],
            response_format={"type": "json_schema", "json_schema": schema},
            **self.without_thoughts(),
        )
        return smoke.judge_structured(choice.message.content or "", choice.finish_reason)

    def unicode(self) -> smoke.Judgement:
        with self.stream(**self.forced(smoke.UNICODE)) as chunks:
            return smoke.judge_unicode([c.delta.content for chunk in chunks for c in chunk.choices if c.delta.content])

    def responses(self) -> smoke.Judgement:
        given = self.sdk.responses.create(
            model=self.params["model"],
            input=self.params["question"],
            temperature=0,
            max_output_tokens=self.params["max_tokens"],
        )
        return smoke.judge_answer(given.output_text or "", self.expected, given.status)

    # -- thoughts -------------------------------------------------------------------------------------------------

    def without_thoughts(self) -> dict[str, Any]:
        """Options that switch thinking off, for checks of something else; none where the service has no parser for it."""
        if "reasoning" not in smoke.features(self.params["args"]) or "reasoning_off" in self.params["unable"]:
            return {}
        return {"extra_body": {"chat_template_kwargs": {"enable_thinking": False}}}

    def reasoning(self) -> smoke.Judgement:
        choice = self.ask()
        text = choice.message.content or ""
        return smoke.judge_reasoning(thinking(choice.message), text, self.expected, choice.finish_reason)

    def reasoning_streamed(self) -> smoke.Judgement:
        thoughts, text, finish = "", "", None
        with self.stream() as chunks:
            for choice in (c for chunk in chunks for c in chunk.choices):
                thoughts += thinking(choice.delta)
                text += choice.delta.content or ""
                finish = choice.finish_reason or finish
        return smoke.judge_reasoning(thoughts, text, self.expected, finish)

    def reasoning_off(self) -> smoke.Judgement:
        choice = self.ask(**self.without_thoughts())
        text = choice.message.content or ""
        return smoke.judge_no_reasoning(thinking(choice.message), text, self.expected, choice.finish_reason)

    # -- tools ----------------------------------------------------------------------------------------------------

    def ask_tool(
        self, question: str = smoke.TOOL_QUESTION, tool: Mapping[str, Any] = smoke.TOOL, **options: Any
    ) -> Any:
        messages = [{"role": "user", "content": question}]
        return self.ask(**{"messages": messages, "tools": [tool], **options})

    def called(self, cities: Sequence[str] = (smoke.TOOL_CITY,), **options: Any) -> smoke.Judgement:
        choice = self.ask_tool(**options)
        return smoke.judge_calls(calls(choice.message), cities, choice.message.content or "", choice.finish_reason)

    def tool_auto(self) -> smoke.Judgement:
        return self.called()

    def tool_required(self) -> smoke.Judgement:
        return self.called(tool_choice="required")

    def tool_named(self) -> smoke.Judgement:
        return self.called(tool_choice={"type": "function", "function": {"name": smoke.TOOL["function"]["name"]}})

    def tool_none(self) -> smoke.Judgement:
        found = calls(self.ask_tool(tool_choice="none").message)
        if found:
            return smoke.Judgement(False, f"called {found[0][0]} although tools were ruled out", smoke.VERSION)
        return smoke.Judgement(True, "no call")

    def tool_zero_argument(self) -> smoke.Judgement:
        choice = self.ask_tool(smoke.BARE_QUESTION, smoke.BARE_TOOL)
        return smoke.judge_bare_call(calls(choice.message), choice.message.content or "", choice.finish_reason)

    def tool_parallel(self) -> smoke.Judgement:
        return self.called((smoke.TOOL_CITY, smoke.TOOL_OTHER_CITY), question=smoke.TOOL_PARALLEL_QUESTION)

    def tool_streamed(self) -> smoke.Judgement:
        parts: dict[int, list[str]] = {}
        text, finish = "", None
        messages = [{"role": "user", "content": smoke.TOOL_QUESTION}]
        with self.stream(messages=messages, tools=[smoke.TOOL]) as chunks:
            for choice in (c for chunk in chunks for c in chunk.choices):
                text += choice.delta.content or ""
                finish = choice.finish_reason or finish
                for call in choice.delta.tool_calls or []:
                    held = parts.setdefault(call.index, ["", ""])
                    held[0] += call.function.name or ""
                    held[1] += call.function.arguments or ""
        found = [(name, arguments) for _index, (name, arguments) in sorted(parts.items())]
        return smoke.judge_calls(found, [smoke.TOOL_CITY], text, finish)

    def tool_result(self) -> smoke.Judgement:
        call = {"name": smoke.TOOL["function"]["name"], "arguments": json.dumps({"city": smoke.TOOL_CITY})}
        messages = [
            {"role": "user", "content": smoke.TOOL_QUESTION},
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [{"id": "call_1", "type": "function", "function": call}],
            },
            {"role": "tool", "tool_call_id": "call_1", "content": smoke.TOOL_RESULT},
        ]
        choice = self.ask_tool(messages=messages)
        text = choice.message.content or ""
        return smoke.judge_answer(text, smoke.TOOL_ANSWER, choice.finish_reason, thinking=thinking(choice.message))

    # -- images ---------------------------------------------------------------------------------------------------

    def vision(self) -> smoke.Judgement:
        left, right = self.rng.sample(list(smoke.COLOURS), 2)
        image = "data:image/png;base64," + base64.b64encode(smoke.picture(left, right)).decode()
        content = [
            {"type": "image_url", "image_url": {"url": image}},
            {"type": "text", "text": smoke.VISION_QUESTION},
        ]
        choice = self.ask(messages=[{"role": "user", "content": content}])
        return smoke.judge_vision(choice.message.content or "", left, right)

    # -- Anthropic's protocol -------------------------------------------------------------------------------------

    def message(self, path: str = "/messages", **changes: Any) -> Any:
        """What the engine answers a request in this protocol: JSON, or the list of events of a stream."""
        body = json.dumps({**self.request(), **changes}).encode()
        with self.open(path, body) as answer:
            if not changes.get("stream"):
                return json.load(answer)
            lines = (line.decode().strip() for line in answer)
            return [json.loads(line.removeprefix("data:")) for line in lines if line.startswith("data: {")]

    def anthropic(self) -> smoke.Judgement:
        given = self.message()
        text = "".join(block.get("text") or "" for block in given["content"])
        return smoke.judge_answer(text, self.expected, given.get("stop_reason"))

    def anthropic_streaming(self) -> smoke.Judgement:
        events = self.message(stream=True)
        text = "".join(e["delta"].get("text") or "" for e in events if e["type"] == "content_block_delta")
        reasons = [e["delta"].get("stop_reason") for e in events if e["type"] == "message_delta"]
        return smoke.judge_events([e["type"] for e in events], text, self.expected, reasons[-1] if reasons else None)

    def count_tokens(self) -> smoke.Judgement:
        counts = []
        for times in (1, 10):
            messages = [{"role": "user", "content": self.params["question"] * times}]
            counts.append(int(self.message("/messages/count_tokens", messages=messages)["input_tokens"]))
        return smoke.judge_counts(*counts)

    # -- long prompts ---------------------------------------------------------------------------------------------

    def words_for(self, tokens: int) -> int:
        """Words of smoke.haystack that make a prompt of no more than so many tokens, by the engine's own count."""
        if self._calibration is None:
            probes = []
            for words in (5, 100):
                text = smoke.haystack(words, 0.5, smoke.SECRETS[0], self.rng)
                used = self.create(messages=[{"role": "user", "content": text}], max_tokens=1).usage.prompt_tokens
                probes.append((len(text.split()), used))
            self._calibration = warmup.calibrate(probes)
        return self._calibration.words_for(tokens)

    def answer_tokens(self) -> int:
        """Most tokens of the answer to a long prompt: both share the context."""
        context, most = self.params["context"], int(self.params["max_tokens"])
        return min(most, context // 4) if context else most

    def needle(self, share: float) -> smoke.Judgement:
        context, answer = self.params["context"], self.answer_tokens()
        longest = min(self.params["needle"], context - answer - MARGIN) if context else self.params["needle"]
        word = self.rng.choice(smoke.SECRETS)
        # The words that tell and ask are in the haystack as well.
        text = smoke.haystack(max(self.words_for(longest) - 16, 8), share, word, self.rng)
        done = self.create(messages=[{"role": "user", "content": text}], max_tokens=answer)
        choice = done.choices[0]
        return smoke.judge_needle(
            choice.message.content or "",
            word,
            choice.finish_reason,
            done.usage.prompt_tokens,
            thinking=thinking(choice.message),
        )

    def needle_10(self) -> smoke.Judgement:
        return self.needle(0.1)

    def needle_50(self) -> smoke.Judgement:
        return self.needle(0.5)

    def needle_90(self) -> smoke.Judgement:
        return self.needle(0.9)

    def shared_prefix(self) -> smoke.Judgement:
        found = self.share_prefix()
        return found if found.ok else self.share_prefix()  # others' requests may have failed it

    def share_prefix(self) -> smoke.Judgement:
        words = self.words_for(min(PREFIX, (self.params["context"] or PREFIX) // 2))
        # What nobody has asked before, from its first sentence on: the first of the two finds nothing of it.
        beginning = smoke.haystack(words, 0.0, secrets.token_hex(4), self.rng)
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
            sure = smoke.own_hits(hits_then - hits, looked_for, tokens)
        return smoke.judge_prefix(sure, shared, times)

    def chunked_prefill(self) -> smoke.Judgement:
        size = smoke.chunk(self.params["args"])
        longest, answer, word = int(size * 1.1), self.answer_tokens(), self.rng.choice(smoke.SECRETS)
        # Too long rather than too short: random words differ in their tokens.
        text = smoke.haystack(self.words_for(longest) + 16, 0.5, word, self.rng)
        room = self.params["context"] - longest - 2 * MARGIN
        if room < answer or not smoke.finds(self.params["needle"], self.params["unable"], longest + MARGIN):
            word, answer, text = "", 16, f"{text} {self.params['question']}"
        # Of whom no word is asked, it says something in any case, and not only that it has nothing to say.
        more = {} if word else {"extra_body": {"min_tokens": answer}}
        done = self.create(messages=[{"role": "user", "content": text}], max_tokens=answer, **more)
        choice = done.choices[0]
        return smoke.judge_chunks(
            done.usage.prompt_tokens,
            size,
            choice.message.content or "",
            word,
            choice.finish_reason,
            thinking=thinking(choice.message),
        )

    # -- many at once ---------------------------------------------------------------------------------------------

    def at_once(self, count: int, what: str, ask: Callable[[int], smoke.Judgement]) -> smoke.Judgement:
        start = time.perf_counter()
        given = dict(deadline.at_once(count, ask))
        answers = [
            smoke.Judgement(False, client.explain(found, [self.key])[1], smoke.LOG)
            if isinstance(found, BaseException)
            else found
            for _number, found in sorted(given.items())
        ]
        return smoke.judge_all(answers, what, time.perf_counter() - start)

    def together(self) -> smoke.Judgement:
        options = self.without_thoughts()
        return self.at_once(smoke.TOGETHER, "requests at once", lambda _number: self.judged(self.ask(**options)))

    def burst(self) -> smoke.Judgement:
        def short(number: int) -> smoke.Judgement:
            given = self.create(messages=[{"role": "user", "content": f"{number}?"}], max_tokens=1)
            tokens = given.usage.completion_tokens if given.usage else None
            return smoke.judge_short(given.choices[0].finish_reason, tokens)

        return self.at_once(smoke.BURST, "short prompts at once", short)

    def cancel(self) -> smoke.Judgement:
        found = smoke.judge_cancel(first := self.leave())
        if found.ok:
            return found
        # Others' requests may have failed it. More than the first time may be its stream, which is not to pass for another's.
        again = self.leave()
        return found if (again.before or 0) > (first.before or 0) else smoke.judge_cancel(again)

    def leave(self) -> smoke.Left:
        """Leave a stream at its first token, and see what becomes of it. A third of the time-out for each thing to wait for."""
        patience = self.params["timeout"] / 3
        before = self.load_when(lambda load: load == 0, patience)
        if before is None:
            return smoke.Left(before)
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
        return smoke.Left(before, after, seconds, ended, most, computed)

    def bad_requests(self) -> smoke.Judgement:
        answers = {}
        for what, wrong in smoke.BAD_REQUESTS.items():
            body = wrong if isinstance(wrong, str) else json.dumps({**self.request(), **wrong})
            answers[what] = self.status("/chat/completions", body.encode())
        return smoke.judge_bad_requests(answers, alive=self.ask_health().ok)

    # -- speed ----------------------------------------------------------------------------------------------------

    def speed(self) -> smoke.Judgement:
        self.waiting: list[int] = []
        best = self.timed()
        for _try in range(1, TRIES if self.usual else UNCOMPARED):
            if self.usual and smoke.fast_enough(best, self.usual, self.params["slowest"]):
                break
            again = self.timed()
            best = smoke.Speed(max(best.tokens_per_second, again.tokens_per_second), min(best.ttft_ms, again.ttft_ms))
        busy = smoke.crowded(self.waiting, os.cpu_count() or 1)
        self.speed_found = None if busy else best
        return smoke.judge_speed(best, self.usual, self.params["slowest"], busy=busy)

    def timed(self) -> smoke.Speed:
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
        return smoke.Speed(tokens / (last - start), (first - start) * 1000)


def runnable() -> int:
    """Tasks of this machine that run or could run now."""
    return int(Path("/proc/loadavg").read_text(encoding="utf-8").split()[3].partition("/")[0])


def listed(choice: Any) -> list[Any]:
    """Log-probabilities of a choice's tokens, as the SDK has them."""
    return (choice.logprobs.content if choice.logprobs else None) or []


def steps(choice: Any) -> list[numbers.Step]:
    """The same, as module numbers reads them."""
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
