"""Each gene's principal protein is embedded as the mean over its residues, whatever it is batched with."""

import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from made_corpora import make_corpus
from transformers import AutoTokenizer, EsmModel

from dataprep.config import ProteinsSettings
from dataprep.proteins import command
from dataprep.proteins.language_model import ProteinEmbedder, embedding_width
from dataprep.proteins.principal import Protein, principal_proteins
from dataprep.runtime.command_line import UserError
from pretrain.model.protein_embeddings import read_protein_embeddings
from tests.made_protein_models import WIDTH, ensembl, gencode, write_model

SEQUENCES = ["MALWMRLLPL", "MK", "MEEPQSDPSVEPPLSQETFSDLWKLL"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_model(tmp_path_factory.mktemp("model") / "esm2")


def alone(model: str, sequence: str) -> np.ndarray:
    """What the model gives for one sequence, without padding."""
    tokens = AutoTokenizer.from_pretrained(model)(sequence, return_tensors="pt")
    with torch.inference_mode():
        hidden = EsmModel.from_pretrained(model, add_pooling_layer=False).eval()(**tokens).last_hidden_state[0]
    assert len(hidden) == len(sequence) + 2
    return hidden[1:-1].mean(dim=0).numpy()


def test_the_mean_over_residues_does_not_depend_on_the_batch(model: str) -> None:
    found = ProteinEmbedder(model, 1022, 1).means(SEQUENCES)
    expected = np.stack([alone(model, sequence) for sequence in SEQUENCES])
    assert np.allclose(found, expected, atol=1e-5)
    assert np.abs(expected[0] - expected[2]).max() > 1e-3


def test_a_long_protein_is_the_mean_over_its_pieces(model: str) -> None:
    (found,) = ProteinEmbedder(model, 10, 1).means(SEQUENCES[2:])
    pieces = [SEQUENCES[2][start : start + 10] for start in (0, 10, 20)]
    expected = sum(alone(model, piece) * len(piece) for piece in pieces) / len(SEQUENCES[2])
    assert np.allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("header", [gencode, ensembl])
def test_the_longest_protein_is_principal_unless_mane_names_another(tmp_path: Path, header: Any) -> None:
    text = header("ENSG01", "ENST01", "ENSP01", "MKV") + header("ENSG01", "ENST02", "ENSP02", "MKVLL*")
    text += header("ENSG02", "ENST03", "ENSP04", "MAA") + header("ENSG02", "ENST04", "ENSP03", "MCC")
    (tmp_path / "p.fa.gz").write_bytes(gzip.compress(text.encode()))
    (tmp_path / "mane.txt").write_text(
        "#NCBI_GeneID\tEnsembl_Gene\tEnsembl_nuc\tEnsembl_prot\tMANE_status\n"
        "GeneID:1\tENSG01.9\tENST01.3\tENSP01.2\tMANE Select\n"
        "GeneID:1\tENSG01.9\tENST02.3\tENSP02.2\tMANE Plus Clinical\n"
        "GeneID:2\tENSG02.9\tENST99.3\tENSP99.2\tMANE Select\n"
    )
    fasta = str(tmp_path / "p.fa.gz")
    assert {g: p.sequence for g, p in principal_proteins(fasta, None).items()} == {"ENSG01": "MKVLL", "ENSG02": "MCC"}
    with_mane = principal_proteins(fasta, str(tmp_path / "mane.txt"))
    assert {gene: protein.transcript for gene, protein in with_mane.items()} == {"ENSG01": "ENST01", "ENSG02": "ENST04"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gene\tcount\n", "is not a FASTA file"),
        (">sp|P04637|P53_HUMAN Cellular tumor antigen p53\nMEEP\n", "no gene and transcript in the header 'sp|P04637"),
        (gencode("ENSG01", "ENST01", "ENSP01", "MK-V"), "the sequence of ENSP01.2 is not of amino acids: 'MK-V'"),
        (gencode("ENSG01", "ENST01", "ENSP01", ""), "the sequence of ENSP01.2 is not of amino acids: ''"),
    ],
)
def test_other_files_are_refused_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "p.fa").write_text(text)
    with pytest.raises(UserError) as refused:
        principal_proteins(str(tmp_path / "p.fa"), None)
    assert message in str(refused.value)


@hypothesis_settings(max_examples=60, deadline=None)
@given(lengths=st.lists(st.integers(1, 300), min_size=1, max_size=60), most=st.integers(1, 500))
def test_batches_hold_each_protein_once_and_are_as_large_as_allowed(lengths: list[int], most: int) -> None:
    proteins = {gene: Protein("g", "t", "p", "M" * length) for gene, length in enumerate(lengths)}
    made = command.batches(proteins, most, max_residues=100)
    assert sorted(gene for batch in made for gene in batch["genes"]) == sorted(proteins)
    for batch in made:
        pieces = [min(100, len(text) - start) for text in batch["sequences"] for start in range(0, len(text), 100)]
        assert len(batch["genes"]) == 1 or max(pieces) * len(pieces) <= most


def without_ray(proteins: Any, model: str, settings: ProteinsSettings) -> Iterator[tuple[int, np.ndarray]]:
    embedder = ProteinEmbedder(model, settings.max_residues, 1)
    for batch in command.batches(proteins, settings.batch_residues, settings.max_residues):
        yield from zip(batch["genes"], embedder.means(batch["sequences"]), strict=True)


def test_a_corpus_gets_a_row_for_each_of_its_genes(tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "_embedded", without_ray)
    corpus = make_corpus(str(tmp_path / "corpus"), {"train": 4, "validation": 0, "test": 0}, genes=5)
    genes = corpus.vocabulary.ensembl_ids
    order = [3, 0, 4]
    text = "".join(gencode(genes[g], f"ENST{g}", f"ENSP{g}", SEQUENCES[n]) for n, g in enumerate(order))
    text += gencode("ENSG99999999999", "ENST9", "ENSP9", "MK")
    (tmp_path / "p.fa").write_text(text)
    settings = ProteinsSettings(corpus=corpus.folder.uri, fasta=str(tmp_path / "p.fa"), model=model)
    with pytest.raises(UserError, match=rf"a protein of 3 of the corpus's 5 genes, not of {genes[1]}, {genes[2]}"):
        command.embed_proteins(settings)
    settings = settings.model_copy(update={"max_missing_share": 0.5})
    assert command.embed_proteins(settings)["proteins"] == 3
    table = read_protein_embeddings(f"{corpus.folder.uri}/gene_embedding.safetensors", corpus.vocabulary).numpy()
    assert table.shape == (5, WIDTH)
    for number, gene in enumerate(order):
        assert np.allclose(table[gene], alone(model, SEQUENCES[number]), atol=1e-5)
    assert not table[[1, 2]].any()
    with pytest.raises(UserError, match=r"has gene_embedding\.safetensors already; --overwrite"):
        command.embed_proteins(settings)


def test_a_model_with_pickled_weights_alone_is_refused(tmp_path: Path, model: str) -> None:
    folder = tmp_path / "pickled"
    folder.mkdir()
    for name in ("config.json", "vocab.txt"):
        (folder / name).write_bytes((Path(model) / name).read_bytes())
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    with pytest.raises(UserError, match="has no weights as safetensors; others would have to be unpickled"):
        embedding_width(str(folder))


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no model of transformers"):
        embedding_width(str(tmp_path))
