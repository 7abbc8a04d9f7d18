import pytest

from circuits.errors import DataError
from circuits.judges.judge import Verdict
from circuits.judges.replies import Reply, judge_confusion, wilson
from circuits.prompts.sev import Context
from circuits.prompts.templates import emotion_prompt, neutral_prompt

HERE = Context("work_00", "Work", "neutral", "I ran a race", "It ended.")
EMOTIONS = ("fear", "anger")


class Literal:
    """Hears exactly the emotions that the text names."""

    name = "literal"

    def judge(self, texts, emotions):
        return [
            Verdict(emotion in text, None, "")
            for text, emotion in zip(texts, emotions, strict=True)
        ]

    def describe(self):
        return {}


def reply(text, emotion=None):
    prompt = neutral_prompt(HERE) if emotion is None else emotion_prompt(HERE, emotion)
    return Reply(prompt, text, 3, emotion or "neutral")


REPLIES = [
    reply("fear", "fear"),
    reply("nothing"),
    reply("fear and anger", "fear"),
    reply("anger", "anger"),
    reply("fear", "fear"),
]


def test_every_reply_is_put_to_the_judge_for_every_emotion():
    found = judge_confusion(REPLIES, Literal(), EMOTIONS)
    assert found.label == ("fear", "neutral", "anger")
    assert found.n.tolist() == [3, 1, 1]
    for i, label in enumerate(found.label):
        own = [r.text for r in REPLIES if r.emotion == label]
        for j, emotion in enumerate(EMOTIONS):
            count = sum(emotion in text for text in own)
            assert found.share[i, j].item() == pytest.approx(100 * count / len(own))
            bounds = (found.low[i, j].item(), found.high[i, j].item())
            assert bounds == pytest.approx(wilson(count, len(own)))


@pytest.mark.parametrize(("replies", "emotions"), [([], EMOTIONS), (REPLIES, ())])
def test_nothing_to_hear_is_refused(replies, emotions):
    with pytest.raises(DataError, match="give at least one of each"):
        judge_confusion(replies, Literal(), emotions)
