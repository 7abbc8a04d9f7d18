"""Make the page of trials from what the marked tests wrote down."""

import json
from pathlib import Path

from families.support import is_cell, support_page

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
_HEAD = """# Robustness test matrix

Every row is one or several tests of the suite. `make trials` runs them and writes this page.
"""


def page(rows: list[dict]) -> str:
    """The page as Markdown."""
    text = [_HEAD]
    for part, title in _TITLES.items():
        own = [row for row in rows if row["part"] == part and not is_cell(row)]
        if not own:
            continue
        text.append(f"## {title}\n")
        if part == "models":
            text.append("Family by part: [the table of support](support.md).\n")
        text.append(_COLUMNS)
        for row in own:
            outcome = "; ".join(row["outcomes"])
            cells = (row["what"], str(row["times"]), outcome, f"`{row['test']}`")
            text.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
        text.append("")
    return "\n".join(text)


if __name__ == "__main__":
    found = json.loads((DOCS / "trials.json").read_text())
    (DOCS / "trials.md").write_text(page(found))
    (DOCS / "support.md").write_text(support_page(found))
