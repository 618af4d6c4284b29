"""Is ``kernel: reference`` as fast as the published modules put together plainly?

Builds the encoder of the 2026-05 code from ``performer_pytorch.Performer`` and ``torch_geometric.nn.GCNConv`` over an
edge index, in one file and with nothing of ``pretrain.model.bulkformer``, and times its training step in turn with
``BulkFormer(kernel="reference")``, both in processes of default settings::

    python benchmarks/published_modules.py --size 50M --micro-batch 2
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from multiprocessing.connection import Connection
from statistics import median

import torch
from performer_pytorch import Performer
from rich.console import Console
from torch import Tensor, nn
from torch_geometric.nn import GCNConv

from pretrain.bench.training_step import BenchCase, run_in_turns, serve_case, serve_steps, synthetic_graph
from pretrain.config import ModelSettings
from pretrain.model.bulkformer import ModelOutput

MASKED = -10.0


class Published(nn.Module):
    """Reads NaN as masked, like ours, so that both are driven the same way; inside, -10 marks a masked gene."""

    def __init__(self, genes: int, dim: int, layers: int, edge_index: Tensor, edge_weight: Tensor) -> None:
        super().__init__()
        self.register_buffer("edge_index", edge_index)
        self.register_buffer("edge_weight", edge_weight)
        self.inv_freq = nn.Parameter(1.0 / 100 ** (torch.arange(0, dim, 2).float() / dim), requires_grad=False)
        self.identity = nn.Parameter(nn.init.xavier_uniform_(torch.empty(genes, dim)))
        self.identity_projection = _perceptron(dim, dim)
        self.context = _perceptron(genes, dim)
        self.combine = _perceptron(dim, dim)
        self.block_norm = nn.LayerNorm(dim)
        self.convolution = GCNConv(dim, dim, cached=True, add_self_loops=False)
        self.performers = nn.ModuleList(
            Performer(
                dim=dim, depth=1, heads=8, dim_head=dim // 8, attn_dropout=0.05, ff_dropout=0.1, qkv_bias=True,
                attn_out_bias=True,
            )
            for _ in range(layers)
        )  # fmt: skip
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Sequential(
            nn.LayerNorm(dim + 3), nn.Linear(dim + 3, dim), nn.ReLU(), nn.Linear(dim, 1), nn.ReLU()
        )

    def forward(self, expression: Tensor) -> ModelOutput:
        x = torch.nan_to_num(expression, nan=MASKED)
        hidden = x == MASKED
        angle = torch.einsum("bg,f->bgf", x, self.inv_freq)
        rotary = torch.cat([angle.sin(), angle.cos()], dim=-1) * ~hidden.unsqueeze(-1)
        h = rotary + self.identity_projection(self.identity) + self.context(x).unsqueeze(1)
        h = self.block_norm(self.combine(h))
        h = h + self.convolution(h, self.edge_index, self.edge_weight)
        for performer in self.performers:
            h = performer(h)
        h = self.norm(h)
        count = (~hidden).sum(dim=1).clamp(min=1)
        observed = (x * ~hidden).sum(dim=1) / count
        summary = torch.stack([hidden.float().mean(dim=1), observed, (x != 0).float().mean(dim=1)], dim=-1)
        embedding = torch.cat([h, summary.unsqueeze(1).expand(-1, h.shape[1], -1)], dim=-1)
        predicted = self.head(embedding).squeeze(-1)
        excess = (predicted * ~hidden).sum(dim=1) / count - observed
        return ModelOutput(embedding, torch.where(hidden, predicted - excess.unsqueeze(1), predicted))


def _perceptron(inputs: int, dim: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, 4 * dim), nn.ReLU(), nn.Linear(4 * dim, dim))


@dataclass(frozen=True)
class PlainCase:
    """The plain assembly, in the place of a case of ``pretrain bench``."""

    size: str
    micro_batch: int
    genes: int
    edges_per_gene: int
    kernel: str = "published modules"


def serve_plain(case: PlainCase | BenchCase, connection: Connection) -> None:
    if isinstance(case, BenchCase):
        return serve_case(case, connection)
    torch.manual_seed(0)
    graph = synthetic_graph(case.genes, case.edges_per_gene)
    edge_index = torch.stack([torch.from_numpy(graph.source).long(), torch.from_numpy(graph.target).long()])
    shape = _reference(case.size, case.micro_batch, case.genes, case.edges_per_gene).shape
    model = Published(case.genes, shape.dim, shape.performer_layers, edge_index, torch.from_numpy(graph.weight))
    return serve_steps(model, case.genes, case.micro_batch, connection)


def _reference(size: str, micro_batch: int, genes: int, edges_per_gene: int) -> BenchCase:
    return BenchCase(
        size, ModelSettings(size=size).shape(genes), "reference", "fp32", micro_batch, edges_per_gene, threads=0,
        compile=False, recompute="nothing", retain_memory=False,
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="50M")
    parser.add_argument("--micro-batch", type=int, default=2)
    parser.add_argument("--genes", type=int, default=20_010)
    parser.add_argument("--edges-per-gene", type=int, default=20)
    parser.add_argument("--steps", type=int, default=5)
    options = parser.parse_args()
    numbers = (options.size, options.micro_batch, options.genes, options.edges_per_gene)
    cases = [PlainCase(*numbers), _reference(*numbers)]
    times, memory = run_in_turns(cases, 1, options.steps, Console(stderr=True), serve_plain)
    plain, reference = (median(seconds) for seconds in times)
    print(json.dumps({"published": plain, "reference": reference, "ratio": reference / plain, "peak_bytes": memory}))


if __name__ == "__main__":
    main()
