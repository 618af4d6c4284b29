"""What a rank needs before its first step: corpus, model, engine, and the checkpoint that all ranks agreed on."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ray.train
import ray.train.torch
import torch

from dataprep.corpus import Corpus, GeneGraph, open_corpus
from dataprep.runtime.code_identity import code_fingerprint
from dataprep.runtime.command_line import UserError
from dataprep.runtime.storage import Folder
from pretrain.artifacts.checkpoint import Checkpoint, CheckpointStore
from pretrain.artifacts.run_inputs import recorded_inputs, require_state_of_run
from pretrain.config import RunSettings
from pretrain.data.accounting import PlanKey, Position
from pretrain.data.plan import SplitLayout, layout_of
from pretrain.kernels.device import autocast_to_bf16, map_memory_of_first_step
from pretrain.model.bulkformer import BulkFormer
from pretrain.model.export_file import described_shape, load_strictly
from pretrain.model.flops import training_flops
from pretrain.model.linear_prior import LinearPrior
from pretrain.model.protein_embeddings import corpus_protein_embeddings
from pretrain.model.random_features import redraw_random_features
from pretrain.monitoring.throughput import StepClock, gemm_peak
from pretrain.prior.gene_means import gene_mean_prior
from pretrain.prior.prior_file import corpus_prior
from pretrain.shape import ModelShape
from pretrain.training.determinism import use_deterministic_algorithms
from pretrain.training.job import TrainingJob, schedule_steps_of, total_steps
from pretrain.training.ranks import Ranks
from pretrain.training.zero import scatter_moments, start_engine

# Side of the square product whose rate stands for the device's peak in the metrics: large enough for either device,
# and milliseconds to measure.
PEAK_PRODUCT_SIDE = {"cpu": 1024, "cuda": 8192}


@dataclass(frozen=True)
class Setup:
    """A rank that is ready to train. ``position`` and ``best`` are where training begins.

    ``schedule_steps`` is the length of the learning rate's schedule, which is ``total_steps`` of the first start.
    """

    job: TrainingJob
    ranks: Ranks
    corpus: Corpus
    layout: SplitLayout
    graph: GeneGraph
    shape: ModelShape
    total_steps: int
    schedule_steps: int
    checkpoints: CheckpointStore
    clock: StepClock
    engine: Any
    position: Position
    best: tuple[int, float] | None

    def log(self, message: str) -> None:
        """Log a line to the terminal of whoever started the run, once for all ranks."""
        self.job.log_from(self.ranks.rank, message)

    @property
    def checkpoint_state(self) -> dict[str, Any]:
        """What every checkpoint of this run says, whatever its step."""
        return {
            "schedule_steps": self.schedule_steps,
            "corpus": self.corpus.fingerprint,
            "vocabulary_sha256": self.corpus.vocabulary.fingerprint,
            "tpm_over": self.corpus.manifest.tpm_over,
            "graph_sha256": self.graph.fingerprint,
            "model": self.shape.model_dump(mode="json"),
            "settings": self.job.settings.resolved(),
            "code": self.job.code_fingerprint,
            "run_uid": self.job.identity.uid,
        }


def set_up(job: TrainingJob) -> Setup:
    """Set up this rank; all ranks together. Raises UserError for a corpus or code that is not the run's."""
    settings = job.settings
    context = ray.train.get_context()
    ranks = Ranks(context.get_world_rank(), context.get_world_size(), ray.train.torch.get_device())
    if code_fingerprint() != job.code_fingerprint:
        raise UserError(f"worker {ranks.rank} on node {context.get_node_rank()} runs other code than the driver")
    _set_threads(settings, context.get_local_world_size())
    map_memory_of_first_step(ranks.device)
    if settings.deterministic:
        use_deterministic_algorithms()
    corpus = open_corpus(Folder(settings.corpus, settings.data.outage_patience_seconds))
    layout = layout_of(corpus.shards("train"))
    graph = corpus.graph()
    store = CheckpointStore(job.folder / "checkpoints")

    def log(message: str) -> None:
        job.log_from(ranks.rank, message)

    restored = agreed_checkpoint(store, ranks, log)
    if restored is not None:
        require_state_of_run(restored.state, f"{store.folder.uri}: the checkpoint of step {restored.step}")
        corpus.require_inputs(recorded_inputs(restored.state), f"run {settings.name}")
        log(f"resuming from the checkpoint of step {restored.step}")
    shape, prior = _shape_and_prior(settings, corpus, restored)
    clock = _clock(settings, shape, graph, ranks)
    engine = start_engine(_model(settings, shape, corpus, graph, restored, prior).to(ranks.device), settings)
    if restored is not None:
        scatter_moments(engine, restored.moments, restored.step)
    position = _position(settings, layout.profiles, ranks.count, restored)
    if shape.traits.redraws_features:
        redraw_random_features(engine.module, settings.seed, position.step, settings.model.redraw_every_steps)
    steps = total_steps(settings, layout.profiles)
    schedule_steps = schedule_steps_of(restored.state, layout.profiles) if restored is not None else steps
    if schedule_steps != steps:
        log(f"the learning rate keeps the schedule of {schedule_steps:,} steps that the run began with")
    return Setup(
        job=job,
        ranks=ranks,
        corpus=corpus,
        layout=layout,
        graph=graph,
        shape=shape,
        total_steps=steps,
        schedule_steps=schedule_steps,
        checkpoints=store,
        clock=clock,
        engine=engine,
        position=position,
        best=ranks.from_first(_best(restored, store) if ranks.is_first else None),
    )


