"""Every family, part by part: its numbers are right, or the part is refused by name."""

from collections.abc import Callable
from typing import Any

import pytest
from families import measuring, patching, using
from families.models import FAMILIES, Evaluator

from circuits.errors import CircuitsError

PARTS: dict[str, Callable[[Evaluator], None]] = {
    "logits": measuring.logits,
    "sums of heads, neurons and writes": measuring.identities,
    "left padding": measuring.padding,
    "replies": measuring.replies,
    "judging": measuring.judging,
    "likelihood of replies": measuring.likelihood,
    "directions at the prompt": measuring.prompt_directions,
    "directions over replies": measuring.reply_directions,
    "directions after the final norm": measuring.final_directions,
    "effects of heads": measuring.heads,
    "effects of heads after the norm": measuring.heads_after_norm,
    "effects of neurons": measuring.neurons,
    "means": measuring.means,
    "importance": measuring.importance,
    "direct effects": measuring.direct,
    "total estimates": measuring.totals,
    "circuits": using.circuits,
    "scores of circuits": using.scores,
    "patching of sublayers": patching.patched_sublayers,
    "patching between sublayers": patching.patched_middle,
    "patching of heads": patching.patched_heads,
    "patching inside heads": patching.patched_inside_heads,
    "patching of named parts": patching.patched_parts,
    "paths by gradient": patching.paths,
    "paths, exactly": patching.exact_paths_through_heads,
    "AtP": patching.attribution,
    "AtP*": patching.attribution_star,
    "RelP": patching.relevance,
    "IG over inputs": patching.integrated_inputs,
    "IG over activations": patching.integrated_activations,
    "steering": using.steering,
    "writing circuits": using.modulation,
    "traces": using.traces,
    "choices": using.choices,
    "profiles of neurons": using.profile,
    "attribution of neurons to labels": using.label_gradients,
    "masks of neurons": using.masks,
    "files of circuits and hooks": using.files,
    "control vectors": using.control_vectors,
    "a whole run": using.run,
}

NORM = "there is a norm after the (attention|MLP)"
PARALLEL = "parallel attention and MLP"
MIXTURE = "2 of 2 layers of this model hold a mixture of experts"

_POST_NORM: dict[str, str] = dict.fromkeys(
    (
        "sums of heads, neurons and writes",
        "effects of heads",
        "effects of heads after the norm",
        "effects of neurons",
        "direct effects",
        "circuits",
        "paths by gradient",
        "paths, exactly",
        "IG over activations",
        "control vectors",
        "a whole run",
    ),
    NORM,
)
_PARALLEL: dict[str, str] = dict.fromkeys(
    ("patching between sublayers", "paths by gradient", "paths, exactly"), PARALLEL
)
_MIXTURE: dict[str, str] = dict.fromkeys(
    (
        "effects of neurons",
        "RelP",
        "IG over activations",
        "profiles of neurons",
        "attribution of neurons to labels",
        "masks of neurons",
    ),
    MIXTURE,
)
_CENTRED = {"effects of heads after the norm": "needs an RMSNorm before the MLP"}
REFUSED: dict[str, dict[str, str]] = {
    "GPT-2": _CENTRED,
    "GPT-NeoX (Pythia)": {**_PARALLEL, **_CENTRED},
    "GPT-J": {**_PARALLEL, **_CENTRED, "AtP*": "are not the softmax of their scores"},
    "OPT": {**_CENTRED, **dict.fromkeys(("AtP*", "RelP"), "this architecture has no pattern")},
    "Falcon": {**_PARALLEL, **_CENTRED},
    "OLMo": _CENTRED,
    "OLMo-2": _POST_NORM,
    "Gemma-2": _POST_NORM,
    "Gemma-3": _POST_NORM,
    "Mixtral": _MIXTURE,
    "Qwen3-MoE": _MIXTURE,
}
"""Family -> part -> what the refusal says. Nothing else may be refused."""

RUN = ("GPT-2", "GPT-NeoX (Pythia)", "Mistral", "Mixtral", "OLMo-2")
"""A whole run takes long and is made of the other parts, so it is made where its way differs:
with LayerNorms, with sublayers that write at once, with a window, with experts, and refused."""
CELLS = [(f, part) for f in FAMILIES for part in PARTS if part != "a whole run" or f in RUN]


@pytest.fixture(scope="module")
def last() -> dict[str, Evaluator]:
    return {}


@pytest.fixture
def evaluator(family: str, last: dict[str, Evaluator], tokenizer: Any, contexts: Any) -> Evaluator:
    """The family's, made for its first part; a module's fixture is made anew for every pair."""
    if family not in last:
        last.clear()
        last[family] = Evaluator(family, tokenizer, contexts)
    return last[family]


@pytest.mark.trial("models", "{family}: {part}")
@pytest.mark.parametrize(("family", "part"), CELLS)
def test_a_part_works_or_is_refused_by_name(evaluator, family, part, tmp_path, trial) -> None:
    evaluator.folder = tmp_path
    cause = REFUSED.get(family, {}).get(part)
    if cause is None:
        PARTS[part](evaluator)
        trial(outcome="works")
        return
    with pytest.raises(CircuitsError, match=cause) as refused:
        PARTS[part](evaluator)
    trial(outcome=f"refused: {_reason(str(refused.value))}")


def _reason(message: str) -> str:
    """The reason without what is to be done, and without numbers of this random model."""
    for said, reason in {
        "norm after the": "a norm follows the sublayers, so heads and neurons are not added as "
        "they are",
        "parallel attention": "attention and MLP write at once, so there is no stream between them",
        "mixture of experts": "a mixture of experts has no neurons that stand for the whole MLP",
        "softmax of their": "the hooks show scores of which the pattern is not the softmax",
        "RMSNorm": "the norm before the MLP is no RMSNorm, so the readout has no closed form",
        "no pattern there": "the attention pattern has no hook",
    }.items():
        if said in message:
            return reason
    raise AssertionError(message)
