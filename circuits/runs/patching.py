"""Patching and paths on the model of a finished run."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import Field
from pydantic.dataclasses import dataclass as options_dataclass

from circuits.circuit.circuit import Circuit
from circuits.circuit.find import connect, strongest_paths
from circuits.errors import RunError
from circuits.export import export_circuit, file_stem
from circuits.export.node_link import write_circuit
from circuits.files import digest, write_json
from circuits.judges.lexicon import emotion_words
from circuits.judges.replies import Judged, read_methods
from circuits.models.load import describe_model
from circuits.models.memory import counted
from circuits.models.protocol import Model
from circuits.models.tokens import encode_text
from circuits.patching.pairs import (
    CleanCorrupt,
    LogitDifference,
    Mode,
    Readout,
    ReplyLikelihood,
    make_pairs,
)
from circuits.patching.patch import (
    HeadPatches,
    HeadSite,
    SitePatches,
    StreamSite,
    patch_heads,
    patch_sites,
)
from circuits.patching.paths import (
    PathMethod,
    exact_paths,
    path_agreement,
    path_effects,
    sample_paths,
)
from circuits.prompts import sev
from circuits.provenance import Provenance, recorded, versions
from circuits.running import Reporter, execution
from circuits.runs.folder import Study, made_beside
from circuits.runs.plan import CONFIG, Count, Stage, checked
from circuits.runs.work import Run, in_turn, plan_of, readouts, run_of, scenarios_of_test

__all__ = ["Contrast", "PathOptions", "measure_paths", "patch_run", "read_patches"]

NEUTRAL_PROMPT = "neutral"
"""The contrast's other side when no emotion is asked for."""

ReadoutName = Literal["projection", "logits", "reply"]


@dataclass(frozen=True)
class Contrast:
    """An emotion against neutral (or another emotion) on contexts the run was not made from."""

    study: Study
    emotion: str
    other: str = NEUTRAL_PROMPT
    contexts: int = 8
    """How many test contexts, evenly over themes."""

    def __post_init__(self) -> None:
        self.study.circuit_path(self.emotion)
        if self.other != NEUTRAL_PROMPT:
            self.study.circuit_path(self.other)
        if self.other == self.emotion:
            raise RunError(f"{self.emotion} against itself is no contrast; give another or plain")
        if self.contexts < 1:
            raise RunError(f"--contexts: {self.contexts} is too few; give 1 or more")

    @property
    def name(self) -> str:
        """``anger-neutral``."""
        return f"{self.emotion}-{self.other}"

    @property
    def file_stem(self) -> str:
        """The same as the name of a folder, whatever the emotions are called."""
        return f"{file_stem(self.emotion)}-{file_stem(self.other)}"

    @cached_property
    def model(self) -> Model:
        """The run's model, loaded as the run loaded it.

        Raises:
            RunError: the folder holds imported results, which name no model.
        """
        return run_of(self.study).model

    @cached_property
    def pairs(self) -> CleanCorrupt:
        """Clean and corrupt prompts of the test contexts.

        Raises:
            RunError: the test file is gone, or has fewer contexts.
        """
        other = None if self.other == NEUTRAL_PROMPT else self.other
        scenarios = sev.read(plan_of(self.study).test)
        contexts = in_turn(sev.spread(scenarios, min(self.contexts, len(scenarios))))
        return make_pairs(self.model, contexts, self.emotion, other)

    def readout(self, name: ReadoutName) -> Readout:
        """The readout of that name.

        Raises:
            RunError: reply likelihoods need the replies of the run's steering stage.
        """
        if name == "projection":
            return readouts(self.study)[self.emotion]
        if name == "logits":
            words = emotion_words(self.study.emotions)
            return LogitDifference.of_words(self.model, words, self.emotion)
        path = self.study.replies_path
        if not path.is_file():
            raise RunError(
                "readout 'reply' compares judged replies, which the steering stage writes; "
                f"run `emotion-circuits run` for {self.study.folder} to its end"
            )
        methods = read_methods(path)
        asked = {
            e: [r for r in methods["prompt"] if r.reply.emotion == e]
            for e in (self.emotion, self.other)
        }
        clean = [row for row in asked[self.emotion] if row.verdict.match]
        corrupt = methods["none"] if self.other == NEUTRAL_PROMPT else asked[self.other]
        return ReplyLikelihood(self._tokens(clean), self._tokens(corrupt))

    def _tokens(self, rows: Sequence[Judged]) -> dict[str, tuple[int, ...]]:
        replies = [row.reply for row in rows if row.reply.text]
        return {own.prompt.origin.id: tuple(encode_text(self.model, own.text)) for own in replies}

    def provenance(self, **options: object) -> Provenance:
        """Provenance of what is measured here."""
        return self.study.importance.provenance.child(
            contrast=self.name, contexts=[pair.context.id for pair in self.pairs], **options
        )


SITES: tuple[str, ...] = (*get_args(StreamSite), *get_args(HeadSite))
"""What can be patched."""


