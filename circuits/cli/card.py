"""``emotion-circuits model-card``: how a model was made, what it can do, what it cannot."""

from pathlib import Path
from typing import Annotated

import typer

from circuits.assets import shipped
from circuits.cli.console import OUT

__all__ = ["model_card"]


def model_card(
    model: Annotated[
        Path | None, typer.Argument(help="A model folder; the embedded model by default.")
    ] = None,
) -> None:
    """Show the card of a model: how it was made, what it can do, what it cannot."""
    from rich.markdown import Markdown

    from circuits.errors import ModelError

    card = (model or shipped("sev-mini")) / "README.md"
    if not card.is_file():
        raise ModelError(f"there is no model card {card}; give the folder of a model")
    OUT.print(Markdown(card.read_text(encoding="utf-8")))
