"""The judges of a plan: who hears the replies, and what they are told."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from circuits.data.judges import Judge, open_judge
from circuits.data.judges.http import HttpJudge, JudgeProfile
from circuits.errors import CircuitsError, JudgeError
from circuits.pipeline.plan import Plan
from circuits.pipeline.trust import trusted

__all__ = ["check_judges", "circuit_judge_of", "judge_file", "judge_of", "second_judge_of"]


def judge_of(plan: Plan) -> Judge:
    """The judge."""
    return _opened(plan, "judge", plan.judge)


def second_judge_of(plan: Plan) -> Judge | None:
    """A judge that hears every reply once more, if there is to be one."""
    return _opened(plan, "second_judge", plan.second_judge) if plan.second_judge else None


def circuit_judge_of(plan: Plan) -> Judge:
    """The judge of circuits: the same, asked as the plan says."""
    return _opened(plan, "judge", plan.judge, plan.judge_profile)


def check_judges(plan: Plan) -> None:
    """Refuse judges that make no sense before anything is made.

    Raises:
        JudgeError: there is no such judge, or it does not know an emotion of the plan.
        DataError: the file of one's own words or texts is missing or malformed.
    """
    judge_of(plan)
    second_judge_of(plan)


def judge_file(spec: str | None) -> Path | None:
    """The file of one's own words or texts from which a judge is made."""
    kind, _, rest = (spec or "").partition(":")
    return Path(rest) if kind in ("lexicon", "wording") and rest else None


def _opened(plan: Plan, option: str, spec: str, profile: JudgeProfile = "robust") -> Judge:
    with _naming(option):
        judge = open_judge(spec, profile, labels=plan.emotions, meanings=plan.meanings)
        if option in plan.judges_of_file and not trusted("judge"):
            _check_keeps_key(judge)
    return judge


def _check_keeps_key(judge: Judge) -> None:
    if isinstance(judge, HttpJudge) and judge.sends_key_away:
        raise JudgeError(
            f"a file names the server {judge.host}, and it would be sent the key in "
            f"{judge.key_variable}; give --trust-judge (in Python: "
            'circuits.trusting("judge")) if the server is yours, or unset the variable'
        )


@contextmanager
def _naming(option: str) -> Iterator[None]:
    try:
        yield
    except CircuitsError as error:
        raise type(error)(f"{option}: {error}") from error
