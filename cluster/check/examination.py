"""All checks of a cluster in turn: what is measured where, and in which order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cluster.check import collectives, host
from cluster.check.code import CODE, VERSIONS
from cluster.check.contract import (
    Check,
    Unmeasured,
    Verdict,
    failed,
    measured_here,
    not_applicable,
    verdict,
    verdict_on,
)
from cluster.check.contract import ok as is_ok
from cluster.check.gpu import GPUS, PRODUCT, TORCH
from cluster.check.places import (
    Node,
    clock_offsets,
    living_nodes,
    measured,
    observers_of_devices,
    observers_of_nodes,
    rates_among,
)
from cluster.check.step import STEP
from cluster.check.storage import no_trial, trial
from cluster.check.tracking import MLFLOW
from cluster.config import CheckSettings
from dataprep.runtime.ray_session import connected
from dataprep.runtime.terminal import log

_OF_NODES: tuple[Check[Any], ...] = (host.TOKEN, CODE, VERSIONS, GPUS, MLFLOW, host.SHARED_MEMORY, host.DISK)
_OF_DEVICES: tuple[Check[Any], ...] = (TORCH, PRODUCT, STEP)


def examined(settings: CheckSettings) -> list[Verdict]:
    """What is found of the cluster of ``RAY_ADDRESS``, else of this machine. Nothing is left behind.

    Raises :class:`UserError` where no cluster answers.
    """
    with connected():
        nodes = living_nodes()
        return [_count(nodes, settings), *_of_nodes(nodes, settings), *_of_devices(nodes, settings)]


def _count(nodes: Sequence[Node], settings: CheckSettings) -> Verdict:
    wanted = settings.nodes
    if wanted is None or len(nodes) >= wanted:
        return verdict("nodes", {"cluster": is_ok(f"{len(nodes)}")})
    advice = "see the missing ones' logs; they need the head's address, its token and all ports between them open"
    return verdict("nodes", {"cluster": failed(f"{len(nodes)} of {wanted}", advice)})


def _of_nodes(nodes: Sequence[Node], settings: CheckSettings) -> Iterator[Verdict]:
    log(f"looking at {len(nodes)} nodes")
    with trial(settings) as begun, observers_of_nodes(nodes) as places:
        checks = _OF_NODES if begun is None else (*_OF_NODES, begun.check)
        for judged in _judged(checks, measured(places, checks, settings), settings):
            yield judged if begun is None or judged.check != begun.check.name else begun.seen(judged)
        if begun is None:
            yield no_trial()
        yield host.clock_verdict(clock_offsets(places, settings), settings)


def _of_devices(nodes: Sequence[Node], settings: CheckSettings) -> Iterator[Verdict]:
    if not settings.devices:
        left_out = {"cluster": not_applicable("--no-devices")}
        names = [*(check.name for check in _OF_DEVICES), collectives.WITHIN, collectives.BETWEEN]
        yield from (verdict(name, left_out) for name in names)
        return
    with observers_of_devices(nodes) as places:
        log(f"a training step of size {settings.size} on {len(places)} devices")
        yield from _judged(_OF_DEVICES, measured(places, _OF_DEVICES, settings), settings)
    # by processes that have not used their GPU yet, since they are to see those of their node
    with observers_of_devices(nodes) as places:
        yield from collectives.verdicts(rates_among(places, settings), settings)


def _judged(
    checks: Sequence[Check[Any]], found: Mapping[str, Mapping[str, Any | Unmeasured]], settings: CheckSettings
) -> Iterator[Verdict]:
    for check in checks:
        driver = measured_here(check, settings) if check.compares_with_driver else None
        yield verdict_on(check, found[check.name], driver, settings)
