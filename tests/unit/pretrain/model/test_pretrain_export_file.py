"""An export whose settings are not those of a model: one line that names the file."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from made_corpora import make_vocabulary
from made_exports import write_model
from safetensors.torch import load_file, save

from dataprep.runtime.command_line import UserError
from dataprep.runtime.storage import Folder
from pretrain.model.bulkformer import BulkFormer
from pretrain.model.export_file import (
    CONFIG_FILE,
    GENES_FILE,
    GRAPH_FILE,
    WEIGHTS_FILE,
    WRITING_FILE,
    open_export,
    read_tensors,
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
        (GENES_FILE, replaced("length_bp", -1.0)),
        (GENES_FILE, replaced("length_bp", float("nan"))),
        (GENES_FILE, replaced("length_bp", float("inf"))),
        (GENES_FILE, replaced("ensembl_id", "ENSG00000000003")),
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


# ---- sizes and numbers that no model has -----------------------------------------------------------------------------


def change_sizes(export: Path, **sizes: int) -> None:
    config = json.loads((export / CONFIG_FILE).read_text())
    config["model"] |= sizes
    (export / CONFIG_FILE).write_text(json.dumps(config))


@pytest.mark.parametrize(
    "sizes", [{"performer_layers": 10**9}, {"blocks": 10**9}, {"dim": 2**40}, {"identity_width": 2**40}]
)
def test_sizes_without_end_are_refused_as_such(tmp_path: Path, sizes: dict[str, int]) -> None:
    write_model(tmp_path / "export", make_vocabulary(20))
    change_sizes(tmp_path / "export", **sizes)
    with pytest.raises(UserError, match=rf"{CONFIG_FILE} does not describe a model: {next(iter(sizes))}: .*less than"):
        open_export(str(tmp_path / "export"))


@pytest.mark.parametrize(
    "sizes",
    [
        {"performer_layers": 4000, "blocks": 4000},
        {"dim": 2**16, "heads": 2**12},
        {"dim": 2**16, "heads": 1},
        {"gene_identity": "esm2", "identity_width": 2**16},
    ],
)
def test_a_model_larger_than_its_tensors_is_refused_before_it_is_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sizes: dict[str, int]
) -> None:
    write_model(tmp_path / "export", make_vocabulary(20))
    change_sizes(tmp_path / "export", **sizes)
    monkeypatch.setattr(BulkFormer, "__init__", lambda *_: pytest.fail("a model was built"))
    with pytest.raises(UserError, match=r"does not fit the model: it holds [\d,]+ numbers, and a model of genes 20, "):
        BulkFormer.from_pretrained(str(tmp_path / "export"))


def write_changed(export: Path, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """Change one tensor of an export by a stranger's hand: the checksum is the new file's."""
    tensors = load_file(export / WEIGHTS_FILE)
    tensors["layernorm.weight"] = change(tensors["layernorm.weight"])
    content = save(tensors)
    (export / WEIGHTS_FILE).write_bytes(content)
    config = json.loads((export / CONFIG_FILE).read_text())
    (export / CONFIG_FILE).write_text(json.dumps(config | {"weights_sha256": hashlib.sha256(content).hexdigest()}))


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda tensor: tensor.fill_(float("nan")), "1 tensors with NaN or infinite numbers, e.g. layernorm.weight$"),
        (lambda tensor: tensor.index_fill_(0, torch.tensor(3), float("-inf")), "1 tensors with NaN or infinite"),
        (lambda tensor: tensor.double() * 1e300, "1 tensors with NaN or infinite"),
        (lambda tensor: tensor.int(), "1 tensors of another kind, e.g. layernorm.weight int32$"),
        (lambda tensor: tensor.bool(), "1 tensors of another kind, e.g. layernorm.weight bool$"),
        (lambda tensor: tensor.to(torch.float8_e5m2), "1 tensors of another kind, e.g. layernorm.weight float8_e5m2$"),
        (lambda tensor: tensor.reshape([1] * 70 + [16]), "1 tensors of another shape, e.g. layernorm.weight"),
    ],
)
def test_weights_that_are_no_numbers_of_a_model_are_not_loaded(tmp_path: Path, change, complaint: str) -> None:
    write_model(tmp_path / "export", make_vocabulary(20))
    write_changed(tmp_path / "export", change)
    with pytest.raises(UserError, match=rf"{WEIGHTS_FILE} does not fit the model: {complaint}"):
        BulkFormer.from_pretrained(str(tmp_path / "export"))


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_any_precision_are_loaded(tmp_path: Path, kind: torch.dtype) -> None:
    write_model(tmp_path / "export", make_vocabulary(20))
    write_changed(tmp_path / "export", lambda tensor: tensor.to(kind))
    loaded = BulkFormer.from_pretrained(str(tmp_path / "export"))
    assert loaded.layernorm.weight.tolist() == [1.0] * 16


@pytest.mark.parametrize(
    ("kind", "shape", "size"), [("F4", [2], 1), ("F8_E8M0", [1], 1), ("F32", [0, 2**63], 0), ("F32", [2**62, 2**62], 0)]
)
def test_headers_that_torch_cannot_read_are_damaged(tmp_path: Path, kind: str, shape: list[int], size: int) -> None:
    header = json.dumps({"a": {"dtype": kind, "shape": shape, "data_offsets": [0, size]}}).encode()
    (tmp_path / "x").write_bytes(len(header).to_bytes(8, "little") + header + bytes(size))
    with pytest.raises(UserError, match="x is damaged"):
        read_tensors(Folder(str(tmp_path)), "x")
