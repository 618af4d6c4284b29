"""Drug response and essentiality recover what simulated programs do, and are at chance where there is nothing.

Features are those of a model that knows the expression, made without one: tasks see it through their context alone.
"""

import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from made_corpora import make_corpus
from made_exports import write_model

from dataprep.config import SimulateSettings
from dataprep.genes.identifiers import map_genes
from dataprep.genes.vocabulary import GeneVocabulary, default_vocabulary
from dataprep.pipeline.normalization import log1p_tpm
from dataprep.runtime.command_line import UserError, main
from dataprep.simulate import draw_studies, draw_truth
from dataprep.simulated_assays import draw_assays
from evaluation.__main__ import COMMANDS
from evaluation.search.nested import FixedSettings
from evaluation.tasks.drug_response import DrugResponse, DrugResponseSettings
from evaluation.tasks.essentiality import Essentiality, EssentialitySettings

GENES, LINES = 300, 90
SIMULATION = SimulateSettings.model_construct(
    output="", samples=LINES, genes=GENES, studies=3, tissues=2, programs=5, seed=1
)
MODEL = "BulkFormer mean embedding"
FAST = {"epochs": 8, "hidden": 32, "decay": 1.0, "components": 20, "folds": 3}


class Context:
    """What a task sees of an evaluation: an embedding is a projection of expression, a gene's one its own and that."""

    def __init__(self, vocabulary, expression, lines):
        self.expression_of = expression
        self.settings = SimpleNamespace(seed=0)
        self.search = FixedSettings()
        self.corpus = SimpleNamespace(vocabulary=vocabulary, address="made")
        self.samples = pa.table({"sample_id": lines, "row_id": pa.array(range(len(lines)), pa.int64())})
        projection = np.random.default_rng(5).normal(size=(expression.shape[1], 30)) / np.sqrt(expression.shape[1])
        self.projected = (expression - expression.mean(axis=0)) @ projection

    def expression(self, row_ids):
        return self.expression_of[row_ids].astype(np.float16)

    def embeddings(self, row_ids, pooling):
        return {f"BulkFormer {pooling} embedding": self.projected[row_ids]}

    def gene_embeddings(self, row_ids, columns):
        own = self.expression_of[row_ids][:, columns].T[:, :, None]
        line = np.broadcast_to(self.projected[row_ids], (len(columns), len(row_ids), 30))
        return {"BulkFormer gene embedding": np.concatenate([own, line], axis=2).astype(np.float16)}


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    """A context, and the tables of its samples in a folder, true and with the cell lines shuffled."""
    vocabulary = GeneVocabulary.from_arrow(default_vocabulary().to_arrow().slice(0, GENES))
    truth = draw_truth(SIMULATION, vocabulary)
    studies = list(draw_studies(SIMULATION, vocabulary, truth))
    counts = np.concatenate([study.counts for study in studies]).astype(np.float32)
    mapping = map_genes("x", vocabulary.ensembl_ids, "ensembl", vocabulary)
    lines = [name for study in studies for name in study.labels["sample"]]
    activities = np.concatenate([study.activities for study in studies])
    assays = draw_assays(lines, activities, vocabulary.ensembl_ids, truth.base, truth.loading, 1)
    place = tmp_path_factory.mktemp("assays")
    shuffled = np.random.default_rng(2).permutation(lines)
    for name, table in (("true", assays.response), ("shuffled", assays.response.set_axis(shuffled, axis=1))):
        table.to_csv(place / f"{name}_response.csv")
    for name, table in (("true", assays.effect), ("shuffled", assays.effect.set_axis(shuffled, axis=0))):
        table.to_csv(place / f"{name}_effect.csv")
    assays.smiles.to_csv(place / "smiles.csv", index=False)
    (place / "core.txt").write_text("\n".join(assays.core))
    (place / "nonessential.txt").write_text("\n".join(assays.nonessential))
    expression = log1p_tpm(counts, "counts", mapping, GENES)
    return SimpleNamespace(context=Context(vocabulary, expression.astype(np.float32), lines), place=place)


def scored(task):
    task.prepare()
    (result,) = task.score()
    return result, {(score.method, score.metric): score.interval for score in result.scores}


def drugs(simulated, table="true", **settings):
    given = {"table": str(simulated.place / f"{table}_response.csv"), **FAST, **settings}
    return scored(DrugResponse(simulated.context, DrugResponseSettings(**given)))


