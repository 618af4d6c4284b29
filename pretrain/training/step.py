"""One optimizer step: a batch in, a row of metrics and what all ranks agreed on out. B profiles, G genes."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from dataprep.runtime.command_line import UserError
from pretrain.config import RunSettings
from pretrain.data.stream import MicroBatch, StepBatch, to_device
from pretrain.model.loss import masked_profile_loss
from pretrain.model.masking import mask_of_profiles
from pretrain.model.random_features import is_redraw_step, redraw_random_features
from pretrain.monitoring.throughput import StepClock
from pretrain.training.agreement import Agreed, Requests, agree, raise_failures
from pretrain.training.ranks import Ranks
from pretrain.training.zero import accumulating, apply_step, set_learning_rate


class TrainingStep:
    """Takes optimizer steps with an engine. Learning rate, masks, random features and dropout follow from the step."""

    def __init__(self, settings: RunSettings, engine: Any, ranks: Ranks, clock: StepClock, schedule_steps: int) -> None:
        self._settings = settings
        self._engine = engine
        self._ranks = ranks
        self._clock = clock
        self._schedule_steps = schedule_steps

    def take(
        self, batch: StepBatch, step: int, requests: Requests, failure: UserError | None
    ) -> tuple[dict[str, Any], Agreed]:
        """Take optimizer step ``step`` (from 0); all ranks together.

        ``failure``: of a background thread of this rank. Raises UserError on all ranks, and the step is not applied,
        where one of them has failed or a loss or gradient is not finite.
        """
        settings, engine = self._settings, self._engine
        rate = settings.optimizer.learning_rate_at(step, self._schedule_steps)
        set_learning_rate(engine, rate)
        self._seed(step)
        # DeepSpeed averages over workers; the sum over profiles is what we divide
        weight = self._ranks.count / batch.global_profiles
        losses = []
        with accumulating(engine):
            for micro in batch.micro_batches:
                with self._clock.working():
                    loss_B = self._profile_losses(micro, batch.epoch)[: micro.real]
                losses.append(loss_B.detach())
                engine.backward(loss_B.sum() * weight)
        agreed = self._agree(batch, step, torch.cat(losses), requests, failure)
        if not apply_step(engine):
            self._raise_not_finite(batch, step, torch.cat(losses))
        norm = float(engine.get_global_grad_norm() or 0.0)
        loss = agreed.loss_sum / max(1, agreed.profiles)
        row: dict[str, Any] = {"step": step + 1, "epoch": batch.epoch, "loss": loss, "lr": rate, "grad_norm": norm}
        if agreed.profiles < batch.global_profiles:
            row["profiles_left_out"] = batch.global_profiles - agreed.profiles
        return row, agreed

    def _seed(self, step: int) -> None:
        """Redraw random features where that is due, and seed dropout: no generator state has to be saved."""
        seed, every_steps = self._settings.seed, self._settings.model.redraw_every_steps
        if is_redraw_step(step, every_steps) and self._engine.module.shape.traits.redraws_features:
            redraw_random_features(self._engine.module, seed, step, every_steps)
        torch.manual_seed(int(np.random.SeedSequence([seed, step, self._ranks.rank]).generate_state(1)[0]))

    def _profile_losses(self, micro: MicroBatch, epoch: int) -> Tensor:
        settings, device = self._settings, self._ranks.device
        expression_BG = to_device(micro.expression, device)
        row_ids_B = to_device(micro.row_ids, device)
        genes, rates = expression_BG.shape[1], settings.mask
        mask_BG = mask_of_profiles(row_ids_B, genes, rates.rate, settings.seed, epoch, rates.highest_rate)
        return masked_profile_loss(self._engine, expression_BG, mask_BG)

    def _agree(
        self, batch: StepBatch, step: int, losses: Tensor, requests: Requests, failure: UserError | None
    ) -> Agreed:
        agreed = agree(losses, failure is not None, requests, self._clock.own_seconds(), self._ranks)
        if agreed.failed:
            raise_failures(failure, self._ranks)
        if not agreed.finite:
            self._raise_not_finite(batch, step, losses)
        return agreed

    def _raise_not_finite(self, batch: StepBatch, step: int, losses: Tensor) -> None:
        rows = batch.row_ids
        bad = rows[~torch.isfinite(losses).cpu().numpy()]
        of_ranks = self._ranks.gather((bad.tolist(), rows.tolist()))
        bad_ids = sorted(row for bad_of_rank, _ in of_ranks for row in bad_of_rank)
        all_ids = sorted(row for _, rows_of_rank in of_ranks for row in rows_of_rank)
        named = f"loss of {len(bad_ids)} profiles" if bad_ids else f"gradient of {len(all_ids)} profiles"
        examples = ", ".join(map(str, (bad_ids or all_ids)[:10]))
        raise UserError(
            f"step {step + 1}: the {named} is not finite (row_id {examples}); "
            "the step was not applied, the last checkpoint stands"
        )