def agreed_checkpoint(store: CheckpointStore, ranks: Ranks, log: Callable[[str], None]) -> Checkpoint | None:
    """Return the newest good checkpoint; rank 0 chooses, so that all ranks take the same."""
    chosen = store.newest_good(log) if ranks.is_first else None
    step = ranks.from_first(chosen.step if chosen is not None else None)
    return chosen if ranks.is_first or step is None else store.read(step)


def _set_threads(settings: RunSettings, workers_here: int) -> None:
    if not settings.workers.gpu:
        threads = settings.workers.threads_each or max(1, (os.cpu_count() or 1) // workers_here)
        torch.set_num_threads(threads)


def _clock(settings: RunSettings, shape: ModelShape, graph: GeneGraph, ranks: Ranks) -> StepClock:
    bf16 = autocast_to_bf16(settings.precision, ranks.device)
    side = PEAK_PRODUCT_SIDE[ranks.device.type]
    peak = gemm_peak(torch.bfloat16 if bf16 else torch.float32, ranks.device, (side,), longest_seconds=1.0)
    micro = settings.batch.micro_profiles
    flops = training_flops(shape, len(graph.source), micro) / micro
    return StepClock(flops, ranks.count, peak, ranks.device)


def _shape_and_prior(
    settings: RunSettings, corpus: Corpus, restored: Checkpoint | None
) -> tuple[ModelShape, LinearPrior | None]:
    """The model's shape, and the prior that a new run begins with; a run that resumes has it in its weights."""
    shape = settings.model.shape(corpus.genes)
    if settings.model.prior == "none":
        return shape, None
    if restored is not None:
        kept = described_shape(restored.state, f"the checkpoint of step {restored.step}")
        return shape.with_prior(kept.prior_rank, kept.prior_rectified), None
    prior = corpus_prior(corpus) if settings.model.prior == "ppca" else gene_mean_prior(corpus)
    return shape.with_prior(prior.rank, prior.rectified), prior


def _model(
    settings: RunSettings,
    shape: ModelShape,
    corpus: Corpus,
    graph: GeneGraph,
    restored: Checkpoint | None,
    prior: LinearPrior | None = None,
) -> BulkFormer:
    torch.manual_seed(settings.seed)
    chosen = settings.model
    model = BulkFormer(shape, graph, chosen.kernel, settings.precision, chosen.compile, chosen.recompute)
    if restored is not None:
        load_strictly(model, restored.weights, f"checkpoint of step {restored.step}")
        return model
    if prior is not None:
        model.prior.load_state_dict(prior.state_dict())
    if shape.gene_identity == "esm2":
        model.get_parameter("gene_emb.weight").data.copy_(corpus_protein_embeddings(corpus))
    return model


def _position(settings: RunSettings, profiles: int, workers: int, restored: Checkpoint | None) -> Position:
    key = PlanKey(workers, settings.batch.global_profiles, settings.data.shuffle_window_profiles)
    if restored is None:
        return Position.start(profiles, key)
    return Position.from_state(restored.state["position"], restored.accounting).under(key)


def _best(restored: Checkpoint | None, store: CheckpointStore) -> tuple[int, float] | None:
    """Return the best step so far and its loss, if that step has a checkpoint: the first version did not see to it."""
    best = restored.state.get("best") if restored is not None else None
    return (int(best[0]), float(best[1])) if best and int(best[0]) in store.steps() else None
