"""Corpora, runs, checkpoints and exports of earlier versions are read as they are; see made_by_7aa1c51/README.md.

Entries that later versions add to manifests and checkpoints are absent from these files, and must not be missed.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from dataprep.corpus import Corpus, open_corpus, read_split, verify
from dataprep.runtime.storage import Folder
from pretrain.artifacts.checkpoint import Checkpoint, CheckpointStore
from pretrain.artifacts.export_command import export_command
from pretrain.config import ExportSettings, RunSettings
from pretrain.data.accounting import Position
from pretrain.data.plan import StepShare, layout_of
from pretrain.driver.run import run
from pretrain.model.bulkformer import BulkFormer
from pretrain.model.export_file import load_strictly, open_export
from pretrain.monitoring.metrics_file import read_rows
from pretrain.shape import ModelShape

MADE = Path(__file__).parent / "made_by_7aa1c51"
# the newest checkpoint of each run
STEPS = {"two_workers": 5, "resized": 2}


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return open_corpus(str(MADE / "corpus"))


@pytest.fixture(scope="module")
def recorded() -> dict[str, torch.Tensor]:
    return load_file(MADE / "recorded_outputs.safetensors")


def newest_checkpoint(name: str) -> Checkpoint:
    complaints: list[str] = []
    checkpoint = CheckpointStore(Folder(str(MADE / "runs" / name / "checkpoints"))).newest_good(complaints.append)
    assert checkpoint is not None
    assert complaints == []
    return checkpoint


def continued_rows(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (MADE / "continued" / f"{name}.jsonl").read_text().splitlines()]


def assert_gives_the_recorded_outputs(model: BulkFormer, recorded: dict[str, torch.Tensor]) -> None:
    with torch.inference_mode():
        output = model(recorded["profiles"])
        pooled = model.pooled_embedding(recorded["profiles"])
    torch.testing.assert_close(output.expression, recorded["expression"], atol=1e-4, rtol=0)
    torch.testing.assert_close(output.gene_embedding, recorded["gene_embedding"], atol=1e-4, rtol=0)
    torch.testing.assert_close(pooled, recorded["pooled_embedding"], atol=1e-4, rtol=0)


def test_the_corpus_verifies_and_holds_what_was_written(corpus, recorded):
    verify(corpus)
    assert {split: corpus.rows(split) for split in ("train", "validation", "test")} == {
        "train": 29,
        "validation": 10,
        "test": 10,
    }
    assert corpus.samples().column("row_id").to_pylist() == list(range(49))
    assert corpus.read_rejected().column("sample_id").to_pylist() == ["simulated_03_00004"]
    assert corpus.graph().edges == 597
    row_ids, expression = read_split(corpus, "test", 3)
    assert row_ids.tolist() == [39, 40, 41]
    seen = ~torch.isnan(recorded["profiles"]).numpy()
    np.testing.assert_array_equal(expression[seen].astype(np.float32), recorded["profiles"].numpy()[seen])


@pytest.mark.parametrize("name", STEPS)
def test_the_checkpoint_belongs_to_the_corpus_and_fits_the_model(corpus, name):
    checkpoint = newest_checkpoint(name)
    assert checkpoint.step == STEPS[name]
    assert checkpoint.state["corpus"] == corpus.fingerprint
    model = BulkFormer(ModelShape(**checkpoint.state["model"]), corpus.graph())
    load_strictly(model, checkpoint.weights, name)
    trained = {parameter for parameter, weight in model.named_parameters() if weight.requires_grad}
    assert set(checkpoint.moments) == {f"{moment}.{of}" for moment in ("exp_avg", "exp_avg_sq") for of in trained}


@pytest.mark.parametrize("name", STEPS)
def test_the_next_step_takes_the_profiles_that_the_earlier_version_took(corpus, name):
    """``resized`` has a plan over what its first worker had left."""
    checkpoint = newest_checkpoint(name)
    position = Position.from_state(checkpoint.state["position"], checkpoint.accounting)
    key = position.plan_key
    share = StepShare(key.global_profiles, key.workers)
    taken: list[int] = []
    for worker in range(key.workers):
        part = next(position.parts(layout_of(corpus.shards("train")), seed=0, worker=worker, epochs=3))
        row_ids = np.concatenate([window.row_ids for window in part.windows])
        taken += row_ids[: share.of(worker, min(key.global_profiles, part.profiles))].tolist()
    [expected] = [row["row_ids"] for row in continued_rows(name) if row["step"] == position.step + 1 and "loss" in row]
    assert sorted(taken) == expected


@pytest.mark.parametrize("kernel", ["reference", "fused"])
def test_the_export_gives_the_outputs_of_the_earlier_version(recorded, kernel):
    model = BulkFormer.from_pretrained(str(MADE / "runs" / "two_workers" / "export"), kernel=kernel)
    assert_gives_the_recorded_outputs(model, recorded)


@pytest.mark.parametrize(("checkpoint", "step"), [("last", 5), ("best", 5), ("3", 3)])
def test_checkpoints_are_exported(corpus, recorded, tmp_path, checkpoint, step):
    settings = ExportSettings(
        run=str(MADE / "runs" / "two_workers"),
        checkpoint=checkpoint,
        corpus=corpus.folder.uri,
        output=str(tmp_path / "export"),
    )
    export_command(settings)
    export = open_export(str(tmp_path / "export"))
    assert export.training["step"] == step
    if step == 5:
        assert_gives_the_recorded_outputs(BulkFormer.from_pretrained(export.folder.uri), recorded)


def test_a_run_is_continued_with_the_losses_of_the_earlier_version(ray_session, tmp_path, monkeypatch):
    """Two workers from step 6, in mid-epoch, to step 9, past the epoch's end; they write over the earlier export.

    Corpus and storage are given relative to the driver's working directory, which workers do not share.
    """
    shutil.copytree(MADE, tmp_path, dirs_exist_ok=True)
    folder = tmp_path / "runs" / "two_workers"
    stored = json.loads((folder / "settings.json").read_text())
    moved = {"corpus": str(tmp_path / "corpus"), "storage": str(tmp_path / "runs")}
    (folder / "settings.json").write_text(json.dumps(stored | moved))
    monkeypatch.chdir(tmp_path)
    run(RunSettings(**(stored | {"corpus": "corpus", "storage": "runs", "max_steps": None})))

    rows, expected = read_rows(Folder(str(folder))), continued_rows("two_workers")
    assert [row["step"] for row in rows] == [row["step"] for row in expected]
    assert rows[:7] == expected[:7], "what the earlier version measured stays"
    for metric in ("loss", "validation_loss", "grad_norm"):
        # as for the committed losses: other processors sum in another order
        np.testing.assert_allclose(
            [row[metric] for row in rows if metric in row],
            [row[metric] for row in expected if metric in row],
            rtol=1e-4,
        )
    assert [row["row_ids"] for row in rows if "loss" in row] == [row["row_ids"] for row in expected if "loss" in row]
    assert CheckpointStore(Folder(str(folder)) / "checkpoints").steps() == [5, 6, 9]
    assert open_export(str(folder / "export")).training["step"] == 9
