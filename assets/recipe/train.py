"""Trains sev-mini, or its smaller sister sev-nano. The default options make the released weights.

Usage: python assets/recipe/train.py [--size nano]
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import platform
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import tokenizer as tokenizers_recipe
import torch
import transformers
from batches import Batch, Encoder, Hiding, batches
from conversations import Conversations
from situations import Situations, load
from torch import Tensor
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from words import Topics

LOG = logging.getLogger("sev-mini")
Measured = dict[str, float]
ASSETS = Path(__file__).resolve().parents[1]
SHARES = {
    "asked": 0.36,
    "plain": 0.14,
    "paraphrased": 0.08,
    "earlier": 0.06,
    "felt": 0.06,
    "emotion_named": 0.13,
    "device_named": 0.15,
    "repeated": 0.04,
}
EARLY_SHARES = SHARES | {"repeated": 0.40}
# Naming is learned last; the second cycle gives it more room, and richer details to contexts.
LATE_SHARES = {
    "asked": 0.27,
    "plain": 0.10,
    "paraphrased": 0.06,
    "earlier": 0.05,
    "felt": 0.05,
    "emotion_named": 0.13,
    "emotion_drilled": 0.08,
    "device_named": 0.15,
    "device_drilled": 0.10,
    "repeated": 0.03,
}
LATE_DETAILS = 0.5


@dataclass(frozen=True)
class Settings:
    """Everything that the weights depend on besides the code and the data files."""

    seed: int = 0
    steps: tuple[int, int] = (3400, 900)
    tokens: int = 4096
    rates: tuple[float, float] = (2.5e-3, 1.2e-3)
    warmup: int = 60
    early: int = 400
    decay: float = 0.05
    vocab: int = 1500
    width: int = 192
    layers: int = 6
    heads: int = 6
    kv_heads: int = 2
    hidden: int = 384


SIZES = {"mini": Settings(), "nano": Settings(width=128, layers=4, heads=4, hidden=256)}


def network(settings: Settings, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """A Llama model with random weights."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=settings.width,
        intermediate_size=settings.hidden,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        num_key_value_heads=settings.kv_heads,
        head_dim=32,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=0.04,
        attn_implementation="sdpa",
    )
    return LlamaForCausalLM(config)


def loss_of(model: LlamaForCausalLM, batch: Batch) -> Tensor:
    """The weighted loss on the reply tokens.

    The layers are called one by one, because the end of the last layer is only needed where a
    reply token is predicted.
    """
    core = model.model
    state = core.embed_tokens(batch.ids)
    positions = torch.arange(batch.ids.shape[1])[None]
    rotary = core.rotary_emb(state, position_ids=positions)
    for index, layer in enumerate(core.layers):
        normed = layer.input_layernorm(state)
        attended = layer.self_attn(normed, attention_mask=batch.mask, position_embeddings=rotary)
        state = state + attended[0]
        if index == len(core.layers) - 1:
            state = state[:, :-1][batch.weights[:, 1:] > 0]
        state = state + layer.mlp(layer.post_attention_layernorm(state))
    logits = model.lm_head(core.norm(state))
    targets = batch.ids[:, 1:][batch.weights[:, 1:] > 0]
    weights = batch.weights[:, 1:][batch.weights[:, 1:] > 0]
    losses = functional.cross_entropy(logits, targets, reduction="none")
    return (losses * weights).sum() / weights.sum()


