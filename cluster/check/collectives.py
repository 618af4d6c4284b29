"""How fast the devices add their gradients up: all-reduce within each node, and over all nodes at once."""

from __future__ import annotations

import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from cluster.check.contract import Judgement, Unmeasured, Verdict, failed, not_applicable, ok, verdict
from cluster.check.gpu import is_gpu
from cluster.config import CheckSettings

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

_REPEATS = 3
WITHIN, BETWEEN = "all-reduce within nodes", "all-reduce between nodes"


@dataclass(frozen=True)
class Rates:
    """Bytes a second that a device moves; None where there is nobody to exchange with.

    By the usual count: an all-reduce of n bytes among k devices moves 2 n (k - 1) / k at each.
    """

    within: float | None
    between: float | None


@dataclass(frozen=True)
class Meeting:
    """Where devices meet: rank 0's address, and the node that each rank is on."""

    address: str
    node_of_rank: tuple[str, ...]


def free_address(host: str) -> str:
    """``host:port`` of this machine with a port that nobody has."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.bind((host, 0))
        port = probe.getsockname()[1]
    return f"[{host}]:{port}" if family == socket.AF_INET6 else f"{host}:{port}"


def rates(meeting: Meeting, rank: int, settings: CheckSettings) -> Rates:
    """Meet the other ranks and measure with them. All ranks have to call it; it raises where they do not meet in time.

    NCCL where there are GPUs, else gloo, as in training.
    """
    # takes seconds
    import torch
    import torch.distributed as dist

    on_gpu = torch.cuda.is_available()
    nodes = meeting.node_of_rank
    dist.init_process_group(
        "nccl" if on_gpu else "gloo",
        init_method=f"tcp://{meeting.address}",
        rank=rank,
        world_size=len(nodes),
        timeout=timedelta(seconds=settings.timeout_seconds),
    )
    values = torch.ones(settings.all_reduce_megabytes * 10**6 // 4, device="cuda" if on_gpu else "cpu")
    members = {node: [r for r, other in enumerate(nodes) if other == node] for node in dict.fromkeys(nodes)}
    within = None
    # every rank has to take part in the making of every group
    groups = {node: dist.new_group(ranks) for node, ranks in members.items()}
    if len(members[nodes[rank]]) > 1:
        within = _rate(values, len(members[nodes[rank]]), groups[nodes[rank]])
    dist.barrier()
    between = _rate(values, len(nodes), None) if len(members) > 1 else None
    dist.barrier()
    dist.destroy_process_group()
    return Rates(within, between)


def verdicts(found: Mapping[str, Rates | Unmeasured], settings: CheckSettings) -> list[Verdict]:
    """What is said of both, by device."""
    within = {place: rate if isinstance(rate, Unmeasured) else rate.within for place, rate in found.items()}
    between = {place: rate if isinstance(rate, Unmeasured) else rate.between for place, rate in found.items()}
    return [
        verdict(
            WITHIN,
            _judged(
                within,
                settings.min_all_reduce_within_gigabytes_per_second,
                "one device a node",
                "look at `nvidia-smi topo -m`, /dev/shm and NCCL_DEBUG=INFO: NCCL should use NVLink or PCIe peers",
            ),
        ),
        verdict(
            BETWEEN,
            _judged(
                between,
                settings.min_all_reduce_between_gigabytes_per_second,
                "one node",
                "open all ports between the nodes, put them close together, choose the fast interface "
                "(NCCL_SOCKET_IFNAME, GLOO_SOCKET_IFNAME); NCCL_DEBUG=INFO says what NCCL uses",
            ),
        ),
    ]


def _judged(
    rates_of: Mapping[str, float | Unmeasured | None], least_gigabytes: float, alone: str, advice: str
) -> dict[str, Judgement]:
    judgements = {}
    for place, rate in rates_of.items():
        if isinstance(rate, Unmeasured):
            judgements[place] = failed(rate.reason, advice)
        elif rate is None:
            judgements[place] = not_applicable(alone)
        # gloo's rate on CPUs is bound by their memory, and no training on them waits for it
        elif is_gpu(place) and rate < least_gigabytes * 1e9:
            judgements[place] = failed(f"{rate / 1e9:.2f} of {least_gigabytes:g} GB/s", advice)
        else:
            judgements[place] = ok(f"{rate / 1e9:.2f} GB/s", goodness=rate)
    return judgements


def _rate(values: object, devices: int, group: ProcessGroup | None) -> float:
    """Of the quickest of a few, after one that sets connections up."""
    # takes seconds
    import torch
    import torch.distributed as dist

    assert isinstance(values, torch.Tensor)
    seconds: list[float] = []
    for _ in range(_REPEATS + 1):
        started = time.perf_counter()
        dist.all_reduce(values, group=group)
        # fetching a value waits until it is there
        values[0].item()
        seconds.append(time.perf_counter() - started)
        values.fill_(1.0)
    return 2 * values.numel() * values.element_size() * (devices - 1) / devices / min(seconds[1:])