def genes(simulated, table="true", **settings):
    given = {"table": str(simulated.place / f"{table}_effect.csv"), **FAST, **settings}
    return scored(Essentiality(simulated.context, EssentialitySettings(**given)))


def test_response_that_follows_programs_is_recovered_in_new_cell_lines(simulated):
    result, scores = drugs(simulated)
    metric = "mean_pearson_per_drug"
    assert scores[f"{MODEL} -> ridge per drug", metric].low > 0.6
    assert scores["raw expression -> ridge per drug", metric].low > 0.6
    assert scores[f"{MODEL} -> MLP", metric].low > 0.4
    assert np.isnan(scores["drug mean", metric].value)
    assert scores["drug mean", "pearson"].value > 0.4
    assert scores[f"{MODEL} -> ridge per drug", "rmse_minus_drug mean"].high < 0
    assert result.baselines == ["drug mean", "raw expression -> ridge per drug", "raw expression -> MLP"]
    assert (result.facts["cell_lines"], result.facts["drugs"]) == (LINES, 40)
    assert f"{LINES} cell lines" in result.facts["intervals"]
    again = {(score.method, score.metric): score.interval.value for score in result.rescore(np.arange(LINES))}
    assert again[f"{MODEL} -> MLP", metric] == scores[f"{MODEL} -> MLP", metric].value


def test_response_of_shuffled_cell_lines_is_at_chance(simulated):
    _, scores = drugs(simulated, "shuffled")
    for method in (f"{MODEL} -> ridge per drug", f"{MODEL} -> MLP", "raw expression -> ridge per drug"):
        interval = scores[method, "mean_pearson_per_drug"]
        assert interval.low < 0 < interval.high, method
        assert abs(interval.value) < 0.1


@pytest.mark.parametrize(("split", "baseline"), [("drug", "cell-line mean"), ("both", "mean")])
def test_response_to_new_drugs_is_recovered_from_their_structures(simulated, split, baseline):
    result, scores = drugs(simulated, split=split, smiles=str(simulated.place / "smiles.csv"), epochs=5)
    assert scores[f"{MODEL} -> two-step ridge", "mean_pearson_per_drug"].low > 0.3
    assert scores[f"{MODEL} -> MLP", "pearson"].low > 0
    assert baseline in result.baselines
    assert ("40 drugs" if split == "drug" else f"{LINES} cell lines") in result.facts["intervals"]


def test_new_pairs_of_known_lines_and_drugs_have_additive_means_beside_them(simulated):
    _, scores = drugs(simulated, split="pair")
    rmse = {name: scores[name, "rmse"].value for name in ("drug mean", "cell-line mean", "drug mean + cell-line mean")}
    assert rmse["drug mean + cell-line mean"] < min(rmse["drug mean"], rmse["cell-line mean"])
    assert scores[f"{MODEL} -> ridge per drug", "rmse"].value < rmse["drug mean + cell-line mean"]


def test_features_of_a_table_stand_in_for_profiles(simulated):
    table = pd.DataFrame(simulated.context.projected, simulated.context.samples["sample_id"].to_pylist())
    table.iloc[:60].add_prefix("f").to_csv(simulated.place / "features.csv")
    result, scores = drugs(simulated, features=str(simulated.place / "features.csv"))
    assert scores["table features -> ridge per drug", "mean_pearson_per_drug"].low > 0.4
    assert (result.facts["cell_lines"], result.baselines) == (60, ["drug mean"])


def test_features_of_a_table_serve_essentiality_too(simulated):
    table = pd.DataFrame(simulated.context.projected, simulated.context.samples["sample_id"].to_pylist())
    table.add_prefix("f").to_csv(simulated.place / "all_features.csv")
    given = {"features": str(simulated.place / "all_features.csv"), "epochs": 10, "hidden": 64, "decay": 10.0}
    result, scores = genes(simulated, **given)
    assert scores["table features -> ridge per gene", "mean_pearson_per_gene"].low > 0.1
    assert result.baselines == ["gene mean"]


def test_drugs_without_a_readable_structure_are_left_out_and_counted(simulated, capsys):
    table = pd.read_csv(simulated.place / "smiles.csv")
    table.loc[0, "smiles"] = "not a molecule"
    table.iloc[:38].to_csv(simulated.place / "some.csv", index=False)
    result, _ = drugs(simulated, smiles=str(simulated.place / "some.csv"))
    facts = result.facts
    assert (facts["drugs"], facts["drugs_without_structure"], facts["unreadable_structures"]) == (37, 2, 1)
    assert "1 drugs have a structure that RDKit cannot read and are left out, e.g. drug_01" in capsys.readouterr().err


