"""Making a model express an emotion: edits, tuning, comparison, and files for other programs."""

from typing import Final

__all__ = ["APPLIED"]

APPLIED: Final = ("gguf", "hf")
"""Formats that hold values: control vectors, and hooks on a Hugging Face model."""
