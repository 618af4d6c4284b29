"""A tiny ESM2 with random weights, as transformers saves one, and proteins for it."""

from pathlib import Path

import torch
from transformers import EsmConfig, EsmModel, EsmTokenizer

WIDTH = 16
_TOKENS = ["<cls>", "<pad>", "<eos>", "<unk>", *"LAGVSERTIDPKQNFYMHWCXBUZO.-", "<null_1>", "<mask>"]


def write_model(folder: Path) -> str:
    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join(_TOKENS))
    EsmTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(0)
    config = EsmConfig(
        vocab_size=len(_TOKENS),
        mask_token_id=_TOKENS.index("<mask>"),
        pad_token_id=1,
        hidden_size=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        position_embedding_type="rotary",
        token_dropout=True,
    )
    EsmModel(config, add_pooling_layer=False).save_pretrained(folder)
    return str(folder)


def gencode(gene: str, transcript: str, protein: str, sequence: str) -> str:
    lines = "\n".join(sequence[start : start + 60] for start in range(0, len(sequence), 60))
    return f">{protein}.2|{transcript}.3|{gene}.7|OTTHUMG1.1|OTTHUMT1.1|OR4F5-201|OR4F5|{len(sequence)}\n{lines}\n"


def ensembl(gene: str, transcript: str, protein: str, sequence: str) -> str:
    return (
        f">{protein}.2 pep chromosome:GRCh38:1:65419:71585:1 gene:{gene}.7 transcript:{transcript}.3 "
        f"gene_biotype:protein_coding gene_symbol:OR4F5 description:olfactory receptor\n{sequence}\n"
    )
