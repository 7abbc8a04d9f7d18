"""Judges decide whether a text expresses the emotion that was asked for.

Four of them: word lists (offline, :class:`LexiconJudge`), a regression that has learnt from
labelled texts (offline, :class:`WordingJudge`), a text classifier (:class:`ClassifierJudge`) and a
chat model behind an OpenAI-compatible server (:class:`HttpJudge`). Importing this package loads no
model library and no network library.
"""

from circuits.data.judges.agreement import Kappa, agreement
from circuits.data.judges.calibration import (
    Calibration,
    Labelled,
    error_rate,
    read_labelled,
    wilson_interval,
)
from circuits.data.judges.classifier import ClassifierJudge
from circuits.data.judges.http import HttpJudge
from circuits.data.judges.lexicon import LexiconJudge, find_emotion_words
from circuits.data.judges.opening import open_judge
from circuits.data.judges.protocol import Judge, Verdict
from circuits.data.judges.wording import WordingJudge

__all__ = [
    "Calibration",
    "ClassifierJudge",
    "HttpJudge",
    "Judge",
    "Kappa",
    "Labelled",
    "LexiconJudge",
    "Verdict",
    "WordingJudge",
    "agreement",
    "error_rate",
    "find_emotion_words",
    "open_judge",
    "read_labelled",
    "wilson_interval",
]
