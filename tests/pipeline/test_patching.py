"""Patching of a finished run's model, as the command does it."""

from typing import Any

import pytest

from circuits.errors import RunError
from circuits.files import read_json
from circuits.patching.patch import HeadPatches, SitePatches
from circuits.runs.folder import Study
from circuits.runs.patching import Contrast, patch_run, read_patches
from circuits.runs.report import refresh_report


def test_maps_are_kept_with_their_receipt_and_shown_in_the_report(folder):
    study = Study(folder)
    contrast, sites = Contrast(study, "fear", "neutral", contexts=2), ["resid_pre", "z"]
    place = patch_run(contrast, sites, by="role", mode="denoising", readout="projection")
    stream, heads = SitePatches.load(place / "stream"), HeadPatches.load(place / "z")
    assert (stream.emotion, stream.other, stream.n_contexts) == ("fear", "neutral", 2)
    assert stream.place == heads.place == ("frame", "brief", "scenario", "event", "last")
    receipt = read_json(place / "receipt.json")["receipt"]
    assert receipt["passes"] == 2 * 2 * 2  # two contexts, a clean and a corrupt prompt, two calls
    found = [type(one) for one in read_patches(study)["fear-neutral"]]
    assert found == [SitePatches, HeadPatches]
    assert refresh_report(study)
    page = (folder / "report.html").read_text()
    assert "Activation patching" in page
    assert "data-patch-0-1" in page


def test_held_out_contexts_are_patched_and_no_others(brief_study):
    contrast = Contrast(brief_study, "anger", "fear", contexts=3)
    assert all("_test_" in pair.context.id for pair in contrast.pairs)
    assert [pair.context.valence for pair in contrast.pairs] == ["positive", "neutral", "negative"]
    assert contrast.provenance().options["contexts"] == [p.context.id for p in contrast.pairs]


def test_judged_replies_of_both_sides_make_a_readout(folder):
    contrast = Contrast(Study(folder), "fear", "neutral", contexts=1)
    place = patch_run(contrast, ["z"], by="last", mode="noising", readout="reply")
    found = HeadPatches.load(place / "z")
    assert found.readout == "reply likelihood"
    # The clean run finds the clean reply likelier than the corrupt one does.
    assert found.gap[0] > found.gap[1]


@pytest.mark.parametrize(
    ("emotion", "other", "contexts", "message"),
    [
        ("joy", "neutral", 1, "no emotion 'joy'"),
        ("fear", "joy", 1, "no emotion 'joy'"),
        ("fear", "fear", 1, "against itself is no contrast"),
        ("fear", "neutral", 0, "give 1 or more"),
    ],
)
def test_a_contrast_that_makes_no_sense_is_refused(brief_study, emotion, other, contexts, message):
    with pytest.raises(RunError, match=message):
        Contrast(brief_study, emotion, other, contexts)


def test_unknown_sites_are_refused_before_anything_is_run(brief_study):
    how: dict[str, Any] = {"by": "role", "mode": "denoising", "readout": "projection"}
    with pytest.raises(RunError, match="found 'mlp'; give one or more of resid_pre"):
        patch_run(Contrast(brief_study, "fear"), ["mlp"], **how)
