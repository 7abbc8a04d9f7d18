"""``make bench-size``: memory at the size of Llama-3.2-3B, with random weights.

The model is built by a process of its own, and every number of prompts is measured in another,
so that the memory is that of loading, of the pass and of the effects alone. Weights are mapped
from the file and count once they are used, so loading peaks below them.
"""

import argparse
import json
import resource
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
from rich.table import Table
from transformers import LlamaConfig, LlamaForCausalLM

from circuits.effects.activations import ContextGroups, group_by_context, read_activations
from circuits.effects.directions import emotion_directions
from circuits.effects.heads import head_effects
from circuits.effects.neurons import neuron_effects
from circuits.files import shipped
from circuits.judges.replies import Reply
from circuits.models.load import load_model
from circuits.names import EMOTIONS
from circuits.prompts import sev
from circuits.prompts.templates import emotion_prompts
from circuits.running import execution

PHASES = ("load", "capture", "effects")
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
        while not stop.wait(0.01):
            seen["peak"] = max(seen["peak"], process.memory_info().rss / 1e9)

    watcher, start = threading.Thread(target=watch), time.perf_counter()
    watcher.start()
    try:
        yield seen
    finally:
        stop.set()
        watcher.join()
        seen["seconds"] = time.perf_counter() - start


def prompts(n: int) -> ContextGroups:
    """``n`` prompts: contexts of all themes in turn, every emotion in each but perhaps the last."""
    scenarios = sev.spread(sev.read(shipped("sev/train.jsonl")), 16)
    contexts = sev.contexts(scenarios)[::3]
    asked = emotion_prompts(contexts, EMOTIONS)[:n]
    return group_by_context([Reply(p, "", 0, p.emotion or "") for p in asked], EMOTIONS)


def measure(folder: Path, n: int, memory: float) -> None:
    """Load the model, capture ``n`` prompts, measure effects; print what each took, as JSON."""
    with watched() as loading:
        model: Any = load_model(folder, device="cpu", dtype="bfloat16")
    weights = sum(p.numel() * p.element_size() for p in model.original_model.parameters()) / 1e9
    with watched() as passing, execution(memory=memory):
        swept = read_activations(model, prompts(n))
    with watched() as after:
        directions = emotion_directions(swept)
        head_effects(model, swept, directions)
        neuron_effects(model, swept, directions)
    highest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    found = {
        "prompts": n, "weights": weights, "values": swept.stored,
        "load": loading, "capture": passing, "effects": after, "highest": highest,
    }  # fmt: skip
    sys.stdout.write(json.dumps(found) + "\n")


def show(rows: list[dict[str, Any]], memory: float) -> None:
    """The figures as a table."""
    console = Console(width=120)
    console.print(f"weights {rows[0]['weights']:.2f} GB; --memory {memory:g} GB")
    table = Table("prompts", *(f"{what}: GB over weights" for what in PHASES), "peak", "capture: s")
    for row in rows:
        over = [f"{row[what]['peak'] - row['weights']:+.2f}" for what in PHASES]
        seconds = f"{row['capture']['seconds']:.0f}"
        table.add_row(str(row["prompts"]), *over, f"{row['highest']:.2f}", seconds)
    console.print(table)
    for row in rows:
        console.print(f"{row['prompts']} prompts: {row['values']}", highlight=False)


def main() -> None:
    """Build the model and measure, everything in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--build", type=Path, help="only save the model, to this folder")
    parser.add_argument("--folder", type=Path, help="a folder that --build has filled")
    parser.add_argument("--only", type=int, help="measure so many prompts, in this process")
    parser.add_argument("--prompts", type=int, nargs="+", default=[8, 64])
    parser.add_argument("--layers", type=int, default=28, help="fewer are quicker")
    parser.add_argument("--memory", type=float, default=1.0)
    given = parser.parse_args()
    if given.build:
        return build(given.build, given.layers)
    if given.only:
        return measure(given.folder, given.only, given.memory)
    with tempfile.TemporaryDirectory() as name:
        if not given.folder:
            again("--build", name, "--layers", str(given.layers))
        options, rows = ["--folder", given.folder or name, "--memory", str(given.memory)], []
        for n in given.prompts:
            rows.append(json.loads(again(*options, "--only", str(n)).splitlines()[-1]))
            show(rows, given.memory)
    return None


def again(*options: Any) -> str:
    """Run this file in a new process; what it prints."""
    command = [sys.executable, __file__, *options]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


if __name__ == "__main__":
    main()
