"""One text answered in an emotion, by a run's circuits or by circuits from files.

A run has the model's own differences. A circuit's file has not: they are measured once on shipped
contexts, and kept in the user's cache folder.
"""

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from json import dumps
from pathlib import Path

from circuits.assets import shipped
from circuits.control.modulation import Modulation, enhance
from circuits.data import sev
from circuits.data.prompts import plain
from circuits.data.sev import Context
from circuits.deploy.hook_files import hooks_provenance, read_hooks
from circuits.errors import CircuitError, DataError, RunError
from circuits.export.node_link import read_circuit
from circuits.files import digest, is_file
from circuits.graph.circuit import Circuit
from circuits.graph.core import core
from circuits.graph.same_model import check_same_model
from circuits.measure.means import Differences
from circuits.measure.own import own_differences
from circuits.model.edits import Add, edited
from circuits.model.generation import elicit
from circuits.model.loading import describe_model, load_model
from circuits.model.protocol import Model
from circuits.names import VALENCES
from circuits.pipeline.control import circuit_tools, written_how
from circuits.pipeline.plan import CONTROL_BUDGET
from circuits.pipeline.study import Study
from circuits.pipeline.trust import trusted
from circuits.pipeline.work import Reporter, Run, Silent, plan_of
from circuits.provenance import Provenance, versions

__all__ = ["Voice", "cache_folder", "say", "voice_of_files", "voice_of_run"]

_CONTEXTS = 24


@dataclass(frozen=True, eq=False)
class Voice:
    """A model, and what can be written into it."""

    model: Model
    edits: Mapping[str, Sequence[Add]]
    """Emotion -> its edits at strength 1, the model's own difference."""


def say(voice: Voice, text: str, weights: Mapping[str, float], *, max_new_tokens: int = 100) -> str:
    """What the model replies to a text when circuits are written into it.

    Args:
        voice: The model and its circuits.
        text: What the user says; put to the model in two lines, as contexts are.
        weights: Emotion -> strength; 1 is the model's own difference, negative suppresses.
        max_new_tokens: Longest reply.

    Raises:
        DataError: the text is empty.
        CircuitError: an emotion has no circuit.
    """
    if not text.strip():
        raise DataError("the text is empty; give a sentence to reply to")
    situation, event = _two_lines(text)
    prompt = plain(Context("said", "said", VALENCES[1], situation, event))
    lacking = sorted(set(weights) - set(voice.edits))
    if lacking:
        raise CircuitError(
            f"there is no circuit of {lacking[0]!r}; there are {', '.join(voice.edits) or 'none'}"
        )
    edits = [
        replace(edit, value=weight * edit.value)
        for emotion, weight in weights.items()
        for edit in voice.edits[emotion]
    ]
    with edited(voice.model, edits):
        (reply,) = elicit(voice.model, [prompt], max_new_tokens=max_new_tokens)
    return reply.text


def voice_of_run(study: Study) -> Voice:
    """The model of a finished run with its circuits and differences.

    They are written as the run's control stage chose, or by default once at the prompt's end.

    Raises:
        RunError: the run has no circuits, or no model.
    """
    run = Run(plan_of(study), study, Silent())
    tools, how = circuit_tools(study, run.plan), written_how(study)
    return Voice(run.model, _edits(tools.written(how), tools.differences, how))


def voice_of_files(
    paths: Sequence[Path],
    model: str | None,
    reporter: Reporter,
    *,
    any_revision: bool = False,
    cache: Path | None = None,
) -> Voice:
    """A model with circuits or directions from files, one emotion each.

    Args:
        paths: Circuits as node-link JSON, or files of hooks (``.safetensors``), which say
            themselves what is written.
        model: Name or folder of the model; by default what the first file names.
        reporter: Told of the passes that measure the differences of circuits.
        any_revision: Take a file of other weights of the same sizes.
        cache: Where they are kept; by default :func:`cache_folder`.

    Raises:
        RunError: no file names its model and none is given, or two files have the same emotion.
        CircuitError: a file is of another model.
    """
    hooks = [path for path in paths if path.suffix == ".safetensors"]
    circuits = {path: read_circuit(path) for path in paths if path not in hooks}
    origins = {path: circuit.provenance for path, circuit in circuits.items()}
    origins |= {path: hooks_provenance(path) for path in hooks}
    named = model or origins[paths[0]].model.get("name")
    if not named:
        raise RunError(f"{paths[0]} does not say which model it is of; give --model")
    loaded = load_model(str(named), trust_remote_code=trusted("code"))
    found: list[tuple[Path, str, Sequence[Add]]] = []
    described = describe_model(loaded)
    for path in paths:
        check_same_model(
            str(path), origins[path].model, described, any_revision=any_revision,
            otherwise="give that model with --model, or take this one with --any-revision",
        )  # fmt: skip
    if circuits:
        written = _strongest(circuits.values(), loaded)
        differences = _kept(loaded, tuple(written), reporter, cache or cache_folder())
        edits = _edits(written, differences, Modulation())
        found += [(path, own.emotion, edits[own.emotion]) for path, own in circuits.items()]
    found += [(path, *read_hooks(path, loaded)) for path in hooks]
    by_emotion: dict[str, Sequence[Add]] = {}
    for path, emotion, own in found:
        if emotion in by_emotion:
            raise RunError(f"{path}: another circuit of {emotion!r} was given before")
        by_emotion[emotion] = own
    return Voice(loaded, by_emotion)


def _strongest(circuits: Iterable[Circuit], model: Model) -> dict[str, Circuit]:
    """The part of each circuit that is written."""
    cfg = model.cfg
    counts = CONTROL_BUDGET.counts(cfg.n_layers * cfg.n_heads, cfg.n_layers * cfg.d_mlp)
    return {circuit.emotion: core(circuit, *counts) for circuit in circuits}


def _edits(
    circuits: Mapping[str, Circuit], differences: Differences, how: Modulation
) -> dict[str, list[Add]]:
    alone = replace(how, strength=1.0, by_emotion=())
    return {emotion: enhance(own, differences, alone) for emotion, own in circuits.items()}


def _two_lines(text: str) -> tuple[str, str]:
    """First sentence and the rest, as contexts have them; a single sentence is both.

    >>> _two_lines("I opened the door. It was dark.")
    ('I opened the door', 'It was dark.')
    >>> _two_lines("It rains")
    ('It rains', 'It rains')
    """
    first, *rest = re.split(r"(?<=[.!?])\s+|\n+", text.strip(), maxsplit=1)
    return first.removesuffix("."), rest[0] if rest else first


def cache_folder() -> Path:
    """``$XDG_CACHE_HOME/emotion-circuits``, or ``~/.cache/emotion-circuits``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "emotion-circuits"


def _kept(model: Model, emotions: tuple[str, ...], reporter: Reporter, folder: Path) -> Differences:
    data, described = shipped("sev/train.jsonl"), describe_model(model)
    key = dumps([described, digest(data), _CONTEXTS, emotions, versions()], sort_keys=True)
    place = folder / sha256(key.encode()).hexdigest()[:24]
    if is_file(place / "record.json"):
        return Differences.load(place)
    every = sev.contexts(sev.spread(sev.read(data), _CONTEXTS))
    contexts = [every[3 * i + i % 3] for i in range(_CONTEXTS)]
    provenance = Provenance(described, digest(data), {"contexts": _CONTEXTS}, versions())
    with reporter.task("measure the differences", len(contexts) * (1 + len(emotions))) as done:
        found = own_differences(model, contexts, emotions, provenance, progress=done)
    found.save(place)
    return found
