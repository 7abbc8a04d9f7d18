"""A small folder in the published layout, written without the package."""

import json

import numpy as np
import pandas as pd
import pytest
import torch

from circuits.names import EMOTIONS

LAYERS, HEADS, NEURONS, WIDTH = 3, 4, 20, 8
MADE = ("anger", "fear")
DOSES = (0.1, 0.3)


def directions(rng, kind):
    vectors = {e: rng.normal(size=(LAYERS, WIDTH)).astype(np.float32) for e in EMOTIONS}
    return {
        "dirs": vectors,
        "layers": LAYERS,
        "hidden": WIDTH,
        "emotions": list(EMOTIONS),
        "type": kind,
    }


def heads(rng):
    rows = [
        (layer, head, *rng.normal(size=2), 12, 0.5)
        for layer in range(LAYERS)
        for head in range(HEADS)
    ]
    columns = ["layer", "head", "mean_importance", "std_importance", "samples", "baseline_mean"]
    return pd.DataFrame(rows, columns=columns).assign(
        std_importance=lambda t: t.std_importance.abs()
    )


def contributions(rng, emotion):
    rows = [
        (emotion, layer, neuron, *rng.normal(size=5))
        for layer in range(LAYERS)
        for neuron in range(NEURONS)
    ]
    columns = ["emotion", "layer", "neuron", "C_mean", "C_pos", "C_neg", "beta", "H_mean"]
    return pd.DataFrame(rows, columns=columns)


def importance(rng, emotion, dose):
    rows = [
        (emotion, kind, layer, dose, *rng.normal(size=6), None, None, None, None, 12)
        for kind in ("attention", "mlp")
        for layer in range(LAYERS)
    ]
    columns = (
        "emotion,kind,layer,alpha,sigma,dose,s_base_final,s_final,ds_final,I_final,"
        "s_base_anchor,s_anchor,ds_anchor,I_anchor,n_samples"
    )
    return pd.DataFrame(rows, columns=columns.split(","))


def write_published(home, seed=0):
    """Every kind of file that is read, in ``home``."""
    rng = np.random.default_rng(seed)
    second, fourth = home / "02_emotion_directions", home / "04_local_components_identification"
    fifth = home / "05_emotion_diff_vector_computation"
    sixth = home / "06_emotion_circuit_integration"
    for folder in (
        second,
        fourth / "mlp_neurons",
        fourth / "attention_heads",
        sixth / "sublayer_importance",
        sixth / "global_ref",
    ):
        folder.mkdir(parents=True)
    for kind in ("attention", "mlp"):
        torch.save(directions(rng, kind), second / f"emo_directions_{kind}.pt")  # noqa: TID251
    for emotion in MADE:
        heads(rng).to_csv(fourth / f"attention_heads/head_importance_{emotion}.csv", index=False)
        table = contributions(rng, emotion)
        table.to_csv(fourth / f"mlp_neurons/contrib_mean_{emotion}.csv", index=False)
        for dose in DOSES:
            path = sixth / f"sublayer_importance/importance_{emotion}_alpha{dose}.csv"
            importance(rng, emotion, dose).to_csv(path, index=False)
        np.save(sixth / f"global_ref/v_ref_{emotion}.npy", rng.normal(size=WIDTH).astype("f4"))
        for kind, stem, width in (("attention", "L", WIDTH), ("mlp", "layer", NEURONS)):
            folder = fifth / f"{kind}_emotion_diff/emo_diff/{emotion}"
            folder.mkdir(parents=True)
            for layer in range(LAYERS):
                np.save(folder / f"{stem}{layer}.npy", rng.normal(size=width).astype("f4"))
    sigma = {f"{kind}_{i}": rng.uniform() for kind in ("attention", "mlp") for i in range(LAYERS)}
    (sixth / "sigma_summary.json").write_text(json.dumps(sigma, indent=2))
    return home


@pytest.fixture
def authors(tmp_path):
    """A folder of two emotions in the published layout."""
    return write_published(tmp_path / "authors")
