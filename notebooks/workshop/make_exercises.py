"""Writes the exercise notebooks: the solutions, with every solution replaced by a stub.

``python notebooks/workshop/make_exercises.py`` after a change in ``solutions/``.
"""

import json
import re
from pathlib import Path

HERE = Path(__file__).parent
SOLUTION = re.compile(r"^( *)### BEGIN SOLUTION\n.*?^ *### END SOLUTION", re.DOTALL | re.MULTILINE)
STUB = r"\1# Your answer in place of the next line.\n\1raise NotImplementedError"


def exercise(solution: str) -> str:
    """The exercise notebook of a solutions notebook, both as JSON text."""
    notebook = json.loads(solution)
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        cell["source"] = SOLUTION.sub(STUB, source).splitlines(keepends=True)
    return json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"


def main() -> None:
    for path in sorted((HERE / "solutions").glob("*.ipynb")):
        text = exercise(path.read_text(encoding="utf-8"))
        (HERE / path.name).write_text(text, encoding="utf-8")
        print(f"{path.name}: written")


if __name__ == "__main__":
    main()
