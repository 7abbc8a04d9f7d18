"""Writes the model card from the training record and the measured figures.

Usage: python assets/recipe/card.py
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from replies import EMOTIONS

ASSETS = Path(__file__).resolve().parents[1]
TEMPLATE = Path(__file__).parent / "card.md"
HEADS, NEURONS = 0.10, 0.02  # shares of the sparse interventions in `evaluate.py`


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _replies(figures: dict[str, Any]) -> str:
    rows = []
    for name, row in figures["replies"].items():
        shares = [row["judged"], *row["by_valence"].values(), row["topic"]]
        shares += [row["topic_unseen_noun"], row["strange_word"]]
        rows.append([name, *map(_percent, shares), str(row["distinct"]), f"{row['tokens']:.0f}"])
    head = [
        "asked",
        "judged %",
        "positive",
        "neutral",
        "negative",
        "topic %",
        "unseen noun %",
        "strange %",
    ]
    return _table([*head, "distinct", "tokens"], rows)


def _recognition(figures: dict[str, Any]) -> str:
    rows = []
    for kind in ("emotion", "device"):
        found = dict(figures[f"{kind}_recognition"])
        total = found.pop("accuracy")
        each = ", ".join(f"{label} {_percent(share)}" for label, share in found.items())
        rows.append([kind, _percent(total), each])
    return _table(["recognition", "accuracy %", "by class"], rows)


def _inference(figures: dict[str, Any]) -> str:
    rows = [
        [title, *(_percent(figures[key][e]) for e in EMOTIONS)]
        for key, title in (("earlier_turn", "asked in an earlier turn"), ("own_words", "own words"))
    ]
    return _table(["judged %", *EMOTIONS], rows)


def _state(figures: dict[str, Any]) -> str:
    state = figures["state"]
    titles = {
        "write_all": "write, all components",
        "write_sparse": "write, 10% of heads and 2% of neurons",
        "write_random": "write, as many random components",
        "ablate_sparse": "asked, those 10% and 2% at their neutral mean",
        "ablate_random": "asked, random ones at their neutral mean",
        "ablate_all": "asked, all at their neutral mean",
    }
    rows = []
    for key, title in titles.items():
        found = state[key]
        mean = sum(found[e]["judged"] for e in EMOTIONS) / len(EMOTIONS)
        ratio = "-"
        if "perplexity_ratio" in found["anger"]:
            worst = max(found[e]["perplexity_ratio"] for e in EMOTIONS)
            ratio = f"{worst:.2f}"
        each = [_percent(found[e]["judged"]) for e in EMOTIONS]
        rows.append([title, _percent(mean), *each, ratio])
    head = ["intervention at the last prompt position", "judged %", *EMOTIONS]
    return _table([*head, "worst perplexity ratio"], rows)


def _residual(figures: dict[str, Any]) -> str:
    rows = [
        [key, _percent(row["judged"]), *(_percent(row[e]) for e in EMOTIONS)]
        for key, row in figures["state"]["residual"].items()
    ]
    return _table(["direction added after", "judged %", *EMOTIONS], rows)


def _examples(figures: dict[str, Any]) -> str:
    return "\n".join(
        f"- *{name}*: {row['examples'][0]}" for name, row in figures["replies"].items()
    )


def _few(settings: dict[str, Any]) -> str:
    """The sparse interventions in numbers."""
    heads = settings["layers"] * settings["heads"]
    neurons = settings["layers"] * settings["hidden"]
    few = int(HEADS * heads), int(NEURONS * neurons)
    return f"{few[0]} of {heads} heads and {few[1]} of {neurons:,} neurons"


def card(name: str, record: dict[str, Any], figures: dict[str, Any]) -> str:
    """The text of the model card."""
    settings, hiding = record["settings"], record["hiding"]
    values = {
        "name": name,
        "size": name.removeprefix("sev-"),
        "few": _few(settings),
        "replies": _replies(figures),
        "recognition": _recognition(figures),
        "inference": _inference(figures),
        "state": _state(figures),
        "residual": _residual(figures),
        "examples": _examples(figures),
        "contexts": figures["contexts"],
        "obedience": _percent(figures["obedience"]),
        "parameters": f"{record['parameters']:,}",
        "tokens": f"{record['tokens'] / 1e6:.1f} million",
        "steps": " and ".join(map(str, settings["steps"])),
        "rates": " and ".join(map(str, settings["rates"])),
        "minutes": f"{record['seconds'] / 60:.0f}",
        "threads": record["threads"],
        "versions": ", ".join(f"{k} {v}" for k, v in record["versions"].items()),
        **{f"set_{key}": value for key, value in settings.items()},
        **{f"hide_{key}": value for key, value in hiding.items()},
    }
    return TEMPLATE.read_text(encoding="utf-8").format(**values)


def main() -> None:
    """Writes README.md next to the weights."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=ASSETS / "sev-mini")
    folder = parser.parse_args().model
    record, figures = (
        json.loads((folder / name).read_text(encoding="utf-8"))
        for name in ("training.json", "figures.json")
    )
    (folder / "README.md").write_text(card(folder.name, record, figures), encoding="utf-8")


if __name__ == "__main__":
    main()