def patch_run(
    contrast: Contrast,
    sites: Sequence[str],
    *,
    by: str,
    mode: Mode,
    readout: ReadoutName,
    reporter: Reporter | None = None,
) -> Path:
    """Patch these sites; write one record each, and the receipt, into the run folder.

    Raises:
        RunError: a site is unknown.
        AxisError: a site has no counterpart in the other run; names it.
    """
    unknown = [site for site in sites if site not in SITES]
    if unknown or not sites:
        what = repr(unknown[0]) if unknown else "nothing"
        raise RunError(f"--sites: found {what}; give one or more of {', '.join(SITES)}")
    stream = [site for site in sites if site in get_args(StreamSite)]
    heads = [site for site in sites if site not in stream]
    pairs, measure, study = contrast.pairs, contrast.readout(readout), contrast.study
    provenance = contrast.provenance(by=by, mode=mode, readout=measure.name)
    folder = study.folder / "patching" / contrast.file_stem
    stages: tuple[Stage, ...] = ("importance", "steering")
    beside = made_beside(study, folder, stages if readout == "reply" else stages[:1])
    work = (reporter or Reporter()).task(f"patch {contrast.name}", bool(stream) + len(heads))
    with beside, counted() as receipt, recorded(provenance), work as done:
        if stream:
            found = patch_sites(pairs, measure, sites=stream, by=by, mode=mode)
            found.save(folder / "stream")
            done(1)
        for site in heads:
            patch_heads(pairs, measure, site=site, by=by, mode=mode).save(folder / site)
            done(1)
        described = {"sites": list(sites), "by": by, "mode": mode, "readout": readout}
        write_json(folder / "receipt.json", {**described, "receipt": receipt.to_json()})
    return folder


def read_patches(study: Study) -> dict[str, list[SitePatches | HeadPatches]]:
    """Contrast -> what has been patched in it so far."""
    found: dict[str, list[SitePatches | HeadPatches]] = {}
    for path in sorted((study.folder / "patching").glob("*/*/record.json")):
        kind = SitePatches if path.parent.name == "stream" else HeadPatches
        found.setdefault(path.parents[1].name, []).append(kind.load(path.parent))
    return found


@checked
@options_dataclass(frozen=True, config=CONFIG)
class PathOptions:
    """How paths are measured.

    Raises:
        RunError: an option does not take its value.
    """

    against: str = NEUTRAL_PROMPT
    """The emotion of the corrupt prompts; neutral prompts by default."""
    method: PathMethod = "eap"
    """One gradient (eap), or the mean over inputs between both prompts (eap-ig)."""
    steps: Count = 5
    """Inputs of eap-ig."""
    mode: Mode = "noising"
    """Corrupt values into the clean run (noising), or the other way round (denoising)."""
    split: Literal["test", "dev"] = "test"
    """Held-out contexts: test ones, or dev ones."""
    contexts: Count = 12
    """How many of them."""
    keep: Count = 60
    """Paths written into a circuit; all of them are patched."""
    sample: Annotated[int, Field(ge=3)] = 60
    """Paths drawn at random and patched, to say how far attribution can be trusted."""
    seed: int = 0
    """Of everything random."""


def measure_paths(
    run: Run, emotion: str, options: PathOptions
) -> tuple[Circuit, Mapping[str, Any]]:
    """Measure and patch the paths of one emotion; write records, circuit and exports.

    Returns:
        The circuit with its paths, and what is said of them in ``paths.json``.

    Raises:
        RunError: the run lacks the emotion, a stage or so many contexts.
    """
    study, plan, split, count = run.study, run.plan, options.split, options.contexts
    path, circuit = study.circuit_path(emotion), study.circuits[emotion]
    if options.against == emotion:
        raise RunError(f"--against: {emotion!r} is the emotion itself; name another, or plain")
    # Nothing of the circuits was made from them; evenly over the split.
    every = sev.contexts(run.dev if split == "dev" else scenarios_of_test(plan))
    if count > len(every):
        raise RunError(
            f"--contexts: asked for {count}, the {split} split of {study.folder} has {len(every)}"
        )
    contexts = [every[i * len(every) // count] for i in range(count)]
    other = None if options.against == NEUTRAL_PROMPT else options.against
    pairs, readout = make_pairs(run.model, contexts, emotion, other), readouts(study)[emotion]
    data = digest(plan.test if split == "test" else plan.data)
    provenance = Provenance(describe_model(run.model), data, asdict(options), versions())
    with recorded(provenance), execution(seed=options.seed):
        effects = path_effects(
            pairs,
            readout,
            method=options.method,
            steps=options.steps,
            mode=options.mode,
            neurons=circuit.neurons,
            positions=True,
        )
        sample = sample_paths(effects, options.sample)
        edges = list(dict.fromkeys([*strongest_paths(circuit, effects, options.keep), *sample]))
        exact = exact_paths(pairs, readout, edges, mode=options.mode)
    connected = connect(circuit, effects, exact, keep=options.keep)
    said = {
        "options": asdict(options),
        "agreement": path_agreement(effects, exact, sample),
        "gap": effects.gap,
        "paths": len(connected.paths),
        "causal": sum(edge.causal is True for edge in connected.paths),
        "receipts": {"attribution": dict(effects.receipt), "patching": dict(exact.receipt)},
    }
    place = study.folder / "paths" / file_stem(emotion)
    with made_beside(study, place, ("circuits",)):
        effects.save(place / "attribution")
        exact.save(place / "patching")
        write_json(place / "paths.json", said)
        write_circuit(connected, path)
        export_circuit(connected, study.folder / "export")
    return connected, said
