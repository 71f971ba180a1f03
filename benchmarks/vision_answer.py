"""A small Qwen3-VL of the real architecture that knows four colours: trained, served by the engine on a GPU, and asked.

Usage: python3 benchmarks/vision_answer.py --out FILE [--train-only FOLDER] [--steps 1500]

The engine's CPU build has no vision. So this is where a picture goes through the real image processor, vision tower and merger to a
right answer: the checks of library/llm_smoke.py, and both SDKs. Training takes a minute on a GPU. Its last line is JSON.
"""

from __future__ import annotations

import argparse
import base64
import io
import itertools
import json
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import ansible.module_utils

ROOT = Path(__file__).resolve().parent.parent
ansible.module_utils.__path__.append(str(ROOT / "module_utils"))
sys.path.insert(0, str(ROOT))

from ansible.module_utils.llm.declare.checks import CHECKS  # noqa: E402 - the path comes first
from ansible.module_utils.llm.engine import judge  # noqa: E402 - the path comes first

from benchmarks.engine_process import KEY, NAME, Engine, serving  # noqa: E402

SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
FACTS = (("What is the capital of France?", "It is Paris."), ("What is the capital of Italy?", "It is Rome."))
# Roles in Qwen's marks; a picture stands where it stands in the message.
TEMPLATE = """\
{%- for message in messages %}{{- '<|im_start|>' + message.role + '\\n' }}
{%- if message.content is string %}{{- message.content }}{%- else %}{%- for part in message.content %}
{%- if part.type == 'text' %}{{- part.text }}{%- else %}{{- '<|vision_start|><|image_pad|><|vision_end|>' }}{%- endif %}
{%- endfor %}{%- endif %}{{- '<|im_end|>\\n' }}{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"""
PIXELS = 64 * 64  # pictures stay as small as they come
WANTED = {"health", "models", "no_key_refused", "wrong_key_refused", "answer", "streaming", "vision"}


def config(words: int, ids: dict[str, int]) -> dict[str, Any]:
    """Sizes of a Qwen3-VL, with names and shapes as in the real ones."""
    text = {
        "vocab_size": words,
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 64,
        "max_position_embeddings": 4096,
        "rope_scaling": {"mrope_interleaved": True, "mrope_section": [12, 10, 10], "rope_type": "default"},
        "tie_word_embeddings": False,
    }
    vision = {
        "depth": 2,
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_heads": 2,
        "patch_size": 16,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "out_hidden_size": 128,
        "num_position_embeddings": 2304,
        "deepstack_visual_indexes": [0, 1],
    }
    return {
        "text_config": text,
        "vision_config": vision,
        "image_token_id": ids["<|image_pad|>"],
        "video_token_id": ids["<|video_pad|>"],
        "vision_start_token_id": ids["<|vision_start|>"],
        "vision_end_token_id": ids["<|vision_end|>"],
        "tie_word_embeddings": False,
    }


def processing(tokenizer: Any, least: int, most: int) -> Any:
    """What turns messages with pictures into tokens and patches; pictures get at least and at most so many pixels."""
    import transformers

    sizes = {"shortest_edge": least, "longest_edge": most}
    shape = {"patch_size": 16, "merge_size": 2, "temporal_patch_size": 2, "size": sizes}
    half = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    return transformers.Qwen3VLProcessor(
        image_processor=transformers.Qwen2VLImageProcessor(**shape, **half),
        tokenizer=tokenizer,
        video_processor=transformers.Qwen3VLVideoProcessor(**shape, **half),
        chat_template=TEMPLATE,
    )


