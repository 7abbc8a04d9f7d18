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
    import circuits.plot as plot
    import circuits.workshop as workshop
    from circuits.assets import shipped
    from circuits.control.bench import Bench
    from circuits.control.compare import compare
    from circuits.control.dial import dial
    from circuits.control.modulation import Modulation, Steering, blend, enhance, random_like, steer
    from circuits.control.tools import Tools
    from circuits.control.tuning import tune
    from circuits.control.validation import Known, Validating, Validation, validate_components
    from circuits.data.judges import HttpJudge, LexiconJudge, WordingJudge, open_judge
    from circuits.data.prompts import Prompt, asked, asked_prompts, plain, plain_prompts
    from circuits.data.replies import Reply, judge_replies
    from circuits.data.sev import Context, Scenario
    from circuits.data.sev import contexts as contexts
    from circuits.data.sev import read as read_scenarios
    from circuits.data.sev import spread as spread
    from circuits.data.text_files import embedded_set, read_texts
    from circuits.data.texts import LabelledSet, LabelledText, Texts
    from circuits.deploy.control_vectors import ControlVector, control_vector
    from circuits.deploy.gguf_files import read_gguf, write_gguf
    from circuits.deploy.hook_files import read_hooks, write_hooks
    from circuits.errors import CircuitsError
    from circuits.export.formats import export_circuit
    from circuits.export.node_link import read_circuit, write_circuit
    from circuits.graph.assemble import Measurements, assemble
    from circuits.graph.budget import Budget
    from circuits.graph.circuit import Circuit, Edge, Node
    from circuits.graph.connect import connect, strongest_paths
    from circuits.graph.core import core
    from circuits.graph.scores import CircuitScores, with_scores
    from circuits.graph.scoring import Scoring, score_circuits, score_cost
    from circuits.measure.attribution import NodeScores, attribute
    from circuits.measure.attribution_cost import attribution_cost
    from circuits.measure.budgeted import VerifiedScores, budgeted
    from circuits.measure.direct import direct_effects
    from circuits.measure.directions import Directions, emotion_directions, stable_layers
    from circuits.measure.exact_paths import ExactPaths, exact_cost, exact_paths
    from circuits.measure.expression import accuracy
    from circuits.measure.generality import direction_generality
    from circuits.measure.heads import HeadEffects, head_effects
    from circuits.measure.hearing import Hearing, hearing
    from circuits.measure.importance import Importance, sublayer_importance
    from circuits.measure.means import component_means, differences
    from circuits.measure.neurons import NeuronEffects, neuron_effects
    from circuits.measure.pairs import Pair, make_pair, make_pairs
    from circuits.measure.parts import patch_parts
    from circuits.measure.patching import HeadPatches, SitePatches, patch_heads, patch_sites
    from circuits.measure.patching_cost import head_patching_cost, site_patching_cost
    from circuits.measure.paths import PathEffects, path_cost, path_effects
    from circuits.measure.readouts import LogitDifference, Projection, ReplyLikelihood, projection
    from circuits.measure.sweep import arrange, sweep
    from circuits.measure.totals import total_estimates
    from circuits.measure.trace import TokenTrace, token_trace, trace_scale
    from circuits.model.choices import choice_logs
    from circuits.model.edits import Add, Attenuate, Replace, Scale, edited
    from circuits.model.generation import elicit
    from circuits.model.loading import describe_model, load_model, wrap_model
    from circuits.model.receipts import Cost, Receipt, counted
    from circuits.names import EMOTIONS, VALENCES
    from circuits.pipeline import Plan, Study, run
    from circuits.pipeline.trust import trusting
    from circuits.planted.plant import Plant, Recovery, plant, recovery
    from circuits.planted.selective import SelectivePlant, plant_selective
    from circuits.provenance import Provenance
    from circuits.records import Record
    from circuits.selective.adaptive import Adaptive, adaptive_masking
    from circuits.selective.asking import Asking
    from circuits.selective.attribution import LabelAttribution, label_attribution
    from circuits.selective.consistency import EntropyNull, SplitHalf, entropy_null, split_half
    from circuits.selective.cross import CrossSignal, cross_signal
    from circuits.selective.evaluation import MaskEffects, mask_effects
    from circuits.selective.feedback import Schedule
    from circuits.selective.masks import Mask
    from circuits.selective.paired import PairedEffects, paired_effects
    from circuits.selective.profile import Profile, profile_texts
    from circuits.selective.selection import Association, Selection, select_neurons
    from circuits.selective.selectors import Admission
    from circuits.selective.steering import Induction, induce
    from circuits.selective.sweeps import Ranges, RangeSweep, depth_profile, range_sweep

