"""What a node does up close: its tokens, the contexts it answers most, where a head looks."""

import base64
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from circuits.explorer.scores import rounded
from circuits.measure.examples import NodeExamples
from circuits.measure.lens import TokenLens
from circuits.measure.patterns import HeadPatterns

__all__ = ["Tokens", "context_rows", "pattern_rows", "top_contexts"]

_HIGHEST, _LOWEST = 3, 1


class Tokens:
    """Lists of tokens with their logits, each kept once however many nodes have it.

    A neuron writes along one line, so its lists are the same for all emotions, or change sides.
    """

    def __init__(self, lens: TokenLens | None) -> None:
        self._lens = lens
        self._places: dict[tuple[float | int, ...], int] = {}
        self.lists: list[list[list[float | int]]] = []
        """Pairs of a token's place and the size of its logit."""

    @property
    def words(self) -> list[str]:
        """The texts of the tokens."""
        return [] if self._lens is None else list(self._lens.word)

    def of(self, name: str) -> list[list[int]] | None:
        """Per emotion the places of the lists that the node promotes and suppresses."""
        lens = self._lens
        if lens is None or name not in lens.node:
            return None
        at = lens.index("node", name)
        return [
            [
                self._place(lens.promoted_token[e, at].tolist(), lens.promoted[e, at].tolist()),
                self._place(lens.suppressed_token[e, at].tolist(), lens.suppressed[e, at].tolist()),
            ]
            for e in range(len(lens.emotion))
        ]

    def _place(self, words: Sequence[int], logits: Sequence[float]) -> int:
        pairs = [[word, rounded(abs(size))] for word, size in zip(words, logits, strict=True)]
        key = tuple(value for pair in pairs for value in pair)
        if key not in self._places:
            self._places[key] = len(self.lists)
            self.lists.append(pairs)
        return self._places[key]


def context_rows(examples: NodeExamples | None, patterns: HeadPatterns | None) -> list[Any]:
    """Every context that a node or a pattern names: id, theme, valence and text."""
    if examples is None:
        return [] if patterns is None else [{"id": name} for name in patterns.context]
    own = zip(
        examples.context, examples.theme, examples.valence, examples.situation, examples.event,
        strict=True,
    )  # fmt: skip
    return [
        {"id": name, "theme": theme, "valence": valence, "text": f"{situation}\n{event}"}
        for name, theme, valence, situation, event in own
    ]


def top_contexts(examples: NodeExamples | None, name: str) -> list[list[list[float | int]]] | None:
    """Per emotion, place and effect of the contexts with the highest effects, then the lowest."""
    if examples is None or name not in examples.node:
        return None
    effects = examples.effect[:, :, examples.index("node", name)].T
    found = []
    for own in effects:
        order = own.argsort(descending=True, stable=True).tolist()
        # Of few contexts none is named twice.
        chosen = dict.fromkeys([*order[:_HIGHEST], *order[-_LOWEST:]])
        found.append([[place, rounded(float(own[place]))] for place in chosen])
    return found


def pattern_rows(
    patterns: HeadPatterns | None, contexts: Sequence[Mapping[str, Any]], wanted: Mapping[str, Any]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Prompts with their tokens, and patterns as lower triangles in base 64.

    Args:
        patterns: Of some heads.
        contexts: What the places of contexts refer to.
        wanted: Head -> the emotions whose prompts are shown; others would fill the page.
    """
    if patterns is None:
        return [], []
    places = {row["id"]: place for place, row in enumerate(contexts)}
    prompts, found = [], []
    for c, context in enumerate(patterns.context):
        for e in range(len(patterns.emotion)):
            tokens = patterns.tokens[c][e]
            prompts.append({"context": places[context], "emotion": e, "tokens": list(tokens)})
            lower = torch.ones(len(tokens), len(tokens)).tril().bool()
            for n, name in enumerate(patterns.node):
                if e not in wanted.get(name, ()):
                    continue
                own = patterns.weight[c, e, n, -len(tokens) :, -len(tokens) :][lower]
                text = base64.b64encode(bytes(own.tolist())).decode()
                prompt = len(prompts) - 1
                found.append({"node": name, "prompt": prompt, "weights": text})
    return prompts, found
