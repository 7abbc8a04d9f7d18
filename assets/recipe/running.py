"""Batched greedy replies and likelihoods, with left padding and a key-value cache."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch
from conversations import ASKED, PLAIN
from situations import Situation
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaForCausalLM,
    PreTrainedTokenizerBase,
)

Hooks = Callable[[dict[str, Tensor], slice], AbstractContextManager[None]]
BATCH = 120


def open_model(folder: Path) -> tuple[LlamaForCausalLM, PreTrainedTokenizerBase]:
    """Loads a trained model and its tokenizer."""
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    return model, AutoTokenizer.from_pretrained(folder)


def prompt(tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, str]]) -> str:
    """The rendered prompt, which ends with the assistant token."""
    return tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)


def chat(tokenizer: PreTrainedTokenizerBase, situation: Situation, emotion: str | None) -> str:
    """The prompt that asks for an emotion, or the plain one."""
    system = PLAIN if emotion is None else ASKED.format(emotion=emotion)
    messages = [{"role": "system", "content": system}, {"role": "user", "content": situation.text}]
    return prompt(tokenizer, messages)


@torch.inference_mode()
def generate(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    hooks: Hooks | None = None,
    limit: int = 56,
) -> list[str]:
    """Greedy replies; `hooks` opens an intervention for a batch and its slice of the prompts."""
    replies: list[str] = []
    for start in range(0, len(prompts), BATCH):
        part = slice(start, start + BATCH)
        batch = tokenizer(list(prompts[part]), return_tensors="pt", padding=True)
        batch = {key: batch[key] for key in ("input_ids", "attention_mask")}
        with hooks(batch, part) if hooks else nullcontext():
            out = model.generate(**batch, max_new_tokens=limit, do_sample=False)
        fresh = out[:, batch["input_ids"].shape[1] :]
        replies += tokenizer.batch_decode(fresh, skip_special_tokens=True)
    return [reply.strip() for reply in replies]


def together(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], replies: Sequence[str]
) -> tuple[dict[str, Tensor], Tensor]:
    """Prompts with their replies, left-padded, and which tokens belong to a reply."""
    left = [tokenizer(text).input_ids for text in prompts]
    right = [tokenizer(text).input_ids + [tokenizer.eos_token_id] for text in replies]
    length = max(len(a) + len(b) for a, b in zip(left, right, strict=True))
    ids = torch.full((len(left), length), tokenizer.pad_token_id)
    seen, told = torch.zeros_like(ids), torch.zeros_like(ids, dtype=torch.bool)
    for row, (a, b) in enumerate(zip(left, right, strict=True)):
        ids[row, length - len(a) - len(b) :] = torch.tensor(a + b)
        seen[row, length - len(a) - len(b) :] = 1
        told[row, length - len(b) :] = True
    return {"input_ids": ids, "attention_mask": seen}, told


def reply_losses(model: LlamaForCausalLM, batch: dict[str, Tensor], told: Tensor) -> Tensor:
    """Mean negative log-likelihood of each reply."""
    positions = (batch["attention_mask"].cumsum(1) - 1).clamp(min=0)
    logits = model(**batch, position_ids=positions).logits[:, :-1]
    targets = batch["input_ids"][:, 1:]
    losses = torch.nn.functional.cross_entropy(logits.transpose(1, 2), targets, reduction="none")
    return (losses * told[:, 1:]).sum(1) / told[:, 1:].sum(1)


@torch.inference_mode()
def perplexity(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    replies: Sequence[str],
) -> float:
    """Exponential of the mean over replies of their mean negative log-likelihood."""
    losses = []
    for start in range(0, len(prompts), BATCH):
        part = slice(start, start + BATCH)
        losses.append(reply_losses(model, *together(tokenizer, prompts[part], replies[part])))
    return torch.cat(losses).mean().exp().item()
