"""Measures a trained model on held-out contexts and texts, and writes `figures.json`.

Usage: python assets/recipe/evaluate.py
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import re
import sys
from pathlib import Path
from typing import Any

import torch
from grammar import sections
from recognition import DEVICE_REQUEST, DEVICES, EMOTION_REQUEST, device_text, emotion_text
from replies import EMOTIONS
from running import chat, generate, open_model, perplexity, prompt
from situations import VALENCES, Situation, load
from state import Choice, Values, add_residual, contributions, read, set_values
from words import Topics, nouns

ASSETS = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ASSETS.parent))  # the judge is part of the project's library
LOG = logging.getLogger("sev-mini")
NEUTRAL = "neutral"
MEASURES = ("replies", "recognition", "inference", "measure_state")
HEADS, NEURONS = 0.10, 0.02  # shares of the sparse interventions


def rate(texts: list[str], emotion: str) -> float:
    """Share of the texts that the lexicon judge hears as the emotion."""
    from circuits.judges import LexiconJudge

    verdicts = LexiconJudge().judge(texts, [emotion] * len(texts))
    return sum(verdict.match for verdict in verdicts) / len(texts)


def keeps(reply: str, situation: Situation) -> bool:
    """Whether a reply names the topic's head word."""
    return re.search(rf"\b{re.escape(situation.head)}\b", reply, re.I) is not None


def strange(reply: str, situation: Situation, known: set[str]) -> bool:
    """Whether a reply has a word of neither the sentence frames nor the context."""
    return bool(_words(reply) - known - _words(situation.text))


def _words(text: str) -> set[str]:
    return set(re.findall(r"[a-z']+", text.lower()))


def _frame_words(emotion: str) -> set[str]:
    frames = sections(f"replies/{emotion}.txt")
    return _words(" ".join(frames["open"] + frames["close"])) | {"your", "the"}


def _mean(values: list[float]) -> float:
    return sum(values) / max(1, len(values))


