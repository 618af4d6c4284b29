"""The release folder of the second family, in and out: what is in it comes out as it was."""

import csv
import hashlib
import json
from pathlib import Path

import pytest
import torch
from made_corpora import make_graph, make_vocabulary

from dataprep.runtime.command_line import UserError, read_settings
from dataprep.runtime.storage import Folder
from pretrain.artifacts.released import export_released, import_released
from pretrain.config import ImportReleasedSettings
from pretrain.model import BulkFormer
from pretrain.model.export_file import open_export, write_export
from pretrain.shape import ModelShape

GENES = 30
SHAPE = ModelShape(
    family="latest", genes=GENES, dim=24, performer_layers=2, heads=3, features_per_head=20, graph_width=8
)
SIZES = {"num_genes": 30, "dim": 24, "depth": 2, "heads": 3, "dim_head": 8, "nb_features": 20, "graph_hidden_dim": 8}


def make_model() -> BulkFormer:
    torch.manual_seed(0)
    return BulkFormer(SHAPE, make_graph(make_vocabulary(GENES))).eval()


def write_manifest(folder: Path, **changes: object) -> None:
    files = [path for path in sorted(folder.iterdir()) if path.name != "manifest.json"]
    manifest = {
        "format_version": 1,
        "architecture": "BulkFormerV1Plus-v1",
        "files": {
            path.name: {"bytes": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
            for path in files
        },
        "trainable_parameters": sum(parameter.numel() for parameter in make_model().parameters()),
        "note": "kept",
    }
    (folder / "manifest.json").write_text(json.dumps(manifest | changes))


@pytest.fixture
def release(tmp_path: Path) -> Path:
    folder = tmp_path / "bulkformer-small"
    folder.mkdir()
    config = SIZES | {
        "ff_mult": 4,
        "dropout": 0.1,
        "expression_base": 100.0,
        "mask_value": -10.0,
        "mask_ratio_min": 0.05,
    }
    metadata = {"step": 126055, "validation_loss": 0.18921234567890123, "seeds": [1, 2]}
    checkpoint = {"architecture": "BulkFormerV1Plus-v1", "model_config": config, "checkpoint_metadata": metadata}
    torch.save(checkpoint | {"model": make_model().state_dict()}, folder / "model.pt")
    (folder / "model_config.json").write_text(json.dumps({"z": 1, "model": config}, indent=4) + "\n\n")
    with (folder / "gene_vocab.csv").open("w", newline="") as stream:
        rows = csv.writer(stream, lineterminator="\n")
        rows.writerow(["vocab_index", "canonical_ensg", "gene_length_bp", "hgnc", "gene_symbol"])
        rows.writerows([row, f"ENSG{row:011d}", 1000 + row, "", f"Gène {row}" if row else ""] for row in range(GENES))
    graph = make_graph(make_vocabulary(GENES))
    torch.save(torch.tensor([graph.source.tolist(), graph.target.tolist()]), folder / "edge_index.pt")
    torch.save(torch.from_numpy(graph.weight), folder / "edge_weight.pt")
    write_manifest(folder)
    return folder


def settings_of(release: Path, tmp_path: Path) -> ImportReleasedSettings:
    return ImportReleasedSettings(release=release, output=str(tmp_path / "export"))


def test_a_release_goes_in_and_comes_out_unchanged(release, tmp_path):
    settings = settings_of(release, tmp_path)
    result = import_released(settings)
    assert result["parameters"] == json.loads((release / "manifest.json").read_text())["trainable_parameters"]
    out = tmp_path / "out"
    export_released(open_export(settings.output), out)
    assert {path.name for path in out.iterdir()} == {path.name for path in release.iterdir()}
    for name in ("model_config.json", "gene_vocab.csv", "edge_index.pt", "edge_weight.pt"):
        assert (out / name).read_bytes() == (release / name).read_bytes(), name
    before, after = (torch.load(folder / "model.pt", weights_only=True) for folder in (release, out))
    tensors, given = after.pop("model"), before.pop("model")
    assert after == before
    assert tensors.keys() == given.keys()
    assert all(torch.equal(tensor, given[name]) for name, tensor in tensors.items())
    assert (out / "model.pt").stat().st_size < 1.1 * (release / "model.pt").stat().st_size, "tensors of two names, once"
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["note"] == "kept"
    assert manifest["files"]["model.pt"]["bytes"] == (out / "model.pt").stat().st_size
    # and what came out goes in again
    again = import_released(ImportReleasedSettings(release=out, output=str(tmp_path / "again")))
    assert again["model"] == result["model"]


def test_an_imported_release_gives_the_numbers_of_its_model(release, tmp_path):
    settings = settings_of(release, tmp_path)
    import_released(settings)
    export = open_export(settings.output)
    assert "TPM of these weights is a share of the genes of the vocabulary alone" in export.folder.read_text(
        "README.md"
    )
    assert export.shape == SHAPE
    assert export.vocabulary.symbols[1] == "Gène 1"
    profiles = (torch.rand(2, GENES) * 5).masked_fill(torch.rand(2, GENES) < 0.2, torch.nan)
    with torch.no_grad():
        ours, theirs = BulkFormer.from_export(export)(profiles), make_model()(profiles)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_a_model_that_was_trained_here_becomes_a_release_that_can_be_read(tmp_path):
    vocabulary = make_vocabulary(GENES)
    folder = Folder(str(tmp_path / "trained"))
    training = {"run": "r", "step": 7, "settings": {"seed": 0}}
    write_export(folder, SHAPE, make_model().state_dict(), vocabulary, make_graph(vocabulary), training)
    export_released(open_export(folder.uri), tmp_path / "out")
    import_released(settings_of(tmp_path / "out", tmp_path))
    export = open_export(str(tmp_path / "export"))
    assert export.vocabulary == vocabulary
    assert export.shape == SHAPE
    checkpoint = torch.load(tmp_path / "out" / "model.pt", weights_only=True)
    assert checkpoint["checkpoint_metadata"] == {"run": "r", "step": 7}
    assert checkpoint["model_config"].items() >= SIZES.items()


def test_files_that_are_not_those_of_the_manifest_are_named_before_anything_is_loaded(release, tmp_path):
    (release / "model.pt").write_bytes(b"no pickle")
    genes = (release / "gene_vocab.csv").read_text()
    (release / "gene_vocab.csv").write_text(genes.replace("ENSG00000000001", "ENSG00000000091"))
    with pytest.raises(UserError, match=r"model.pt has other bytes and sha256; gene_vocab.csv has other sha256$"):
        import_released(settings_of(release, tmp_path))
    (release / "edge_weight.pt").unlink()
    with pytest.raises(UserError, match=r"not a release of family latest: it has no edge_weight.pt$"):
        import_released(settings_of(release, tmp_path))
    assert not (tmp_path / "export").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format_version": 2}, "format version 2 is not 1"),
        ({"architecture": "Other"}, "architecture 'Other' is not BulkFormerV1Plus-v1"),
        ({"files": {}}, "model.pt is not listed"),
        ({"files": 5}, "model.pt is not listed"),
        ({"trainable_parameters": 5}, "says 5 trainable parameters, its model has"),
    ],
)
def test_manifests_that_say_something_else_are_refused(release, tmp_path, changes, message):
    write_manifest(release, **changes)
    with pytest.raises(UserError, match=message):
        import_released(settings_of(release, tmp_path))
    assert not (tmp_path / "export").exists()


