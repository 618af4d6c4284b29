"""Sizes and shapes of models, free of torch: what settings, exports and estimates need."""

from __future__ import annotations

import importlib.resources
import math
from typing import Literal

import yaml
from pydantic import Field, model_validator

from dataprep.runtime.command_line import Settings, UserError

# Width of the ESM2 (650M) protein embeddings that the preprint's gene table was initialised from.
ESM2_WIDTH = 1280


def size_names() -> list[str]:
    """The sizes that come with the package, smallest first: one YAML file each in ``pretrain/configs``."""
    files = importlib.resources.files("pretrain") / "configs"
    names = [entry.name.removesuffix(".yaml") for entry in files.iterdir() if entry.name.endswith(".yaml")]
    return sorted(names, key=lambda name: int(name.removesuffix("M")) if name.endswith("M") else 0)


def read_size(name: str) -> dict[str, int]:
    """Width, layers, heads and blocks of a named size. Raises UserError for an unknown name."""
    if name not in size_names():
        raise UserError(f"unknown model size {name!r}; sizes: {', '.join(size_names())}", exit_code=2)
    content = importlib.resources.files("pretrain") / "configs" / f"{name}.yaml"
    return dict(yaml.safe_load(content.read_text()))


class ModelShape(Settings):
    """All that decides the shape of every tensor of a model; stored in an export's ``config.json``."""

    genes: int = Field(ge=1)
    dim: int = Field(ge=2)
    performer_layers: int = Field(ge=1)
    heads: int = Field(ge=1)
    blocks: int = Field(1, ge=1)
    gene_identity: Literal["learned", "esm2"] = "learned"
    identity_width: int = Field(ESM2_WIDTH, ge=1, description="width of the protein embeddings (esm2 only)")
    attention_dropout: float = Field(0.05, ge=0, lt=1)
    feed_forward_dropout: float = Field(0.1, ge=0, lt=1)

    @model_validator(mode="after")
    def _check(self) -> ModelShape:
        if self.dim % 2 or self.dim % self.heads or self.dim // self.heads < 3:
            raise ValueError(f"dim {self.dim} must be even and divide into {self.heads} heads of at least 3")
        return self

    @property
    def random_features(self) -> int:
        """Random features per head, as performer-pytorch chooses them: int(d ln d) for heads of width d."""
        head_dim = self.dim // self.heads
        return int(head_dim * math.log(head_dim))
