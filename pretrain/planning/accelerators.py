"""GPUs as their data sheets have them: assumptions of a plan, none of them measured here."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Accelerator:
    """Data-sheet figures: dense TFLOP/s in bf16 and in fp32 without TF32, TB/s and GB of memory, GB/s to neighbours.

    The last is one direction of NVLink, or of PCIe 4.0 x16 where there is none.
    """

    name: str
    bf16_tflops: float
    fp32_tflops: float
    bandwidth: float
    memory: float
    link: float


# Planned for by figures that are measured on this machine (pretrain.planning.cpu).
CPU = "CPU"
# By the names that settings have for them. All multiply bfloat16.
ACCELERATORS = {
    "A10": Accelerator("A10", 125, 31.2, 0.6, 24, 32),
    "L4": Accelerator("L4", 121, 30.3, 0.3, 24, 32),
    "L40S": Accelerator("L40S", 362, 91.6, 0.864, 48, 32),
    "A100-40GB": Accelerator("A100 40GB SXM", 312, 19.5, 1.555, 40, 300),
    "A100": Accelerator("A100 80GB SXM", 312, 19.5, 2.039, 80, 300),
    "A800": Accelerator("A800 80GB SXM", 312, 19.5, 2.039, 80, 200),
    "H100": Accelerator("H100 80GB SXM", 989, 67, 3.35, 80, 450),
    "H200": Accelerator("H200 141GB SXM", 989, 67, 4.8, 141, 450),
}