def train(folder: Path, count: int) -> float:
    """Make and train the model, and leave all that an engine needs in the folder; returns the last loss."""
    import torch
    import transformers
    from PIL import Image
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    torch.manual_seed(1)
    chance = random.Random(1)  # noqa: S311
    device = "cuda" if torch.cuda.is_available() else "cpu"
    pairs = list(itertools.permutations(judge.COLOURS, 2))
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    learner = trainers.BpeTrainer(
        vocab_size=600, special_tokens=list(SPECIAL), initial_alphabet=alphabet, show_progress=False
    )
    spoken = [judge.VISION_QUESTION, *(" ".join(p) for p in pairs), *(t for fact in FACTS for t in fact)]
    raw.train_from_iterator([*spoken, "user\nassistant\n"] * 4, learner)
    marks = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "unk_token": None}
    tokenizer = transformers.Qwen2TokenizerFast(tokenizer_object=raw, model_max_length=4096, **marks)
    processor = processing(tokenizer, PIXELS, 1024 * 1024)
    ids = {name: tokenizer.convert_tokens_to_ids(name) for name in SPECIAL}
    settings = transformers.Qwen3VLConfig(**config(len(tokenizer), ids))
    model = transformers.Qwen3VLForConditionalGeneration(settings).to(device)

    def example(question: str, answer: str, picture: Any) -> tuple[str, list[Any]]:
        parts: list[dict[str, Any]] = [{"type": "text", "text": question}]
        if picture is not None:
            parts.insert(0, {"type": "image"})
        asked = processor.apply_chat_template([{"role": "user", "content": parts}], add_generation_prompt=True)
        return asked + answer + "<|im_end|>", [picture] if picture is not None else []

    def seen(left: str, right: str) -> Any:
        image = Image.open(io.BytesIO(judge.picture(left, right))).convert("RGB")
        shift = [chance.randrange(-12, 13) for _ in range(3)]
        bands = [b.point(lambda v, s=s: min(255, max(0, v + s))) for b, s in zip(image.split(), shift, strict=True)]
        return Image.merge("RGB", bands)

    steps = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01)
    decay = torch.optim.lr_scheduler.OneCycleLR(steps, max_lr=1e-3, total_steps=count)
    model.train()
    loss = torch.zeros(())
    for step in range(count):
        chosen = [example(judge.VISION_QUESTION, f"{a} {b}", seen(a, b)) for a, b in chance.sample(pairs, 8)]
        chosen += [example(question, answer, None) for question, answer in FACTS]
        batch = processor(
            text=[text for text, _ in chosen],
            images=[picture for _, pictures in chosen for picture in pictures],
            padding=True,
            padding_side="right",
            return_tensors="pt",
        ).to(device)
        labels = batch["input_ids"].clone()
        for row, tokens in enumerate(batch["input_ids"].tolist()):
            begin = max(n for n, token in enumerate(tokens) if token == ids["<|im_start|>"])
            labels[row, : begin + 2] = -100
        labels[batch["attention_mask"] == 0] = -100
        loss = model(**batch, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        steps.step()
        decay.step()
        steps.zero_grad()
        if step % 100 == 0:
            print(f"step {step}: loss {loss.item():.4f}", flush=True)
    model.to(torch.bfloat16).save_pretrained(folder)
    transformers.GenerationConfig(eos_token_id=ids["<|im_end|>"], pad_token_id=ids["<|endoftext|>"]).save_pretrained(
        folder
    )
    processor.save_pretrained(folder)
    model = transformers.Qwen3VLForConditionalGeneration.from_pretrained(folder, dtype=torch.bfloat16).to(device).eval()
    right = 0
    for a, b in pairs:
        text, pictures = example(judge.VISION_QUESTION, "", Image.open(io.BytesIO(judge.picture(a, b))).convert("RGB"))
        given = processor(text=[text.removesuffix("<|im_end|>")], images=pictures, return_tensors="pt").to(device)
        said = model.generate(**given, max_new_tokens=8, do_sample=False)[0, given["input_ids"].shape[1] :]
        right += tokenizer.decode(said, skip_special_tokens=True).strip() == f"{a} {b}"
    print(f"loss {loss.item():.4f}; {right} of {len(pairs)} pictures named right by transformers", flush=True)
    return float(loss.item())


def by_sdks(engine: Engine) -> dict[str, Any]:
    """How many of all pictures each SDK gets the right two words for, in which API."""
    import anthropic
    import openai

    given = openai.OpenAI(base_url=f"{engine.url}/v1", api_key=KEY)
    other = anthropic.Anthropic(base_url=engine.url, auth_token=KEY)
    pairs = list(itertools.permutations(judge.COLOURS, 2))
    right = {"openai": 0, "anthropic": 0, "of": len(pairs), "prompt_tokens": 0}
    for a, b in pairs:
        data = base64.b64encode(judge.picture(a, b)).decode()
        part: Any = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}
        block: Any = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": data}}
        text: Any = {"type": "text", "text": judge.VISION_QUESTION}
        answer = given.chat.completions.create(
            model=NAME, messages=[{"role": "user", "content": [part, text]}], temperature=0, max_tokens=8
        )
        message = other.messages.create(
            model=NAME,
            messages=[{"role": "user", "content": [block, text]}],
            max_tokens=8,
            extra_body={"temperature": 0},
        )
        right["prompt_tokens"] = answer.usage.prompt_tokens if answer.usage else 0
        right["openai"] += (answer.choices[0].message.content or "").strip() == f"{a} {b}"
        right["anthropic"] += "".join(getattr(c, "text", "") for c in message.content).strip() == f"{a} {b}"
    return right


def main() -> int:
    """Train, serve, ask."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--out", type=Path)
    asked.add_argument("--train-only", type=Path)
    asked.add_argument("--steps", type=int, default=1500)
    asked.add_argument("--model", type=Path, help="folder with the trained model")
    asked.add_argument(
        "--processor", type=Path, help="give the model in this folder what pictures need, and do nothing else"
    )
    given = asked.parse_args()
    if given.processor:
        import transformers

        tokenizer = transformers.AutoTokenizer.from_pretrained(given.processor)
        processing(tokenizer, 256 * 256, 4096 * 4096).save_pretrained(given.processor)
        return 0
    folder = given.train_only or given.model or Path(tempfile.mkdtemp(prefix="vision-"))
    report: dict[str, Any] = {}
    if not given.model:
        began = time.monotonic()
        report |= {"loss": train(folder, given.steps), "train_seconds": round(time.monotonic() - began, 1)}
    if not given.train_only:
        args = {"gpu-memory-utilization": 0.2, "max-model-len": 4096, "limit-mm-per-prompt": {"image": 4, "video": 0}}
        with serving(folder, args, {}, given.out.with_suffix(".log")) as engine:
            others = {a.id: "it was taught colours and two facts" for a in CHECKS if a.id not in WANTED}
            report["boot_seconds"] = engine.boot_seconds
            report["smoke"] = engine.module(
                "llm_smoke", {"vision": True, "unable": others, "max_tokens": 16}, depth="full"
            )
            report["sdks"] = by_sdks(engine)
    given.out.write_text(json.dumps(report, indent=1), encoding="utf-8")
    print(json.dumps(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
