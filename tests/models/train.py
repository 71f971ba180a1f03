"""Train a small model of a real architecture, measure it, and write it as a model folder.

Usage, inside an engine's image, which has torch and transformers:

    python3 -m tests.models.train glm|qwen FOLDER

The model answers, thinks, calls a tool, uses the result and finds a word in a text (see conversations.py). It is trained
until it gives enough of these to the letter (see goal.py). When it does not within the bound, this ends with exit code 1 and
writes nothing.

The seed is fixed, and one thread computes. So the data, the tokenizer and the order of the batches are the same everywhere,
and the weights are the same bit by bit on processors for which torch chooses the same instructions; on others they differ in
the last digits, and then more with each step, and it may take more steps.
"""

from __future__ import annotations

import copy
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

from tests.models import conversations, goal
from tests.models.conversations import Conversation

HERE = Path(__file__).resolve().parent
SEED = 1
BATCH = 8
# Twice as high, GLM learns to copy a word on some processors and on others does not: tests/models/README.md has the numbers.
RATE, MUON_RATE = 2e-3, 6e-3
MOMENTUM, DECAY = 0.95, 0.01
EXAMPLES = 6000  # of which the batches are drawn
HELD_OUT = 300
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


class Muon(torch.optim.Optimizer):
    """Steps along the momentum of a matrix, made orthogonal (Jordan and others, "Muon", 2024), as long as AdamW's.

    torch.optim.Muon computes them in bfloat16. Where the processor has no instructions for that it takes four times as long
    as all the rest, and where it has some, its rounding decides what is learned when. Here all is float32.
    """

    def __init__(self, matrices: Sequence[Any], lr: float) -> None:
        super().__init__(matrices, {"lr": lr})

    def step(self) -> None:
        (group,) = self.param_groups
        with torch.no_grad():
            for matrix in group["params"]:
                mean = self.state[matrix].setdefault("mean", torch.zeros_like(matrix))
                mean.lerp_(matrix.grad, 1 - MOMENTUM)
                ahead = matrix.grad.lerp(mean, MOMENTUM)
                matrix.mul_(1 - group["lr"] * DECAY)
                matrix.sub_(orthogonal(ahead), alpha=group["lr"] * 0.2 * math.sqrt(max(matrix.shape)))


def orthogonal(matrix: Any) -> Any:
    """A matrix with the same singular vectors, and singular values near one: five steps of Newton and Schulz."""
    if matrix.shape[0] > matrix.shape[1]:
        return orthogonal(matrix.T).T
    found = matrix / (matrix.norm() + 1e-7)
    for _ in range(5):
        square = found @ found.T
        found = 3.4445 * found + (2.0315 * square @ square - 4.775 * square) @ found
    return found


def optimizers(model: Any) -> list[Any]:
    """Muon for the matrices between the layers, which halves the number of steps, and AdamW for the rest."""
    matrices: list[Any] = []
    rest: list[Any] = []
    for name, weight in model.named_parameters():
        inner = weight.ndim == 2 and not any(part in name for part in ("embed_tokens", "lm_head", "gate.weight"))
        (matrices if inner else rest).append(weight)
    return [Muon(matrices, MUON_RATE), torch.optim.AdamW(rest, lr=RATE, betas=(0.9, 0.98), weight_decay=DECAY)]


def batches(pool: Sequence[tuple[list[int], int]]) -> Iterator[tuple[Any, Any]]:
    """Token numbers and weights, both (BATCH, longest), of examples of about the same length, without end."""
    rng = random.Random(SEED)
    ordered = sorted(pool, key=lambda example: len(example[0]))
    window = 8 * BATCH
    while True:
        start = rng.randrange(len(ordered) - window)
        drawn = rng.sample(ordered[start : start + window], BATCH)
        longest = max(len(ids) for ids, _ in drawn)
        ids, weights = torch.zeros(BATCH, longest, dtype=torch.long), torch.zeros(BATCH, longest)
        for row, (numbers, answer) in enumerate(drawn):
            ids[row, : len(numbers)] = torch.tensor(numbers)
            weights[row, :answer] = PROMPT_WEIGHT
            weights[row, answer : len(numbers)] = 1
        yield ids, weights


