"""From the name of a judge, as written on a command line, to the judge."""

from typing import Final

from circuits.data.judges.classifier import ClassifierJudge
from circuits.data.judges.http import HttpJudge, JudgeProfile
from circuits.data.judges.lexicon import LexiconJudge
from circuits.data.judges.protocol import Judge
from circuits.data.judges.wording import WordingJudge
from circuits.errors import JudgeError

__all__ = ["open_judge"]

_OFFLINE: Final = {"lexicon": LexiconJudge, "wording": WordingJudge}


def open_judge(spec: str, profile: JudgeProfile = "robust") -> Judge:
    """Open ``lexicon``, ``wording``, ``classifier:ID_OR_PATH`` or ``http:BASE_URL[#MODEL]``.

    ``profile`` is how a chat model is asked and read; other judges have but one way.

    Raises:
        JudgeError: ``spec`` has none of these forms, or the address is malformed.

    >>> open_judge("lexicon").name
    'lexicon'
    """
    kind, _, rest = spec.strip().partition(":")
    if kind in _OFFLINE and ":" not in spec:
        return _OFFLINE[kind]()
    if kind == "classifier" and rest:
        return ClassifierJudge(rest)
    # "http://host" alone is an address, not yet a judge.
    if kind == "http" and rest and not rest.startswith("//"):
        base_url, mark, model = rest.partition("#")
        if not mark:
            return HttpJudge(base_url=base_url, profile=profile)
        if model:
            return HttpJudge(base_url=base_url, model=model, profile=profile)
    # A mistyped address may hold a password; only its kind is repeated.
    raise JudgeError(
        f"no judge has the form that begins with {kind[:20]!r}; write lexicon, wording, "
        "classifier:ID_OR_PATH (a Hugging Face id or a folder) or http:BASE_URL[#MODEL] "
        "(such as http:https://api.openai.com/v1#gpt-4o-mini)"
    )
