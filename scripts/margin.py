#!/usr/bin/env python3
"""Measure how sure a model is of known answers: the least distance, in nats, between the likeliest token and the next one.

Usage, where torch and transformers are (an engine's image has both):

    python3 scripts/margin.py FOLDER QUESTION WORD [QUESTION WORD ...] [--perturb TRIALS]

    docker run --rm --network none -v "$PWD/scripts:/scripts:ro" -v MODEL_FOLDER:/model:ro --entrypoint python3 IMAGE \
        /scripts/margin.py /model "What is the capital of Japan?" Tokyo

WORD is what decides: the answer is right when it holds it. Of every question it prints the margin along the model's own greedy
answer up to that word, in float32 without sampling and, where the chat template lets it be switched off, without thinking. Put the
question, the word and the margin into `smoke` of the model; 1.5 and more is safe.

--perturb shows it: the answer is generated again in float32 and bfloat16, alone and in batches of up to 64, each logit with
Gaussian noise (standard deviation 0.3), and the runs are counted in which it is another one.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any, NamedTuple

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

LONGEST = 64  # tokens of an answer
NOISE = 0.3
BATCHES = (1, 2, 4, 8, 16, 32, 64)


class Known(NamedTuple):
    """A greedy answer: its tokens up to the end of the deciding word, the least lead, and the token that has it."""

    tokens: list[int]
    margin: float
    weakest: str
    text: str


class Model:
    """A model and its tokenizer."""

    def __init__(self, folder: str) -> None:
        self.tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        self.model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    def prompt(self, question: str) -> list[int]:
        """Token numbers of a question as the chat template puts it."""
        messages = [{"role": "user", "content": question}]
        text = self.tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True, enable_thinking=False
        )
        return list(self.tokenizer(text, add_special_tokens=False).input_ids)

    def known(self, question: str, word: str) -> Known | None:
        """The greedy answer to a question; None when it does not come to the word."""
        prompt = self.prompt(question)
        tokens: list[int] = []
        leads: list[float] = []
        ends = self.model.generation_config.eos_token_id
        ends = ends if isinstance(ends, list) else [ends]
        past, following = None, torch.tensor([prompt])
        with torch.no_grad():
            while len(tokens) < LONGEST:
                step = self.model(input_ids=following, past_key_values=past, use_cache=True)
                past, top = step.past_key_values, step.logits[0, -1].topk(2)
                leads.append(float(top.values[0] - top.values[1]))
                tokens.append(int(top.indices[0]))
                text = self.tokenizer.decode(tokens, skip_special_tokens=True)
                if word.lower() in text.lower():
                    weakest = self.tokenizer.decode(tokens[leads.index(min(leads))])
                    return Known(tokens, min(leads), weakest, text)
                if tokens[-1] in ends:
                    return None
                following = torch.tensor([[tokens[-1]]])
        return None

    def flips(self, question: str, known: Known, trials: int) -> int:
        """In how many of so many trials another token is the likeliest somewhere along the answer.

        Each token is judged after the right ones before it, as long as none has flipped: that is what decoding greedily does.
        """
        prompt, flipped, done = self.prompt(question), 0, 0
        ids = torch.tensor([prompt + known.tokens[:-1]])
        wanted = torch.tensor(known.tokens)
        random = torch.Generator().manual_seed(1)
        while done < trials:
            for dtype in (torch.float32, torch.bfloat16):
                model = self.model.to(dtype)
                for batch in BATCHES:
                    size = min(batch, trials - done)
                    if size <= 0:
                        break
                    with torch.no_grad():
                        logits = model(input_ids=ids.expand(size, -1)).logits[:, len(prompt) - 1 :].float()
                    logits += NOISE * torch.randn(logits.shape, generator=random)
                    flipped += int((logits.argmax(-1) != wanted).any(-1).sum())
                    done += size
        self.model.to(torch.float32)
        return flipped


def main() -> int:
    """Print a line for each question; exit code 1 when one is not answered rightly or, with --perturb, flips."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("known", nargs="+", metavar="QUESTION WORD")
    parser.add_argument("--perturb", type=int, default=0, metavar="TRIALS")
    given = parser.parse_args()
    if len(given.known) % 2:
        parser.error("each QUESTION needs its WORD")
    model, failed = Model(given.folder), False
    for question, word in zip(given.known[::2], given.known[1::2], strict=True):
        known = model.known(question, word)
        if known is None:
            failed = True
            print(f"{question} -> the model does not say {word!r}")
            continue
        line = f"{question} -> {known.text!r}: margin {known.margin:.2f}, least at {known.weakest!r}"
        if given.perturb:
            flips = model.flips(question, known, given.perturb)
            failed = failed or flips > 0
            line += f"; {flips} of {given.perturb} perturbed runs differ"
        print(line, flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
