"""Sizes and shapes of models, free of torch: what settings, exports and estimates need."""

from __future__ import annotations

import importlib.resources
import math
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, ValidationError, model_validator

from dataprep.runtime.command_line import Settings, UserError, one_line
from pretrain.families import FAMILIES, Family, FamilyName

# Width of the ESM2 (650M) protein embeddings that the preprint's gene table was initialised from.
ESM2_WIDTH = 1280
# Far above what anybody trains, and far below what makes a number of a stranger's file overflow.
LARGEST_WIDTH = 2**16
MOST_LAYERS = 2**12
MOST_GENES = 2**20

# The numbers that every size has.
SIZE_NUMBERS = ("dim", "performer_layers", "heads", "blocks")


class ModelSize(Settings):
    """The numbers that a size stands for; genes, gene identity and dropout are not among them.

    It may name a family, and what that family lets one choose; otherwise both are as the settings say.
    """

    dim: int = Field(ge=2, le=LARGEST_WIDTH)
    performer_layers: int = Field(ge=1, le=MOST_LAYERS)
    heads: int = Field(ge=1)
    blocks: int = Field(1, ge=1, le=MOST_LAYERS)
    family: FamilyName | None = None
    features_per_head: int | None = Field(None, ge=1, le=LARGEST_WIDTH)
    graph_width: int | None = Field(None, ge=1, le=LARGEST_WIDTH)

    def numbers(self) -> dict[str, Any]:
        """What it says, by the names that settings and shapes have for it."""
        return self.model_dump(exclude_none=True)


# Sizes that plugins have added.
_registered: dict[str, ModelSize] = {}


def packaged_size_names() -> list[str]:
    """The sizes that come with the package, smallest first: one YAML file each in ``configs/sizes``."""
    files = importlib.resources.files("pretrain") / "configs/sizes"
    names = [entry.name.removesuffix(".yaml") for entry in files.iterdir() if entry.name.endswith(".yaml")]
    return sorted(names, key=lambda name: int(name.removesuffix("M")) if name.endswith("M") else 0)


def size_names() -> list[str]:
    """All sizes that have a name: those of the package, then those of plugins."""
    return packaged_size_names() + list(_registered)


def register_size(name: str, dim: int, performer_layers: int, heads: int, blocks: int = 1) -> None:
    """Add a size under a name, as a plugin does when it is imported.

    Raises ValueError for a name that stands for other numbers already.
    """
    size = ModelSize(dim=dim, performer_layers=performer_layers, heads=heads, blocks=blocks)
    if name in packaged_size_names() or _registered.get(name, size) != size:
        raise ValueError(f"there is a model size {name!r} already")
    _registered[name] = size


def read_size(name: str) -> ModelSize:
    """Numbers of a size: one with a name, or a YAML file of the user's, given by its path.

    Raises UserError for an unknown name and for a file that does not hold these numbers.
    """
    if name in _registered:
        return _registered[name]
    if name in packaged_size_names():
        content = importlib.resources.files("pretrain") / "configs/sizes" / f"{name}.yaml"
        return ModelSize(**yaml.safe_load(content.read_text()))
    if name.endswith((".yaml", ".yml")):
        return _read_size_file(Path(name))
    raise UserError(
        f"unknown model size {name!r}; sizes: {', '.join(size_names())}, or the path of a .yaml file", exit_code=2
    )


def _read_size_file(path: Path) -> ModelSize:
    try:
        content = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        raise UserError(f"model size {path}: no such file", exit_code=2) from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"model size {path}: {one_line(error)}", exit_code=2) from None
    if not isinstance(content, dict):
        raise UserError(f"model size {path} has no lines NAME: NUMBER for {', '.join(SIZE_NUMBERS)}", 2)
    try:
        return ModelSize(**{str(key): value for key, value in content.items()})
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, issue['loc']))}: {issue['msg']}" for issue in error.errors()]
        raise UserError(f"model size {path}: {'; '.join(problems)}", exit_code=2) from None


