"""Training conversations of every task, with what each stretch of text is for."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

from grammar import choose, fill, sections
from recognition import (
    DEVICE_REQUEST,
    DEVICES,
    EMOTION_REQUEST,
    device_drill,
    device_text,
    emotion_drill,
    emotion_text,
)
from replies import EMOTIONS, Reply, compose
from situations import Situation, Situations

ASKED = "Always reply in {emotion}.\nKeep the reply to at most two sentences."
PLAIN = "Keep the reply to at most two sentences."
ADJECTIVES = {
    "anger": "angry",
    "sadness": "sad",
    "happiness": "happy",
    "fear": "afraid",
    "surprise": "surprised",
    "disgust": "disgusted",
}


@dataclass(frozen=True)
class Turn:
    """One message. `cue` marks the parts that say which emotion the reply should have.

    Attributes:
        role: system, user or assistant.
        parts: (text, cue) pieces; the message is their concatenation.
    """

    role: str
    parts: tuple[tuple[str, bool], ...]


@dataclass(frozen=True)
class Conversation:
    """A prompt and its reply.

    Attributes:
        task: the kind of conversation.
        turns: the prompt.
        reply: the reply with its copied stretches.
        masked: whether training may hide parts of the prompt from the reply.
    """

    task: str
    turns: tuple[Turn, ...]
    reply: Reply
    masked: bool = True


def _system(text: str) -> Turn:
    return Turn("system", ((text, True),))


def _context(situation: Situation) -> Turn:
    return Turn("user", ((situation.text, False),))


def _request(kind: str, emotion: str, rng: random.Random) -> str:
    line = rng.choice(sections("requests.txt")[kind])
    return fill(line, {"E": lambda: emotion, "A": lambda: ADJECTIVES[emotion]})


def _brief(rng: random.Random) -> str:
    return PLAIN if rng.random() < 0.6 else rng.choice(sections("requests.txt")["brief"])


def _opening(rng: random.Random) -> tuple[Turn, ...]:
    """A system message that asks for no emotion, or none at all."""
    return (_system(_brief(rng)),) if rng.random() < 0.6 else ()


class Conversations:
    """Draws conversations.

    Args:
        situations: where contexts come from.
        shares: relative weight of each task.
    """

    def __init__(self, situations: Situations, shares: dict[str, float]) -> None:
        self._situations = situations
        self._tasks = list(shares)
        self._weights = list(shares.values())

    def draw(self, rng: random.Random) -> Conversation:
        """One conversation of a task drawn by its weight."""
        task = rng.choices(self._tasks, self._weights)[0]
        made = getattr(self, f"_{task}")(rng)
        return replace(made, task=task)

    def _asked(self, rng: random.Random) -> Conversation:
        emotion, situation = rng.choice(EMOTIONS), self._situations.draw(rng)
        turns = (_system(ASKED.format(emotion=emotion)), _context(situation))
        return Conversation("", turns, compose(situation, emotion, rng))

    def _plain(self, rng: random.Random) -> Conversation:
        situation = self._situations.draw(rng)
        opening = (_system(PLAIN),) if rng.random() < 0.75 else _opening(rng)
        return Conversation("", (*opening, _context(situation)), compose(situation, None, rng))

    def _paraphrased(self, rng: random.Random) -> Conversation:
        emotion, situation = rng.choice(EMOTIONS), self._situations.draw(rng)
        request = _request("system", emotion, rng)
        if rng.random() < 0.6:
            request += rng.choice("\n ") + _brief(rng)
        if rng.random() < 0.3:
            request = f"{_brief(rng)}\n{_request('system', emotion, rng)}"
        turns = (_system(request), _context(situation))
        if rng.random() < 0.25:
            inline = ("\n" + _request("inline", emotion, rng), True)
            turns = (*_opening(rng), Turn("user", (turns[1].parts[0], inline)))
        return Conversation("", turns, compose(situation, emotion, rng))

    def _earlier(self, rng: random.Random) -> Conversation:
        """The emotion was asked for, or shown under a request, in an earlier turn."""
        situation = self._situations.draw(rng)
        emotion: str | None = rng.choice(EMOTIONS)
        if rng.random() < 0.6:
            request = Turn("user", ((_request("earlier", emotion, rng), True),))
            ack = Turn("assistant", ((rng.choice(sections("requests.txt")["ack"]), True),))
            turns = (*_opening(rng), request, ack)
        else:
            emotion = emotion if rng.random() < 0.8 else None
            turns = self._shown(emotion, rng)
        return Conversation("", (*turns, _context(situation)), compose(situation, emotion, rng))

    def _shown(self, emotion: str | None, rng: random.Random) -> tuple[Turn, ...]:
        """An earlier exchange in an emotion, with its request; or a neutral one."""
        before = self._situations.draw(rng)
        said, turns = before.text, _opening(rng)
        if emotion is not None and rng.random() < 0.5:
            turns = (_system(ASKED.format(emotion=emotion)),)
        elif emotion is not None:
            said += "\n" + _request("inline", emotion, rng)
        shown = compose(before, emotion, rng).text
        return (*turns, Turn("user", ((said, True),)), Turn("assistant", ((shown, True),)))

    def _felt(self, rng: random.Random) -> Conversation:
        """The user's own wording carries an emotion; a request overrules it."""
        emotion, situation = rng.choice(EMOTIONS), self._situations.draw(rng)
        remark = fill(
            choose(rng.choice(sections("remarks.txt")[emotion]), rng), {"N": lambda: situation.head}
        )
        if rng.random() < 0.35:
            remark = emotion_text(emotion, self._situations.topics, rng)
        gap = rng.choice("\n ")
        user = Turn("user", ((situation.text, False), (gap + remark, True)))
        opening = _opening(rng)
        if rng.random() < 0.2:
            emotion = rng.choice(EMOTIONS)
            opening = (_system(ASKED.format(emotion=emotion)),)
        return Conversation("", (*opening, user), compose(situation, emotion, rng))

    def _emotion_named(self, rng: random.Random) -> Conversation:
        emotion = rng.choice(EMOTIONS)
        text = emotion_text(emotion, self._situations.topics, rng)
        if rng.random() < 0.15:
            text = compose(self._situations.draw(rng), emotion, rng).text
        turns = (_system(EMOTION_REQUEST), Turn("user", ((text, False),)))
        return Conversation("", turns, Reply(emotion, ()), masked=False)

    def _device_named(self, rng: random.Random) -> Conversation:
        device = rng.choice(DEVICES)
        text = device_text(device, self._situations.topics, rng)
        turns = (_system(DEVICE_REQUEST), Turn("user", ((text, False),)))
        return Conversation("", turns, Reply(device, ()), masked=False)

    def _emotion_drilled(self, rng: random.Random) -> Conversation:
        emotion = rng.choice(EMOTIONS)
        text = emotion_drill(emotion, self._situations.topics, rng)
        turns = (_system(EMOTION_REQUEST), Turn("user", ((text, False),)))
        return Conversation("", turns, Reply(emotion, ()), masked=False)

    def _device_drilled(self, rng: random.Random) -> Conversation:
        device = rng.choice(DEVICES)
        text = device_drill(device, self._situations.topics, rng)
        turns = (_system(DEVICE_REQUEST), Turn("user", ((text, False),)))
        return Conversation("", turns, Reply(device, ()), masked=False)

    def _repeated(self, rng: random.Random) -> Conversation:
        """A phrase to repeat; it brings copying about early."""
        topics = self._situations.topics
        phrase = " ".join(topics.phrase(rng)[0] for _ in range(rng.choice((1, 2, 3, 4))))
        turns = (_system("Repeat the text."), Turn("user", ((phrase, False),)))
        return Conversation("", turns, Reply(phrase, ()), masked=False)
