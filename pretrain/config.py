"""Settings of the pretraining commands, and the numbers that follow from them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import Field, ValidationError, model_validator

from dataprep.runtime.command_line import CommandSettings, Settings, UserError, refuse_without_effect
from dataprep.runtime.plugins import ExtensibleSettings
from pretrain.families import FamilyName
from pretrain.presets import with_preset
from pretrain.shape import SIZE_NUMBERS, ModelShape, ModelSize, packaged_size_names, read_size

Kernel = Literal["reference", "fused"]
Precision = Literal["fp32", "bf16"]
# How the embeddings of genes become that of a sample; all is max + mean + median.
Pooling = Literal["mean", "max", "median", "all"]
# What the backward pass computes again instead of keeping: nothing; the widened hidden layers of feed-forwards and
# other two-layer perceptrons (a third of what is kept, for 6 % more products); or Performer layers but for their input.
Recompute = Literal["nothing", "hidden", "layers"]

T = TypeVar("T")
MAY_CHANGE_ON_RESUME = "may change on resume"
# Marks a setting of a run that may have another value when the run resumes: it changes nothing of what is learned from
# which profile.
MayChange = Annotated[T, MAY_CHANGE_ON_RESUME]


class ModelSettings(Settings):
    """Which model to train; numbers given here replace those of the named size."""

    size: str = Field(
        "tiny",
        description="tiny, 37M, 50M, 93M, 127M, 147M; 101M (family latest); one of a plugin's; or a .yaml file's path",
    )
    family: FamilyName | None = Field(
        None, description="family of published models whose formulas to use; default: the size's, or original"
    )
    dim: int | None = Field(None, description="hidden width D, instead of the size's")
    performer_layers: int | None = Field(None, description="Performer layers K in a block, instead of the size's")
    heads: int | None = Field(None, description="attention heads, instead of the size's")
    blocks: int | None = Field(None, description="blocks N, instead of the size's")
    features_per_head: int | None = Field(None, ge=1, description="random features, instead of the family's")
    graph_width: int | None = Field(None, ge=1, description="bottleneck around the graph convolution (family latest)")
    gene_identity: Literal["learned", "esm2"] = Field(
        "learned", description="a learned table, or a trainable table filled with the corpus's protein embeddings"
    )
    prior: Literal["none", "means", "ppca"] = Field(
        "none",
        description="what the model begins with and then corrects: nothing, gene means of the train split, or the "
        "corpus's linear prior (pretrain prior)",
    )
    attention_dropout: float = Field(0.05, ge=0, lt=1)
    feed_forward_dropout: float = Field(0.1, ge=0, lt=1)
    kernel: Kernel = Field("fused", description="how attention and graph product are computed")
    compile: bool = Field(
        False, description="fused kernel: compile elementwise parts; costs some 10 s and g++ at the start of a process"
    )
    recompute: Recompute = Field(
        "nothing", description="what backward computes again instead of keeping it: nothing, hidden (fused), layers"
    )
    redraw_every_steps: int = Field(
        1000,
        ge=0,
        description="optimizer steps between redraws of the random features; 0 keeps the first, as family latest does",
    )

    @model_validator(mode="before")
    @classmethod
    def _read_own_size(cls, given: Any) -> Any:
        """Take over the numbers of a size that is not the package's, so that they are part of the settings.

        Workers and later starts of a run then need neither the file nor the plugin, and another file under the same
        name is another setting.
        """
        if not isinstance(given, dict) or given.get("size", "tiny") in packaged_size_names():
            return given
        own = {name: number for name, number in given.items() if number is not None}
        return own if own.keys() >= set(SIZE_NUMBERS) else read_size(str(own["size"])).numbers() | own

    def shape(self, genes: int) -> ModelShape:
        """The shape over a vocabulary of ``genes``. Raises UserError for numbers that do not fit each other."""
        numbers = self.model_dump(include=set(ModelSize.model_fields), exclude_none=True)
        if self.size in packaged_size_names():
            numbers = read_size(self.size).numbers() | numbers
        kept = self.model_dump(include={"gene_identity", "attention_dropout", "feed_forward_dropout"})
        try:
            return ModelShape(genes=genes, **numbers, **kept)
        except ValidationError as error:
            problems = [issue["msg"].removeprefix("Value error, ") for issue in error.errors()]
            raise UserError(f"model: {'; '.join(problems)}", exit_code=2) from None


class BatchSettings(Settings):
    """Global batch = micro batch x accumulation x workers, whatever the number of workers."""

    global_profiles: int = Field(4096, ge=1, description="profiles in one optimizer step, over all workers")
    micro_profiles: int = Field(4, ge=1, description="most profiles in one forward pass of one worker")

    def accumulation(self, workers: int) -> int:
        """Forward passes of a worker in one optimizer step.

        Where the numbers do not divide, the last pass of some workers is filled up with rows of weight zero, so that
        the global batch stays what the settings say at any world size.
        """
        return -(-self.global_profiles // (self.micro_profiles * workers))


class MaskSettings(Settings):
    rate: float = Field(0.15, gt=0, lt=1, description="share of genes masked in each profile")
    highest_rate: float | None = Field(
        None, gt=0, lt=1, description="draw the share anew for each profile and epoch, between mask.rate and this"
    )

    @model_validator(mode="after")
    def _check(self) -> MaskSettings:
        if (self.highest_rate or self.rate) < self.rate:
            raise ValueError(f"mask.highest_rate {self.highest_rate} is under mask.rate {self.rate}")
        return self

    @property
    def validation_rate(self) -> float:
        """The share that is masked in validation: the mean of what training draws."""
        return (self.rate + (self.highest_rate or self.rate)) / 2


class OptimizerSettings(Settings):
    """AdamW with linear warm-up, as published; the decay after warm-up and the clipping are ours."""

    learning_rate: float = Field(1e-4, gt=0, description="peak")
    warmup_fraction: float = Field(0.05, ge=0, lt=1, description="share of all steps that warm up")
    decay: Literal["none", "linear", "cosine"] = Field("none", description="after warm-up")
    final_fraction: float = Field(0.1, ge=0, le=1, description="share of the peak that a decay ends at")
    weight_decay: float = Field(0.01, ge=0)
    beta1: float = Field(0.9, ge=0, lt=1)
    beta2: float = Field(0.999, ge=0, lt=1)
    epsilon: float = Field(1e-8, gt=0)
    max_gradient_norm: float = Field(1.0, ge=0, description="clip to this norm; 0 does not clip")

    def learning_rate_at(self, step: int, schedule_steps: int) -> float:
        """Learning rate of optimizer step ``step`` (from 0): a pure function, nothing to restore.

        ``schedule_steps``: the length of the schedule, which is the run's at its first start. In steps after it the
        rate stays what it was at its end.
        """
        warmup = math.ceil(self.warmup_fraction * schedule_steps)
        if step < warmup:
            return self.learning_rate * (step + 1) / warmup
        if self.decay == "none":
            return self.learning_rate
        progress = min(1.0, (step - warmup) / max(1, schedule_steps - warmup))
        share = 1 - progress if self.decay == "linear" else (1 + math.cos(math.pi * progress)) / 2
        return self.learning_rate * (self.final_fraction + (1 - self.final_fraction) * share)


class ZeroSettings(Settings):
    """What DeepSpeed ZeRO divides among the workers; no stage changes a result beyond rounding."""

    stage: int = Field(
        1,
        ge=1,
        le=3,
        description="1 shards optimizer states, 2 also averaged gradients, 3 also parameters, gathered in each pass",
    )


class WorkerSettings(Settings):
    """Ray Train workers: one process each, one GPU each where ``gpu`` is set."""

    count: int = Field(1, ge=1, description="data-parallel workers")
    min_count: int | None = Field(
        None,
        ge=1,
        description="resume with as few as this when machines are lost, and grow back to count when there are more; "
        "default: count",
    )
    resize_check_seconds: float = Field(60, ge=0, description="how often to look for machines to grow onto")
    gpu: bool = Field(False, description="one GPU per worker, NCCL and CUDA instead of CPU and gloo")
    cpus_each: float = Field(1, gt=0, description="logical CPUs that Ray reserves for each worker")
    threads_each: int = Field(0, ge=0, description="torch threads of a CPU worker; 0 shares the machine's cores")
    max_failures: int = Field(3, ge=-1, description="restarts of the worker group before the run fails; -1: no end")


class DataSettings(Settings):
    shuffle_window_profiles: int = Field(
        2048, ge=1, description="profiles shuffled together, after whole row groups were shuffled over the epoch"
    )
    prefetch_windows: int = Field(2, ge=1, description="shuffle windows that a worker reads ahead")
    damaged_shards: Literal["stop", "leave-out"] = Field(
        "stop", description="stop at a damaged shard, or train without its damaged row groups and say which"
    )
    outage_patience_seconds: float = Field(
        300, ge=0, description="how long reading waits for a store that is unavailable"
    )


class ValidationSettings(Settings):
    every_steps: int = Field(0, ge=0, description="validate every N optimizer steps; 0: at each epoch's end")
    max_profiles: int = Field(2048, ge=1, description="profiles of each validation split to use, from its start")


class CheckpointSettings(Settings):
    every_steps: int = Field(0, ge=0, description="checkpoint every N optimizer steps; 0: at each epoch's end")
    keep: int = Field(3, ge=1, description="newest checkpoints kept, beside the best by validation loss")


class TrackingSettings(Settings):
    """MLflow. The server's address comes from ``MLFLOW_TRACKING_URI``; without one nothing is sent."""

    experiment: str = Field("pretrain", description="MLflow experiment")
    parent_run: str | None = Field(None, description="id of the MLflow run under which this one is shown")
    system_metrics: bool = Field(True, description="log CPU, memory and GPU use of the first worker's machine")
    row_ids: bool = Field(False, description="row_ids of each step in metrics.jsonl: an audit, for small runs")


