"""Patch a finished run's model on held-out contexts, and keep the maps in the run folder."""

from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from circuits.errors import RunError
from circuits.files import write_json
from circuits.measure.cases import Mode
from circuits.measure.patched_runs import HeadSite, StreamSite
from circuits.measure.patching import HeadPatches, SitePatches, patch_heads, patch_sites
from circuits.measure.patching_cost import head_patching_cost, site_patching_cost
from circuits.model.receipts import Cost, counted
from circuits.pipeline.contrast import Contrast, ReadoutName
from circuits.pipeline.places import made_beside
from circuits.pipeline.plan import Stage
from circuits.pipeline.study import Study

__all__ = ["SITES", "patch_run", "patch_run_cost", "read_patches"]

SITES: tuple[str, ...] = (*get_args(StreamSite), *get_args(HeadSite))
"""What can be patched."""


def patch_run_cost(
    contrast: Contrast, sites: Sequence[str], *, by: str, readout: ReadoutName
) -> Cost:
    """What :func:`patch_run` will cost.

    Raises:
        RunError: a site is unknown.
    """
    stream, heads = _sorted(sites)
    measure, total = contrast.readout(readout), Cost()
    if stream:
        total += site_patching_cost(contrast.model, contrast.pairs, measure, sites=stream, by=by)
    for site in heads:
        total += head_patching_cost(contrast.model, contrast.pairs, measure, site=site, by=by)
    return total


def patch_run(
    contrast: Contrast, sites: Sequence[str], *, by: str, mode: Mode, readout: ReadoutName
) -> Path:
    """Patch these sites; write one record each, and the receipt, into the run folder.

    Raises:
        RunError: a site is unknown.
        AxisError: a site has no counterpart in the other run; names it.
    """
    stream, heads = _sorted(sites)
    model, pairs, measure = contrast.model, contrast.pairs, contrast.readout(readout)
    provenance = contrast.provenance(by=by, mode=mode, readout=measure.name)
    folder = contrast.study.folder / "patching" / contrast.file_stem
    stages: tuple[Stage, ...] = ("importance", "control") if readout == "reply" else ("importance",)
    with made_beside(contrast.study, folder, stages), counted() as receipt:
        if stream:
            patch_sites(model, pairs, measure, provenance, sites=stream, by=by, mode=mode).save(
                folder / "stream"
            )
        for site in heads:
            patch_heads(model, pairs, measure, provenance, site=site, by=by, mode=mode).save(
                folder / site
            )
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


def _sorted(sites: Sequence[str]) -> tuple[list[str], list[str]]:
    unknown = [site for site in sites if site not in SITES]
    if unknown or not sites:
        what = repr(unknown[0]) if unknown else "nothing"
        raise RunError(f"--sites: found {what}; give one or more of {', '.join(SITES)}")
    stream = get_args(StreamSite)
    return [s for s in sites if s in stream], [s for s in sites if s not in stream]
