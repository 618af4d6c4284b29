"""What a rank checks and chooses before its first step."""

import json
import subprocess
import sys

import pytest
import torch
from made_corpora import make_corpus

from dataprep.corpus import GRAPH_FILE, open_corpus
from dataprep.runtime.command_line import UserError
from pretrain.artifacts.run_inputs import recorded_inputs


@pytest.fixture
def corpus(tmp_path):
    return make_corpus(str(tmp_path / "corpus"), {"train": 16, "validation": 0, "test": 0}, genes=20)


def state_of(corpus) -> dict[str, str]:
    return {
        "corpus": corpus.fingerprint,
        "vocabulary_sha256": corpus.vocabulary.fingerprint,
        "graph_sha256": corpus.graph().fingerprint,
    }


def test_a_checkpoint_is_resumed_on_its_own_corpus_alone(corpus):
    state = state_of(corpus)
    corpus.require_inputs(recorded_inputs(state), "run first")
    for key, what in (("corpus", "profiles"), ("vocabulary_sha256", "gene vocabulary"), ("graph_sha256", "gene graph")):
        with pytest.raises(UserError, match=f"has changed since run first was made from it: other {what}"):
            corpus.require_inputs(recorded_inputs(state | {key: "0" * 64}), "run first")


def test_another_graph_in_the_same_corpus_is_refused_unless_the_checkpoint_names_none(corpus):
    state = state_of(corpus)
    graph = corpus.graph()
    weight = graph.weight.copy()
    weight[0] += 0.5
    type(graph)(graph.source, graph.target, weight, graph.vocabulary_sha256).write(corpus.folder, GRAPH_FILE)
    changed = open_corpus(corpus.folder)
    with pytest.raises(UserError, match="other gene graph"):
        changed.require_inputs(recorded_inputs(state), "run first")
    del state["graph_sha256"]
    changed.require_inputs(recorded_inputs(state), "run first")


# In a process of its own: the setting is the whole process's, and lasts.
TWO_RUNS_EACH = """
import json
import numpy as np
import torch
from dataprep.corpus import GeneGraph
from pretrain.model.bulkformer import BulkFormer
from pretrain.shape import ModelShape
from pretrain.training.determinism import use_deterministic_algorithms

use_deterministic_algorithms()
generator = np.random.default_rng(0)
graph = GeneGraph(*(generator.integers(0, 60, 200).astype(np.int32) for _ in range(2)), np.ones(200, np.float32))

def losses(kernel):
    torch.manual_seed(0)
    model = BulkFormer(ModelShape(genes=60, dim=16, performer_layers=2, heads=2), graph, kernel)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for step in range(4):
        expression = torch.rand(4, 60) * 8
        predicted = model(expression.masked_fill(torch.rand(4, 60) < 0.3, torch.nan)).expression
        loss = (predicted - expression).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        yield loss.item().hex()

print(json.dumps([[kernel, list(losses(kernel)), list(losses(kernel))] for kernel in ("fused", "reference")]))
"""


def test_deterministic_runs_give_the_same_losses_to_the_bit():
    output = subprocess.run([sys.executable, "-c", TWO_RUNS_EACH], capture_output=True, text=True, check=True).stdout
    for kernel, once, again in json.loads(output):
        assert len(set(once)) == 4, kernel
        assert once == again, kernel


def test_an_operation_without_a_deterministic_algorithm_is_refused():
    """The setting is not silent where it cannot keep its promise."""
    code = (
        "import torch; from pretrain.training.determinism import use_deterministic_algorithms; "
        "use_deterministic_algorithms(); "
        "torch.zeros(3).put_(torch.tensor([0, 0]), torch.ones(2), accumulate=False)"
    )
    refused = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert refused.returncode == 1
    assert "deterministic" in refused.stderr
    assert not torch.are_deterministic_algorithms_enabled()
