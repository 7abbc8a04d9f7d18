"""Judges decide whether a text expresses the emotion that was asked for.

Four of them: word lists (offline, :class:`LexiconJudge`), a regression that has learnt from
labelled texts (offline, :class:`WordingJudge`), a text classifier (:class:`ClassifierJudge`) and a
chat model behind an OpenAI-compatible server (:class:`HttpJudge`). Importing this package loads no
model library and no network library.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from circuits.errors import JudgeError
from circuits.judges.agreement import (
    Calibration,
    Kappa,
    Labelled,
    agreement,
    error_rate,
    read_labelled,
    wilson_interval,
)
from circuits.judges.classifier import ClassifierJudge
from circuits.judges.http import HttpJudge, JudgeProfile
from circuits.judges.judge import Judge, Verdict
from circuits.judges.lexicon import LexiconJudge, find_emotion_words
from circuits.judges.trained import WordingJudge
from circuits.names import EMOTIONS

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

_OFFLINE: Final = {"lexicon": LexiconJudge, "wording": WordingJudge}


def open_judge(
    spec: str,
    profile: JudgeProfile = "robust",
    *,
    labels: Sequence[str] = EMOTIONS,
    meanings: Sequence[tuple[str, str]] = (),
) -> Judge:
    """Open a judge by its name.

    Args:
        spec: ``lexicon[:FILE]``, ``wording[:FILE]``, ``classifier:ID_OR_PATH`` or
            ``http:BASE_URL[#MODEL]``.
        profile: How a chat model is asked and read; other judges have but one way.
        labels: What will be asked for.
        meanings: (label, what it means), told to a chat model.

    Raises:
        JudgeError: ``spec`` has none of these forms, the address is malformed, or an offline judge
            does not know a label.
        DataError: the file of an offline judge is missing or malformed.

    >>> open_judge("lexicon").name
    'lexicon'
    """
    kind, colon, rest = spec.strip().partition(":")
    if kind in _OFFLINE and (rest or not colon):
        judge = _OFFLINE[kind](Path(rest) if rest else None)
        strange = [label for label in labels if label not in judge.labels]
        if strange:
            raise JudgeError(
                f"the judge {spec} knows {', '.join(judge.labels)}, not {strange[0]!r}; give "
                "lexicon:FILE (words of every label), wording:FILE (labelled texts), "
                "classifier:ID_OR_PATH or http:BASE_URL[#MODEL]"
            )
        return judge
    if kind == "classifier" and rest:
        return ClassifierJudge(rest, known=labels)
    # "http://host" alone is an address, not yet a judge.
    if kind == "http" and rest and not rest.startswith("//") and not rest.endswith("#"):
        base_url, mark, model = rest.partition("#")
        return HttpJudge(
            base_url=base_url,
            model=model if mark else HttpJudge.model,
            profile=profile,
            labels=tuple(labels),
            meanings=tuple(meanings),
        )
    # A mistyped address may hold a password; only its kind is repeated.
    raise JudgeError(
        f"no judge has the form that begins with {kind[:20]!r}; write lexicon, wording, "
        "classifier:ID_OR_PATH (a Hugging Face id or a folder) or http:BASE_URL[#MODEL] "
        "(such as http:https://api.openai.com/v1#gpt-4o-mini); for labels of your own also "
        "lexicon:FILE (words of each) or wording:FILE (labelled texts)"
    )
