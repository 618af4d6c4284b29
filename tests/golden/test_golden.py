"""The model gives the numbers of the published code: outputs within 1e-4, gradients within 1e-3 relative."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from dataprep.corpus import GeneGraph
from pretrain.config import ModelSettings
from pretrain.model.bulkformer import BulkFormer
from pretrain.model.loss import masked_squared_error, mean_squared_error
from pretrain.shape import ModelShape

# Files of the repository (README.md beside them says how they were made): their absence is a failure.
COMMITTED = Path(__file__).parent
# Larger files made in the same way are looked for beside the repository.
ELSEWHERE = Path(os.environ.get("BULKFORMER_GOLDEN", Path(__file__).parents[3] / "shared" / "golden"))


def needs(name: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(not (ELSEWHERE / name).is_file(), reason=f"no {name} in {ELSEWHERE}")


CASES = [
    pytest.param(COMMITTED / "golden_b", id="golden_b"),
    pytest.param(COMMITTED / "latest_a", id="latest_a"),
    pytest.param(COMMITTED / "latest_b", id="latest_b"),
    pytest.param(ELSEWHERE / "golden_a", id="golden_a", marks=needs("golden_a.json")),
]
VARIANTS = {
    "reference": {},
    "fused": {"kernel": "fused"},
    "fused, compiled": {"kernel": "fused", "compile": True},
    "fused, hidden layers recomputed": {"kernel": "fused", "recompute": "hidden"},
    "fused, layers recomputed": {"kernel": "fused", "recompute": "layers"},
    "reference, layers recomputed": {"recompute": "layers"},
}


def load_golden(prefix: Path, options: dict[str, Any]) -> tuple[BulkFormer, dict[str, torch.Tensor]]:
    inputs = load_file(f"{prefix}.io.safetensors")
    source, target = inputs["edge_index"] if "edge_index" in inputs else (inputs["src"], inputs["dst"])
    graph = GeneGraph(
        source=source.numpy().astype(np.int32),
        target=target.numpy().astype(np.int32),
        weight=inputs["edge_weight" if "edge_weight" in inputs else "weight"].numpy(),
    )
    model = BulkFormer(shape_of(json.loads(Path(f"{prefix}.json").read_text())), graph, **options).eval()
    model.load_state_dict(load_file(f"{prefix}.weights.safetensors"), strict=True)
    return model, inputs


def shape_of(sizes: dict[str, Any]) -> ModelShape:
    """The shape that a golden file's sizes describe, in the words of its family's release."""
    if sizes.get("family") != "latest":
        return ModelShape(**sizes)
    assert sizes["dim"] == sizes["heads"] * sizes["dim_head"]
    return ModelShape(
        family="latest", genes=sizes["genes"], dim=sizes["dim"], performer_layers=sizes["depth"], heads=sizes["heads"],
        features_per_head=sizes["nb_features"], graph_width=sizes["graph_hidden_dim"],
    )  # fmt: skip


def profiles_of(inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """The golden profiles with missing genes as NaN, where the published code of the first family has -10."""
    return inputs["x"].masked_fill(inputs["x"] == -10, float("nan"))


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("prefix", CASES)
def test_outputs_and_gradients_equal_the_published_code(prefix, variant):
    model, inputs = load_golden(prefix, VARIANTS[variant])
    _assert_equal_to_golden(model, prefix, inputs)


@pytest.mark.parametrize("prefix", [COMMITTED / "golden_b", COMMITTED / "latest_a"], ids=["golden_b", "latest_a"])
def test_the_whole_model_compiled_equals_the_published_code(prefix):
    model, inputs = load_golden(prefix, {"kernel": "fused"})
    _assert_equal_to_golden(torch.compile(model, fullgraph=True), prefix, inputs)


def _assert_equal_to_golden(model: nn.Module, prefix: Path, inputs: dict[str, torch.Tensor]) -> None:
    profiles_BG = profiles_of(inputs)
    output = model(profiles_BG.masked_fill(inputs["mask"], float("nan")), inputs.get("mask_prob"))
    torch.testing.assert_close(output.gene_embedding, inputs["gene_embedding"], atol=1e-4, rtol=0)
    torch.testing.assert_close(output.expression, inputs["expression"], atol=1e-4, rtol=0)

    loss = mean_squared_error(*masked_squared_error(output.expression, profiles_BG, inputs["mask"]))
    torch.testing.assert_close(loss, inputs["loss"].squeeze(), atol=1e-4, rtol=0)
    loss.backward()
    gradients = {name.removeprefix("_orig_mod."): weight.grad for name, weight in model.named_parameters()}
    wanted = load_file(f"{prefix}.grads.safetensors")
    assert wanted.keys() == {name for name, gradient in gradients.items() if gradient is not None}
    for parameter, expected in wanted.items():
        # the head's last bias has no gradient but rounding: the mean correction cancels it
        difference = (gradients[parameter].reshape(expected.shape) - expected).norm()
        assert difference <= 1e-3 * expected.norm() + 1e-6, parameter


def model_without_numbers(genes: int, **settings: str) -> BulkFormer:
    """A model of a published size on the meta device: names and shapes alone."""
    empty = np.zeros(0, np.int32)
    graph = GeneGraph(source=empty, target=empty, weight=np.zeros(0, np.float32))
    with torch.device("meta"):
        return BulkFormer(ModelSettings(**settings).shape(genes), graph)


@pytest.mark.parametrize(
    ("size", "learned", "with_esm2"),
    [
        ("37M", 13_368_647, 37.0),
        ("50M", 28_641_159, 50.2),
        ("93M", 75_921_159, 92.9),
        ("127M", 112_448_967, 126.9),
        ("147M", 132_143_047, 146.6),
    ],
)
def test_parameter_counts_are_the_published_ones(size, learned, with_esm2):
    def parameters(identity: str) -> int:
        model = model_without_numbers(genes=20_010, size=size, gene_identity=identity)
        return sum(parameter.numel() for parameter in model.parameters())

    assert parameters("learned") == learned
    assert round(parameters("esm2") / 1e6, 1) == with_esm2


def test_the_released_latest_model_has_427_tensors_by_name_and_101_323_778_parameters():
    released = json.loads((COMMITTED / "released_latest_keys.json").read_text())
    model = model_without_numbers(genes=19_973, size="101M")
    assert {name: list(tensor.shape) for name, tensor in model.state_dict().items()} == released
    assert len(released) == 427
    assert sum(parameter.numel() for parameter in model.parameters()) == 101_323_778


@needs("released_147M_keys.json")
def test_tensors_have_the_names_and_shapes_of_the_released_147m_checkpoint():
    released = json.loads((ELSEWHERE / "released_147M_keys.json").read_text())
    model = model_without_numbers(genes=20_010, size="147M")
    assert {name: list(tensor.shape) for name, tensor in model.state_dict().items()} == released
