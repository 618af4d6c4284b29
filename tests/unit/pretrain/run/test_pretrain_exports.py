"""Exports: what they may be written over, and what they hold of a run whatever becomes of its corpus."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch
from made_corpora import make_corpus, make_graph, make_vocabulary

from dataprep.corpus import open_corpus
from dataprep.runtime.command_line import UserError
from dataprep.runtime.storage import Folder
from pretrain.artifacts.checkpoint import WEIGHTS, Checkpoint, CheckpointStore
from pretrain.artifacts.export_command import export_command
from pretrain.artifacts.run_inputs import keep_inputs
from pretrain.config import ExportSettings
from pretrain.model import export_file
from pretrain.model.bulkformer import BulkFormer
from pretrain.model.export_file import open_export, write_export
from pretrain.shape import ModelShape

SHAPE = ModelShape(genes=60, dim=32, performer_layers=1, heads=4)


def export(place: Path, run: str = "first", overwrite: bool = False, **more: str) -> None:
    vocabulary = make_vocabulary(60)
    tensors, training = {"a": torch.zeros(1)}, {"run": run, **more}
    write_export(Folder(str(place)), SHAPE, tensors, vocabulary, make_graph(vocabulary), training, overwrite)


def files(place: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in place.iterdir()}


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("name", ["README.md", "config.json", "model.safetensors", "writing.json", "notes.txt"])
def test_the_files_of_somebody_else_are_never_written_over(tmp_path, name, overwrite):
    (tmp_path / name).write_text('{"mine": 1}')
    (tmp_path / "thesis.tex").write_text("years of work")
    before = files(tmp_path)
    with pytest.raises(UserError, match=r"is not empty and holds no model export \(.*thesis\.tex.*\): choose another"):
        export(tmp_path, overwrite=overwrite)
    assert files(tmp_path) == before


def test_a_file_in_the_place_of_the_folder_is_named(tmp_path):
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(UserError, match="taken is a file"):
        export(tmp_path / "taken")


def test_the_export_of_another_run_is_replaced_only_when_told(tmp_path):
    export(tmp_path / "out")
    export(tmp_path / "out")
    before = files(tmp_path / "out")
    with pytest.raises(UserError, match=r"holds the export of first: .* or give --overwrite"):
        export(tmp_path / "out", "second")
    assert files(tmp_path / "out") == before
    export(tmp_path / "out", "second", overwrite=True)
    assert open_export(str(tmp_path / "out")).training["run"] == "second"


def test_a_run_started_anew_under_the_same_name_is_another_run(tmp_path):
    export(tmp_path / "out", run_uid="a1")
    with pytest.raises(UserError, match="holds the export of first"):
        export(tmp_path / "out", run_uid="b2")


def test_the_export_of_the_first_version_is_replaced_by_the_run_that_wrote_it(tmp_path):
    export(tmp_path / "out")
    export(tmp_path / "out", run_uid="a1")
    assert open_export(str(tmp_path / "out")).training["run_uid"] == "a1"


@pytest.mark.parametrize("stopped_at", ["model.safetensors", "genes.parquet", "README.md", "config.json"])
@pytest.mark.parametrize("replacing", [False, True])
def test_an_interrupted_export_is_none_and_can_be_made_again(tmp_path, monkeypatch, stopped_at, replacing):
    place = tmp_path / "out"
    if replacing:
        export(place)
    write_bytes = Folder.write_bytes

    def killed(folder: Folder, name: str, content: bytes) -> None:
        if name == stopped_at:
            raise KeyboardInterrupt
        write_bytes(folder, name, content)

    with monkeypatch.context() as patch:
        patch.setattr(Folder, "write_bytes", killed)
        with pytest.raises(KeyboardInterrupt):
            export(place)
    with pytest.raises(UserError, match="is not a model export"):
        open_export(str(place))
    with pytest.raises(UserError, match="holds the export of first"):
        export(place, "second")
    export(place)
    assert open_export(str(place)).training["run"] == "first"
    assert "writing.json" not in files(place)


def test_what_an_interrupted_export_of_the_first_version_left_is_replaced_when_told(tmp_path):
    export(tmp_path / "out")
    (tmp_path / "out" / "config.json").unlink()
    with pytest.raises(UserError, match="holds no model export"):
        export(tmp_path / "out")
    export(tmp_path / "out", overwrite=True)
    assert open_export(str(tmp_path / "out")).training["run"] == "first"


@pytest.mark.parametrize("name", ["model.safetensors", "genes.parquet", "gene_graph.parquet"])
def test_a_part_of_another_export_is_noticed(tmp_path, name):
    export(tmp_path / "one")
    vocabulary = make_vocabulary(60)
    other = dataclasses.replace(vocabulary, ensembl_ids=vocabulary.ensembl_ids[::-1])
    graph = make_graph(other if name == "genes.parquet" else vocabulary, neighbours=2)
    write_export(Folder(str(tmp_path / "two")), SHAPE, {"a": torch.ones(1)}, other, make_graph(other), {})
    if name == "gene_graph.parquet":
        graph.write(Folder(str(tmp_path / "one")))
    else:
        (tmp_path / "one" / name).write_bytes((tmp_path / "two" / name).read_bytes())
    with pytest.raises(UserError, match=r"other|not the one that was exported|replaced|over vocabulary"):
        open_export(str(tmp_path / "one")).tensors()


# ---- of a checkpoint -------------------------------------------------------------------------------------------------


class MadeRun:
    """A run with a corpus and checkpoints, as ``pretrain run`` leaves it, without training."""

    def __init__(self, place: Path) -> None:
        self.corpus = make_corpus(str(place / "corpus"))
        self.folder = Folder(str(place / "run"))
        self.store = CheckpointStore(self.folder / "checkpoints")
        torch.manual_seed(0)
        self.model = BulkFormer(SHAPE, self.corpus.graph()).eval()

    def checkpoint(self, step: int, best: int | None = None, **more: object) -> None:
        state = {
            "step": step,
            "best": [best, 0.5] if best is not None else None,
            "corpus": self.corpus.fingerprint,
            "vocabulary_sha256": self.corpus.vocabulary.fingerprint,
            "model": SHAPE.model_dump(mode="json"),
            "settings": {"corpus": self.corpus.folder.uri, "name": "made"},
            **more,
        }
        tensors = {"consumed": torch.zeros(1)}
        self.store.write(Checkpoint(self.model.state_dict(), tensors, tensors, state))

    def predicted_by(self, model: BulkFormer) -> torch.Tensor:
        torch.manual_seed(1)
        with torch.no_grad():
            return model(torch.rand(4, 60) * 4).expression


@pytest.fixture
def made(tmp_path) -> MadeRun:
    return MadeRun(tmp_path)


def exported(made: MadeRun, **changes: object) -> int:
    given = {"output": str(Path(made.folder.path).parent / "export"), **changes}
    return export_command(ExportSettings(run=made.folder.uri, **given))["step"]


def test_a_graph_made_anew_after_the_run_changes_nothing_in_its_exports(made, tmp_path):
    keep_inputs(made.folder, made.corpus)
    made.checkpoint(5, graph_sha256=made.corpus.graph().fingerprint)
    make_graph(made.corpus.vocabulary, neighbours=9).write(made.corpus.folder)
    exported(made)
    model = BulkFormer.from_pretrained(str(tmp_path / "export"))
    torch.testing.assert_close(made.predicted_by(model), made.predicted_by(made.model), rtol=0, atol=0)


def test_an_export_carries_by_what_its_train_profiles_are_known_again(made, tmp_path, capsys):
    made.checkpoint(5, corpus=made.corpus.fingerprint)
    exported(made)
    seen = open_export(str(tmp_path / "export")).train_profiles()
    assert (len(seen.sample_ids), seen.corpus) == (made.corpus.rows("train"), made.corpus.fingerprint)
    keep_inputs(made.folder, made.corpus)
    shutil.rmtree(made.corpus.folder.path)
    assert exported(made, output=str(tmp_path / "anew")) == 5
    assert open_export(str(tmp_path / "anew")).train_profiles() is None
    assert "no leak audit can be made" in capsys.readouterr().err
    # what an earlier export has of them stays, unless it is of another corpus
    exported(made)
    assert open_export(str(tmp_path / "export")).train_profiles().sample_ids == seen.sample_ids
    made.checkpoint(6, corpus="ab" * 32)
    exported(made)
    assert open_export(str(tmp_path / "export")).train_profiles() is None


def test_an_export_needs_no_corpus(made, tmp_path):
    keep_inputs(made.folder, made.corpus)
    made.checkpoint(5)
    (tmp_path / "corpus" / "manifest.json").unlink()
    assert exported(made) == 5


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"settings": None}, "the checkpoint of step 5 is not of a run: its settings is None"),
        ({"settings": {"corpus": "x"}}, "is not of a run: the name in its settings is None"),
        ({"vocabulary_sha256": 5}, "is not of a run: its vocabulary_sha256 is 5"),
        ({"model": []}, r"is not of a run: its model is \[\]"),
        ({"model": {"genes": 60}}, "does not describe a model: dim: Field required"),
        ({"model": {1: 2}}, "does not describe a model"),
        ({"model": SHAPE.model_dump() | {"dim": 2**15}}, r"does not fit the model: it holds [\d,]+ numbers"),
        ({"model": SHAPE.model_dump() | {"dim": 16}}, r"does not fit the model: \d+ tensors of another shape"),
    ],
)
def test_a_state_that_no_run_has_written_is_not_exported(made, tmp_path, change, complaint):
    keep_inputs(made.folder, made.corpus)
    made.checkpoint(5, **change)
    with pytest.raises(UserError, match=complaint):
        exported(made)
    assert not (tmp_path / "export").exists()


def test_a_checkpoint_copied_under_another_step_is_not_that_one(made):
    keep_inputs(made.folder, made.corpus)
    made.checkpoint(5)
    steps = Path(made.store.folder.path)
    shutil.copytree(steps / "step-00000005", steps / "step-00000007")
    with pytest.raises(UserError, match=r"step-00000007/state\.json is that of step 5"):
        exported(made, checkpoint="7")
    assert exported(made, checkpoint="last") == 5


def test_without_a_copy_another_graph_is_refused_where_the_checkpoint_knows_its_own(made):
    made.checkpoint(5, graph_sha256=made.corpus.graph().fingerprint)
    make_graph(made.corpus.vocabulary, neighbours=9).write(made.corpus.folder)
    with pytest.raises(UserError, match=r"has changed since run .*: other gene graph"):
        exported(made)


def test_a_run_of_the_first_version_takes_the_graph_of_its_corpus(made, tmp_path):
    made.checkpoint(5)
    assert exported(made) == 5
    assert open_export(str(tmp_path / "export")).graph.edges == open_corpus(made.corpus.folder.uri).graph().edges


def test_the_best_checkpoint_is_exported_and_a_damaged_last_one_passed_over(made, capsys):
    for step in (100, 200, 300):
        made.checkpoint(step, best=100)
    (made.store.folder / "step-00000300").write_bytes(WEIGHTS, b"bit rot")
    assert exported(made, checkpoint="last") == 200
    assert "PASSED OVER" in capsys.readouterr().err
    assert exported(made, checkpoint="best") == 100


def test_a_best_step_without_a_checkpoint_is_said_with_what_there_is(made):
    """As runs of the first version could leave it."""
    made.checkpoint(200, best=150)
    with pytest.raises(UserError, match=r"step 150 was the best .* has no checkpoint; there are last and steps 200"):
        exported(made, checkpoint="best")
    assert exported(made, checkpoint="200") == 200


def test_an_export_over_something_else_is_refused_before_anything_is_written(made, tmp_path):
    made.checkpoint(1)
    (tmp_path / "export").mkdir()
    (tmp_path / "export" / "README.md").write_text("my project")
    with pytest.raises(UserError, match="is not empty and holds no model export"):
        exported(made)
    assert files(tmp_path / "export") == {"README.md": b"my project"}


def test_config_json_records_what_the_model_was_trained_with(made, tmp_path):
    made.checkpoint(1)
    exported(made)
    config = json.loads((tmp_path / "export" / export_file.CONFIG_FILE).read_text())
    assert config["graph_sha256"] == made.corpus.graph().fingerprint
    assert config["vocabulary_sha256"] == made.corpus.vocabulary.fingerprint
    assert config["training"]["corpus"] == made.corpus.fingerprint