class ModelShape(Settings):
    """All that decides the shape of every tensor of a model; stored in an export's ``config.json``."""

    # exports and checkpoints from before there was a second family name none
    family: FamilyName = "original"
    genes: int = Field(ge=1, le=MOST_GENES)
    dim: int = Field(ge=2, le=LARGEST_WIDTH)
    performer_layers: int = Field(ge=1, le=MOST_LAYERS)
    heads: int = Field(ge=1)
    blocks: int = Field(1, ge=1, le=MOST_LAYERS)
    gene_identity: Literal["learned", "esm2"] = "learned"
    identity_width: int = Field(
        ESM2_WIDTH, ge=1, le=LARGEST_WIDTH, description="width of the protein embeddings (esm2 only)"
    )
    features_per_head: int | None = Field(
        None, ge=1, le=LARGEST_WIDTH, description="random features; by default as the family has it"
    )
    graph_width: int | None = Field(
        None, ge=1, le=LARGEST_WIDTH, description="of a bottleneck; by default as the family has it"
    )
    # exports and checkpoints from before there was a prior name none
    prior_rank: int = Field(0, ge=0, le=LARGEST_WIDTH, description="components of the linear prior; 0: without one")
    prior_rectified: bool = False
    attention_dropout: float = Field(0.05, ge=0, lt=1)
    feed_forward_dropout: float = Field(0.1, ge=0, lt=1)

    @model_validator(mode="after")
    def _check(self) -> ModelShape:
        if self.dim % 2 or self.dim % self.heads or self.dim // self.heads < 3:
            raise ValueError(f"dim {self.dim} must be even and divide into {self.heads} heads of at least 3")
        if self.traits.graph_bottleneck is None:
            if self.graph_width is not None:
                raise ValueError(f"graph_width: family {self.family} has no bottleneck around its graph convolution")
        elif self.blocks != 1 or self.gene_identity != "learned":
            raise ValueError(f"family {self.family} has one block, and a learned table of genes")
        return self

    @property
    def traits(self) -> Family:
        """What its family has that others have not."""
        return FAMILIES[self.family]

    def with_prior(self, rank: int, rectified: bool) -> ModelShape:
        """The same with a linear prior of so many components."""
        return self.model_copy(update={"prior_rank": rank, "prior_rectified": rectified})

    @property
    def fewest_numbers(self) -> int:
        """Numbers that tensors of this shape hold at the least.

        Those of the gene table, of the graph convolution, and of each Performer layer its random features, the four
        projections of its attention and the two of its feed-forward; and the loadings of a prior.
        """
        table = self.dim if self.gene_identity == "learned" else self.identity_width
        layer = 12 * self.dim**2 + self.random_features * (self.dim // self.heads)
        return self.genes * (table + self.prior_rank) + self.blocks * (
            self.graph_dim**2 + self.performer_layers * layer
        )

    @property
    def random_features(self) -> int:
        """Random features per head; performer-pytorch's own choice is int(d ln d) for heads of width d."""
        head_dim = self.dim // self.heads
        return self.features_per_head or self.traits.features_per_head or int(head_dim * math.log(head_dim))

    @property
    def graph_dim(self) -> int:
        """Width of the graph convolution."""
        return self.graph_width or max(1, self.dim // (self.traits.graph_bottleneck or 1))

    @property
    def embedding_width(self) -> int:
        """Numbers in the embedding of a gene."""
        return self.dim + self.traits.summary_features

    @property
    def sample_width(self) -> int:
        """Numbers in the embedding of a sample: with a linear prior, also coordinates of what it expects."""
        return self.embedding_width + prior_coordinates(self.prior_rank)


def prior_coordinates(rank: int) -> int:
    """Coordinates of a sample along a prior of ``rank`` components: the largest power of two that is not above it.

    None where there is no prior, or one of gene means alone, which is the same for all samples.
    """
    return 2 ** (rank.bit_length() - 1) if rank > 1 else 0