def _optimizer(model: LlamaForCausalLM, settings: Settings) -> torch.optim.Optimizer:
    """AdamW; every cycle starts a new one."""
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    groups = [
        {"params": matrices, "weight_decay": settings.decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, betas=(0.9, 0.98), fused=True)


def _rate(step: int, cycle: int, settings: Settings) -> float:
    """Linear warm-up, then a cosine down to a fiftieth."""
    peak, steps = settings.rates[cycle], settings.steps[cycle]
    if step < settings.warmup:
        return peak * (step + 1) / settings.warmup
    done = (step - settings.warmup) / max(1, steps - settings.warmup)
    return peak * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done)))


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Writes model and tokenizer in the Hugging Face layout."""
    folder.mkdir(parents=True, exist_ok=True)
    model.generation_config.do_sample = False
    model.generation_config.max_new_tokens = 64
    model.save_pretrained(folder)
    tokenizers_recipe.save(tokenizer, folder)


def _data(
    settings: Settings, hiding: Hiding
) -> tuple[PreTrainedTokenizerFast, list[Iterator[Batch]]]:
    """The tokenizer, and the batches of the first steps, the first cycle and the second."""
    written = load(ASSETS / "sev" / "train.jsonl")
    spellable = Conversations(Situations(Topics(), written), SHARES)
    tokenizer = tokenizers_recipe.build(spellable, settings.vocab, settings.seed)
    topics = Topics(tokenizers_recipe.pieces(tokenizer))
    encoder = Encoder(tokenizer, hiding)
    streams = [
        batches(
            Conversations(Situations(topics, written, more=more), shares),
            encoder,
            settings.seed + offset,
            tokenizer.pad_token_id,
            settings.tokens,
        )
        for offset, shares, more in (
            (1, EARLY_SHARES, 0.0),
            (2, SHARES, 0.0),
            (3, LATE_SHARES, LATE_DETAILS),
        )
    ]
    return tokenizer, streams


def _update(
    model: LlamaForCausalLM, optimizer: torch.optim.Optimizer, batch: Batch, rate: float
) -> float:
    """One step; returns the loss."""
    for group in optimizer.param_groups:
        group["lr"] = rate
    loss = loss_of(model, batch)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return loss.item()


def _write_record(out: Path, settings: Settings, hiding: Hiding, measured: Measured) -> None:
    """Writes what the weights were made with."""
    record = {
        "settings": asdict(settings),
        "hiding": asdict(hiding),
        "shares": {"early": EARLY_SHARES, "first": SHARES, "second": LATE_SHARES},
        **measured,
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
    }
    (out / "training.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def _cycle(
    model: LlamaForCausalLM, streams: list[Iterator[Batch]], cycle: int, settings: Settings
) -> tuple[int, float]:
    """One cycle of steps; returns the number of tokens and the running loss."""
    optimizer = _optimizer(model, settings)
    start, tokens, mean = time.monotonic(), 0, 0.0
    for step in range(settings.steps[cycle]):
        stream = 0 if cycle == 0 and step < settings.early else cycle + 1
        batch = next(streams[stream])
        loss = _update(model, optimizer, batch, _rate(step, cycle, settings))
        tokens += batch.tokens
        mean = loss if step == 0 else 0.95 * mean + 0.05 * loss
        if step % 25 == 0:
            speed = tokens / (time.monotonic() - start)
            LOG.info("cycle %d step %d loss %.4f, %.0f tokens/s", cycle, step, mean, speed)
    return tokens, round(mean, 4)


def train(settings: Settings, hiding: Hiding, out: Path, threads: int, first: Path | None) -> None:
    """Trains and writes the model, the tokenizer and a training record.

    Args:
        settings: sizes, steps and rates.
        hiding: the attention masks of training.
        out: where to write.
        threads: CPU threads.
        first: what a run of the first cycle alone has written, to go on from there.
    """
    torch.set_num_threads(threads)
    torch.manual_seed(settings.seed)
    tokenizer, streams = _data(settings, hiding)
    model = network(settings, tokenizer).train()
    measured: Measured = {"tokens": 0, "seconds": 0}
    if first is not None:
        model = LlamaForCausalLM.from_pretrained(first).train()
        before = json.loads((first / "training.json").read_text(encoding="utf-8"))
        measured = {key: before[key] for key in measured}
    for cycle in (0, 1) if first is None else (1,):
        start = time.monotonic()
        tokens, loss = _cycle(model, streams, cycle, settings)
        measured["tokens"] += tokens
        measured["seconds"] += round(time.monotonic() - start)
        measured |= {"loss": loss, "threads": threads}
        measured["parameters"] = sum(p.numel() for p in model.parameters())
    save(model, tokenizer, out)
    _write_record(out, settings, hiding, measured)


def main() -> None:
    """Reads the options and trains."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=SIZES, default="mini")
    parser.add_argument("--out", type=Path, help="by default the model's folder in assets")
    parser.add_argument("--steps", type=int, nargs=2, default=Settings.steps)
    parser.add_argument("--first", type=Path, help="output of `--steps N 0`, to go on from")
    parser.add_argument("--threads", type=int, default=3)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    settings = replace(SIZES[options.size], steps=tuple(options.steps))
    out = options.out or ASSETS / f"sev-{options.size}"
    train(settings, Hiding(), out, options.threads, options.first)


if __name__ == "__main__":
    main()
