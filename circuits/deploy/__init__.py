"""Directions and circuits as files that other programs apply to the model."""

from typing import Final

__all__ = ["APPLIED"]

APPLIED: Final = ("gguf", "hf")
"""Formats that hold values: control vectors, and hooks on a Hugging Face model."""
