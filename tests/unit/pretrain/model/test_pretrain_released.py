"""Released checkpoints in and out, and exports: the same tensors by the same names, and nothing that runs code."""

import pickle
from pathlib import Path

import pytest
import torch
from made_corpora import make_graph, make_vocabulary

from dataprep.runtime.command_line import UserError
from dataprep.runtime.storage import Folder
from pretrain.artifacts.released import export_released, import_released
from pretrain.config import ImportReleasedSettings, ModelSettings
from pretrain.model.bulkformer import BulkFormer
from pretrain.model.export_file import open_export, write_export

GENES = 30


def make_model() -> BulkFormer:
    torch.manual_seed(0)
    shape = ModelSettings(size="tiny", dim=48, heads=4, performer_layers=2).shape(GENES)
    return BulkFormer(shape, make_graph(make_vocabulary(GENES))).eval()


@pytest.fixture
def released(tmp_path: Path) -> ImportReleasedSettings:
    """Files as the authors publish them: names with the prefix of data parallelism, lengths and proteins beside."""
    graph = make_graph(make_vocabulary(GENES))
    tensors = {f"module.{name}": tensor for name, tensor in make_model().state_dict().items()}
    torch.save(tensors, tmp_path / "model.pt")
    torch.save(torch.tensor([graph.target.tolist(), graph.source.tolist()]), tmp_path / "G.pt")
    torch.save(torch.from_numpy(graph.weight), tmp_path / "W.pt")
    rows = [f"G{gene},ENSG{gene:011d},protein_coding,{1000 + gene},ENSP0,300" for gene in range(GENES)]
    header = "gene_symbol,ensg_id,gene_type,gene_length,ensp_id,protein_length"
    (tmp_path / "genes.csv").write_text("\n".join([header, *rows]) + "\n")
    return ImportReleasedSettings(
        checkpoint=tmp_path / "model.pt",
        genes=tmp_path / "genes.csv",
        graph=tmp_path / "G.pt",
        graph_weight=tmp_path / "W.pt",
        output=str(tmp_path / "export"),
        heads=4,
    )


def test_sizes_come_from_the_shapes_and_the_model_gives_the_same_numbers(released):
    import_released(released)
    model = BulkFormer.from_pretrained(released.output)
    assert (model.shape.dim, model.shape.performer_layers, model.shape.genes) == (48, 2, GENES)
    profiles = torch.rand(2, GENES) * 5
    with torch.no_grad():
        ours, theirs = model(profiles, 0.15), make_model()(profiles, 0.15)
    torch.testing.assert_close(ours.gene_embedding, theirs.gene_embedding, rtol=0, atol=0)


def test_in_and_out_again_gives_back_the_same_tensors(released, tmp_path):
    import_released(released)
    export_released(open_export(released.output), tmp_path / "out")
    before = torch.load(released.checkpoint, weights_only=True)
    after = torch.load(tmp_path / "out" / "model.pt", weights_only=True)
    assert {name.removeprefix("module.") for name in before} == set(after)
    assert all(torch.equal(before[f"module.{name}"], tensor) for name, tensor in after.items())
    for name, old in (("G.pt", released.graph), ("G_weight.pt", released.graph_weight)):
        assert torch.equal(torch.load(tmp_path / "out" / name, weights_only=True), torch.load(old, weights_only=True))


def test_a_pickle_that_runs_code_is_refused_and_runs_nothing(released, tmp_path):
    witness = tmp_path / "code-was-run"

    class Attack:
        def __reduce__(self):
            return (Path.touch, (witness,))

    released.checkpoint.write_bytes(pickle.dumps(Attack()))
    with pytest.raises(UserError, match=r"is not a plain tensor file: it is no pickle, or holds more than tensors$"):
        import_released(released)
    assert not witness.exists()
    assert not Path(released.output).exists()


def test_a_gene_list_of_another_length_is_refused(released):
    lines = released.genes.read_text().splitlines()
    released.genes.write_text("\n".join(lines[:-3]) + "\n")
    with pytest.raises(UserError, match=r"genes.csv has 27 genes, .*model.pt 30"):
        import_released(released)


