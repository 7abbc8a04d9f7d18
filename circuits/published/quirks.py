"""Where the published method differs from ours, as data: one row per quirk, with the reason.

The rows are those in which the scripts of Wang et al. 2025 (arXiv 2510.11328) do something that
moves numbers or breaks a run. What moves numbers is an option of the plan: our choice is its
default, theirs is here. What only breaks is handled, and the row says how.

Presets: our own defaults, the published method, and the scripts as they were released.

``published`` gives what the published files hold; ``as-released`` what a run of the scripts would
have given (Wang et al. 2025, arXiv 2510.11328). They differ from our defaults only in the switches
of these rows.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from circuits.circuit.find import Budget

__all__ = ["METHOD", "PRESETS", "QUIRKS", "Quirk", "Switch"]


@dataclass(frozen=True)
class Switch:
    """An option of a plan and its published value."""

    option: str
    published: Any
    """As in the published files."""
    as_released: Any = None
    """What the released scripts do, where that is not what the files say."""


@dataclass(frozen=True)
class Quirk:
    """One difference."""

    name: str
    reason: str
    """Why we do otherwise by default."""
    switches: tuple[Switch, ...] = ()
    """Options that bring it back; none if it is ``handled``."""
    handled: str = ""
    """What happens instead, where there is nothing to switch."""


_PENALTIES = Switch("decoding", "published")

QUIRKS: tuple[Quirk, ...] = (
    Quirk(
        "two_begin_tokens",
        "a rendered Llama 3.2 prompt gets a second begin token",
        (Switch("begin", "tokenizer"),),
    ),
    Quirk(
        "moving_date",
        "a template that writes the day gives other numbers tomorrow",
        (Switch("date", "15 Sep 2025", "today"),),
    ),
    Quirk(
        "final_norm_as_last_layer",
        "what the final norm makes of the last layer lies in another space than the layers",
        (Switch("last", "final"), Switch("read_at", "final")),
    ),
    Quirk("half_dumps", "float16 dumps lose three digits", (Switch("half", True),)),
    Quirk(
        "heads_after_the_norm",
        "directions are made before the norm, not after it",
        (Switch("head_readout", "post_norm"),),
    ),
    Quirk(
        "signed_ranking",
        "parts that push away from the emotion would fill the circuit",
        (Switch("signed", True),),
    ),
    Quirk(
        "uncentred_contributions",
        "a component active in every emotion would rank high",
        (Switch("rank_by", "mean"),),
    ),
    Quirk(
        "indented_prompt",
        "differences would come from another wording than directions",
        (Switch("diff_prompt", "indented"),),
    ),
    Quirk(
        "valences_overwrite_each_other",
        "two of three contexts would be lost, which ones depends on the folder's order",
        (Switch("diff_grouping", "context", "scenario"),),
    ),
    Quirk(
        "unit_attention_differences",
        "a difference of length one is no longer the model's own",
        (Switch("diff_unit", False, as_released=True),),
    ),
    Quirk(
        "file_names_disagree",
        "a file that is looked for under another name would silently count as zero",
        handled="both names are read, one that the released scripts miss is named on import, and "
        "a missing layer is an error",
    ),
    Quirk(
        "heads_at_all_positions",
        "heads and neurons of one circuit would be written at different places",
        (Switch("head_positions", "all"), Switch("neuron_positions", "last")),
    ),
    Quirk(
        "gentler_anger",
        "one emotion would be given a strength of its own by hand; dev contexts choose instead",
        (Switch("circuit_strength", (("anger", 0.8), ("other", 1.0))), Switch("dev_scenarios", 0)),
    ),
    Quirk(
        "penalties_over_the_prompt",
        "the prompt holds the end token, so ending the reply would be penalised",
        (_PENALTIES,),
    ),
    Quirk(
        "methods_reply_differently",
        "a comparison of methods would compare decoding and number types too",
        (_PENALTIES, Switch("circuit_dtype", "float16")),
    ),
    Quirk(
        "fragile_judge",
        "a fenced answer or a lost connection would count as no emotion",
        (Switch("judge_profile", "released"),),
    ),
    Quirk(
        "accepted_only",
        "the judge's errors choose the samples; `all` leaves none of them out",
        (Switch("samples", "accepted"),),
    ),
    Quirk(
        "dict_in_the_prompt",
        "three events at once, with braces, are no context",
        handled="an event that is no text is refused, by the reader and by the context",
    ),
    Quirk(
        "label_keys_disagree",
        "labels under one name, counted under another, add up to zero",
        handled="every method's replies have one form, written and read by the same functions",
    ),
    Quirk(
        "option_that_is_not_there",
        "a documented command that cannot run helps nobody",
        handled="every option in the documentation is tested to exist",
    ),
    Quirk(
        "list_as_baseline",
        "a cell that holds a list of numbers is no number",
        handled="the baseline readout is a mean per emotion",
    ),
    Quirk(
        "sum_falls_short",
        "a budget that is not used up depends on rounding",
        handled="places are dealt out until the budget or the components are used up",
    ),
    Quirk(
        "hooks_leak",
        "one failed reply would change all later ones; a second run would double the lines",
        handled="edits end with their block on every path, files are replaced whole",
    ),
    Quirk(
        "login_in_the_script",
        "a model that is on the disk needs no account",
        handled="nothing logs in; a gated model's error says how to",
    ),
    Quirk(
        "heads_are_query_heads",
        "keys and values are shared by several heads, so they belong to none",
        handled="a head is a query head's slice before W_O; keys and values are never touched",
    ),
    Quirk(
        "last_digit_of_tables",
        "a quick reading of decimal numbers may be off by one in the last place",
        handled="cells are read exactly and written so that they read back the same",
    ),
)
"""In the order of the published stages' list: the first is number 1."""

METHOD: tuple[Quirk, ...] = (
    Quirk(
        "smaller_circuits",
        "fewer components do not make up for all the others",
        (Switch("budget", Budget(0.10, 0.02)),),
    ),
    Quirk(
        "relative_to_the_emotions",
        "what all emotions share would be left out",
        (Switch("relative_to", "emotions"),),
    ),
    Quirk(
        "written_at_every_step",
        "once, as the prompt is read, is the gentler change that is tried first",
        (Switch("circuit_when", "every"),),
    ),
    Quirk(
        "steering_by_the_running_rms",
        "eight times the stream's size at ten layers was chosen for one model",
        (Switch("steering", "published"),),
    ),
)
"""Choices of the published method that are no quirks, but not ours."""


_SWITCHES = [switch for quirk in (*QUIRKS, *METHOD) for switch in quirk.switches]
_PUBLISHED = {switch.option: switch.published for switch in _SWITCHES}

PRESETS: Mapping[str, Mapping[str, Any]] = {
    "default": {},
    "published": _PUBLISHED,
    "as-released": _PUBLISHED
    | {s.option: s.as_released for s in _SWITCHES if s.as_released is not None},
}
"""Name -> options of a plan."""
