"""``make bench-size``: memory of one pass at the size of Llama-3.2-3B, with random weights.

Built and saved by a process of its own, so that the memory measured is that of loading and of
the pass alone.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import torch
from rich.console import Console
from transformers import LlamaConfig, LlamaForCausalLM

from circuits.assets import shipped
from circuits.data import sev
from circuits.data.prompts import asked_prompts
from circuits.data.replies import Reply
from circuits.measure.sweep import Grid, arrange, sweep
from circuits.model.loading import load_model

GIB = 1 << 30
EMOTIONS = ("anger", "fear")
CONFIG = {
    "hidden_size": 3072,
    "num_attention_heads": 24,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "intermediate_size": 8192,
    "vocab_size": 128256,
    "tie_word_embeddings": True,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-5,
    "rope_parameters": {
        "rope_type": "llama3",
        "rope_theta": 500000.0,
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
}
"""Llama-3.2-3B's sizes; it has 28 layers."""


def build(folder: Path, n_layers: int) -> None:
    """Save random bfloat16 weights in Hugging Face's layout, with sev-mini's tokenizer."""
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("meta"):
        model = LlamaForCausalLM(LlamaConfig(**CONFIG, num_hidden_layers=n_layers))
    torch.set_default_dtype(torch.float32)
    model = model.to_empty(device="cpu")
    model.tie_weights()
    noise = 0.02 * torch.randn(1 << 24)
    for weight in model.parameters():
        flat = weight.data.view(-1)
        for start in range(0, len(flat), len(noise)):
            part = flat[start : start + len(noise)]
            part.copy_(noise.roll(start % 9973)[: len(part)])
        if weight.ndim == 1:
            weight.data.fill_(1.0)
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(shipped("sev-mini") / name, folder)


@contextmanager
def watched() -> Iterator[dict[str, float]]:
    """Peak resident memory and seconds of the block, filled in at its end."""
    process, stop, seen = psutil.Process(), threading.Event(), {"peak": 0.0}

    def watch() -> None:
        while not stop.wait(0.02):
            seen["peak"] = max(seen["peak"], process.memory_info().rss / GIB)

    watcher, start = threading.Thread(target=watch), time.perf_counter()
    seen["before"] = process.memory_info().rss / GIB
    watcher.start()
    try:
        yield seen
    finally:
        stop.set()
        watcher.join()
        seen["seconds"] = time.perf_counter() - start


def prompts(n: int) -> Grid:
    """``n`` prompts: contexts of different scenarios, with two emotions each."""
    contexts = sev.contexts(sev.read(shipped("sev/train.jsonl")))[: n // len(EMOTIONS)]
    replies = [Reply(p, "", 0, p.emotion or "") for p in asked_prompts(contexts, EMOTIONS)]
    return arrange(replies, EMOTIONS)


def measure(folder: Path, sizes: list[int], batch_size: int) -> None:
    """Load the model, run the passes, print what they took."""
    console = Console(width=120)
    with watched() as loading:
        model: Any = load_model(folder, device="cpu", dtype="bfloat16")
    weights = sum(p.numel() * p.element_size() for p in model.original_model.parameters()) / GIB
    console.print(f"weights {weights:.2f} GiB; peak while loading {loading['peak']:.2f} GiB")
    for n in sizes:
        with watched() as passing:
            sweep(model, prompts(n), batch_size=batch_size)
        over = passing["peak"] - weights
        console.print(
            f"{n} prompts, {batch_size} at once: peak {passing['peak']:.2f} GiB, {over:.2f} GiB "
            f"over the weights; {passing['before']:.2f} GiB before; {passing['seconds']:.0f} s",
            highlight=False,
        )


def main() -> None:
    """Build in a process of its own, then measure in this one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--build", type=Path, help="only save the model, to this folder")
    parser.add_argument("--folder", type=Path, help="a folder that --build has filled")
    parser.add_argument("--prompts", type=int, nargs="+", default=[8, 64])
    parser.add_argument("--layers", type=int, default=28, help="fewer are quicker")
    parser.add_argument("--batch-size", type=int, default=96)
    given = parser.parse_args()
    if given.build:
        build(given.build, given.layers)
    elif given.folder:
        measure(given.folder, given.prompts, given.batch_size)
    else:
        with tempfile.TemporaryDirectory() as name:
            layers = ["--layers", str(given.layers)]
            subprocess.run([sys.executable, __file__, "--build", name, *layers], check=True)
            measure(Path(name), given.prompts, given.batch_size)


if __name__ == "__main__":
    main()
