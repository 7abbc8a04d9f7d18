"""Find, measure, export and use the circuits by which language models express emotion.

>>> from circuits import EMOTIONS
>>> EMOTIONS
('anger', 'sadness', 'happiness', 'fear', 'surprise', 'disgust')

Names are imported when they are first used: opening a saved circuit needs neither torch nor
TransformerLens.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import circuits.plots as plot
    from circuits.circuit.circuit import Circuit, CircuitScores, Edge, Node, core, with_scores
    from circuits.circuit.find import Budget, Measurements, assemble, connect, strongest_paths
    from circuits.circuit.score import Scoring, score_circuits
    from circuits.effects.activations import arrange, component_means, differences, sweep
    from circuits.effects.directions import (
        Directions,
        direction_generality,
        emotion_directions,
        stable_layers,
    )
    from circuits.effects.heads import HeadEffects, head_effects
    from circuits.effects.importance import Importance, sublayer_importance
    from circuits.effects.inspection import TokenTrace, token_trace, trace_scale
    from circuits.effects.neurons import NeuronEffects, direct_effects, neuron_effects
    from circuits.errors import CircuitsError
    from circuits.export import export_circuit
    from circuits.export.node_link import read_circuit, write_circuit
    from circuits.files import shipped
    from circuits.judges import HttpJudge, LexiconJudge, WordingJudge, open_judge
    from circuits.judges.replies import Hearing, Reply, accuracy, hearing, judge_replies
    from circuits.models.edits import Add, Attenuate, Replace, Scale, edited
    from circuits.models.generate import choice_logs, elicit
    from circuits.models.load import describe_model, load_model, wrap_model
    from circuits.models.memory import Receipt, counted
    from circuits.names import EMOTIONS, VALENCES
    from circuits.neurons.adaptive import Adaptive, Schedule, adaptive_masking
    from circuits.neurons.mask import Asking, Mask
    from circuits.neurons.profile import LabelAttribution, Profile, label_attribution, profile_texts
    from circuits.neurons.recognition import (
        MaskEffects,
        PairedEffects,
        Ranges,
        RangeSweep,
        depth_profile,
        mask_effects,
        paired_effects,
        range_sweep,
    )
    from circuits.neurons.select import (
        Admission,
        Association,
        EntropyNull,
        Selection,
        SplitHalf,
        entropy_null,
        select_neurons,
        split_half,
    )
    from circuits.neurons.steer import CrossSignal, Induction, cross_signal, induce
    from circuits.patching.attribution import (
        NodeScores,
        VerifiedScores,
        attribute,
        budgeted,
    )
    from circuits.patching.exact_paths import ExactPaths, exact_paths
    from circuits.patching.pairs import (
        LogitDifference,
        Pair,
        Projection,
        ReplyLikelihood,
        make_pair,
        make_pairs,
        projection,
    )
    from circuits.patching.patch import (
        HeadPatches,
        SitePatches,
        patch_heads,
        patch_parts,
        patch_sites,
    )
    from circuits.patching.paths import PathEffects, path_effects
    from circuits.patching.totals import total_estimates
    from circuits.prompts.prompt import (
        LabelledSet,
        LabelledText,
        Prompt,
        Texts,
        asked,
        asked_prompts,
        plain,
        plain_prompts,
    )
    from circuits.prompts.sev import Context, Scenario
    from circuits.prompts.sev import contexts as contexts
    from circuits.prompts.sev import read as read_scenarios
    from circuits.prompts.sev import spread as spread
    from circuits.prompts.texts import embedded_set, read_texts
    from circuits.provenance import Provenance
    from circuits.records import Record
    from circuits.runs import Plan, Study, run
    from circuits.runs.plan import trusting
    from circuits.steering.control_vectors import (
        ControlVector,
        control_vector,
        read_gguf,
        write_gguf,
    )
    from circuits.steering.evaluate import Bench, compare, dial
    from circuits.steering.hook_files import read_hooks, write_hooks
    from circuits.steering.interventions import (
        Modulation,
        Steering,
        Tools,
        blend,
        enhance,
        random_like,
        steer,
    )
    from circuits.steering.tune import tune
    from circuits.steering.validation import Known, Validating, Validation, validate_components

_HOME = {
    "circuits.circuit.circuit": (
        "Circuit",
        "CircuitScores",
        "Edge",
        "Node",
        "core",
        "with_scores",
    ),
    "circuits.circuit.find": (
        "Budget",
        "Measurements",
        "assemble",
        "connect",
        "strongest_paths",
    ),
    "circuits.circuit.score": (
        "Scoring",
        "score_circuits",
    ),
    "circuits.effects.activations": (
        "arrange",
        "component_means",
        "differences",
        "sweep",
    ),
    "circuits.effects.directions": (
        "Directions",
        "direction_generality",
        "emotion_directions",
        "stable_layers",
    ),
    "circuits.effects.heads": (
        "HeadEffects",
        "head_effects",
    ),
    "circuits.effects.importance": (
        "Importance",
        "sublayer_importance",
    ),
    "circuits.effects.inspection": (
        "TokenTrace",
        "token_trace",
        "trace_scale",
    ),
    "circuits.effects.neurons": (
        "NeuronEffects",
        "direct_effects",
        "neuron_effects",
    ),
    "circuits.errors": ("CircuitsError",),
    "circuits.export": ("export_circuit",),
    "circuits.export.node_link": (
        "read_circuit",
        "write_circuit",
    ),
    "circuits.files": ("shipped",),
    "circuits.judges": (
        "HttpJudge",
        "LexiconJudge",
        "WordingJudge",
        "open_judge",
    ),
    "circuits.judges.replies": (
        "Hearing",
        "Reply",
        "accuracy",
        "hearing",
        "judge_replies",
    ),
    "circuits.models.edits": (
        "Add",
        "Attenuate",
        "Replace",
        "Scale",
        "edited",
    ),
    "circuits.models.generate": (
        "choice_logs",
        "elicit",
    ),
    "circuits.models.load": (
        "describe_model",
        "load_model",
        "wrap_model",
    ),
    "circuits.models.memory": (
        "Receipt",
        "counted",
    ),
    "circuits.names": (
        "EMOTIONS",
        "VALENCES",
    ),
    "circuits.neurons.adaptive": (
        "Adaptive",
        "Schedule",
        "adaptive_masking",
    ),
    "circuits.neurons.mask": (
        "Asking",
        "Mask",
    ),
    "circuits.neurons.profile": (
        "LabelAttribution",
        "Profile",
        "label_attribution",
        "profile_texts",
    ),
    "circuits.neurons.recognition": (
        "MaskEffects",
        "PairedEffects",
        "RangeSweep",
        "Ranges",
        "depth_profile",
        "mask_effects",
        "paired_effects",
        "range_sweep",
    ),
    "circuits.neurons.select": (
        "Admission",
        "Association",
        "EntropyNull",
        "Selection",
        "SplitHalf",
        "entropy_null",
        "select_neurons",
        "split_half",
    ),
    "circuits.neurons.steer": (
        "CrossSignal",
        "Induction",
        "cross_signal",
        "induce",
    ),
    "circuits.patching.attribution": (
        "NodeScores",
        "VerifiedScores",
        "attribute",
        "budgeted",
    ),
    "circuits.patching.exact_paths": (
        "ExactPaths",
        "exact_paths",
    ),
    "circuits.patching.pairs": (
        "LogitDifference",
        "Pair",
        "Projection",
        "ReplyLikelihood",
        "make_pair",
        "make_pairs",
        "projection",
    ),
    "circuits.patching.patch": (
        "HeadPatches",
        "SitePatches",
        "patch_heads",
        "patch_parts",
        "patch_sites",
    ),
    "circuits.patching.paths": (
        "PathEffects",
        "path_effects",
    ),
    "circuits.patching.totals": ("total_estimates",),
    "circuits.prompts.prompt": (
        "LabelledSet",
        "LabelledText",
        "Prompt",
        "Texts",
        "asked",
        "asked_prompts",
        "plain",
        "plain_prompts",
    ),
    "circuits.prompts.sev": (
        "Context",
        "Scenario",
        "contexts",
        "spread",
    ),
    "circuits.prompts.texts": (
        "embedded_set",
        "read_texts",
    ),
    "circuits.provenance": ("Provenance",),
    "circuits.records": ("Record",),
    "circuits.runs": (
        "Plan",
        "Study",
        "run",
    ),
    "circuits.runs.plan": ("trusting",),
    "circuits.steering.control_vectors": (
        "ControlVector",
        "control_vector",
        "read_gguf",
        "write_gguf",
    ),
    "circuits.steering.evaluate": (
        "Bench",
        "compare",
        "dial",
    ),
    "circuits.steering.hook_files": (
        "read_hooks",
        "write_hooks",
    ),
    "circuits.steering.interventions": (
        "Modulation",
        "Steering",
        "Tools",
        "blend",
        "enhance",
        "random_like",
        "steer",
    ),
    "circuits.steering.tune": ("tune",),
    "circuits.steering.validation": (
        "Known",
        "Validating",
        "Validation",
        "validate_components",
    ),
}
_OTHER = {"read_scenarios": ("circuits.prompts.sev", "read"), "plot": ("circuits.plots", None)}
_WHERE = {name: (home, name) for home, names in _HOME.items() for name in names} | _OTHER

__all__ = [
    "Adaptive",
    "Add",
    "Admission",
    "Asking",
    "Association",
    "Attenuate",
    "Bench",
    "Budget",
    "Circuit",
    "CircuitScores",
    "CircuitsError",
    "Context",
    "ControlVector",
    "CrossSignal",
    "Directions",
    "EMOTIONS",
    "Edge",
    "EntropyNull",
    "ExactPaths",
    "HeadEffects",
    "HeadPatches",
    "Hearing",
    "HttpJudge",
    "Importance",
    "Induction",
    "Known",
    "LabelAttribution",
    "LabelledSet",
    "LabelledText",
    "LexiconJudge",
    "LogitDifference",
    "Mask",
    "MaskEffects",
    "Measurements",
    "Modulation",
    "NeuronEffects",
    "Node",
    "NodeScores",
    "Pair",
    "PairedEffects",
    "PathEffects",
    "Plan",
    "Profile",
    "Projection",
    "Prompt",
    "Provenance",
    "RangeSweep",
    "Ranges",
    "Receipt",
    "Record",
    "Replace",
    "Reply",
    "ReplyLikelihood",
    "Scale",
    "Scenario",
    "Schedule",
    "Scoring",
    "Selection",
    "SitePatches",
    "SplitHalf",
    "Steering",
    "Study",
    "Texts",
    "TokenTrace",
    "Tools",
    "VALENCES",
    "Validating",
    "Validation",
    "VerifiedScores",
    "WordingJudge",
    "accuracy",
    "adaptive_masking",
    "arrange",
    "asked",
    "asked_prompts",
    "assemble",
    "attribute",
    "blend",
    "budgeted",
    "choice_logs",
    "compare",
    "component_means",
    "connect",
    "contexts",
    "control_vector",
    "core",
    "counted",
    "cross_signal",
    "depth_profile",
    "describe_model",
    "dial",
    "differences",
    "direct_effects",
    "direction_generality",
    "edited",
    "elicit",
    "embedded_set",
    "emotion_directions",
    "enhance",
    "entropy_null",
    "exact_paths",
    "export_circuit",
    "head_effects",
    "hearing",
    "induce",
    "judge_replies",
    "label_attribution",
    "load_model",
    "make_pair",
    "make_pairs",
    "mask_effects",
    "neuron_effects",
    "open_judge",
    "paired_effects",
    "patch_heads",
    "patch_parts",
    "patch_sites",
    "path_effects",
    "plain",
    "plain_prompts",
    "plot",
    "profile_texts",
    "projection",
    "random_like",
    "range_sweep",
    "read_circuit",
    "read_gguf",
    "read_hooks",
    "read_scenarios",
    "read_texts",
    "run",
    "score_circuits",
    "select_neurons",
    "shipped",
    "split_half",
    "spread",
    "stable_layers",
    "steer",
    "strongest_paths",
    "sublayer_importance",
    "sweep",
    "token_trace",
    "total_estimates",
    "trace_scale",
    "trusting",
    "tune",
    "validate_components",
    "with_scores",
    "wrap_model",
    "write_circuit",
    "write_gguf",
    "write_hooks",
]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'circuits' has no attribute {name!r}")
    home, own = _WHERE[name]
    module = import_module(home)
    return module if own is None else getattr(module, own)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