class Evaluation:
    """All measurements of one model."""

    def __init__(self, folder: Path, contexts: int | None) -> None:
        self.model, self.tokenizer = open_model(folder)
        held_out = load(ASSETS / "sev" / "test.jsonl")
        self.test = held_out if contexts is None else random.Random(0).sample(held_out, contexts)
        self.train = load(ASSETS / "sev" / "train.jsonl")
        self.asked = {e: self._prompts(self.test, e) for e in EMOTIONS}
        self.plain = self._prompts(self.test, None)
        self.told: dict[str, list[str]] = {}
        self._own: dict[str, float] = {}
        self.figures: dict[str, Any] = {"contexts": len(self.test)}

    def _prompts(self, situations: list[Situation], emotion: str | None) -> list[str]:
        return [chat(self.tokenizer, situation, emotion) for situation in situations]

    def replies(self) -> None:
        """Obedience, neutrality, topics and variety."""
        seen = {word for noun in nouns() for word in noun.split()}
        seen |= {situation.head for situation in self.train}
        rows: dict[str, Any] = {}
        for emotion in (*EMOTIONS, NEUTRAL):
            prompts = self.plain if emotion == NEUTRAL else self.asked[emotion]
            told = self.told[emotion] = generate(self.model, self.tokenizer, prompts)
            pairs = list(zip(told, self.test, strict=True))
            new = [keeps(r, s) for r, s in pairs if s.head not in seen]
            rows[emotion] = {
                "judged": rate(told, emotion),
                "topic": _mean([keeps(r, s) for r, s in pairs]),
                "topic_unseen_noun": _mean(new),
                "unseen_nouns": len(new),
                "strange_word": _mean([strange(r, s, _frame_words(emotion)) for r, s in pairs]),
                "distinct": len(set(told)),
                "tokens": _mean([len(self.tokenizer(r).input_ids) for r in told]),
                "by_valence": {
                    v: rate([r for r, s in pairs if s.valence == v], emotion) for v in VALENCES
                },
                "examples": told[:3],
            }
            LOG.info("%s %s", emotion, {k: v for k, v in rows[emotion].items() if k != "examples"})
        self.figures["replies"] = rows
        self.figures["obedience"] = _mean([rows[e]["judged"] for e in EMOTIONS])

    def recognition(self, count: int = 1000) -> None:
        """Accuracy on texts with held-out frames and held-out nouns."""
        rng, topics = random.Random(11), Topics(held_out=True)
        for name, request, labels, make in (
            ("emotion", EMOTION_REQUEST, EMOTIONS, emotion_text),
            ("device", DEVICE_REQUEST, DEVICES, device_text),
        ):
            truth = [rng.choice(labels) for _ in range(count)]
            texts = [make(label, topics, rng, held_out=True) for label in truth]
            prompts = [
                prompt(
                    self.tokenizer,
                    [{"role": "system", "content": request}, {"role": "user", "content": text}],
                )
                for text in texts
            ]
            named = generate(self.model, self.tokenizer, prompts, limit=6)
            right = [a == b for a, b in zip(named, truth, strict=True)]
            by_label = {
                label: _mean([r for r, t in zip(right, truth, strict=True) if t == label])
                for label in labels
            }
            self.figures[f"{name}_recognition"] = {"accuracy": _mean(right), **by_label}
            LOG.info("%s recognition %s", name, self.figures[f"{name}_recognition"])

    def inference(self) -> None:
        """Emotions asked for in an earlier turn or carried by the user's own words."""
        remarks = {"anger": "furious", "sadness": "heartbroken", "happiness": "delighted"}
        remarks |= {"fear": "terrified", "surprise": "astonished", "disgust": "disgusted"}
        earlier, felt = {}, {}
        for emotion in EMOTIONS:
            asked, own = [], []
            for situation in self.test[::4]:
                turns = [
                    {"role": "user", "content": f"Please answer with {emotion} from now on."},
                    {"role": "assistant", "content": "All right."},
                    {"role": "user", "content": situation.text},
                ]
                asked.append(prompt(self.tokenizer, turns))
                text = f"{situation.text}\nI am {remarks[emotion]} about it."
                own.append(prompt(self.tokenizer, [{"role": "user", "content": text}]))
            earlier[emotion] = rate(generate(self.model, self.tokenizer, asked), emotion)
            felt[emotion] = rate(generate(self.model, self.tokenizer, own), emotion)
        self.figures["earlier_turn"], self.figures["own_words"] = earlier, felt
        LOG.info("earlier turn %s, own words %s", earlier, felt)

    def measure_state(self) -> None:
        """Writes, steering and ablation at the last prompt position."""
        base = read(self.model, self.tokenizer, self._prompts(self.train, None))
        self._mean_plain = {key: value.mean(0) for key, value in base.items()}
        self._plain = read(self.model, self.tokenizer, self.plain)
        self._differences: dict[str, Values] = {}
        self._chosen: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
        writer = random.Random(3)
        for emotion in EMOTIONS:
            values = read(self.model, self.tokenizer, self._prompts(self.train, emotion))
            self._differences[emotion] = {
                key: value.mean(0) - self._mean_plain[key] for key, value in values.items()
            }
            part = writer.sample(self.train, 48)
            told = generate(self.model, self.tokenizer, self._prompts(part, emotion))
            self._chosen[emotion] = self._scores(emotion, part, told)
            LOG.info("contributions to %s", emotion)
        state: dict[str, Any] = {}
        for name in ("write_all", "write_sparse", "write_random"):
            state[name] = {e: self._write(name, e) for e in EMOTIONS}
            LOG.info("%s %s", name, state[name])
        state["residual"] = self._steer_residual()
        for name in ("ablate_sparse", "ablate_random", "ablate_all"):
            state[name] = {e: self._ablate(name, e) for e in EMOTIONS}
            LOG.info("%s %s", name, state[name])
        self.figures["state"] = state

    def _scores(
        self, emotion: str, part: list[Situation], told: list[str]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Contributions to replies in the emotion, as written into plain and taken from asked."""
        ways = [
            contributions(
                self.model,
                self.tokenizer,
                self._prompts(part, given),
                told,
                self._differences[emotion],
                sign,
            )
            for given, sign in ((None, 1.0), (emotion, -1.0))
        ]
        return ways[0][0] + ways[1][0], ways[0][1] + ways[1][1]

    def _choice(self, name: str, emotion: str) -> Choice:
        if name.endswith("all"):
            return Choice.everything(self.model)
        heads, neurons = self._chosen[emotion]
        if name.endswith("random"):
            maker = torch.Generator().manual_seed(5)
            heads = torch.rand(heads.shape, generator=maker)
            neurons = torch.rand(neurons.shape, generator=maker)
        return Choice.best(self.model, heads, neurons, (HEADS, NEURONS))

    def _judge_steered(self, told: list[str], emotion: str) -> dict[str, float]:
        """Expression, topic and the perplexity against the prompted replies."""
        if emotion not in self._own:
            self._own[emotion] = perplexity(
                self.model, self.tokenizer, self.asked[emotion], self.told[emotion]
            )
        steered = perplexity(self.model, self.tokenizer, self.asked[emotion], told)
        return {
            "judged": rate(told, emotion),
            "perplexity_ratio": steered / self._own[emotion],
            "topic": _mean([keeps(r, s) for r, s in zip(told, self.test, strict=True)]),
        }

    def _write(self, name: str, emotion: str) -> dict[str, float]:
        """Neutral prompts with the chosen components set to their plain value plus difference."""
        choice, difference = self._choice(name, emotion), self._differences[emotion]

        def hooks(_: dict[str, torch.Tensor], part: slice) -> Any:
            values = {key: self._plain[key][part] + difference[key] for key in choice.masks}
            return set_values(self.model, values, choice)

        told = generate(self.model, self.tokenizer, self.plain, hooks)
        return self._judge_steered(told, emotion)

    def _steer_residual(self) -> dict[str, Any]:
        """Adds each layer's mean difference to the residual."""
        found: dict[str, Any] = {}
        for layer in range(len(self.model.model.layers)):
            for strength in (1.0, 2.0):
                rates = {}
                for emotion in EMOTIONS:
                    direction = strength * self._differences[emotion]["residual", layer]
                    told = generate(
                        self.model, self.tokenizer, self.plain[::4],
                        lambda *_, d=direction, at=layer: add_residual(self.model, at, d),
                    )  # fmt: skip
                    rates[emotion] = rate(told, emotion)
                key = f"layer {layer} x{strength:g}"
                found[key] = {"judged": _mean(list(rates.values())), **rates}
                LOG.info("residual %s %s", key, found[key])
        return found

    def _ablate(self, name: str, emotion: str) -> dict[str, float]:
        """Emotion prompts with the chosen components set to their mean value in neutral runs."""
        choice = self._choice(name, emotion)

        def hooks(_: dict[str, torch.Tensor], __: slice) -> Any:
            return set_values(self.model, self._mean_plain, choice)

        told = generate(self.model, self.tokenizer, self.asked[emotion], hooks)
        judged = rate(told, emotion)
        return {"judged": judged, "drop": rate(self.told[emotion], emotion) - judged}


def main() -> None:
    """Reads the options, measures and writes the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=ASSETS / "sev-mini")
    parser.add_argument("--contexts", type=int, help="a random part of the test contexts")
    parser.add_argument("--threads", type=int, default=3)
    parser.add_argument("--only", choices=MEASURES[:3], help="renew one part of the figures")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(options.threads)
    evaluation = Evaluation(options.model, options.contexts)
    path = options.model / "figures.json"
    if options.only:
        evaluation.figures = json.loads(path.read_text(encoding="utf-8"))
    for measure in [options.only] if options.only else MEASURES:
        getattr(evaluation, measure)()
        path.write_text(json.dumps(evaluation.figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
