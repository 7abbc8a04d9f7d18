"""Every exception of the package.

::

    CircuitsError
    ├── AxisError (ValueError)      a record's tensors and labels disagree; a label is absent
    ├── DataError (ValueError)      a file, a context or a prompt is malformed: path and line
    ├── ModelError (ValueError)     a model is out of reach, or lacks the part that was asked for
    ├── JudgeError (RuntimeError)   a judge cannot be reached or its answer cannot be read
    ├── CircuitError (ValueError)   a graph is cyclic, disconnected or names unknown parts
    ├── RunError (ValueError)       a run folder or an option of a run cannot be used
    └── Stopped                     the work was asked to stop, and did so after a finished batch

Messages say what was asked, what was found, and what to do.
"""

__all__ = [
    "AxisError",
    "CircuitError",
    "CircuitsError",
    "DataError",
    "JudgeError",
    "ModelError",
    "RunError",
    "Stopped",
]


class CircuitsError(Exception):
    """Base of everything this package raises on purpose; the command line shows its text."""


class AxisError(CircuitsError, ValueError):
    """A record's tensors and labels disagree, or a label does not exist."""


class DataError(CircuitsError, ValueError):
    """A file, a context or a prompt is malformed; names the path and the line."""


class ModelError(CircuitsError, ValueError):
    """A model cannot be loaded, or its architecture lacks what is asked of it."""


class JudgeError(CircuitsError, RuntimeError):
    """A judge cannot be reached, or its answer cannot be read."""


class CircuitError(CircuitsError, ValueError):
    """A circuit is not a valid graph, or names parts that its model does not have."""


class RunError(CircuitsError, ValueError):
    """A run folder or an option of a run cannot be used as asked."""


class Stopped(CircuitsError):  # noqa: N818 - nothing is wrong
    """The work was asked to stop, and did so after a finished batch; says what is kept."""
