"""What a second judge hears in the same replies, and how far the two agree.

A judge's own mistakes are seen by no other judge that shares its words; one that was made from
other texts in another way does see them.
"""

from collections.abc import Sequence
from typing import Any

from circuits.data.judges import Verdict, agreement
from circuits.data.replies import Judged
from circuits.measure.expression import wilson

__all__ = ["heard_by_second"]


def heard_by_second(judged: Sequence[Judged], verdicts: Sequence[Verdict] | None) -> dict[str, Any]:
    """Accuracy as the second judge hears it, and Cohen's kappa; ``None`` without that judge.

    Kappa is ``None`` too where both judges hear one and the same thing in everything. Its
    interval is 95%, contexts resampled; ``judges_agree`` is the plain share in percent.

    Args:
        judged: Replies with what the first judge heard.
        verdicts: What the second heard in the same replies.
    """
    if verdicts is None:
        return {"second_judge": None, "kappa": None}
    matches = sum(verdict.match for verdict in verdicts)
    low, high = wilson(matches, len(verdicts))
    rows = list(zip(judged, verdicts, strict=True))
    emotions = dict.fromkeys(row.reply.emotion for row in judged)
    own = {e: [v.match for row, v in rows if row.reply.emotion == e] for e in emotions}
    contexts = [row.reply.prompt.context.id for row in judged]
    agreed = agreement([row.verdict for row in judged], verdicts, groups=contexts)
    return {
        "second_judge": round(100 * matches / len(verdicts), 2) if verdicts else None,
        "second_low": round(low, 2),
        "second_high": round(high, 2),
        "second_by_emotion": {e: round(100 * sum(m) / len(m), 2) for e, m in own.items()},
        "kappa": None if agreed.value is None else round(agreed.value, 4),
        "kappa_interval": agreed.interval and [round(bound, 4) for bound in agreed.interval],
        "judges_agree": round(100 * agreed.agreed, 2),
    }
