"""A model export on its device, fed in batches. B profiles, G genes, D hidden width, F summary features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from dataprep.corpus import Corpus
from dataprep.genes.vocabulary import GeneVocabulary
from dataprep.runtime.command_line import UserError
from dataprep.runtime.terminal import log
from pretrain.config import Pooling
from pretrain.families import TPM_OVER
from pretrain.kernels.device import retain_freed_memory
from pretrain.model.bulkformer import BulkFormer
from pretrain.model.export_file import ModelExport, open_export
from pretrain.shape import ModelShape

# What a batch may take of main memory; on a GPU it is half of what is free.
_CPU_BATCH_BYTES = 2 * 1024**3
_LARGEST_BATCH = 64


@dataclass(frozen=True)
class Embedder:
    """A model that embeds and reconstructs profiles in batches of at most ``batch_size``.

    Its tensors are loaded when they are first needed, so a process that only distributes work needs none. A process
    that computes calls :meth:`load` first, so that a damaged export is found before anything else is done.
    """

    export: ModelExport
    kernel: str
    precision: str
    compile: bool
    device: torch.device
    batch_size: int
    untrained_seed: int | None = None

    @classmethod
    def open(
        cls, uri: str, kernel: str, precision: str, batch_size: int | None = None, compile: bool = False
    ) -> Embedder:
        """For the GPU, if there is one. Raises UserError where ``uri`` holds no export."""
        export = open_export(uri)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        batch_size = batch_size or fitting_batch_size(export.shape, device)
        return cls(export, kernel, precision, compile, device, batch_size)

    def untrained(self, seed: int) -> Embedder:
        """A model of the same shape, as a run with this seed begins."""
        return replace(self, untrained_seed=seed)

    def load(self) -> Embedder:
        """Read the tensors now. Raises UserError where they are not those of the model."""
        self.model.eval()
        return self

    @cached_property
    def model(self) -> BulkFormer:
        """On its device, in evaluation mode. Raises UserError where the tensors are not those of the model."""
        options = (self.kernel, self.precision, self.compile)
        if self.untrained_seed is None:
            model = BulkFormer.from_export(self.export, *options).to(self.device)
        else:
            model = BulkFormer.untrained(self.export, self.untrained_seed, *options).to(self.device)
        retain_freed_memory(self.device)
        return model

    @property
    def vocabulary(self) -> GeneVocabulary:
        return self.export.vocabulary

    @property
    def gene_width(self) -> int:
        """Numbers in the embedding of a gene: D, and the summary features of the model's family."""
        return self.export.shape.embedding_width

    @property
    def sample_width(self) -> int:
        """Numbers in the embedding of a sample: those of a gene, and with a linear prior its coordinates."""
        return self.export.shape.sample_width

    def reconstruct(self, expression_BG: np.ndarray) -> np.ndarray:
        """Corrected expression, float32 B x G, from log1p(TPM) with NaN where masked or missing."""
        with torch.inference_mode():
            return self.model(self._on_device(expression_BG)).expression.float().cpu().numpy()

    def embed_genes(self, expression_BG: np.ndarray, columns: Tensor | None = None) -> np.ndarray:
        """Embeddings of the genes ``columns`` (default: all), float32 B x G' x (D+F)."""
        with torch.inference_mode():
            return self._gene_embedding(expression_BG, columns).cpu().numpy()

    def embed_samples(self, expression_BG: np.ndarray, pooling: Pooling, columns: Tensor | None = None) -> np.ndarray:
        """Embeddings pooled over the genes ``columns`` (default: all) on the device, float32 B x ``sample_width``."""
        return self.embed_poolings(expression_BG, (pooling,), columns)[pooling]

    def embed_poolings(
        self, expression_BG: np.ndarray, poolings: Sequence[Pooling], columns: Tensor | None = None
    ) -> dict[Pooling, np.ndarray]:
        """As :meth:`embed_samples`, in several poolings from one pass through the network."""
        chosen = None if columns is None else columns.to(self.device)
        with torch.inference_mode():
            pooled = self.model.pooled_embeddings(self._on_device(expression_BG), None, poolings, chosen)
        return {pooling: embedding.cpu().numpy() for pooling, embedding in pooled.items()}

    def _gene_embedding(self, expression_BG: np.ndarray, columns: Tensor | None) -> Tensor:
        embedding = self.model(self._on_device(expression_BG)).gene_embedding.float()
        return embedding if columns is None else embedding[:, columns.to(self.device)]

    def _on_device(self, expression_BG: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(expression_BG, dtype=np.float32)).to(self.device)


def require_same_vocabulary(model: GeneVocabulary, other: GeneVocabulary, where: str) -> None:
    """Raise UserError, with counts and examples, unless both are the same genes in the same order."""
    if model.fingerprint == other.fingerprint:
        return
    absent = [gene for gene in model.ensembl_ids if gene not in other.column_of]
    foreign = [gene for gene in other.ensembl_ids if gene not in model.column_of]
    if not absent and not foreign:
        raise UserError(f"{where} has the model's {model.size:,} genes in another order: rebuild it with its gene list")
    parts = []
    if absent:
        parts.append(f"{len(absent):,} of the model's {model.size:,} genes are not in it, e.g. {_some(absent)}")
    if foreign:
        parts.append(f"{len(foreign):,} of its {other.size:,} genes are not the model's, e.g. {_some(foreign)}")
    raise UserError(f"{where} is over another vocabulary than the model: {'; '.join(parts)}")


def say_other_tpm(export: ModelExport, corpus: Corpus, name: str = "the model") -> None:
    """Say where the profiles of a corpus are not normalised as those were that a model was trained on."""
    has, known = corpus.manifest.tpm_over, export.tpm_over
    if has != known:
        log(
            f"TPM of {corpus.address} are shares of {TPM_OVER[has]}, those that {name} knows of "
            f"{TPM_OVER[known]} (dataprep build --tpm-over {known})"
        )


def fitting_batch_size(shape: ModelShape, device: torch.device) -> int:
    """Profiles of a forward pass that fit: 2 GiB of main memory, or half of a GPU's free memory."""
    budget = torch.cuda.mem_get_info(device)[0] // 2 if device.type == "cuda" else _CPU_BATCH_BYTES
    return int(max(1, min(_LARGEST_BATCH, budget // profile_bytes(shape))))


def profile_bytes(shape: ModelShape) -> int:
    """Memory that the forward pass of one profile takes at most, with the reference kernel.

    The larger of attention (queries' and keys' random features with their intermediates) and feed-forward (4D wide,
    before and after its activation), on top of a few hidden states, in fp32.
    """
    attention = 5 * shape.heads * shape.random_features
    feed_forward = 2 * 4 * shape.dim
    return 4 * shape.genes * (max(attention, feed_forward) + 6 * shape.dim)


def _some(genes: list[str]) -> str:
    return ", ".join(genes[:3])
