"""`proteins` embeds through Ray Data actors what one process would."""

from pathlib import Path

import numpy as np
import pytest
from made_corpora import make_corpus

from dataprep.__main__ import COMMANDS
from dataprep.proteins.language_model import ProteinEmbedder
from dataprep.runtime.command_line import main
from pretrain.model.protein_embeddings import read_protein_embeddings
from tests.made_protein_models import gencode, write_model


@pytest.mark.usefixtures("ray_session")
def test_the_command_writes_the_embeddings_that_a_model_reads(tmp_path: Path) -> None:
    model = write_model(tmp_path / "esm2")
    corpus = make_corpus(str(tmp_path / "corpus"), {"train": 4, "validation": 0, "test": 0}, genes=12)
    sequences = ["MKV" + "LLAGE" * number for number in range(12)]
    genes = zip(corpus.vocabulary.ensembl_ids, sequences, strict=True)
    (tmp_path / "p.fa").write_text("".join(gencode(gene, f"ENST{gene}", f"ENSP{gene}", text) for gene, text in genes))
    given = ["--corpus", corpus.folder.uri, "--fasta", str(tmp_path / "p.fa"), "--model", model]
    assert main("dataprep", "", COMMANDS, ["proteins", *given, "--batch-residues", "100"]) == 0
    found = read_protein_embeddings(f"{corpus.folder.uri}/gene_embedding.safetensors", corpus.vocabulary).numpy()
    assert np.allclose(found, ProteinEmbedder(model, 1022, 1).means(sequences), atol=1e-5)