class Training:
    """Trains a model in place, round after round."""

    def __init__(self, model: Any, pool: Sequence[tuple[list[int], int]], say: Callable[[str], None]) -> None:
        self._model, self._say = model, say
        self._batches = batches(pool)
        self._optimizers = optimizers(model)
        self._rates = [group["lr"] for optimizer in self._optimizers for group in optimizer.param_groups]

    def round(self, steps: int, share: float) -> None:
        """Train so many steps: the rates rise to this share of the full ones over 50 steps and fall as a cosine."""
        self._model.train()
        for step, (ids, weights) in enumerate(itertools.islice(self._batches, steps), 1):
            now = share * min(1, step / 50) * (0.03 + 0.97 * 0.5 * (1 + math.cos(math.pi * step / steps)))
            for optimizer, rate in zip(self._optimizers, self._rates, strict=True):
                optimizer.param_groups[0]["lr"] = rate * now
            logits = self._model(input_ids=ids).logits[:, :-1]
            losses = functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
            loss = (losses * weights[:, 1:].flatten()).sum() / (weights[:, 1:] == 1).sum()
            self._model.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self._model.parameters(), 1.0)
            for optimizer in self._optimizers:
                optimizer.step()
            if step % 200 == 0 or step == steps:
                self._say(f"step {step} of {steps}, loss {loss.item():.4f}")


class Examiner:
    """Measures models of one family, as an engine serves them: padded, and in bfloat16."""

    def __init__(self, text: Text) -> None:
        self._text = text
        self._exam = [text.encode(example) for example in conversations.exam()]
        held_out = itertools.islice(conversations.examples(SEED + 1), HELD_OUT)
        self._held_out = [(example.kind, *text.encode(example)) for example in held_out]

    def margin(self, model: Any, numbers: list[int], answer: int) -> goal.Margin:
        """Least margin along an answer. It is above zero when greedy decoding gives the answer to the letter.

        Each of its tokens is then the likeliest one after all that comes before it.
        """
        ids = torch.tensor(numbers)
        with torch.no_grad():
            logits = model(input_ids=ids[None, :-1]).logits[0, answer - 1 :].float()
        wanted = ids[answer:, None]
        margins = (logits.gather(1, wanted) - logits.scatter(1, wanted, -math.inf).amax(1, keepdim=True)).flatten()
        at = int(margins.argmin())
        before, token = (self._text.tokenizer.decode(part) for part in (numbers[: answer + at], numbers[answer + at]))
        return goal.Margin(margins[at].item(), f"{token!r} after {before[-40:]!r}")

    def exam(self, model: Any) -> list[goal.Margin]:
        """The margin of each item of the exam."""
        return [self.margin(model, *item) for item in self._exam]

    def measure(self, small: Any) -> tuple[goal.Measured, Any]:
        """What a trained model is worth, and the model as it is served.

        An item of the exam counts with the lesser of its margins in float32 and in bfloat16.
        """
        model = (pad(small) if self._text.family == "glm" else copy.deepcopy(small)).eval()
        exact = self.exam(model)
        model = model.to(torch.bfloat16)
        exam = [min(pair, key=lambda margin: margin.least) for pair in zip(exact, self.exam(model), strict=True)]
        asked, right = Counter[str](), Counter[str]()
        for kind, numbers, answer in self._held_out:
            asked[kind] += 1
            right[kind] += self.margin(model, numbers, answer).least > 0
        return goal.Measured(exam, asked, right), model


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
    examiner = Examiner(text)

    served: list[Any] = []  # the model that was measured last

    def progress(step: str) -> None:
        margins = examiner.exam(model)
        say(f"{step}, exam {sum(margin.least > 0 for margin in margins)} of {len(margins)}")

    def measure() -> goal.Measured:
        found, last = examiner.measure(model)
        served[:] = [last]
        return found

    if not goal.reach(Training(model, pool, progress).round, measure, say):
        return 1
    served[0].save_pretrained(folder)
    text.tokenizer.save_pretrained(folder)
    say("kept")
    return 0


if __name__ == "__main__":
    sys.exit(main())
