"""Weights that a model's files lack: transformers fills them with random numbers and goes on."""

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager

from circuits.errors import ModelError

__all__ = ["complete_weights"]

_LOGGER = "transformers.modeling_utils"
_ROW = re.compile(r"^\s*(\S+)\s*\|\s*MISSING", re.MULTILINE)
_COLOUR = re.compile("\x1b\\[[0-9;]*m")


class _Reports(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.text = ""

    def emit(self, record: logging.LogRecord) -> None:
        self.text += _COLOUR.sub("", record.getMessage()) + "\n"


@contextmanager
def complete_weights(name: str) -> Iterator[None]:
    """Refuse a model that is loaded inside the block, if its files lack some of its weights.

    Raises:
        ModelError: they do; names the first ones.
    """
    # What is missing is said in a report to the log, and nowhere else to somebody who loads by
    # way of another library.
    logger, reports = logging.getLogger(_LOGGER), _Reports()
    level, propagate = logger.level, logger.propagate
    logger.addHandler(reports)
    logger.setLevel(logging.WARNING)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(reports)
        logger.setLevel(level)
        logger.propagate = propagate
    missing = _ROW.findall(reports.text)
    if missing:
        raise ModelError(
            f"{name}: the weights {', '.join(missing[:3])} are not in its files, which are damaged "
            "or another model's; get them again"
        )
