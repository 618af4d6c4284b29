"""Which genes of a model to pool over or to write."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dataprep.genes.identifiers import strip_version
from dataprep.genes.vocabulary import GeneVocabulary
from dataprep.runtime.command_line import UserError
from dataprep.runtime.storage import Folder, split_file_address

if TYPE_CHECKING:
    from torch import Tensor

_FILE_ENDINGS = (".txt", ".csv", ".tsv", ".list")


def chosen_columns(choice: str, vocabulary: GeneVocabulary, option: str = "--genes") -> Tensor:
    """Columns (int64) of the genes named, in the order given: Ensembl ids (version ignored) or symbols.

    ``choice`` is names with commas, or the address of a text file with one name a line (first field of a table);
    ``option`` is what errors call it.

    Raises UserError for names that are not in the vocabulary or that several genes share, with counts and examples, and
    for repeated ones.
    """
    names = _names(choice)
    columns = [vocabulary.column_of.get(strip_version(name), vocabulary.column_of_symbol.get(name)) for name in names]
    shared = [name for name in names if name in vocabulary.shared_symbols]
    if shared:
        raise UserError(
            f"{option}: {len(shared):,} of {len(names):,} symbols are of several genes of the model's vocabulary, "
            f"e.g. {', '.join(shared[:3])}; name the gene by its Ensembl id"
        )
    unknown = [name for name, column in zip(names, columns, strict=True) if column is None]
    if unknown:
        raise UserError(
            f"{option}: {len(unknown):,} of {len(names):,} genes are not in the model's vocabulary, "
            f"e.g. {', '.join(unknown[:3])}"
        )
    found = [column for column in columns if column is not None]
    if not found:
        raise UserError(f"{option} {choice}: no gene is named", exit_code=2)
    if len(set(found)) < len(found):
        raise UserError(f"{option}: {len(found) - len(set(found)):,} of {len(found):,} genes are named more than once")
    # torch takes seconds to import; tasks, which name genes too, are imported for --help
    import torch

    return torch.tensor(found, dtype=torch.int64)


def names_a_file(choice: str) -> bool:
    """Whether a choice of genes is the address of a file, not their names."""
    return choice.endswith(_FILE_ENDINGS)


def _names(choice: str) -> list[str]:
    if not names_a_file(choice):
        return [name.strip() for name in choice.split(",") if name.strip()]
    folder, name = split_file_address(choice)
    try:
        text = Folder(folder).read_text(name)
    except FileNotFoundError:
        raise UserError(f"no such gene list: {choice}", exit_code=2) from None
    except UnicodeDecodeError:
        raise UserError(f"{choice} is not a text file") from None
    lines = [line.replace("\t", ",").partition(",")[0].strip().strip('"') for line in text.splitlines()]
    return [line for line in lines if line and not line.startswith("#")]