_HOME = {
    "circuits.assets": ("shipped",),
    "circuits.control.bench": ("Bench",),
    "circuits.control.compare": ("compare",),
    "circuits.control.dial": ("dial",),
    "circuits.control.modulation": (
        "Modulation",
        "Steering",
        "blend",
        "enhance",
        "random_like",
        "steer",
    ),
    "circuits.control.tools": ("Tools",),
    "circuits.control.tuning": ("tune",),
    "circuits.control.validation": ("Known", "Validating", "Validation", "validate_components"),
    "circuits.data.judges": ("HttpJudge", "LexiconJudge", "WordingJudge", "open_judge"),
    "circuits.data.prompts": ("Prompt", "asked", "asked_prompts", "plain", "plain_prompts"),
    "circuits.data.replies": ("Reply", "judge_replies"),
    "circuits.data.sev": ("Context", "Scenario", "contexts", "spread"),
    "circuits.data.text_files": ("embedded_set", "read_texts"),
    "circuits.data.texts": ("LabelledSet", "LabelledText", "Texts"),
    "circuits.deploy.control_vectors": ("ControlVector", "control_vector"),
    "circuits.deploy.gguf_files": ("read_gguf", "write_gguf"),
    "circuits.deploy.hook_files": ("read_hooks", "write_hooks"),
    "circuits.errors": ("CircuitsError",),
    "circuits.export.formats": ("export_circuit",),
    "circuits.export.node_link": ("read_circuit", "write_circuit"),
    "circuits.graph.assemble": ("Measurements", "assemble"),
    "circuits.graph.budget": ("Budget",),
    "circuits.graph.circuit": ("Circuit", "Edge", "Node"),
    "circuits.graph.connect": ("connect", "strongest_paths"),
    "circuits.graph.core": ("core",),
    "circuits.graph.scores": ("CircuitScores", "with_scores"),
    "circuits.graph.scoring": ("Scoring", "score_circuits", "score_cost"),
    "circuits.measure.attribution": ("NodeScores", "attribute"),
    "circuits.measure.attribution_cost": ("attribution_cost",),
    "circuits.measure.budgeted": ("VerifiedScores", "budgeted"),
    "circuits.measure.direct": ("direct_effects",),
    "circuits.measure.directions": ("Directions", "emotion_directions", "stable_layers"),
    "circuits.measure.exact_paths": ("ExactPaths", "exact_cost", "exact_paths"),
    "circuits.measure.expression": ("accuracy",),
    "circuits.measure.generality": ("direction_generality",),
    "circuits.measure.heads": ("HeadEffects", "head_effects"),
    "circuits.measure.hearing": ("Hearing", "hearing"),
    "circuits.measure.importance": ("Importance", "sublayer_importance"),
    "circuits.measure.means": ("component_means", "differences"),
    "circuits.measure.neurons": ("NeuronEffects", "neuron_effects"),
    "circuits.measure.pairs": ("Pair", "make_pair", "make_pairs"),
    "circuits.measure.parts": ("patch_parts",),
    "circuits.measure.patching": ("HeadPatches", "SitePatches", "patch_heads", "patch_sites"),
    "circuits.measure.patching_cost": ("head_patching_cost", "site_patching_cost"),
    "circuits.measure.paths": ("PathEffects", "path_cost", "path_effects"),
    "circuits.measure.readouts": ("LogitDifference", "Projection", "ReplyLikelihood", "projection"),
    "circuits.measure.sweep": ("arrange", "sweep"),
    "circuits.measure.totals": ("total_estimates",),
    "circuits.measure.trace": ("TokenTrace", "token_trace", "trace_scale"),
    "circuits.model.choices": ("choice_logs",),
    "circuits.model.edits": ("Add", "Attenuate", "Replace", "Scale", "edited"),
    "circuits.model.generation": ("elicit",),
    "circuits.model.loading": ("describe_model", "load_model", "wrap_model"),
    "circuits.model.receipts": ("Cost", "Receipt", "counted"),
    "circuits.names": ("EMOTIONS", "VALENCES"),
    "circuits.pipeline": ("Plan", "Study", "run"),
    "circuits.pipeline.trust": ("trusting",),
    "circuits.planted.plant": ("Plant", "Recovery", "plant", "recovery"),
    "circuits.planted.selective": ("SelectivePlant", "plant_selective"),
    "circuits.provenance": ("Provenance",),
    "circuits.records": ("Record",),
    "circuits.selective.adaptive": ("Adaptive", "adaptive_masking"),
    "circuits.selective.asking": ("Asking",),
    "circuits.selective.attribution": ("LabelAttribution", "label_attribution"),
    "circuits.selective.consistency": ("EntropyNull", "SplitHalf", "entropy_null", "split_half"),
    "circuits.selective.cross": ("CrossSignal", "cross_signal"),
    "circuits.selective.evaluation": ("MaskEffects", "mask_effects"),
    "circuits.selective.feedback": ("Schedule",),
    "circuits.selective.masks": ("Mask",),
    "circuits.selective.paired": ("PairedEffects", "paired_effects"),
    "circuits.selective.profile": ("Profile", "profile_texts"),
    "circuits.selective.selection": ("Association", "Selection", "select_neurons"),
    "circuits.selective.selectors": ("Admission",),
    "circuits.selective.steering": ("Induction", "induce"),
    "circuits.selective.sweeps": ("RangeSweep", "Ranges", "depth_profile", "range_sweep"),
}
_OTHER = {"read_scenarios": ("circuits.data.sev", "read"), "plot": ("circuits.plot", None)}
_OTHER["workshop"] = ("circuits.workshop", None)
_WHERE = {name: (home, name) for home, names in _HOME.items() for name in names} | _OTHER

