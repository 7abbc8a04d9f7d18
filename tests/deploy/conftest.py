"""Edits of the random model and of the embedded one."""

import pytest
import torch

from circuits.effects.activations import component_means, differences, read_activations
from circuits.effects.directions import emotion_directions
from circuits.models.edits import Add


@pytest.fixture
def heads_and_neurons(llama):
    """A layer-by-layer mixture: three heads, and neurons of two layers."""
    torch.manual_seed(3)
    edits = []
    for layer, chosen in ((0, [1]), (2, [0, 3])):
        z = torch.zeros(llama.cfg.n_heads, llama.cfg.d_head)
        z[chosen] = torch.randn(len(chosen), llama.cfg.d_head)
        edits.append(Add("z", layer, z, when="prompt"))
    for layer, chosen in ((0, [5]), (1, [7, 8, 30])):
        post = torch.zeros(llama.cfg.d_mlp)
        post[chosen] = torch.randn(len(chosen))
        edits.append(Add("post", layer, post, when="prompt"))
    return edits


@pytest.fixture(scope="session")
def mini_sweep(mini, grid):
    """One pass of the embedded model over the grid."""
    return read_activations(mini, grid)


@pytest.fixture(scope="session")
def mini_directions(mini_sweep):
    return emotion_directions(mini_sweep)


@pytest.fixture(scope="session")
def mini_differences(mini_sweep):
    return differences(component_means(mini_sweep))
