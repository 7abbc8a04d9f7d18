"""Where the files that ship with the package are: in the wheel, or in a checkout."""

from pathlib import Path

from circuits.errors import DataError

__all__ = ["shipped"]


def shipped(name: str) -> Path:
    """Path of a shipped file or folder, such as ``sev-mini`` or ``sev/train.jsonl``.

    Raises:
        DataError: the installation lacks it.
    """
    package = Path(__file__).parent
    for root in (package / "_assets", package.parent / "assets"):
        if (root / name).exists():
            return root / name
    raise DataError(f"this installation lacks {name}; install emotion-circuits again")