__all__ = [
    "Adaptive", "Add", "Admission", "Asking", "Association", "Attenuate", "Bench", "Budget",
    "Circuit", "CircuitScores", "CircuitsError", "Context", "ControlVector", "Cost",
    "CrossSignal", "Directions", "EMOTIONS", "Edge", "EntropyNull", "ExactPaths", "HeadEffects",
    "HeadPatches", "Hearing", "HttpJudge", "Importance", "Induction", "Known",
    "LabelAttribution", "LabelledSet", "LabelledText", "LexiconJudge", "LogitDifference",
    "Mask", "MaskEffects", "Measurements", "Modulation", "NeuronEffects", "Node", "NodeScores",
    "Pair", "PairedEffects", "PathEffects", "Plan", "Plant", "Profile", "Projection", "Prompt",
    "Provenance", "RangeSweep", "Ranges", "Receipt", "Record", "Recovery", "Replace", "Reply",
    "ReplyLikelihood", "Scale", "Scenario", "Schedule", "Scoring", "Selection",
    "SelectivePlant", "SitePatches", "SplitHalf", "Steering", "Study", "Texts", "TokenTrace",
    "Tools", "VALENCES", "Validating", "Validation", "VerifiedScores", "WordingJudge",
    "accuracy", "adaptive_masking", "arrange", "asked", "asked_prompts", "assemble",
    "attribute", "attribution_cost", "blend", "budgeted", "choice_logs", "compare",
    "component_means", "connect", "contexts", "control_vector", "core", "counted",
    "cross_signal", "depth_profile", "describe_model", "dial", "differences", "direct_effects",
    "direction_generality", "edited", "elicit", "embedded_set", "emotion_directions", "enhance",
    "entropy_null", "exact_cost", "exact_paths", "export_circuit", "head_effects",
    "head_patching_cost", "hearing", "induce", "judge_replies", "label_attribution",
    "load_model", "make_pair", "make_pairs", "mask_effects", "neuron_effects", "open_judge",
    "paired_effects", "patch_heads", "patch_parts", "patch_sites", "path_cost", "path_effects",
    "plain", "plain_prompts", "plant", "plant_selective", "plot", "profile_texts", "projection",
    "random_like", "range_sweep", "read_circuit", "read_gguf", "read_hooks", "read_scenarios",
    "read_texts", "recovery", "run", "score_circuits", "score_cost", "select_neurons",
    "shipped", "site_patching_cost", "split_half", "spread", "stable_layers", "steer",
    "strongest_paths", "sublayer_importance", "sweep", "token_trace", "total_estimates",
    "trace_scale", "trusting", "tune", "validate_components", "with_scores", "workshop",
    "wrap_model", "write_circuit", "write_gguf", "write_hooks",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'circuits' has no attribute {name!r}")
    home, own = _WHERE[name]
    module = import_module(home)
    return module if own is None else getattr(module, own)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
