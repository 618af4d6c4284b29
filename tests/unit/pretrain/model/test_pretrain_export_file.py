"""An export whose settings are not those of a model: one line that names the file."""

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made_corpora import make_vocabulary
from made_exports import write_model

from dataprep.runtime.command_line import UserError
from dataprep.runtime.storage import Folder
from pretrain.model.export_file import (
    CONFIG_FILE,
    GENES_FILE,
    GRAPH_FILE,
    WRITING_FILE,
    open_export,
    require_place,
)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda config: [config], "does not describe a model: it holds list"),
        (lambda config: config | {"training": ["run"]}, "damaged: training holds list"),
        (lambda config: config | {"vocabulary_sha256": 5}, r"genes.parquet is not the one that was exported \(5 then"),
        (lambda config: config | {"model": [1]}, "does not describe a model"),
        (lambda config: config | {"model": config["model"] | {"dim": "wide"}}, r"model: dim: .* \(given: 'wide'\)$"),
    ],
)
def test_settings_that_describe_no_model(tmp_path: Path, change, complaint: str) -> None:
    write_model(tmp_path / "export", make_vocabulary(20))
    file = tmp_path / "export" / CONFIG_FILE
    file.write_text(json.dumps(change(json.loads(file.read_text()))))
    with pytest.raises(UserError, match=complaint):
        open_export(str(tmp_path / "export"))


def replaced(name: str, cell: object) -> Callable[[pa.Table], pa.Table]:
    """A change of a table: another value in every row of a column."""
    return lambda table: table.set_column(table.column_names.index(name), name, pa.array([cell] * len(table)))


@pytest.mark.parametrize(
    ("name", "change"),
    [
        (GENES_FILE, replaced("ensembl_id", None)),
        (GENES_FILE, replaced("length_bp", "long")),
        (GENES_FILE, lambda table: table.drop_columns(["symbol"])),
        (GRAPH_FILE, replaced("src", "a")),
        (GRAPH_FILE, lambda table: table.replace_schema_metadata({"vocabulary_sha256": b"\xff"})),
        (GRAPH_FILE, lambda table: table.replace_schema_metadata({"origin": b"{"})),
    ],
)
def test_tables_that_hold_something_else_are_damaged(tmp_path: Path, name: str, change) -> None:
    write_model(tmp_path / "export", make_vocabulary(20))
    pq.write_table(change(pq.read_table(tmp_path / "export" / name)), tmp_path / "export" / name)
    with pytest.raises(UserError, match=f"{name} is damaged"):
        open_export(str(tmp_path / "export"))


@pytest.mark.parametrize(("column", "cell"), [("src", 20), ("dst", -1), ("weight", float("nan"))])
def test_edges_that_no_model_can_use_are_refused(tmp_path: Path, column: str, cell: float) -> None:
    """Such a graph may name no fingerprint: those of the first version do not."""
    write_model(tmp_path / "export", make_vocabulary(20))
    graph = pq.read_table(tmp_path / "export" / GRAPH_FILE)
    kept = {b"vocabulary_sha256": graph.schema.metadata[b"vocabulary_sha256"]}
    pq.write_table(replaced(column, cell)(graph).replace_schema_metadata(kept), tmp_path / "export" / GRAPH_FILE)
    with pytest.raises(UserError, match=r"the gene graph is damaged: \d+ of \d+ edges"):
        open_export(str(tmp_path / "export"))


@pytest.mark.parametrize("content", ['{"export_of": "x"}', '{"export_of": [1]}'])
def test_a_mark_that_names_no_origin_is_that_of_another_export(tmp_path: Path, content: str) -> None:
    (tmp_path / WRITING_FILE).write_text(content)
    with pytest.raises(UserError, match="holds the export of another model"):
        require_place(Folder(str(tmp_path)), {"run": "x"}, overwrite=False)
