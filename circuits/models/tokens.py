"""Prompts as tokens: chat templates, padding, and where a text stands among the tokens.

From prompts to tokens: the chat template, one begin token, left padding. Two traps are closed here
and nowhere else. A chat template that writes its own begin token gets a second one from a tokenizer
that adds one (the published scripts run with two); and a template that writes today's date gives
other numbers tomorrow.

Prompts that ask for different emotions, or for none, differ in length. Their tokens are matched by
role, what every token is there for, found from the characters that each token covers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any, Literal

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from circuits.errors import DataError, ModelError
from circuits.models.protocol import Model, refuse_unwrapped
from circuits.prompts.prompt import Message, Prompt, PromptLike, as_prompt
from circuits.prompts.sev import Context

__all__ = [
    "DATE",
    "ROLES",
    "Begin",
    "Labelled",
    "Tokens",
    "encode",
    "encode_text",
    "label_prompt",
    "pad_left",
    "render",
    "stop_tokens",
    "text_span",
    "today",
    "token_spans",
]

Begin = Literal["one", "tokenizer"]
"""One begin token, or those that the tokenizer adds to a rendered prompt by itself."""

DATE = "26 Jul 2024"
"""The date given to templates that write one (the default date of Llama 3's template)."""


@dataclass(frozen=True)
class Tokens:
    """A batch of token sequences, padded on the left."""

    ids: Int[Tensor, "prompt pos"]
    mask: Bool[Tensor, "prompt pos"]
    """False where padded."""


def render(model: Model, prompt: Prompt) -> str:
    """The prompt's messages as the model's chat template writes them, ready for the reply.

    A template without a system turn gets the instruction at the head of the user turn.

    Raises:
        ModelError: the model has no tokenizer, or its tokenizer no chat template.
    """
    tokenizer, messages = _tokenizer(model), prompt.messages or ()
    if getattr(tokenizer, "chat_template", None) is None:
        raise ModelError(
            "the model's tokenizer has no chat template, so messages cannot be read; "
            "use a chat-tuned model, or give the prompts as texts"
        )
    date, system = str(getattr(model.cfg, "date", DATE)), prompt.system
    text = _template(tokenizer, messages, date)
    if text is None or system.strip().split("\n")[0] not in text:
        turns = [message for message in messages if message.role != "system"]
        first = next((i for i, turn in enumerate(turns) if turn.role == "user"), None)
        if first is not None:
            turns[first] = Message("user", f"{system}\n\n{turns[first].content}")
        text = _template(tokenizer, turns, date)
    if text is None:
        raise ModelError("the model's chat template accepts neither a system turn nor a user turn")
    return text


def encode(model: Model, prompt: PromptLike) -> list[int]:
    """Token ids of a prompt: a string, chat messages, token ids, or a :class:`Prompt`.

    A string is read as it is, after the begin token, as ``model("...")`` of TransformerLens reads
    it; messages go through the chat template; token ids stay as they are. There is exactly one
    begin token if the model has one; a model loaded with ``begin="tokenizer"`` gets as many as its
    tokenizer adds to the text (two for the rendered messages of Llama 3.2, as published).

    Raises:
        DataError: the prompt is empty, of no known kind, longer than the model's context, or has
            ids outside of the vocabulary.
        ModelError: the model has no tokenizer or no chat template.
    """
    own, most = as_prompt(prompt), getattr(model.cfg, "n_ctx", None)
    ids = list(own.ids) if own.ids is not None else _encoded(model, own)
    wrong = next((i for i in own.ids or () if not 0 <= i < int(model.cfg.d_vocab)), None)
    if wrong is not None:
        raise DataError(
            f"token id {wrong} is not in the model's vocabulary, whose ids are 0 to "
            f"{int(model.cfg.d_vocab) - 1}"
        )
    if most and len(ids) > int(most):
        raise DataError(
            f"the prompt {own.key} has {len(ids)} tokens, the model reads {most}; shorten it"
        )
    return ids


def _encoded(model: Model, own: Prompt) -> list[int]:
    tokenizer, text = _tokenizer(model), own.text if own.text is not None else render(model, own)
    if getattr(model.cfg, "begin", "one") == "tokenizer":
        trusted = bool(getattr(model.cfg, "trust_remote_code", False))
        return list(_as_saved(str(model.cfg.source), trusted)(text)["input_ids"])
    ids = list(tokenizer(text, add_special_tokens=False)["input_ids"])
    begin = tokenizer.bos_token_id
    if begin is None:
        return ids
    if own.text is not None and ids[:1] != [begin]:
        return [begin, *ids]
    while ids[:2] == [begin, begin]:
        ids = ids[1:]
    return ids


def encode_text(model: Model, text: str) -> list[int]:
    """Token ids of ``text`` as a continuation: no special token is added."""
    return list(_tokenizer(model)(text, add_special_tokens=False)["input_ids"])


def pad_left(rows: Sequence[Sequence[int]], device: torch.device, pad: int = 0) -> Tokens:
    """Stack sequences of different length, padded on the left with ``pad``."""
    width = max(map(len, rows))
    ids = torch.full((len(rows), width), pad, dtype=torch.long)
    mask = torch.zeros((len(rows), width), dtype=torch.bool)
    for place, row in enumerate(rows):
        ids[place, width - len(row) :] = torch.tensor(row, dtype=torch.long)
        mask[place, width - len(row) :] = True
    return Tokens(ids.to(device), mask.to(device))


def today() -> str:
    """Today's date as templates write it, such as ``26 Jul 2024``."""
    return datetime.now().astimezone().strftime("%d %b %Y")


def stop_tokens(model: Model) -> tuple[int, ...]:
    """Ids that end a reply: the tokenizer's end token and those of the generation settings."""
    wrapped = getattr(model, "original_model", None)
    listed = getattr(getattr(wrapped, "generation_config", None), "eos_token_id", None)
    ids = [*(listed if isinstance(listed, list) else [listed]), _tokenizer(model).eos_token_id]
    return tuple(sorted({int(i) for i in ids if i is not None}))


@cache
def _as_saved(source: str, trusted: bool) -> Any:
    # TransformerLens loads tokenizers with a begin token switched on, whatever was saved.
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(source, trust_remote_code=trusted)


def _tokenizer(model: Model) -> Any:
    refuse_unwrapped(model)
    if model.tokenizer is None:
        raise ModelError("the model has no tokenizer; load it with one")
    return model.tokenizer


def _template(tokenizer: Any, messages: Sequence[Message], date: str) -> str | None:
    # Templates refuse a role by raising; jinja2 is imported here because transformers brings it.
    from jinja2.exceptions import TemplateError

    try:
        return tokenizer.apply_chat_template(
            [message._asdict() for message in messages],
            # A macro hides the function of the same name that would give today's date.
            chat_template=f"{{%- macro strftime_now(format) -%}}{date}{{%- endmacro -%}}"
            + tokenizer.get_chat_template(),
            tokenize=False,
            add_generation_prompt=messages[-1].role != "assistant",
            continue_final_message=messages[-1].role == "assistant",
            date_string=date,
        )
    except TemplateError:
        return None


def token_spans(model: Model, prompt: Prompt) -> tuple[str, list[int], list[tuple[int, int]]]:
    """The rendered prompt, its token ids, and the characters ``[start, end)`` of every token.

    Raises:
        ModelError: the tokenizer cannot say which characters a token covers.
    """
    if prompt.ids is not None:
        raise DataError("which characters a token covers is not known of prompts given as ids")
    text = prompt.text if prompt.text is not None else render(model, prompt)
    ids = encode(model, prompt)
    tokenizer = model.tokenizer
    if not getattr(tokenizer, "is_fast", False):
        raise ModelError(
            "places of tokens need a tokenizer that knows which characters a token covers "
            "(a fast one); load the model with its tokenizer.json"
        )
    found = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    spans = [(int(start), int(end)) for start, end in found["offset_mapping"]]
    if list(found["input_ids"]) != ids:
        # One begin token more or less than the text itself gives; it covers no character.
        missing = len(ids) - len(spans)
        spans = [(0, 0)] * missing + spans[max(0, -missing) :]
    return text, ids, spans


def text_span(model: Model, prompt: Prompt) -> tuple[list[int], int, int]:
    """Token ids of the prompt, and the places ``[start, stop)`` of the text that is asked about.

    A token that covers a character of the text belongs to it, even if it covers others too.

    Raises:
        ModelError: the text is empty, the template rewrites it, or the tokenizer cannot say which
            characters a token covers.
    """
    rendered, ids, spans = token_spans(model, prompt)
    words = prompt.user.strip()
    start = rendered.rfind(words) if words else -1
    if start < 0:
        raise ModelError(
            f"the text {prompt.user[:60]!r} is not in the rendered prompt: it is empty, or the "
            "chat template rewrites it; its tokens cannot be told from the others"
        )
    end = start + len(words)
    inside = [place for place, (first, last) in enumerate(spans) if first < end and last > start]
    return ids, inside[0], inside[-1] + 1


ROLES = ("frame", "asking", "emotion", "brief", "scenario", "event", "last")
"""``frame``: written by the chat template. ``asking``: the line that asks for an emotion, without
the ``emotion`` word. ``brief``: the rest of the instruction. ``last``: the final token, where the
reply begins."""


@dataclass(frozen=True)
class Labelled:
    """A prompt's tokens with their roles."""

    ids: tuple[int, ...]
    tokens: tuple[str, ...]
    roles: tuple[str, ...]


def label_prompt(model: Model, prompt: Prompt) -> Labelled:
    """Token ids of the rendered prompt, as text, and what each is there for.

    Raises:
        ModelError: the tokenizer cannot say which characters a token covers, or the template
            rewrites the prompt's text.
    """
    text, ids, spans = token_spans(model, prompt)
    parts = _parts(text, prompt, prompt.context) if prompt.context else []
    # The first part that a token covers some of; the inner ones come first.
    roles = [
        next((role for first, last, role in parts if start < last and end > first), "frame")
        for start, end in spans
    ]
    pieces = model.tokenizer.convert_ids_to_tokens(ids)
    tokens = [
        text[start:end] if end > start else piece
        for (start, end), piece in zip(spans, pieces, strict=True)
    ]
    return Labelled(tuple(ids), tuple(tokens), (*roles[:-1], "last"))


def _parts(text: str, prompt: Prompt, context: Context) -> list[tuple[int, int, str]]:
    """(start, end, role) of the prompt's own words, the inner ones first."""
    request = prompt.system.split("\n")
    wanted = [
        (context.event, "event"),
        (context.situation, "scenario"),
        (request[-1].strip(), "brief"),
    ]
    if prompt.emotion is not None:
        wanted.append((request[0].strip(), "asking"))
    parts: list[tuple[int, int, str]] = []
    for words, role in wanted:
        start = text.rfind(words)
        if start < 0:
            raise ModelError(
                f"the chat template rewrites the prompt: {words!r} ({role}) is not in it; "
                "tokens cannot be matched by role"
            )
        if role == "asking" and prompt.emotion is not None:
            word = start + words.rfind(prompt.emotion)
            parts.insert(0, (word, word + len(prompt.emotion), "emotion"))
        parts.append((start, start + len(words), role))
    return parts
