"""What a plan counts with: the data sheet of a kind of GPU, or what was measured of this machine's CPUs."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, replace

from dataprep.runtime.terminal import log
from pretrain.config import Kernel
from pretrain.planning.accelerators import CPU
from pretrain.planning.cpu.calibration import Calibration, calibrate
from pretrain.planning.cpu.rates import CpuRates
from pretrain.planning.cpu.retained import PROCESS_GIGABYTES, process_memory
from pretrain.planning.duration import pass_seconds
from pretrain.planning.memory import Memory, memory_of
from pretrain.planning.settings import Assumptions, HardwareSettings, PlanSettings, given
from pretrain.planning.trace import PassTrace, Work

# GB/s from a process to another one on the same machine, through gloo.
LOOPBACK_GIGABYTES = 1.5


@dataclass(frozen=True)
class Machine:
    """Figures and assumptions of the workers planned for; ``rates`` of CPUs."""

    hardware: HardwareSettings
    assume: Assumptions
    rates: CpuRates | None = None

    @property
    def device_type(self) -> str:
        return "cuda" if self.rates is None else "cpu"

    @property
    def room_bytes(self) -> float:
        """Bytes of a worker that tensors may take."""
        free = self.hardware.accelerator.memory - self.assume.reserved_gigabytes
        return free * 1e9 * (1 - self.assume.fragmentation)

    def pass_seconds(self, work: Iterable[Work]) -> float:
        """Seconds of a forward and a backward pass."""
        if self.rates is not None:
            return self.rates.pass_seconds(work)
        return pass_seconds(work, self.hardware.accelerator, self.assume)

    def memory(self, trace: PassTrace, stage: int, kernel: Kernel) -> Memory:
        """Bytes of a worker by part."""
        memory = memory_of(trace, stage, self.hardware.count)
        return memory if self.rates is None else process_memory(memory, kernel)

    def with_workers(self, count: int) -> Machine:
        """The same, with so many workers on one machine."""
        return replace(self, hardware=self.hardware.model_copy(update={"count": count, "per_node": count}))


def machine_of(settings: PlanSettings) -> Machine:
    """The workers that settings name; for CPUs a step is measured here."""
    return measured_machine(settings) if settings.hardware.on_cpu else Machine(settings.hardware, settings.assume)


def measured_machine(settings: PlanSettings) -> Machine:
    """This machine's CPUs, of which a step is measured now."""
    hardware, model = settings.hardware, settings.model
    here = min(hardware.count, hardware.per_node)
    threads = hardware.threads or max(1, (os.cpu_count() or 1) // here)
    log(f"measuring a step of a small model on {threads} of this machine's cores")
    family = model.shape(2).family
    rates = calibrate(Calibration(family, model.kernel, settings.precision, model.compile, threads))
    memory = hardware.memory or os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9
    narrow, wide = (1e-12 / max(1e-18, rates.product(narrow).per_flop) for narrow in (True, False))
    figures = {
        "gpu": CPU,
        "threads": threads,
        "bf16_tflops": narrow,
        "fp32_tflops": wide,
        "bandwidth": rates.optimizer_bandwidth / 1e12,
        "memory": memory / here,
        "link": hardware.link or LOOPBACK_GIGABYTES,
    }
    measured = {"product_share": 1.0, "bandwidth_share": 1.0, "launch_microseconds": 1e6 * rates.launch}
    held = {} if given(settings.assume, "reserved_gigabytes") else {"reserved_gigabytes": PROCESS_GIGABYTES}
    return Machine(
        hardware.model_copy(update=figures),
        settings.assume.model_copy(update=measured | held | {"fragmentation": 0.0}),
        rates,
    )
