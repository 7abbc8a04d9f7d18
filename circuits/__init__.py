"""Find, measure, export and use the circuits by which language models express emotion.

>>> from circuits import EMOTIONS
>>> EMOTIONS
('anger', 'sadness', 'happiness', 'fear', 'surprise', 'disgust')

Names are imported when they are first used: opening a saved circuit needs neither torch nor
TransformerLens. What is not named here is imported from its module.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import circuits.plots as plot
    from circuits.circuit.circuit import Circuit
    from circuits.circuit.find import Budget, Measurements, assemble, find_circuit, find_circuits
    from circuits.circuit.score import score_circuits
    from circuits.effects.activations import (
        component_means,
        differences,
        group_by_context,
        read_activations,
    )
    from circuits.effects.directions import (
        Directions,
        directions,
        emotion_directions,
        stable_layers,
    )
    from circuits.effects.heads import HeadEffects, head_effects
    from circuits.effects.importance import sublayer_importance
    from circuits.effects.neurons import NeuronEffects, direct_effects, neuron_effects
    from circuits.errors import CircuitsError
    from circuits.export import export_circuit
    from circuits.export.node_link import read_circuit
    from circuits.files import shipped
    from circuits.judges import HttpJudge, LexiconJudge, open_judge
    from circuits.judges.replies import Reply, accuracy, judge_replies
    from circuits.models.edits import Add, Replace, Scale, edited
    from circuits.models.generate import elicit, generate
    from circuits.models.load import describe_model, load_model, wrap_model
    from circuits.names import EMOTIONS
    from circuits.neurons.mask import Mask
    from circuits.neurons.profile import profile_texts
    from circuits.neurons.select import select_neurons
    from circuits.neurons.study import mask_effects
    from circuits.patching.attribution import attribute
    from circuits.patching.pairs import CleanCorrupt, logit_difference, make_pairs, projection
    from circuits.patching.patch import patch, patch_components, patch_heads
    from circuits.patching.paths import exact_paths, path_effects
    from circuits.patching.totals import total_estimates
    from circuits.prompts.prompt import Prompt
    from circuits.prompts.sev import Context
    from circuits.prompts.sev import contexts as contexts
    from circuits.prompts.sev import read as read_scenarios
    from circuits.prompts.sev import sev as sev
    from circuits.prompts.sev import spread as spread
    from circuits.prompts.templates import (
        Template,
        emotion_prompt,
        emotion_prompts,
        neutral_prompt,
        neutral_prompts,
    )
    from circuits.prompts.texts import read_texts
    from circuits.provenance import Provenance
    from circuits.records import Record
    from circuits.running import execution
    from circuits.runs import Plan, Study, run
    from circuits.steering.interventions import Modulation, Steering, circuit_edits
    from circuits.steering.steered import steer

__all__ = [
    # The core.
    "load_model",
    "wrap_model",
    "describe_model",
    "Prompt",
    "Template",
    "emotion_prompts",
    "neutral_prompts",
    "sev",
    "generate",
    "directions",
    "Directions",
    "head_effects",
    "neuron_effects",
    "patch",
    "logit_difference",
    "find_circuit",
    "find_circuits",
    "Circuit",
    "steer",
    "read_circuit",
    "export_circuit",
    "run",
    "Plan",
    "Study",
    "EMOTIONS",
    # Contexts and prompts.
    "Context",
    "contexts",
    "spread",
    "read_scenarios",
    "shipped",
    "emotion_prompt",
    "neutral_prompt",
    "read_texts",
    # Replies and judges.
    "elicit",
    "LexiconJudge",
    "HttpJudge",
    "open_judge",
    "Reply",
    "judge_replies",
    "accuracy",
    # Edits of a model.
    "edited",
    "Add",
    "Scale",
    "Replace",
    # Activations and effects.
    "group_by_context",
    "read_activations",
    "component_means",
    "differences",
    "emotion_directions",
    "stable_layers",
    "HeadEffects",
    "NeuronEffects",
    "direct_effects",
    "sublayer_importance",
    # Patching, attribution and paths.
    "CleanCorrupt",
    "make_pairs",
    "projection",
    "patch_heads",
    "patch_components",
    "attribute",
    "path_effects",
    "exact_paths",
    "total_estimates",
    # Circuits.
    "Budget",
    "Measurements",
    "assemble",
    "score_circuits",
    # Steering.
    "Modulation",
    "Steering",
    "circuit_edits",
    # Class-selective neurons.
    "Mask",
    "profile_texts",
    "select_neurons",
    "mask_effects",
    # Results.
    "Record",
    "Provenance",
    "CircuitsError",
    # How work is carried out.
    "execution",
    # Modules.
    "plot",
]

_WHERE: dict[str, tuple[str, str | None]] = {
    "load_model": ("circuits.models.load", "load_model"),
    "wrap_model": ("circuits.models.load", "wrap_model"),
    "describe_model": ("circuits.models.load", "describe_model"),
    "Prompt": ("circuits.prompts.prompt", "Prompt"),
    "Template": ("circuits.prompts.templates", "Template"),
    "emotion_prompts": ("circuits.prompts.templates", "emotion_prompts"),
    "neutral_prompts": ("circuits.prompts.templates", "neutral_prompts"),
    "sev": ("circuits.prompts.sev", "sev"),
    "generate": ("circuits.models.generate", "generate"),
    "directions": ("circuits.effects.directions", "directions"),
    "Directions": ("circuits.effects.directions", "Directions"),
    "head_effects": ("circuits.effects.heads", "head_effects"),
    "neuron_effects": ("circuits.effects.neurons", "neuron_effects"),
    "patch": ("circuits.patching.patch", "patch"),
    "logit_difference": ("circuits.patching.pairs", "logit_difference"),
    "find_circuit": ("circuits.circuit.find", "find_circuit"),
    "find_circuits": ("circuits.circuit.find", "find_circuits"),
    "Circuit": ("circuits.circuit.circuit", "Circuit"),
    "steer": ("circuits.steering.steered", "steer"),
    "read_circuit": ("circuits.export.node_link", "read_circuit"),
    "export_circuit": ("circuits.export", "export_circuit"),
    "run": ("circuits.runs", "run"),
    "Plan": ("circuits.runs", "Plan"),
    "Study": ("circuits.runs", "Study"),
    "EMOTIONS": ("circuits.names", "EMOTIONS"),
    "Context": ("circuits.prompts.sev", "Context"),
    "contexts": ("circuits.prompts.sev", "contexts"),
    "spread": ("circuits.prompts.sev", "spread"),
    "read_scenarios": ("circuits.prompts.sev", "read"),
    "shipped": ("circuits.files", "shipped"),
    "emotion_prompt": ("circuits.prompts.templates", "emotion_prompt"),
    "neutral_prompt": ("circuits.prompts.templates", "neutral_prompt"),
    "read_texts": ("circuits.prompts.texts", "read_texts"),
    "elicit": ("circuits.models.generate", "elicit"),
    "LexiconJudge": ("circuits.judges", "LexiconJudge"),
    "HttpJudge": ("circuits.judges", "HttpJudge"),
    "open_judge": ("circuits.judges", "open_judge"),
    "Reply": ("circuits.judges.replies", "Reply"),
    "judge_replies": ("circuits.judges.replies", "judge_replies"),
    "accuracy": ("circuits.judges.replies", "accuracy"),
    "edited": ("circuits.models.edits", "edited"),
    "Add": ("circuits.models.edits", "Add"),
    "Scale": ("circuits.models.edits", "Scale"),
    "Replace": ("circuits.models.edits", "Replace"),
    "group_by_context": ("circuits.effects.activations", "group_by_context"),
    "read_activations": ("circuits.effects.activations", "read_activations"),
    "component_means": ("circuits.effects.activations", "component_means"),
    "differences": ("circuits.effects.activations", "differences"),
    "emotion_directions": ("circuits.effects.directions", "emotion_directions"),
    "stable_layers": ("circuits.effects.directions", "stable_layers"),
    "HeadEffects": ("circuits.effects.heads", "HeadEffects"),
    "NeuronEffects": ("circuits.effects.neurons", "NeuronEffects"),
    "direct_effects": ("circuits.effects.neurons", "direct_effects"),
    "sublayer_importance": ("circuits.effects.importance", "sublayer_importance"),
    "CleanCorrupt": ("circuits.patching.pairs", "CleanCorrupt"),
    "make_pairs": ("circuits.patching.pairs", "make_pairs"),
    "projection": ("circuits.patching.pairs", "projection"),
    "patch_heads": ("circuits.patching.patch", "patch_heads"),
    "patch_components": ("circuits.patching.patch", "patch_components"),
    "attribute": ("circuits.patching.attribution", "attribute"),
    "path_effects": ("circuits.patching.paths", "path_effects"),
    "exact_paths": ("circuits.patching.paths", "exact_paths"),
    "total_estimates": ("circuits.patching.totals", "total_estimates"),
    "Budget": ("circuits.circuit.find", "Budget"),
    "Measurements": ("circuits.circuit.find", "Measurements"),
    "assemble": ("circuits.circuit.find", "assemble"),
    "score_circuits": ("circuits.circuit.score", "score_circuits"),
    "Modulation": ("circuits.steering.interventions", "Modulation"),
    "Steering": ("circuits.steering.interventions", "Steering"),
    "circuit_edits": ("circuits.steering.interventions", "circuit_edits"),
    "Mask": ("circuits.neurons.mask", "Mask"),
    "profile_texts": ("circuits.neurons.profile", "profile_texts"),
    "select_neurons": ("circuits.neurons.select", "select_neurons"),
    "mask_effects": ("circuits.neurons.study", "mask_effects"),
    "Record": ("circuits.records", "Record"),
    "Provenance": ("circuits.provenance", "Provenance"),
    "CircuitsError": ("circuits.errors", "CircuitsError"),
    "execution": ("circuits.running", "execution"),
    "plot": ("circuits.plots", None),
}


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'circuits' has no attribute {name!r}")
    home, own = _WHERE[name]
    module = import_module(home)
    return module if own is None else getattr(module, own)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
