"""The table of support: which part works in which family, from the rows of the trials."""

from typing import Any

_HEAD = """# Supported models

Every cell is a test on a tiny random model of the family: what is measured agrees with plain runs
of the model, or the part is refused by an error that names what the model lacks. `make trials`
runs them and writes this page. A number stands for the reason of a refusal, given below the table.
A whole run is made of the other parts and takes long; it is tried in families in which its way
differs, and "not run" says that it was not tried.
"""
_TEST = "tests/families/test_families.py::"


def is_cell(row: dict[str, Any]) -> bool:
    """Does the row of the trials stand in the table of support?"""
    return row["part"] == "models" and row["test"].startswith(_TEST)


def support_page(rows: list[dict[str, Any]]) -> str:
    """The page as Markdown; a line per part, a column per family."""
    cells = {
        tuple(row["what"].split(": ", 1)): "; ".join(row["outcomes"])
        for row in rows
        if is_cell(row)
    }
    families = sorted({family for family, _ in cells}, key=str.lower)
    parts = sorted({part for _, part in cells}, key=lambda part: (-_works(cells, part), part))
    reasons: list[str] = []
    lines = [_HEAD, "| | " + " | ".join(families) + " |", "|---|" + ":-:|" * len(families)]
    for part in parts:
        shown = [_cell(cells.get((family, part), "not run"), reasons) for family in families]
        lines.append(f"| {part} | " + " | ".join(shown) + " |")
    lines += ["", *(f"{number}. {reason}" for number, reason in enumerate(reasons, 1)), ""]
    return "\n".join(lines)


def _works(cells: dict[Any, str], part: str) -> int:
    return sum(outcome == "works" for (_, own), outcome in cells.items() if own == part)


def _cell(outcome: str, reasons: list[str]) -> str:
    if not outcome.startswith("refused: "):
        return "✓" if outcome == "works" else outcome
    reason = outcome.removeprefix("refused: ")
    if reason not in reasons:
        reasons.append(reason)
    return f"refused ({reasons.index(reason) + 1})"