def test_a_configuration_that_does_not_fit_the_tensors_is_refused(release, tmp_path):
    config = json.loads((release / "model_config.json").read_text())
    config["model"] |= {"depth": 3, "mask_value": 0.0}
    (release / "model_config.json").write_text(json.dumps(config))
    write_manifest(release)
    with pytest.raises(
        UserError, match=r"does not fit the tensors: depth 3 instead of 2; mask_value 0.0 instead of -10"
    ):
        import_released(settings_of(release, tmp_path))


def test_genes_in_another_order_than_their_numbers_are_refused(release, tmp_path):
    header, first, second, *rest = (release / "gene_vocab.csv").read_text().splitlines()
    (release / "gene_vocab.csv").write_text("\n".join([header, second, first, *rest]) + "\n")
    write_manifest(release)
    with pytest.raises(UserError, match="not in the order of vocab_index"):
        import_released(settings_of(release, tmp_path))


def test_settings_name_a_folder_or_all_four_files():
    for arguments, message in (
        (["--release", "r", "--checkpoint", "c"], "leave out checkpoint"),
        (["--release", "r", "--heads", "4"], "leave out heads"),
        (["--checkpoint", "c", "--graph", "g"], "give release, or also genes, graph_weight"),
    ):
        with pytest.raises(UserError, match=message):
            read_settings(ImportReleasedSettings, [*arguments, "--output", "o"])