def test_effects_that_follow_programs_are_recovered_in_new_cell_lines(simulated):
    lists = {name: str(simulated.place / f"{name}.txt") for name in ("core", "nonessential")}
    result, scores = genes(simulated, **lists)
    metric = "mean_pearson_per_gene"
    # a third of the genes follow a program, the others vary by noise alone
    assert scores["BulkFormer gene embedding -> ridge per gene", metric].low > 0.15
    assert scores["raw expression -> ridge per gene", metric].low > 0.15
    assert np.isnan(scores["gene mean", metric].value)
    assert scores["gene mean", "auroc_core"].value > 0.99
    assert scores["BulkFormer gene embedding -> ridge per gene", "rmse_minus_gene mean"].high < 0
    assert result.facts["core_genes"] == 30
    assert result.facts["missing_effects"] > 0


def test_effects_in_shuffled_cell_lines_are_at_chance(simulated):
    _, scores = genes(simulated, "shuffled")
    for method in ("BulkFormer gene embedding -> ridge per gene", "raw expression -> ridge per gene"):
        interval = scores[method, "mean_pearson_per_gene"]
        assert interval.low < 0 < interval.high, method


def test_genes_that_no_fold_has_seen_are_predicted_by_one_network(simulated):
    result, scores = genes(simulated, split="gene")
    assert set(result.baselines) == {"cell-line mean", "own expression -> MLP"}
    # expressed genes are needed, silent ones are not: that is what can be known of a new gene
    assert scores["BulkFormer gene embedding -> MLP", "pearson"].low > 0.3
    assert not any("ridge" in method for method, _ in scores)


def test_the_task_runs_through_the_ordinary_command(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    corpus = make_corpus(str(tmp_path / "corpus"), {"train": 24})
    write_model(tmp_path / "model", corpus.vocabulary)
    values = pd.DataFrame(
        np.random.default_rng(0).normal(size=(6, 24)), [f"d{n}" for n in range(6)], [f"S{n}" for n in range(24)]
    )
    values.to_csv(tmp_path / "response.csv")
    values.set_axis([f"G{n}" for n in range(6)]).T.to_csv(tmp_path / "effect.csv")
    given = ["run", "--model", str(tmp_path / "model"), "--corpus", str(tmp_path / "corpus"), "--json"]
    tasks = ["--tasks", "drug_response,essentiality", "--drug_response.table", str(tmp_path / "response.csv")]
    more = ["--essentiality.table", str(tmp_path / "effect.csv"), "--essentiality.epochs", "2"]
    assert main("evaluation", "", COMMANDS, [*given, *tasks, *more, "--drug_response.epochs", "2"]) == 0
    scores = json.loads(capsys.readouterr().out.splitlines()[-1])["scores"]
    assert "drug_response/BulkFormer_mean_embedding_to_MLP/rmse" in scores
    assert "essentiality/BulkFormer_gene_embedding_to_ridge_per_gene/mean_pearson_per_gene" in scores
    assert "drug_response/drug_mean/mean_pearson_per_drug" not in scores
    assert main("evaluation", "", COMMANDS, [*given, "--tasks", "essentiality"]) == 1
    assert "no --essentiality.table of measured gene effects" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"split": "drug"}, "split drug predicts drugs that no fold has seen, which takes their smiles"),
        ({"features": "f.csv", "pooling": "max"}, "pooling would have no effect with features of a table"),
    ],
)
def test_settings_that_cannot_be_met_are_refused(settings, complaint):
    with pytest.raises((UserError, ValueError), match=complaint):
        DrugResponseSettings(table="t.csv", **settings)


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"core": "core.txt"}, "takes both core and nonessential"),
        ({"features": "f.csv", "split": "gene"}, "split gene takes embeddings of genes"),
        ({"features": "f.csv", "epochs": 5}, "epochs would have no effect with features of a table"),
    ],
)
def test_settings_of_essentiality_that_cannot_be_met_are_refused(settings, complaint):
    with pytest.raises((UserError, ValueError), match=complaint):
        EssentialitySettings(table="t.csv", **settings)