def test_the_wrong_number_of_heads_is_refused_with_the_right_one(released):
    with pytest.raises(UserError, match="give --heads 4"):
        import_released(released.model_copy(update={"heads": 8}))


def test_the_number_of_heads_follows_from_the_tensors(released):
    import_released(released.model_copy(update={"heads": None}))
    assert open_export(released.output).shape.heads == 4


def test_released_files_are_not_written_over_unless_told(released, tmp_path):
    import_released(released)
    output = tmp_path / "out"
    output.mkdir()
    (output / "genes.csv").write_text("of somebody else")
    with pytest.raises(UserError, match=r"out has genes\.csv already: choose another folder, or give --overwrite"):
        export_released(open_export(released.output), output)
    assert [path.name for path in output.iterdir()] == ["genes.csv"]
    assert (output / "genes.csv").read_text() == "of somebody else"
    export_released(open_export(released.output), output, overwrite=True)
    assert sorted(path.name for path in output.iterdir()) == ["G.pt", "G_weight.pt", "genes.csv", "model.pt"]


def test_missing_and_unknown_tensors_are_counted_and_named(released):
    tensors = torch.load(released.checkpoint, weights_only=True)
    tensors["module.bins.weight"] = tensors.pop("module.head.3.bias")
    torch.save(tensors, released.checkpoint)
    with pytest.raises(UserError, match=r"1 tensors missing, e.g. head.3.bias; 1 tensors unknown, e.g. bins.weight"):
        import_released(released)


def test_an_export_without_its_marker_is_none(tmp_path):
    model, vocabulary = make_model(), make_vocabulary(GENES)
    folder = Folder(str(tmp_path / "export"))
    write_export(folder, model.shape, model.state_dict(), vocabulary, make_graph(vocabulary), {"run": "r"})
    assert open_export(folder.uri).training["run"] == "r"
    (tmp_path / "export" / "config.json").unlink()
    with pytest.raises(UserError, match="is not a model export"):
        open_export(folder.uri)


def test_an_export_over_other_genes_than_its_graph_is_refused(tmp_path):
    model, vocabulary = make_model(), make_vocabulary(GENES)
    folder = Folder(str(tmp_path / "export"))
    write_export(folder, model.shape, model.state_dict(), vocabulary, make_graph(vocabulary), {})
    make_graph(make_vocabulary(GENES + 1)).write(folder)
    with pytest.raises(UserError, match="the gene graph is over vocabulary"):
        open_export(folder.uri)


@pytest.mark.parametrize(
    ("name", "tensor", "complaint"),
    [
        ("layernorm.weight", torch.tensor(1.0), "norm and random features have shapes"),
        ("layernorm.weight", torch.full((48,), float("nan")), "1 of .* tensors are .* or hold NaN .*layernorm.weight"),
        ("layernorm.weight", torch.ones(48).to_sparse(), "1 of .* tensors are sparse"),
        ("layernorm.weight", torch.ones(48, dtype=torch.complex64), "1 of .* tensors are .*complex"),
        (5, torch.ones(1), "not a state dict: a mapping of names to tensors"),
    ],
)
def test_tensors_that_are_no_weights_are_refused(released, name, tensor, complaint):
    tensors = {str(key).removeprefix("module."): value for key, value in torch.load(released.checkpoint).items()}
    torch.save(tensors | {name: tensor}, released.checkpoint)
    with pytest.raises(UserError, match=complaint):
        import_released(released)
    assert not Path(released.output).exists()


def test_edges_and_weights_that_are_no_numbers_are_refused(released):
    edges, weights = torch.load(released.graph), torch.load(released.graph_weight)
    torch.save(edges * float("nan"), released.graph)
    with pytest.raises(UserError, match="edges name genes beyond the 30 of the model"):
        import_released(released)
    torch.save(edges, released.graph)
    torch.save(weights * float("nan"), released.graph_weight)
    with pytest.raises(UserError, match="the gene graph is damaged"):
        import_released(released)
    assert not Path(released.output).exists()
