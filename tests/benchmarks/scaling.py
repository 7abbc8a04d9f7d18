"""``python tests/benchmarks/scaling.py``: writes the computed tables of docs/scaling.md.

Counts follow from how stages are made; the tests hold them against receipts.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from circuits.effects.activations import _bytes_of_row, _bytes_of_values
from circuits.effects.importance import DOSES
from circuits.models.engines import SHARDS
from circuits.names import EMOTIONS

PAGE = Path(__file__).parents[2] / "docs" / "scaling.md"
BEGIN, END = "<!-- computed -->", "<!-- end of computed -->"

RANDOM = 8


@dataclass(frozen=True)
class Size:
    """A model, its number type, and how long prompts and replies are."""

    name: str
    layers: int
    d_model: int
    heads: int
    key_value_heads: int
    d_head: int
    d_mlp: int
    vocab: int
    tied: bool = False
    bytes_per_weight: int = 2
    asked: int = 120
    plain: int = 110
    reply: int = 100

    @property
    def weights(self) -> int:
        """Parameters of a Llama of this size."""
        attention = 2 * self.d_model * self.d_head * (self.heads + self.key_value_heads)
        return self.layers * (attention + 3 * self.d_model * self.d_mlp) + (
            (1 if self.tied else 2) * self.vocab * self.d_model
        )

    @property
    def model(self) -> Any:
        """What the package's estimates of memory ask of a model."""
        return Sizes(self)


class Sizes:
    """A model that has sizes and nothing else."""

    tokenizer = W_O = W_out = None

    def __init__(self, size: Size) -> None:
        self.cfg = SimpleNamespace(
            n_layers=size.layers, d_model=size.d_model, n_heads=size.heads, d_head=size.d_head,
            d_mlp=size.d_mlp,
        )  # fmt: skip
        kind = torch.bfloat16 if size.bytes_per_weight == 2 else torch.float32
        self._weight = torch.empty(1, dtype=kind)

    def hooks(self) -> None:
        """None: it does not run."""

    def __call__(self) -> None:
        """Not to be run."""

    def parameters(self) -> Iterator[torch.Tensor]:
        """One of the right number type."""
        return iter([self._weight])


LLAMA_70B = Size("Llama-3 70B", 80, 8192, 64, 8, 128, 28672, 128256)
LLAMA_3B = Size("Llama-3.2 3B", 28, 3072, 24, 8, 128, 8192, 128256, tied=True)


def copies(layers: int, n_emotions: int = len(EMOTIONS), doses: int = len(DOSES)) -> int:
    """Copies of its last token that importance runs for a context: as it is, and all variants."""
    return 1 + 2 * layers * (n_emotions * doses + RANDOM)


def token_layers(size: Size, contexts: int) -> dict[str, int]:
    """Of the stages whose cost grows with the contexts; every prompt of the same length."""
    asked, layers = contexts * len(EMOTIONS), size.layers
    return {
        "replies": asked * (size.asked + size.reply - 1) * layers,
        "read activations": asked * size.asked * layers,
        "inject doses": contexts * (size.plain - 1 + copies(layers)) * layers,
    }


def sent(size: Size, contexts: int) -> dict[str, int]:
    """Bytes that all parts of a stage send back: values or readouts, and sums of float64."""
    variants = len(EMOTIONS) * (1 + 2 * size.layers * (len(EMOTIONS) * len(DOSES) + RANDOM))
    sums = 8 * SHARDS * size.layers * (size.heads * size.d_head + size.d_mlp)
    return {
        "read activations": contexts * len(EMOTIONS) * _bytes_of_values(size.model),
        "inject doses": 4 * contexts * variants + sums,
    }


def lines(size: Size) -> Iterator[str]:
    """The table of a model."""
    yield f"### {size.name}"
    yield ""
    one_pass, values = _bytes_of_row(size.model, size.asked), _bytes_of_values(size.model)
    yield (
        f"{size.weights / 1e9:.1f} billion weights,"
        f" {size.weights * size.bytes_per_weight / 1e9:.0f} GB in bfloat16, read once by every"
        f" worker. A prompt of {size.asked} tokens holds {one_pass / 1e6:,.0f} MB while it is"
        f" read; its values at the position that is read take {values / 1e6:.1f} MB."
    )
    yield ""
    counts = (480, 10_000)
    few, many = (token_layers(size, contexts) for contexts in counts)
    yield "| stage |" + "".join(f" token-layers, {n:,} contexts | what travels |" for n in counts)
    yield "| --- | --- | --- | --- | --- |"
    back = [sent(size, contexts) for contexts in counts]
    for stage in few:
        travels = [_gb(own[stage]) if stage in own else "text" for own in back]
        yield f"| {stage} | {few[stage]:.2e} | {travels[0]} | {many[stage]:.2e} | {travels[1]} |"
    totals = [
        f"{sum(own.values()):.2e} | {_gb(sum(b.values()))}"
        for own, b in zip((few, many), back, strict=True)
    ]
    yield f"| all | {totals[0]} | {totals[1]} |"
    work = 2 * size.weights / size.layers
    yield ""
    hours = [sum(own.values()) * work / (0.3 * 1e15) / 3600 for own in (few, many)]
    yield (
        f"A token-layer is about {work / 1e9:.1f} billion operations here. At 30% of 10^15 per"
        f" second and GPU, 480 contexts are {hours[0]:,.3f} GPU-hours, and 10,000 contexts"
        f" {hours[1]:,.1f}."
    )


def _gb(size: float) -> str:
    return f"{size / 1e9:,.2f} GB"


def computed() -> str:
    """What stands between the marks."""
    return "\n".join([*lines(LLAMA_70B), "", *lines(LLAMA_3B)])


def main() -> None:
    """Write the page anew."""
    text = PAGE.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    PAGE.write_text(f"{before}{BEGIN}\n{computed()}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
