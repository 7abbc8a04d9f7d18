"""Directions and circuits of a finished run as files that other programs apply."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from circuits.control.modulation import Steering, enhance, steer
from circuits.deploy.control_vectors import ControlVector, control_vector
from circuits.deploy.gguf_files import write_gguf
from circuits.deploy.hook_files import write_hooks
from circuits.export.formats import file_stem
from circuits.losses import Loss, add_losses
from circuits.model.edits import Add
from circuits.pipeline.control import circuit_tools, written_how
from circuits.pipeline.study import Study
from circuits.pipeline.work import Run, Silent, plan_of
from circuits.provenance import Provenance

__all__ = ["deploy"]


def deploy(
    study: Study, folder: Path, formats: Sequence[str], emotions: Sequence[str] = ()
) -> dict[Path, tuple[Loss, ...]]:
    """Write every emotion's direction and circuit in each of ``formats``.

    A circuit is its strongest part, as the run writes it into the model; a direction is added where
    the run steers. Both at strength 1, the model's own difference.

    Args:
        study: A run with its circuits.
        folder: Made if it is not there.
        formats: Some of :data:`~circuits.deploy.APPLIED`.
        emotions: All by default.

    Returns:
        The files, and what each does not keep (nothing, in files of hooks); this also stands
        beside them in a file per emotion.

    Raises:
        RunError: a stage has not run, or the package ``gguf`` is not installed.
        ModelError: the run's model cannot be loaded.
        DataError: the folder cannot be written to.
    """
    run = Run(plan_of(study), study, Silent())
    chosen = [emotion for emotion in study.emotions if not emotions or emotion in emotions]
    found = [
        (emotion, kind, edits, provenance)
        for emotion in chosen
        for kind, (edits, provenance) in _edits(run, emotion).items()
    ]
    written: dict[Path, tuple[Loss, ...]] = {}
    if "gguf" in formats:
        written |= _vectors(run, found, folder)
    if "hf" in formats:
        for emotion, kind, edits, provenance in found:
            path = folder / f"{file_stem(emotion)}.{kind}.safetensors"
            write_hooks(run.model, edits, emotion, provenance, path)
            written[path] = ()
    for emotion in chosen:
        stem = file_stem(emotion)
        own = {p.name: lost for p, lost in written.items() if p.name.startswith(f"{stem}.")}
        add_losses(folder, stem, own)
    return written


_Found = tuple[str, str, list[Add], Provenance]
"""Emotion, ``direction`` or ``circuit``, its edits, and where they come from."""


def _edits(run: Run, emotion: str) -> dict[str, tuple[list[Add], Provenance]]:
    study = run.study
    modulation = replace(written_how(study), strength=1.0, by_emotion=())
    tools, steering = circuit_tools(study, run.plan), _steering(study)
    circuit = tools.written(modulation)[emotion]
    return {
        "direction": (
            steer(tools.directions, emotion, steering),
            tools.directions.provenance.child(layers=list(steering.layers), when=steering.when),
        ),
        "circuit": (
            enhance(circuit, tools.differences, modulation),
            circuit.provenance.child(
                heads=len(circuit.heads), neurons=len(circuit.neurons), when=modulation.when
            ),
        ),
    }


def _steering(study: Study) -> Steering:
    """As the control stage steers, at strength 1; at the first stable layer, if it has not run."""
    plain = Steering((study.importance.stable_layers[0],))
    if "control" not in study.log["stages"]:
        return plain
    chosen = study.control["settings"].get("steer")
    if chosen is None:
        return plain
    return replace(plain, layers=tuple(chosen["layers"]), when=chosen["when"])


def _vectors(run: Run, found: Sequence[_Found], folder: Path) -> dict[Path, tuple[Loss, ...]]:
    rms = run.study.directions.sel(sublayer="mlp").rms[0]
    made: dict[Path, tuple[ControlVector, tuple[Loss, ...]]] = {}
    for emotion, kind, edits, provenance in found:
        path = folder / f"{file_stem(emotion)}.{kind}.gguf"
        made[path] = control_vector(run.model, edits, emotion, provenance, rms=rms)
    for path, (vector, _) in made.items():
        write_gguf(vector, path)
    return {path: lost for path, (_, lost) in made.items()}
