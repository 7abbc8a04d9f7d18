"""Writes the labelled texts from which the second judge learns.

They are drawn from lines that serve nothing else: not the model's replies, not its recognition,
not the first judge. The same seed gives the same file.

Usage: python assets/recipe/judge_texts.py [--out FILE]
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

from grammar import choose, fill, sections
from words import Topics

OUT = Path(__file__).resolve().parents[1] / "judge" / "wording.jsonl"
PER_LABEL = 500
_SEED = 0
_TWO_SENTENCES = 0.3


def _sentence(label: str, topics: Topics, rng: random.Random) -> str:
    noun = topics.word(rng)
    line = rng.choice(sections("judge_texts.txt")[label])
    return fill(choose(line, rng), {"N": lambda: noun})


def texts(label: str, count: int, rng: random.Random) -> list[str]:
    """Different texts of one or two lines."""
    topics, found = Topics(), dict[str, None]()
    while len(found) < count:
        text = _sentence(label, topics, rng)
        if rng.random() < _TWO_SENTENCES:
            text += " " + _sentence(label, topics, rng)
        found[text] = None
    return list(found)


def main() -> None:
    """Draws the texts of every label and writes them, one JSON object per line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=OUT)
    out = parser.parse_args().out
    rng = random.Random(_SEED)
    rows = [
        {"text": text, "label": label}
        for label in sections("judge_texts.txt")
        for text in texts(label, PER_LABEL, rng)
    ]
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    out.write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
