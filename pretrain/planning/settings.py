"""Settings of ``cluster plan``, free of torch. Every assumption of a plan is one of them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from dataprep.runtime.command_line import CommandSettings, Settings, refuse_without_effect
from pretrain.config import BatchSettings, ModelSettings, Precision, ZeroSettings
from pretrain.planning.accelerators import ACCELERATORS, CPU, Accelerator

_DEFAULT_SIZE = "147M"
# Of a CPU these are measured, and the rest is this machine's.
_MEASURED = ("bf16_tflops", "fp32_tflops", "bandwidth")
_UNKNOWN = Accelerator(CPU, math.nan, math.nan, math.nan, math.nan, math.nan)


class HardwareSettings(Settings):
    """What is rented."""

    gpu: str = Field(
        "A100",
        description=f"kind of GPU: {', '.join(ACCELERATORS)}; or {CPU}: this machine's, of which a step is measured",
    )
    count: int = Field(8, ge=1, description="GPUs, one worker each; or worker processes, of which a machine has one")
    per_node: int = Field(8, ge=1, description="GPUs, or worker processes, in one machine")
    price: float | None = Field(
        None, ge=0, description="price of a GPU for an hour, in any currency; no cost without it"
    )
    loss_rate: float = Field(0.01, ge=0, description="losses of a machine per hour: of spot machines, or failures")
    bf16_tflops: float | None = Field(None, gt=0, description="dense bf16 TFLOP/s, instead of the data sheet's")
    fp32_tflops: float | None = Field(None, gt=0, description="fp32 TFLOP/s without TF32")
    bandwidth: float | None = Field(None, gt=0, description="TB/s of its memory")
    memory: float | None = Field(None, gt=0, description="GB of its memory")
    link: float | None = Field(None, gt=0, description="GB/s to another GPU of the machine, one direction")
    threads: int = Field(
        0, ge=0, description=f"torch threads of a worker on {CPU}; 0 shares the machine's cores, as pretrain run does"
    )

    @model_validator(mode="before")
    @classmethod
    def _one_process(cls, given: Any) -> Any:
        """On CPUs one process, and all on this machine, unless told otherwise."""
        if not isinstance(given, dict) or given.get("gpu") != CPU:
            return given
        count = given.get("count", 1)
        return {"count": count, "per_node": count, **given}

    @model_validator(mode="after")
    def _check(self) -> HardwareSettings:
        if self.gpu not in (*ACCELERATORS, CPU):
            raise ValueError(f"unknown GPU {self.gpu!r}; known: {', '.join((*ACCELERATORS, CPU))}")
        if self.on_cpu:
            refuse_without_effect(self, _MEASURED, f"on {CPU}, where it is measured")
        else:
            refuse_without_effect(self, ("threads",), f"without gpu {CPU}")
        return self

    @property
    def on_cpu(self) -> bool:
        return self.gpu == CPU

    @property
    def accelerator(self) -> Accelerator:
        """The figures of a data sheet, or those given instead; of a CPU all are given once they are measured."""
        known = vars(ACCELERATORS.get(self.gpu) or _UNKNOWN)
        given = {name: value for name in known if (value := getattr(self, name, None)) is not None}
        return Accelerator(**(known | given))

    @property
    def nodes(self) -> int:
        return -(-self.count // self.per_node)


class Assumptions(Settings):
    """What nobody has measured for these machines."""

    product_share: float = Field(0.7, gt=0, le=1, description="share of the data sheet's TFLOP/s that products reach")
    bandwidth_share: float = Field(0.85, gt=0, le=1, description="share of its memory bandwidth that is reached")
    launch_microseconds: float = Field(10, ge=0, description="time of the host for each operation that it launches")
    node_bandwidth: float = Field(10, gt=0, description="GB/s from one machine to another, one direction")
    link_share: float = Field(0.7, gt=0, le=1, description="share of any link that a collective reaches")
    reserved_gigabytes: float = Field(2, ge=0, description="GB of a GPU that CUDA, NCCL and libraries take")
    fragmentation: float = Field(0.05, ge=0, lt=1, description="share of memory lost between tensors")
    store_bandwidth: float = Field(0.2, gt=0, description="GB/s of one machine to the object store")
    host_bandwidth: float = Field(2, gt=0, description="GB/s in which a checkpoint is copied to the host")
    loader_profiles: float = Field(
        20_000, gt=0, description="profiles/s that one machine reads and decodes; measure it on yours"
    )
    restart_seconds: float = Field(180, ge=0, description="from the loss of a machine to the next step")
    straggling: float = Field(0.03, ge=0, description="spread of step times between GPUs, as a share")


# Assumptions in whose place figures of a CPU are measured.
_OF_GPUS = ("product_share", "bandwidth_share", "launch_microseconds", "fragmentation")


class PlanSettings(CommandSettings):
    """Predict memory, time, cost and checkpoints of a training run; nothing is started."""

    model: ModelSettings = Field(
        ModelSettings(size="147M", compile=False), description="the model, as for pretrain run"
    )
    precision: Precision = Field("bf16", description="as for pretrain run")
    batch: BatchSettings = Field(BatchSettings(), description="as for pretrain run; a micro-batch given is kept")
    zero: ZeroSettings = Field(ZeroSettings(), description="as for pretrain run")
    epochs: int = Field(29, ge=1)
    corpus: str | None = Field(None, description="corpus whose train split, genes and graph count")
    profiles: int = Field(522_769, ge=1, description="profiles of the train split, without --corpus")
    genes: int = Field(20_010, ge=2, description="genes of the vocabulary, without --corpus")
    edges_per_gene: int = Field(20, ge=0, description="of the gene graph, without --corpus")
    hardware: HardwareSettings = Field(HardwareSettings(), description="GPUs, or this machine's CPUs")
    assume: Assumptions = Field(Assumptions(), description="what a plan has to take for granted")
    measured_step_seconds: float | None = Field(
        None, gt=0, description="seconds that a pass over --batch.micro-profiles took on one such GPU: scales all times"
    )

    simulate: list[int] = Field(
        [], description="also simulate the run on these numbers of GPUs, such as [8,64,512,1024], losses included"
    )
    after: str | None = Field(
        None, description="a run, STORAGE/NAME: plan it by its own settings and compare with what it did"
    )
    picture: Path | None = Field(None, description="PNG or SVG of what was simulated")

    @model_validator(mode="before")
    @classmethod
    def _name_size(cls, given: Any) -> Any:
        """Plan the largest published model, unless told otherwise."""
        model = given.get("model") if isinstance(given, dict) else None
        return given | {"model": {"size": _DEFAULT_SIZE, **model}} if isinstance(model, dict) else given

    @model_validator(mode="after")
    def _check(self) -> PlanSettings:
        if self.corpus is not None:
            refuse_without_effect(self, ("profiles", "genes", "edges_per_gene"), "with --corpus")
        if self.hardware.on_cpu:
            refuse_without_effect(self.assume, _OF_GPUS, f"with --hardware.gpu {CPU}")
        if any(count < 1 for count in self.simulate):
            raise ValueError(f"simulate: {min(self.simulate)} is not a number of GPUs")
        if not self.simulate:
            refuse_without_effect(self, ("picture",), "without --simulate")
        if self.measured_step_seconds is not None and not given(self.batch, "micro_profiles"):
            raise ValueError("measured_step_seconds needs batch.micro_profiles: that of the pass that was measured")
        return self

    @property
    def compiles(self) -> bool:
        """Whether elementwise parts are compiled: where that can be, unless it is stated that they are not."""
        on_gpu = not self.hardware.on_cpu
        return self.model.kernel == "fused" and (self.model.compile or (on_gpu and not given(self.model, "compile")))


def given(group: Any, name: str) -> bool:
    """Whether the user has stated a setting of a group; what was not stated, a plan may choose."""
    return name in group.model_fields_set