class RunSettings(ExtensibleSettings):
    """Pretrain a model on a corpus; started again with the same name and storage, the run resumes."""

    corpus: str = Field(description="corpus folder or s3:// address")
    storage: MayChange[str] = Field(description="folder or s3:// address that holds runs")
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$", description="name of the run")
    preset: MayChange[str | None] = Field(
        None, description="published recipe whose settings count where no other is given: latest"
    )
    epochs: MayChange[int] = Field(29, ge=1, description="passes over the train split")
    max_steps: MayChange[int | None] = Field(None, ge=1, description="end after this many optimizer steps, if earlier")
    seed: int = Field(0, ge=0, lt=2**31)
    precision: Precision = Field("fp32", description="bf16: bfloat16 autocast over fp32 parameters")
    deterministic: MayChange[bool] = Field(
        False, description="choose only algorithms that repeat to the bit on the same machines, or fail; slower on GPUs"
    )
    log_every_steps: MayChange[int] = Field(1, ge=1, description="optimizer steps between rows of metrics.jsonl")
    profile: MayChange[int] = Field(0, ge=0, description="write a Chrome trace of so many steps to the run's folder")
    model: ModelSettings = Field(ModelSettings(), description="the model")
    batch: BatchSettings = Field(BatchSettings(), description="batch sizes")
    mask: MaskSettings = Field(MaskSettings(), description="masking")
    optimizer: OptimizerSettings = Field(OptimizerSettings(), description="AdamW and its schedule")
    zero: MayChange[ZeroSettings] = Field(ZeroSettings(), description="DeepSpeed ZeRO")
    workers: MayChange[WorkerSettings] = Field(WorkerSettings(), description="Ray Train workers")
    data: MayChange[DataSettings] = Field(DataSettings(), description="reading the corpus")
    validation: MayChange[ValidationSettings] = Field(ValidationSettings(), description="validation")
    checkpoint: MayChange[CheckpointSettings] = Field(CheckpointSettings(), description="checkpoints")
    tracking: MayChange[TrackingSettings] = Field(TrackingSettings(), description="MLflow")

    @model_validator(mode="before")
    @classmethod
    def _take_preset(cls, given: Any) -> Any:
        return with_preset(given, given["preset"]) if isinstance(given, dict) and given.get("preset") else given

    @model_validator(mode="after")
    def _check(self) -> RunSettings:
        if (self.workers.min_count or 1) > self.workers.count:
            raise ValueError(f"workers.min_count {self.workers.min_count} is over workers.count {self.workers.count}")
        return self

    def require_effects(self) -> None:
        """Raise UserError where the user has given a setting that would do nothing.

        Asked of new runs alone: what an older one was begun with has to stay as it is.
        """
        if self.workers.min_count in (None, self.workers.count):
            where = "unless workers.min_count is below workers.count"
            refuse_without_effect(self.workers, ("resize_check_seconds",), where)
        if self.workers.gpu:
            refuse_without_effect(self.workers, ("threads_each",), "with workers.gpu")
        if self.optimizer.decay == "none":
            refuse_without_effect(self.optimizer, ("final_fraction",), "with optimizer.decay none")
        if self.model.kernel != "fused":
            # layers are recomputed with any kernel
            names = ("compile", "recompute") if self.model.recompute == "hidden" else ("compile",)
            refuse_without_effect(self.model, names, f"with model.kernel {self.model.kernel}")
        shape = self.model.shape(genes=1)
        if not shape.traits.redraws_features:
            refuse_without_effect(self.model, ("redraw_every_steps",), f"with model.family {shape.family}")

    @classmethod
    def may_change(cls, name: str) -> bool:
        """Whether a setting, or all of a group of settings, may have another value when a run resumes."""
        return MAY_CHANGE_ON_RESUME in cls.model_fields[name].metadata

    def changed_since(self, before: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
        """Settings that must not change and did, by dotted name, as (before, now).

        ``before``: what :meth:`resolved` returned when the run began; settings that did not exist then had their
        defaults.
        """
        defaults = type(self).model_construct().resolved()
        now = self.resolved()
        changed: dict[str, tuple[Any, Any]] = {}
        for name in now:
            if not self.may_change(name):
                changed |= _differences(name, _completed(before.get(name), defaults.get(name)), now[name])
        return changed


class PriorSettings(CommandSettings):
    """Fit the linear prior of a corpus, with which runs with --model.prior ppca begin, and write it there."""

    corpus: str = Field(description="corpus folder or s3:// address")
    ranks: list[int] = Field([50, 100, 200, 400], min_length=1, description="numbers of components to try")
    rectified: bool = Field(True, description="take zeros as censored and predict no less; for fits in memory")
    in_memory_profiles: int = Field(
        3000, ge=10, description="hold so many train profiles in memory at the most; more are streamed through Ray"
    )
    tuning_profiles: int = Field(200, ge=1, description="profiles that choose rank and noise, at the most")
    mask_rate: float = Field(0.15, gt=0, lt=1, description="share of genes masked in them")
    seed: int = Field(0, ge=0, lt=2**31, description="of these masks")

    @model_validator(mode="after")
    def _check(self) -> PriorSettings:
        if min(self.ranks) < 1:
            raise ValueError(f"ranks: {min(self.ranks)} is not a number of components")
        return self


class ImportReleasedSettings(CommandSettings):
    """Turn a released checkpoint into a model export."""

    release: Path | None = Field(None, description="release folder of family latest, instead of the four files")
    checkpoint: Path | None = Field(None, description="released state dict of the first family, .pt")
    genes: Path | None = Field(None, description="gene list as published: CSV with at least ensg_id, in model order")
    graph: Path | None = Field(None, description="edge index 2 x E, .pt; row 0 receives messages, row 1 sends them")
    graph_weight: Path | None = Field(None, description="E edge weights, .pt")
    output: str = Field(description="export folder or s3:// address")
    heads: int | None = Field(None, ge=1, description="attention heads; by default as the tensors' shapes say")
    overwrite: bool = Field(False, description="replace an export of another origin in the output folder")

    @model_validator(mode="after")
    def _check(self) -> ImportReleasedSettings:
        files = {
            "checkpoint": self.checkpoint,
            "genes": self.genes,
            "graph": self.graph,
            "graph_weight": self.graph_weight,
        }
        given = [name for name, value in (files | {"heads": self.heads}).items() if value is not None]
        absent = [name for name, value in files.items() if value is None]
        if self.release is not None and given:
            raise ValueError(f"release is a folder with all files: leave out {', '.join(given)}")
        if self.release is None and absent:
            raise ValueError(f"give release, or also {', '.join(absent)}")
        return self


class ExportSettings(CommandSettings):
    """Export a checkpoint of a run, or write an export as the files that its family's authors publish."""

    run: str | None = Field(None, description="run folder or s3:// address, STORAGE/NAME")
    checkpoint: str = Field("last", description="last, best (by validation loss), or a step")
    corpus: str | None = Field(None, description="the run's corpus, where it is not at its old address")
    model: str | None = Field(None, description="model export to convert, instead of --run")
    format: Literal["export", "released"] = Field(
        "export", description="export: a model export folder; released: the files of its family's published releases"
    )
    output: str = Field(description="folder to write to; for format export also s3://")
    overwrite: bool = Field(False, description="replace an export of another run, or released files, in the folder")

    @model_validator(mode="after")
    def _check(self) -> ExportSettings:
        if (self.run is None) == (self.model is None):
            raise ValueError("give either --run or --model")
        if self.model is not None:
            refuse_without_effect(self, ("checkpoint", "corpus"), "with --model")
        return self


class BenchSettings(ExtensibleSettings):
    """Measure training steps: time, memory, and share of what the machine can multiply."""

    size: str = Field("50M", description="sizes as for --model.size of pretrain run, with commas")
    kernel: str = Field("reference,fused", description="kernels to compare, with commas")
    precision: str = Field("fp32", description="fp32, bf16, with commas")
    micro_batch: str = Field("2", description="profiles in a step, with commas")
    genes: int = Field(20_010, ge=2, description="vocabulary; the published models have 20,010")
    edges_per_gene: int = Field(20, ge=0)
    prior_rank: int = Field(0, ge=0, description="components of a linear prior, rectified; 0: models without one")
    steps: int = Field(5, ge=1, description="timed steps of each case; the median counts")
    warmup_steps: int = Field(2, ge=0, description="steps of each case before the timed ones")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: a GPU if torch sees one")
    threads: int = Field(0, ge=0, description="torch threads; 0 takes one per core")
    compile: bool = Field(True, description="fused kernel: compile elementwise parts")
    recompute: Recompute = Field("hidden", description="fused kernel: what backward computes again")
    retain_memory: Literal["fused", "all", "none"] = Field(
        "fused", description="whose process keeps freed memory, as training workers with the fused kernel do"
    )

    def sizes(self) -> list[str]:
        sizes = self.size.split(",")
        for size in sizes:
            read_size(size)
        return sizes

    def kernels(self) -> list[str]:
        return _listed(self.kernel, get_args(Kernel), "kernel")

    def precisions(self) -> list[str]:
        return _listed(self.precision, get_args(Precision), "precision")

    def micro_batches(self) -> list[int]:
        parts = self.micro_batch.split(",")
        if not all(part.isdecimal() and int(part) for part in parts):
            raise ValueError(f"micro_batch is numbers from 1 on with commas, not {self.micro_batch!r}")
        return [int(part) for part in parts]

    @model_validator(mode="after")
    def _check(self) -> BenchSettings:
        self.sizes(), self.kernels(), self.precisions(), self.micro_batches()
        if "fused" not in self.kernels():
            refuse_without_effect(self, ("compile", "recompute"), f"with kernel {self.kernel}")
        return self


def _completed(given: Any, defaults: Any) -> Any:
    """``given``, with the defaults of what it lacks."""
    if isinstance(given, Mapping) and isinstance(defaults, Mapping):
        return {**defaults, **given}
    return defaults if given is None else given


def _differences(name: str, before: Any, now: Any) -> dict[str, tuple[Any, Any]]:
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        nested = [_differences(f"{name}.{key}", before.get(key), now[key]) for key in now]
        return {key: values for found in nested for key, values in found.items()}
    return {} if before == now else {name: (before, now)}


def _listed(text: str, valid: Sequence[str], name: str) -> list[str]:
    parts = text.split(",")
    unknown = [part for part in parts if part not in valid]
    if unknown:
        raise ValueError(f"unknown {name} {unknown[0]!r}; valid, with commas: {', '.join(valid)}")
    return parts
