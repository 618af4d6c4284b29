"""A small model with random weights, written as an export."""

from pathlib import Path
from typing import Any

import torch
from made_corpora import make_graph

from dataprep.corpus.train_profiles import TrainProfiles
from dataprep.genes.vocabulary import GeneVocabulary
from dataprep.runtime.storage import Folder
from pretrain.families import FamilyName
from pretrain.model.bulkformer import BulkFormer
from pretrain.model.export_file import write_export
from pretrain.shape import ModelShape


def write_model(
    where: Path,
    genes: GeneVocabulary,
    family: FamilyName = "original",
    seen: TrainProfiles | None = None,
    training: dict[str, Any] | None = None,
) -> None:
    torch.manual_seed(0)
    shape = ModelShape(family=family, genes=genes.size, dim=16, performer_layers=1, heads=4)
    graph = make_graph(genes)
    tensors = BulkFormer(shape, graph).state_dict()
    write_export(Folder(str(where)), shape, tensors, genes, graph, {"step": 0, **(training or {})}, train_profiles=seen)
