"""Make the page of trials from what the marked tests wrote down."""

import json
from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"
_TITLES = {
    "faults": "Faults",
    "files": "Damaged, malformed and foreign files",
    "security": "Security",
    "workers": "Many workers, large models",
    "models": "Model families and parts",
    "numbers": "Number types, devices, padding and batches",
    "packaging": "Packaging",
}
_COLUMNS = "| what was tried | times | outcome | test |\n|---|--:|---|---|"
_HEAD = """# What was tried, and how it ended

Every row is one or several tests of the suite. `make trials` runs them and writes this page.
"""


def page(rows: list[dict]) -> str:
    """The page as Markdown."""
    text = [_HEAD]
    for part, title in _TITLES.items():
        own = [row for row in rows if row["part"] == part]
        if not own:
            continue
        text += [
            f"## {title}\n",
            "| what was tried | times | outcome | test |",
            "|---|--:|---|---|",
        ]
        for row in own:
            outcome = "; ".join(row["outcomes"])
            cells = (row["what"], str(row["times"]), outcome, f"`{row['test']}`")
            text.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
        text.append("")
    return "\n".join(text)


if __name__ == "__main__":
    found = json.loads((DOCS / "trials.json").read_text())
    (DOCS / "trials.md").write_text(page(found))
