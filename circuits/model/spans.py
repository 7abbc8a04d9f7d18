"""Which characters of a rendered prompt its tokens cover, and where the text in question stands."""

from circuits.data.prompts import Prompt, Question
from circuits.errors import ModelError
from circuits.model.chat import encode_prompt, render
from circuits.model.protocol import Model

__all__ = ["text_span", "token_spans"]


def token_spans(
    model: Model, prompt: Prompt | Question
) -> tuple[str, list[int], list[tuple[int, int]]]:
    """The rendered prompt, its token ids, and the characters ``[start, end)`` of every token.

    Raises:
        ModelError: the tokenizer cannot say which characters a token covers.
    """
    text, ids = render(model, prompt), encode_prompt(model, prompt)
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


def text_span(model: Model, prompt: Question) -> tuple[list[int], int, int]:
    """Token ids of the prompt, and the places ``[start, stop)`` of the text that is asked about.

    A token that covers a character of the text belongs to it, even if it covers others too.

    Raises:
        ModelError: the text is empty, the template rewrites it, or the tokenizer cannot say which
            characters a token covers.
    """
    rendered, ids, spans = token_spans(model, prompt)
    words = prompt.text.strip()
    start = rendered.rfind(words) if words else -1
    if start < 0:
        raise ModelError(
            f"the text {prompt.text[:60]!r} is not in the rendered prompt: it is empty, or the "
            "chat template rewrites it; its tokens cannot be told from the others"
        )
    end = start + len(words)
    inside = [place for place, (first, last) in enumerate(spans) if first < end and last > start]
    return ids, inside[0], inside[-1] + 1
