"""Train a small model of a real architecture, measure it, and write it as a model folder.

Usage, inside an engine's image, which has torch and transformers:

    python3 -m tests.models.train glm|qwen FOLDER

The model answers, thinks, calls a tool, uses the result and finds a word in a text (see conversations.py). It ends with
exit code 1, and writes nothing, when the trained model gives too few of these to the letter.

Seed and number of steps are fixed, and one thread computes. So the data, the tokenizer and the order of the batches are the
same everywhere, and the weights are the same bit by bit on processors for which torch chooses the same instructions; on
others they differ in the last digits, and then more with each step.
"""

from __future__ import annotations

import itertools
import json
import math
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn import functional
from transformers import (
    Glm4MoeLiteConfig,
    Glm4MoeLiteForCausalLM,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from tests.models import conversations
from tests.models.conversations import Conversation

HERE = Path(__file__).resolve().parent
SEED = 1
STEPS = {"glm": 1600, "qwen": 1600}
BATCH = 8
RATE, MUON_RATE = 3e-3, 12e-3
EXAMPLES = 6000  # of which the batches are drawn
HELD_OUT = 300
PASS = 0.9  # share of the held-out answers that must be right to the letter
PROMPT_WEIGHT = 0.05  # of a token that is not the assistant's, in the loss: to know the language helps to find the word

VOCABULARY = 768
HIDDEN, LAYERS, HEADS = 128, 2, 4

# Roles are special tokens, which a detokenizer drops; the marks that parsers look for are tokens and stay in the text.
ROLES = {
    "glm": ("<|endoftext|>", "[gMASK]", "<sop>", "<|system|>", "<|user|>", "<|assistant|>", "<|observation|>"),
    "qwen": ("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
}
MARKS = ("<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")
GLM_MARKS = ("<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>")
# What ends an answer; the first one is the tokenizer's.
ENDS = {"glm": ("<|endoftext|>", "<|user|>", "<|observation|>"), "qwen": ("<|im_end|>",)}

# vLLM's MLA kernel for the CPU takes one shape. A smaller one is trained, in a quarter of the time, and padded with zeros
# to that shape, which computes the same. Name in the configuration: (trained, wanted).
LATENT, ROPE, NOPE, VALUE = (64, 512), (64, 64), (32, 192), (64, 256)


class Text:
    """A family's tokenizer and chat template."""

    def __init__(self, family: str) -> None:
        self.family = family
        self.tokenizer = self._train()
        self.size = math.ceil(len(self.tokenizer) / 64) * 64

    def _train(self) -> Any:
        template = (HERE / f"{self.family}.jinja").read_text(encoding="utf-8")
        texts = [template]
        for example in itertools.islice(conversations.examples(SEED), 3000):
            for message in example.messages:
                texts += [message["content"], message.get("reasoning", ""), json.dumps(message.get("tool_calls", ""))]
            texts.append(json.dumps(example.tools))
        tokens = Tokenizer(models.BPE())
        tokens.decoder = decoders.ByteLevel()
        tokens.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
        trainer = trainers.BpeTrainer(
            vocab_size=VOCABULARY,
            min_frequency=20,
            special_tokens=list(ROLES[self.family]),
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        )
        tokens.train_from_iterator(texts, trainer)
        marks = MARKS + (GLM_MARKS if self.family == "glm" else ())
        tokens.add_tokens([AddedToken(mark, special=False, normalized=False) for mark in marks])
        fast = PreTrainedTokenizerFast(
            tokenizer_object=tokens,
            eos_token=ENDS[self.family][0],
            pad_token="<|endoftext|>",
            model_max_length=8192,
        )
        fast.chat_template = template
        return fast

    def ids(self, *tokens: str) -> list[int]:
        """Numbers of tokens."""
        return [int(self.tokenizer.convert_tokens_to_ids(token)) for token in tokens]

    def _render(self, example: Conversation, count: int, ask: bool) -> str:
        text: str = self.tokenizer.apply_chat_template(
            list(example.messages[:count]),
            tools=example.tools,
            tokenize=False,
            add_generation_prompt=ask,
            enable_thinking=example.thinking,
        )
        return text

    def encode(self, example: Conversation) -> tuple[list[int], int]:
        """Token numbers, and where the answer starts in them. Both parts are encoded apart, as an engine sees them."""
        prompt = self._render(example, len(example.messages) - 1, ask=True)
        whole = self._render(example, len(example.messages), ask=False)
        if self.family == "glm":  # an answer ends with the role that comes next
            whole += "<|observation|>" if example.messages[-1].get("tool_calls") else "<|user|>"
        else:
            whole = whole.removesuffix("\n")
        asked, answered = (
            self.tokenizer(text, add_special_tokens=False).input_ids for text in (prompt, whole.removeprefix(prompt))
        )
        return asked + answered, len(asked)


def build(text: Text) -> Any:
    """A fresh model for the family of a tokenizer."""
    common = {
        "vocab_size": text.size,
        "hidden_size": HIDDEN,
        "intermediate_size": 2 * HIDDEN,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "max_position_embeddings": 8192,
        "initializer_range": 0.06,
        "tie_word_embeddings": False,
        "bos_token_id": None,
        "pad_token_id": 0,
        "eos_token_id": text.ids(*ENDS[text.family]),
    }
    if text.family == "glm":
        config = Glm4MoeLiteConfig(
            **common,
            num_key_value_heads=HEADS,
            q_lora_rank=128,
            kv_lora_rank=LATENT[0],
            qk_rope_head_dim=ROPE[0],
            qk_nope_head_dim=NOPE[0],
            v_head_dim=VALUE[0],
            mlp_layer_types=["dense"] + ["sparse"] * (LAYERS - 1),
            first_k_dense_replace=1,
            moe_intermediate_size=HIDDEN,
            n_routed_experts=4,
            num_experts_per_tok=2,
            n_shared_experts=1,
            routed_scaling_factor=1.0,
        )
        model = Glm4MoeLiteForCausalLM(config)
    else:
        model = Qwen3ForCausalLM(Qwen3Config(**common, num_key_value_heads=2, head_dim=64))
    model.generation_config.eos_token_id = common["eos_token_id"]
    # With silent layers and a loud embedding such a small model starts to learn at once.
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight", "down_proj")):
                weight.zero_()
            elif "embed_tokens" in name:
                weight.normal_(0, 0.3)
            elif "lm_head" in name:
                weight.normal_(0, 0.02)
    return model


def optimizers(model: Any) -> list[Any]:
    """Muon for the matrices between the layers, which halves the number of steps, and AdamW for the rest."""
    matrices: list[Any] = []
    rest: list[Any] = []
    for name, weight in model.named_parameters():
        inner = weight.ndim == 2 and not any(part in name for part in ("embed_tokens", "lm_head", "gate.weight"))
        (matrices if inner else rest).append(weight)
    return [
        torch.optim.Muon(matrices, lr=MUON_RATE, momentum=0.95, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(rest, lr=RATE, betas=(0.9, 0.98), weight_decay=0.01),
    ]


def batches(pool: Sequence[tuple[list[int], int]], count: int) -> Iterator[tuple[Any, Any]]:
    """Token numbers and weights, both (BATCH, longest), of examples of about the same length."""
    rng = random.Random(SEED)
    ordered = sorted(pool, key=lambda example: len(example[0]))
    window = 8 * BATCH
    for _ in range(count):
        start = rng.randrange(len(ordered) - window)
        drawn = rng.sample(ordered[start : start + window], BATCH)
        longest = max(len(ids) for ids, _ in drawn)
        ids, weights = torch.zeros(BATCH, longest, dtype=torch.long), torch.zeros(BATCH, longest)
        for row, (numbers, answer) in enumerate(drawn):
            ids[row, : len(numbers)] = torch.tensor(numbers)
            weights[row, :answer] = PROMPT_WEIGHT
            weights[row, answer : len(numbers)] = 1
        yield ids, weights


def train(model: Any, pool: Sequence[tuple[list[int], int]], steps: int, say: Callable[[str], None]) -> None:
    """Train in place: the rates rise over 50 steps and fall as a cosine."""
    model.train()
    used = optimizers(model)
    rates = [group["lr"] for optimizer in used for group in optimizer.param_groups]
    for step, (ids, weights) in enumerate(batches(pool, steps), 1):
        share = min(1, step / 50) * (0.03 + 0.97 * 0.5 * (1 + math.cos(math.pi * step / steps)))
        for optimizer, rate in zip(used, rates, strict=True):
            optimizer.param_groups[0]["lr"] = rate * share
        logits = model(input_ids=ids).logits[:, :-1]
        losses = functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
        loss = (losses * weights[:, 1:].flatten()).sum() / (weights[:, 1:] == 1).sum()
        model.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in used:
            optimizer.step()
        if step % 200 == 0 or step == steps:
            say(f"step {step} of {steps}, loss {loss.item():.4f}")


def right(model: Any, text: Text, example: Conversation) -> bool:
    """Whether greedy decoding gives the answer: each of its tokens is the likeliest one after all that comes before it."""
    numbers, answer = text.encode(example)
    ids = torch.tensor(numbers)
    with torch.no_grad():
        likeliest = model(input_ids=ids[None, :-1]).logits[0].argmax(-1)
    return bool((likeliest[answer - 1 :] == ids[answer:]).all())


def pad(small: Any) -> Any:
    """The same GLM with the shape of MLA that vLLM takes on the CPU."""
    names = {"kv_lora_rank": LATENT, "qk_nope_head_dim": NOPE, "v_head_dim": VALUE}
    config = Glm4MoeLiteConfig.from_dict({**small.config.to_dict(), **{name: size[1] for name, size in names.items()}})
    # What the engine reads and this class leaves out.
    config.update({"qk_head_dim": NOPE[1] + ROPE[1], "topk_method": "noaux_tc", "scoring_func": "sigmoid"})
    (trained, wanted), head = zip(NOPE, ROPE, strict=True), HEADS
    weights = {}
    for name, weight in small.state_dict().items():
        if "q_b_proj" in name:  # scores are divided by the root of a head's width, which grows
            grown = _grow(weight, 0, (NOPE, ROPE), head) * math.sqrt(sum(wanted) / sum(trained))
        elif "kv_a_proj" in name:
            grown = _grow(weight, 0, (LATENT, ROPE))
        elif "kv_a_layernorm" in name:  # the mean of squares is taken over more values, all of the new ones zero
            grown = _grow(weight, 0, (LATENT,)) * math.sqrt(LATENT[0] / LATENT[1])
        elif "kv_b_proj" in name:
            grown = _grow(_grow(weight, 0, (NOPE, VALUE), head), 1, (LATENT,))
        elif "o_proj" in name:
            grown = _grow(weight, 1, (VALUE,), head)
        else:
            grown = weight
        weights[name] = grown
    large = Glm4MoeLiteForCausalLM(config)
    large.load_state_dict(weights)
    large.generation_config = small.generation_config
    return large


def _grow(weight: Any, dim: int, blocks: Sequence[tuple[int, int]], repeats: int = 1) -> Any:
    """Pad with zeros along one dimension, which is `repeats` times these blocks of (trained, wanted) length."""
    parts = weight.unflatten(dim, (repeats, -1)).split([trained for trained, _ in blocks], dim + 1)
    grown = []
    for part, (trained, wanted) in zip(parts, blocks, strict=True):
        shape = list(part.shape)
        shape[dim + 1] = wanted - trained
        grown.append(torch.cat([part, part.new_zeros(shape)], dim + 1))
    return torch.cat(grown, dim + 1).flatten(dim, dim + 1)


def main() -> int:
    """Train one family into a folder."""
    family, folder = sys.argv[1], Path(sys.argv[2])
    start = time.monotonic()

    def say(message: str) -> None:
        print(f"{family}: {time.monotonic() - start:.0f} s, {message}", flush=True)

    torch.manual_seed(SEED)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    text = Text(family)
    pool = [text.encode(example) for example in itertools.islice(conversations.examples(SEED), EXAMPLES)]
    lengths = sorted(len(ids) for ids, _ in pool)
    middle, longest = lengths[len(lengths) // 2], lengths[-1]
    model = build(text)
    weights = sum(weight.numel() for weight in model.parameters())
    say(f"{weights} weights, {len(pool)} examples of {middle} tokens (median; the longest has {longest})")
    exam = list(conversations.exam())
    train(
        model,
        pool,
        STEPS[family],
        lambda step: say(f"{step}, exam {sum(right(model, text, e) for e in exam)} of {len(exam)}"),
    )
    if family == "glm":
        model = pad(model)
    model = model.to(torch.bfloat16).eval()

    asked: Counter[str] = Counter()
    passed: Counter[str] = Counter()
    for example in itertools.chain(conversations.exam(), itertools.islice(conversations.examples(SEED + 1), HELD_OUT)):
        asked[example.kind] += 1
        passed[example.kind] += right(model, text, example)
    say("right to the letter: " + ", ".join(f"{kind} {passed[kind]} of {asked[kind]}" for kind in sorted(asked)))
    share = (passed.total() - passed["exam"]) / HELD_OUT
    if passed["exam"] < asked["exam"] or share < PASS:
        say(f"not kept: all of the exam and {PASS:.0%} of the held-out examples must be right")
        return 1
    model.save_pretrained(folder)
    text.tokenizer.save_pretrained(folder)
    say(f"kept, {share:.0%} of the held-out examples are right")
    return 0


if __name__ == "__main__":
    sys.exit(main())
