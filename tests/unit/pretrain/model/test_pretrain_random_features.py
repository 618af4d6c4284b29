"""Random features are a function of (seed, step); their construction is the published one."""

import numpy as np
import torch

from pretrain.config import ModelSettings
from pretrain.model.layers import KernelOptions, performer
from pretrain.model.random_features import is_redraw_step, orthogonal_features, redraw_random_features


def make_layers() -> torch.nn.ModuleList:
    shape = ModelSettings(size="tiny").shape(genes=10)
    return torch.nn.ModuleList(performer(shape, 1, KernelOptions()) for _ in range(2))


def features_of(layers: torch.nn.ModuleList) -> list[torch.Tensor]:
    return [tensor.clone() for name, tensor in layers.state_dict().items() if name.endswith("projection_matrix")]


def test_any_process_draws_the_same_features_for_a_step():
    first, second = make_layers(), make_layers()
    torch.manual_seed(1)
    redraw_random_features(first, seed=5, step=2500, every_steps=1000)
    torch.manual_seed(2)
    redraw_random_features(second, seed=5, step=2999, every_steps=1000)
    assert all(torch.equal(a, b) for a, b in zip(features_of(first), features_of(second), strict=True))


def test_features_change_with_seed_layer_and_every_so_many_steps():
    layers = make_layers()
    drawn = []
    for seed, step in ((5, 0), (5, 1000), (6, 0)):
        redraw_random_features(layers, seed=seed, step=step, every_steps=1000)
        drawn += [features[0, 0].item() for features in features_of(layers)[::2]]
    # each matrix is registered twice (performer-pytorch), so two layers give two different ones per draw
    assert len(set(drawn)) == 6
    assert [step for step in range(1, 3001) if is_redraw_step(step, 1000)] == [1000, 2000, 3000]
    assert not any(is_redraw_step(step, 0) for step in range(10))


def test_rows_of_a_block_are_orthogonal_and_as_long_as_gaussian_vectors():
    generator = np.random.default_rng(0)
    features = orthogonal_features(200, 16, generator)
    block = torch.nn.functional.normalize(features[:16])
    torch.testing.assert_close(block @ block.T, torch.eye(16), atol=1e-5, rtol=0)
    # the norm of a 16-dimensional Gaussian vector: mean 3.938, standard deviation 0.70
    assert abs(features.norm(dim=1).mean().item() - 3.938) < 0.2
