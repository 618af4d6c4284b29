"""What each worker of a pretraining run does. B profiles, G genes."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import ray.train
import ray.train.torch
import torch
import torch.distributed as dist
from torch import Tensor

from dataprep.corpus import open_corpus
from dataprep.runtime.command_line import UserError
from dataprep.runtime.storage import Folder
from pretrain.artifacts.checkpoint import Checkpoint, CheckpointStore, CheckpointWriter
from pretrain.config import RunSettings
from pretrain.data.accounting import Ledger, PlanKey, Position
from pretrain.data.plan import StepShare, layout_of
from pretrain.data.stream import MicroBatch, ProfileStream, StepBatch, prefetched
from pretrain.kernels.device import autocast_to_bf16, retain_freed_memory
from pretrain.model.bulkformer import BulkFormer
from pretrain.model.export_file import load_strictly, write_export
from pretrain.model.flops import training_flops
from pretrain.model.loss import masked_squared_error, profile_loss
from pretrain.model.masking import mask_of_profiles
from pretrain.model.random_features import is_redraw_step, redraw_random_features
from pretrain.monitoring.step_profile import StepProfile
from pretrain.monitoring.throughput import SlowWorkerWatch, StepClock, gemm_peak
from pretrain.monitoring.tracking import MlflowRun, RunRecord
from pretrain.training.agreement import Agreed, Notices, Wishes, agree
from pretrain.training.code_identity import code_fingerprint
from pretrain.training.job import TrainingJob, total_steps
from pretrain.training.validation import Validation
from pretrain.training.zero import (
    gather_moments,
    gather_weights,
    gradients_are_finite,
    scatter_moments,
    set_learning_rate,
    start_engine,
)

# Steps made ready ahead of the one being trained on.
STEPS_AHEAD = 2
# Side of the square product whose rate stands for the device's peak in the metrics: large enough for either device,
# and milliseconds to measure.
PEAK_PRODUCT_SIDE = {"cpu": 1024, "cuda": 8192}


class Worker:
    """One rank: sets up once, then steps."""

    def __init__(self, job: TrainingJob) -> None:
        self.job = job
        self.settings = job.settings
        context = ray.train.get_context()
        self.rank, self.workers = context.get_world_rank(), context.get_world_size()
        if code_fingerprint() != job.code_fingerprint:
            raise UserError(f"worker {self.rank} on {context.get_node_rank()} runs other code than the driver")
        self.device = ray.train.torch.get_device()
        _set_threads(self.settings, context.get_local_world_size())
        self.corpus = open_corpus(Folder(self.settings.corpus, self.settings.data.outage_patience_seconds))
        self.layout = layout_of(self.corpus.shards("train"))
        self.graph = self.corpus.graph()
        self.total_steps = total_steps(self.settings, self.layout.profiles)
        self.store = CheckpointStore(job.folder / "checkpoints")
        self.shape = self.settings.model.shape(self.corpus.genes)
        self.clock = self._make_clock()
        restored = self._agreed_checkpoint()
        self.model = self._make_model(restored)
        self.engine = start_engine(self.model, self.settings, self.workers)
        self.position = self._start_position(restored)
        self.best = _best_of(restored)
        self.notices = Notices(job.board) if self.rank == 0 else None
        self.preemption_announced: list[str] = []
        if restored is not None:
            scatter_moments(self.engine, restored.moments, restored.step)

    # ---- setting up --------------------------------------------------------------------------------------------------

    def _make_clock(self) -> StepClock:
        bf16 = autocast_to_bf16(self.settings.precision, self.device)
        side = PEAK_PRODUCT_SIDE[self.device.type]
        peak = gemm_peak(torch.bfloat16 if bf16 else torch.float32, self.device, (side,), longest_seconds=1.0)
        micro = self.settings.batch.micro_profiles
        flops = training_flops(self.shape, len(self.graph.source), micro) / micro
        return StepClock(flops, self.workers, peak, self.device)

    def _agreed_checkpoint(self) -> Checkpoint | None:
        """The newest good checkpoint; rank 0 chooses, so that all ranks take the same."""
        chosen = self.store.newest_good(self.tell) if self.rank == 0 else None
        step = [chosen.step if chosen is not None else None]
        dist.broadcast_object_list(step)
        if self.rank == 0 or step[0] is None:
            return chosen
        return self.store.read(step[0])

    def _make_model(self, restored: Checkpoint | None) -> BulkFormer:
        torch.manual_seed(self.settings.seed)
        chosen = self.settings.model
        model = BulkFormer(
            self.shape, self.graph, chosen.kernel, self.settings.precision, chosen.compile, chosen.recompute
        )
        if restored is not None:
            load_strictly(model, restored.weights, f"checkpoint of step {restored.step}")
        return model.to(self.device)

    def _start_position(self, restored: Checkpoint | None) -> Position:
        settings = self.settings
        key = PlanKey(self.workers, settings.batch.global_profiles, settings.data.shuffle_window_profiles)
        if restored is None:
            return Position.start(self.layout.profiles, key)
        if restored.state["corpus"] != self.corpus.fingerprint:
            raise UserError(f"run {settings.name} was trained on another corpus than {settings.corpus}")
        position = Position.from_state(restored.state["position"], restored.accounting)
        self.tell(f"going on from the checkpoint of step {position.step}")
        return position.under(key)

    def tell(self, message: str) -> None:
        """A line for the terminal of whoever started the run; rank 0's only."""
        if self.rank == 0:
            self.job.board.post.remote("line", message)

    # ---- training ----------------------------------------------------------------------------------------------------

    def train(self) -> None:
        """Train to the last step, or until asked to stop; then export the model."""
        validation = self._validation()
        record = self._open_record()
        writer = self._open_writer(record)
        profile = StepProfile(self.settings.profile if self.rank == 0 else 0, self.job.folder, self.tell)
        slow_workers = SlowWorkerWatch(self.tell)
        ledger = Ledger(self.position, self.layout.first_row_id)
        redraw_random_features(
            self.model, self.settings.seed, self.position.step, self.settings.model.redraw_every_steps
        )
        self.engine.train()
        stopped = False
        for batch in self.clock.waiting(self._batches()):
            profile.step_begins()
            row, agreed = self._step(batch, self._wishes(writer))
            retain_freed_memory(self.device)
            ledger.record(np.concatenate([batch.row_ids, batch.left_out]))
            self._report_left_out(batch)
            self.position = self.position.after_step()
            epoch_ended = batch.last_of_epoch
            if epoch_ended:
                self.position = self.position.next_epoch(ledger.union(self._sum))
                ledger = Ledger(self.position, self.layout.first_row_id)
            rates = self.clock.rates(batch.global_profiles, self.total_steps - self.position.step)
            row |= rates | slow_workers.look(agreed.own_seconds)
            if self._is_due(self.settings.log_every_steps, epoch_ended):
                self._log(record, row)
            profile.step_ended(self.position.step)
            stopped = agreed.wishes.stop
            score_row = None if stopped else self._validate(validation, epoch_ended)
            if score_row is not None:
                self._log(record, score_row)
            if agreed.wishes.ask_ray:
                self._ask_ray()
            if stopped or agreed.wishes.checkpoint or self._is_due(self.settings.checkpoint.every_steps, epoch_ended):
                self._checkpoint(writer, ledger)
            self.clock.step_done()
            if stopped:
                break
        profile.close(self.position.step)
        if writer is not None:
            writer.close()
        if stopped and self.position.step < self.total_steps:
            self._leave(record)
        else:
            self._finish(record)

    def _batches(self) -> Iterator[StepBatch]:
        settings = self.settings
        share = StepShare(settings.batch.global_profiles, self.workers)
        stream = ProfileStream(
            self.corpus,
            self.rank,
            share,
            settings.batch.micro_profiles,
            settings.data.prefetch_windows,
            settings.data.outage_patience_seconds,
            leave_out_damaged=settings.data.damaged_shards == "leave-out",
        )
        left = self.total_steps - self.position.step
        if left <= 0:
            return
        parts = self.position.parts(self.layout, settings.seed, self.rank, settings.epochs)
        for done, batch in enumerate(prefetched(stream.steps(parts), STEPS_AHEAD), start=1):
            yield batch
            if done == left:
                return

    def _step(self, batch: StepBatch, wishes: Wishes) -> tuple[dict[str, Any], Agreed]:
        """One optimizer step: its row of metrics, and what all workers agreed on."""
        settings, step = self.settings, self.position.step
        rate = settings.optimizer.learning_rate_at(step, self.total_steps)
        set_learning_rate(self.engine, rate)
        if is_redraw_step(step, settings.model.redraw_every_steps):
            self._redraw()
        # dropout follows from (seed, step, rank): no generator state to save, and a restart repeats it
        torch.manual_seed(int(np.random.SeedSequence([settings.seed, step, self.rank]).generate_state(1)[0]))
        losses = []
        for number, micro in enumerate(batch.micro_batches, start=1):
            with self.clock.working():
                loss_B = self._profile_losses(micro, batch.epoch)
            losses.append(loss_B[: micro.real].detach())
            # DeepSpeed averages over passes and workers; the sum over profiles is what we divide
            passes = len(batch.micro_batches) * self.workers
            self.engine.backward(loss_B[: micro.real].sum() * (passes / batch.global_profiles))
            if number == len(batch.micro_batches):
                agreed = self._agree(torch.cat(losses), wishes)
                if not agreed.finite:
                    self._report_not_finite(batch, torch.cat(losses))
            self.engine.step()
        norm = float(self.engine.get_global_grad_norm() or 0.0)
        loss = agreed.loss_sum / max(1, agreed.profiles)
        row: dict[str, Any] = {"step": step + 1, "epoch": batch.epoch, "loss": loss, "lr": rate, "grad_norm": norm}
        if agreed.profiles < batch.global_profiles:
            row["profiles_left_out"] = batch.global_profiles - agreed.profiles
        if settings.tracking.row_ids:
            row["row_ids"] = self._row_ids_of_all(batch)
        return row, agreed

    def _agree(self, losses: Tensor, wishes: Wishes) -> Agreed:
        finite = gradients_are_finite(self.engine)
        return agree(losses, finite, wishes, self.clock.own_seconds(), self.rank, self.workers, self._sum)

    def _wishes(self, writer: CheckpointWriter | None) -> Wishes:
        """While a node is about to be taken away, there is a checkpoint as often as they can be written."""
        if self.notices is None or writer is None:
            return Wishes()
        leaving = bool(self.preemption_announced) and writer.is_idle
        return Wishes(self.notices.stop, leaving, self.notices.ask_due())

    def _row_ids_of_all(self, batch: StepBatch) -> list[int]:
        found: list[Any] = [None] * self.workers
        dist.all_gather_object(found, batch.row_ids.tolist())
        return sorted(row_id for of_rank in found for row_id in of_rank)

    def _redraw(self) -> None:
        settings = self.settings
        redraw_random_features(self.model, settings.seed, self.position.step, settings.model.redraw_every_steps)

    def _profile_losses(self, micro: MicroBatch, epoch: int) -> Tensor:
        settings = self.settings
        expression_BG = micro.expression.to(self.device, non_blocking=True)
        row_ids_B = micro.row_ids.to(self.device, non_blocking=True)
        mask_BG = mask_of_profiles(row_ids_B, expression_BG.shape[1], settings.mask.rate, settings.seed, epoch)
        output = self.engine(expression_BG.masked_fill(mask_BG, torch.nan))
        return profile_loss(*masked_squared_error(output.expression, expression_BG, mask_BG))

    def _report_not_finite(self, batch: StepBatch, losses: Tensor) -> None:
        rows = batch.row_ids
        bad = rows[~torch.isfinite(losses).cpu().numpy()]
        found: list[Any] = [None] * self.workers
        dist.all_gather_object(found, (bad.tolist(), rows.tolist()))
        bad_ids = sorted(row for bad_of_rank, _ in found for row in bad_of_rank)
        all_ids = sorted(row for _, rows_of_rank in found for row in rows_of_rank)
        named = f"loss of {len(bad_ids)} profiles" if bad_ids else f"gradient of {len(all_ids)} profiles"
        examples = ", ".join(map(str, (bad_ids or all_ids)[:10]))
        raise UserError(
            f"step {self.position.step + 1}: the {named} is not finite (row_id {examples}); "
            "the step was not applied, the last checkpoint stands"
        )

    def _report_left_out(self, batch: StepBatch) -> None:
        if not len(batch.left_out):
            return
        layout = self.layout
        groups = np.searchsorted(layout.first, batch.left_out - layout.first_row_id, side="right") - 1
        names = ", ".join(sorted({layout.shards[shard].path for shard in layout.shard[groups]}))
        examples = ", ".join(map(str, batch.left_out[:5]))
        self.job.board.post.remote(
            "line",
            f"DAMAGED: step {self.position.step + 1} does without {len(batch.left_out)} profiles of {names} "
            f"(row_id {examples})",
        )

    def _ask_ray(self) -> None:
        """Whether a node of ours will be taken away: a collective of Ray Train, so all ranks come here together."""
        notice = ray.train.get_preemption_info()
        if notice is None or notice.preempted_node_ids == self.preemption_announced:
            return
        self.preemption_announced = notice.preempted_node_ids
        when = time.strftime("%H:%M:%S", time.localtime(notice.deadline_ms / 1000)) if notice.deadline_ms else "soon"
        ranks = ", ".join(map(str, notice.preempted_ranks))
        self.tell(f"NODE GOES AWAY at {when} with rank {ranks}: checkpoints are written one after the other until then")

    # ---- side effects ------------------------------------------------------------------------------------------------

    def _is_due(self, every_steps: int, epoch_ended: bool) -> bool:
        """Every N steps (0: at each epoch's end), and after the last step."""
        step = self.position.step
        return step == self.total_steps or (step % every_steps == 0 if every_steps else epoch_ended)

    def _validation(self) -> Validation | None:
        settings = self.settings
        if self.corpus.rows("validation") == 0:
            self.tell("the corpus has no validation split: no validation")
            return None
        return Validation(
            self.corpus, settings.validation.max_profiles, self.rank, self.workers,
            settings.batch.micro_profiles, settings.seed, settings.mask.rate,
        )  # fmt: skip

    def _validate(self, validation: Validation | None, epoch_ended: bool) -> dict[str, Any] | None:
        if validation is None or not self._is_due(self.settings.validation.every_steps, epoch_ended):
            return None
        score = validation.score(self.engine, self.device, self._sum)
        step = self.position.step
        if self.best is None or score.loss < self.best[1]:
            self.best = (step, score.loss)
        return {
            "step": step,
            "epoch": self.position.epoch - epoch_ended,
            "validation_loss": score.loss,
            "validation_pearson": score.pearson,
        }

    def _open_record(self) -> RunRecord | None:
        if self.rank != 0:
            return None
        run = None
        settings = self.settings
        if os.environ.get("MLFLOW_TRACKING_URI"):
            tags = {"corpus": self.corpus.fingerprint, "code": self.job.code_fingerprint}
            run = MlflowRun(
                settings.tracking.experiment, settings.name, self.job.folder.uri, settings.resolved(), tags,
                settings.tracking.system_metrics,
            )  # fmt: skip
        return RunRecord(self.job.folder, self.position.step, run, self.tell)

    def _open_writer(self, record: RunRecord | None) -> CheckpointWriter | None:
        if record is None:
            return None
        return CheckpointWriter(self.store, self.settings.checkpoint.keep, record.store, self.tell)

    def _log(self, record: RunRecord | None, row: dict[str, Any]) -> None:
        if record is not None:
            record.add(row | {"time": time.time()})
            self.job.board.post.remote("row", row)

    def _checkpoint(self, writer: CheckpointWriter | None, ledger: Ledger) -> None:
        """Gather on all ranks, write from rank 0."""
        self.position = self.position.with_consumed(ledger.union(self._sum))
        weights, moments = gather_weights(self.engine), gather_moments(self.engine)
        if writer is None:
            return
        position, accounting = self.position.to_state()
        state = {
            "step": self.position.step,
            "position": position,
            "best": self.best,
            "corpus": self.corpus.fingerprint,
            "vocabulary_sha256": self.corpus.vocabulary.fingerprint,
            "model": self.shape.model_dump(mode="json"),
            "settings": self.settings.resolved(),
            "code": self.job.code_fingerprint,
        }
        writer.submit(Checkpoint(weights, moments, accounting, state), self.best[0] if self.best else None)

    def _leave(self, record: RunRecord | None) -> None:
        """The run was asked to stop, and has its checkpoint."""
        if record is not None:
            record.close(None)
        self.tell(f"stopped as asked after step {self.position.step}, with a checkpoint")

    def _finish(self, record: RunRecord | None) -> None:
        weights = gather_weights(self.engine)
        if record is None:
            return
        training = {
            "run": self.settings.name,
            "step": self.position.step,
            "epochs": self.position.epoch,
            "validation_loss": record.last("validation_loss"),
            "validation_pearson": record.last("validation_pearson"),
            "corpus": self.corpus.fingerprint,
            "settings": self.settings.resolved(),
        }
        export = self.job.folder / "export"
        write_export(export, self.shape, weights, self.corpus.vocabulary, self.graph, training)
        record.close(export)

    def _sum(self, values: Tensor) -> Tensor:
        """Sum over all workers."""
        values = values.to(self.device)
        dist.all_reduce(values)
        return values.cpu()


def _best_of(restored: Checkpoint | None) -> tuple[int, float] | None:
    best = restored.state.get("best") if restored is not None else None
    return (int(best[0]), float(best[1])) if best else None


def _set_threads(settings: RunSettings, workers_here: int) -> None:
    if not settings.workers.gpu:
        threads = settings.workers.threads_each or max(1, (os.cpu_count() or 1) // workers_here)
        torch.set_num_threads(threads)
