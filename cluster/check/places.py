"""The places of a cluster, an actor of Ray at each, and what they measure. No actor outlives its measurements."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError
from ray.util import get_node_ip_address
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster.check import host
from cluster.check.collectives import Meeting, Rates, free_address, rates
from cluster.check.contract import Check, Unmeasured, measured_here
from cluster.check.gpu import gpu_place
from cluster.config import CheckSettings
from dataprep.runtime.command_line import one_line

_ID_CHARACTERS = 8


@dataclass(frozen=True)
class Node:
    """A living node: what it is called here, its id in Ray, and what Ray may allocate on it."""

    name: str
    node_id: str
    cpus: float
    gpus: int


class Observer:
    """Measures at its place: a node, or one of its GPUs."""

    def measure(self, checks: Sequence[Check[Any]], settings: CheckSettings) -> dict[str, Any]:
        """Measurement of each check by its name, or why there is none."""
        return {check.name: measured_here(check, settings) for check in checks}

    def clock(self) -> float:
        return host.clock()

    def gpu(self) -> str | None:
        """The GPU that Ray gave to this actor, None if it gave none."""
        return next(iter(map(str, ray.get_gpu_ids())), None)

    def free_address(self) -> str:
        return free_address(get_node_ip_address())

    def rates(self, meeting: Meeting, rank: int, visible: Sequence[str], settings: CheckSettings) -> Rates:
        """Rates of all-reduce with the other places. ``visible`` are this node's GPUs, this actor's first."""
        if visible:
            # as in training: NCCL reaches a peer's memory only where it sees the peer
            os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(visible)
        return rates(meeting, rank, settings)


@dataclass(frozen=True)
class Place:
    """One observer, its name, and the node that it is on."""

    name: str
    node: str
    observer: Any


def living_nodes() -> list[Node]:
    """Nodes by address; those that share one, as several on one machine do, are told apart by their ids."""
    alive = sorted((node for node in ray.nodes() if node["Alive"]), key=lambda node: str(node["NodeManagerAddress"]))
    shared = Counter(node["NodeManagerAddress"] for node in alive)
    return [
        Node(
            address if shared[address] == 1 else f"{address} ({node['NodeID'][:_ID_CHARACTERS]})",
            node["NodeID"],
            node["Resources"].get("CPU", 0.0),
            int(node["Resources"].get("GPU", 0)),
        )
        for node in alive
        for address in (node["NodeManagerAddress"],)
    ]


@contextmanager
def observers_of_nodes(nodes: Sequence[Node]) -> Iterator[list[Place]]:
    """An observer on each node, ended afterwards."""
    with _ended([Place(node.name, node.name, _observer(node, 0)) for node in nodes]) as places:
        yield places


@contextmanager
def observers_of_devices(nodes: Sequence[Node]) -> Iterator[list[Place]]:
    """An observer for each GPU; in a cluster that has none, one on each node that takes work."""
    if any(node.gpus for node in nodes):
        places = [
            Place(gpu_place(node.name, index), node.name, _observer(node, 1))
            for node in nodes
            for index in range(node.gpus)
        ]
    else:
        places = [Place(node.name, node.name, _observer(node, 0)) for node in nodes if node.cpus]
    with _ended(places):
        yield places


def measured(
    places: Sequence[Place], checks: Sequence[Check[Any]], settings: CheckSettings
) -> dict[str, dict[str, Any]]:
    """By check and place, what was measured or why nothing was. All places measure at the same time."""
    answers = _answers({place.name: place.observer.measure.remote(checks, settings) for place in places}, settings)
    return {
        check.name: {
            place: answer if isinstance(answer, Unmeasured) else answer[check.name] for place, answer in answers.items()
        }
        for check in checks
    }


def clock_offsets(places: Sequence[Place], settings: CheckSettings) -> dict[str, float | Unmeasured]:
    """Seconds by which each place's clock is ahead of the driver's."""
    offsets: dict[str, float | Unmeasured] = {}
    for place in places:
        try:
            offsets[place.name] = host.clock_offset_seconds(partial(_clock_of, place, settings))
        except (RayError, GetTimeoutError) as error:
            offsets[place.name] = Unmeasured(_cause(error))
    return offsets


def rates_among(places: Sequence[Place], settings: CheckSettings) -> dict[str, Rates | Unmeasured]:
    """Rates of all-reduce among all places, by place. Where one is missing, there is none to measure with."""
    try:
        address = ray.get(places[0].observer.free_address.remote(), timeout=settings.timeout_seconds)
        gpus = ray.get([place.observer.gpu.remote() for place in places], timeout=settings.timeout_seconds)
    except (RayError, GetTimeoutError) as error:
        return {place.name: Unmeasured(_cause(error)) for place in places}
    meeting = Meeting(address, tuple(place.node for place in places))
    waiting = {}
    for rank, (place, own) in enumerate(zip(places, gpus, strict=True)):
        peers = [gpu for other, gpu in zip(places, gpus, strict=True) if other.node == place.node and gpu != own]
        visible = [own, *peers] if own is not None else []
        waiting[place.name] = place.observer.rates.remote(meeting, rank, visible, settings)
    return _answers(waiting, settings)


def _clock_of(place: Place, settings: CheckSettings) -> float:
    return float(ray.get(place.observer.clock.remote(), timeout=settings.timeout_seconds))


def _observer(node: Node, gpus: int) -> Any:
    strategy = NodeAffinitySchedulingStrategy(node.node_id, soft=False)
    actor: Any = ray.remote(Observer)
    # no CPUs, so that a node whose CPUs are in use can be looked at
    return actor.options(num_cpus=0, num_gpus=gpus, scheduling_strategy=strategy).remote()


@contextmanager
def _ended(places: list[Place]) -> Iterator[list[Place]]:
    try:
        yield places
    finally:
        for place in places:
            ray.kill(place.observer)


def _answers(waiting: Mapping[str, Any], settings: CheckSettings) -> dict[str, Any]:
    """The answer of each, or why there is none, once all have answered or the time is over."""
    if waiting:
        ray.wait(list(waiting.values()), num_returns=len(waiting), timeout=settings.timeout_seconds)
    answers: dict[str, Any] = {}
    for place, reference in waiting.items():
        try:
            answers[place] = ray.get(reference, timeout=0)
        except GetTimeoutError:
            answers[place] = Unmeasured(
                f"no answer within {settings.timeout_seconds:g} s; does another job hold this node or its GPUs?"
            )
        except RayError as error:
            answers[place] = Unmeasured(_cause(error))
    return answers


def _cause(error: Exception) -> str:
    """What went wrong at a place, without Ray's traceback around it."""
    cause = getattr(error, "cause", None)
    if isinstance(cause, Exception):
        return f"{type(cause).__name__}: {one_line(cause)}"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
