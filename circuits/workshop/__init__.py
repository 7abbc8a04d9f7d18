"""Checks of the workshop's exercises: each tells a learner what is wrong with an answer.

A check calls the learner's function with numbers, or a planted model, of which the right answer
is known. It returns a sentence, or raises an :class:`~circuits.errors.ExerciseError` that says
what was expected, what was found and what to do.
"""

from circuits.workshop.checks_circuit import (
    check_choose,
    check_faithfulness,
    check_p_value,
    check_random_heads,
)
from circuits.workshop.checks_control import check_circuit_edits, check_excess, check_steer_edits
from circuits.workshop.checks_directions import check_accuracy, check_directions, check_split
from circuits.workshop.checks_heads import check_head_effects, check_top_heads, check_without_head
from circuits.workshop.checks_patching import check_denoise_head, check_effect, check_share

__all__ = [
    "check_accuracy",
    "check_choose",
    "check_circuit_edits",
    "check_denoise_head",
    "check_directions",
    "check_effect",
    "check_excess",
    "check_faithfulness",
    "check_head_effects",
    "check_p_value",
    "check_random_heads",
    "check_share",
    "check_split",
    "check_steer_edits",
    "check_top_heads",
    "check_without_head",
]
