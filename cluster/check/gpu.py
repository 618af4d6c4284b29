"""GPUs: those that a node has, what torch makes of each, and a product in bfloat16."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median

import pynvml
import ray

from cluster.check.contract import Check, Judgement, failed, not_applicable, ok
from cluster.config import CheckSettings

_SIDE = {"cpu": 512, "cuda": 8192}
_PRODUCTS = 5
# Of the largest value of a product of so many bf16 numbers, which have 8 bits: they are multiplied exactly, summed in
# fp32 and rounded once.
_TOLERANCE = 2.0**-7


@dataclass(frozen=True)
class Inventory:
    """GPUs that Ray counts on a node, and those that its driver names."""

    counted_by_ray: int
    kinds: tuple[str, ...]
    driver: str | None


@dataclass(frozen=True)
class TorchOnGpu:
    """What torch is on a device: NCCL's version and the GPU's name are None where it sees no GPU."""

    torch: str
    built_for: str | None
    gpu: str | None
    nccl: str | None


@dataclass(frozen=True)
class Product:
    """A product of two bf16 matrices: operations a second, and the largest error, in parts of the largest value."""

    on_gpu: bool
    flops: float
    error: float


def inventory(settings: CheckSettings) -> Inventory:
    """The GPUs of this node by Ray and by NVML, which sees them also where Ray hides them from a process."""
    own = ray.get_runtime_context().get_node_id()
    counted = next(node["Resources"].get("GPU", 0) for node in ray.nodes() if node["NodeID"] == own)
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return Inventory(int(counted), (), None)
    try:
        handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
        kinds = tuple(str(pynvml.nvmlDeviceGetName(handle)) for handle in handles)
        return Inventory(int(counted), kinds, str(pynvml.nvmlSystemGetDriverVersion()))
    finally:
        pynvml.nvmlShutdown()


def judge_inventories(
    found: Mapping[str, Inventory], driver: Inventory | None, settings: CheckSettings
) -> Mapping[str, Judgement]:
    total = sum(node.counted_by_ray for node in found.values())
    usual = Counter(node.driver for node in found.values() if node.counted_by_ray).most_common(1)
    judgements = {place: _of_node(node, usual[0][0] if usual else None) for place, node in found.items()}
    if settings.gpus is not None and total < settings.gpus:
        advice = "start the missing nodes; see on them whether `nvidia-smi` works and what `ray start` counts"
        judgements["cluster"] = failed(f"{total} of {settings.gpus} GPUs", advice)
    return judgements


def _of_node(node: Inventory, usual_driver: str | None) -> Judgement:
    if not node.counted_by_ray and not node.kinds:
        return not_applicable("no GPU")
    if node.counted_by_ray > len(node.kinds):
        advice = "install the driver and start the container with its GPUs (nvidia-container-toolkit), then Ray"
        return failed(f"Ray counts {node.counted_by_ray} GPUs, the driver {len(node.kinds)}", advice)
    if node.counted_by_ray < len(node.kinds):
        advice = "leave out `ray start --num-gpus` and CUDA_VISIBLE_DEVICES, unless you mean to keep GPUs back"
        return failed(f"Ray counts {node.counted_by_ray} of {len(node.kinds)} GPUs", advice)
    if node.driver != usual_driver:
        return failed(f"driver {node.driver}, not {usual_driver}", "use one image and one driver on all nodes")
    counts = Counter(node.kinds)
    kinds = ", ".join(f"{count} x {kind}" for kind, count in counts.items())
    return ok(f"{kinds}, driver {node.driver}", goodness=node.counted_by_ray)


def torch_on_gpu(settings: CheckSettings) -> TorchOnGpu:
    # takes seconds
    import torch

    sees_gpu = torch.cuda.is_available()
    return TorchOnGpu(
        torch.__version__,
        torch.version.cuda,
        torch.cuda.get_device_name() if sees_gpu else None,
        ".".join(map(str, torch.cuda.nccl.version())) if sees_gpu else None,
    )


def judge_torch(
    found: Mapping[str, TorchOnGpu], driver: TorchOnGpu | None, settings: CheckSettings
) -> Mapping[str, Judgement]:
    """For devices that are GPUs, which are named so; a worker on CPUs has no need of CUDA."""
    usual = Counter((device.torch, device.nccl) for device in found.values() if device.gpu).most_common(1)
    return {place: _torch_of(place, device, usual[0][0] if usual else None) for place, device in found.items()}


def _torch_of(place: str, device: TorchOnGpu, usual: tuple[str, str | None] | None) -> Judgement:
    if not is_gpu(place):
        return not_applicable(f"torch {device.torch}, on CPUs")
    if device.gpu is None:
        build = "a CPU build" if device.built_for is None else f"built for CUDA {device.built_for}"
        return failed(
            f"torch {device.torch} ({build}) sees no GPU",
            "install torch's build for CUDA; a driver older than that CUDA hides the GPU, too",
        )
    value = f"torch {device.torch}, NCCL {device.nccl}"
    if (device.torch, device.nccl) != usual:
        return failed(value, "use one image: workers with different NCCL do not understand each other")
    return ok(value)


def bf16_product(settings: CheckSettings) -> Product:
    """Multiply two square bf16 matrices, time it and compare a few rows with fp32."""
    # takes seconds
    import torch

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    side = _SIDE[device.type]
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(side, side, generator=generator).to(device, torch.bfloat16) for _ in range(2))
    times = []
    for _ in range(_PRODUCTS):
        started = time.perf_counter()
        product = left @ right
        # fetching a value waits until it is there
        product[0, 0].item()
        times.append(time.perf_counter() - started)
    exact = left[:8].cpu().float() @ right.cpu().float()
    error = (product[:8].cpu().float() - exact).abs().max() / exact.abs().max()
    # the first one also looks for kernels
    return Product(device.type == "cuda", 2 * side**3 / median(times[1:]), float(error))


def judge_products(
    found: Mapping[str, Product], driver: Product | None, settings: CheckSettings
) -> Mapping[str, Judgement]:
    usual = median([product.flops for product in found.values()] or [0.0])
    return {place: _of_product(product, usual, settings) for place, product in found.items()}


def _of_product(product: Product, usual: float, settings: CheckSettings) -> Judgement:
    if not product.error <= _TOLERANCE:
        return failed(f"wrong by {product.error:.1%}", "take this machine out and have its GPU tested (`dcgmi diag`)")
    value = f"{product.flops / 1e12:.2f} TFLOP/s"
    # CPUs are shared with others, and nobody waits for them to be equal
    if product.on_gpu and product.flops < settings.min_share_of_median_gpu * usual:
        return failed(
            f"{value}, the median is {usual / 1e12:.2f}",
            "see whether it is hot, throttled or in use (`nvidia-smi -q -d PERFORMANCE`): all wait for the slowest",
        )
    return ok(value, goodness=product.flops)


def gpu_place(node: str, index: int) -> str:
    return f"{node} GPU {index}"


def is_gpu(place: str) -> bool:
    """Whether a place, named by :func:`gpu_place` or by its node, is a GPU."""
    return " GPU " in place


GPUS = Check("gpus", inventory, judge_inventories, "see whether `nvidia-smi` works on this node")
TORCH = Check("torch", torch_on_gpu, judge_torch, "see whether `python -c 'import torch'` works on this node")
PRODUCT = Check("bf16 product", bf16_product, judge_products, "see whether torch can compute on this device")
