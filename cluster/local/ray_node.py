"""Further nodes of the embedded Ray, on the same machine, so that the loss of a node can be tried."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from cluster.local import processes
from cluster.local.ray_head import RayHead, node_environment
from cluster.local.service import LOOPBACK, Place, get
from cluster.local.state import State, StateFolder
from dataprep.runtime.ray_internals import run_node

FIRST = 2  # the head is the first node
_CODE = Path(__file__).parents[2]
_NAME = re.compile(RayHead.name + r"-(\d+)")


class RayNode:
    """A node beside the head, with as many CPUs: a raylet and its workers."""

    folder = RayHead.folder

    def __init__(self, number: int) -> None:
        self.number = number
        self.name = f"{RayHead.name}-{number}"
        self._agent = f"ray_agent_{number}"
        self.ports: Mapping[str, int | None] = {self._agent: None}

    def prepare(self, place: Place) -> list[str]:
        options = {
            "head": f"{LOOPBACK}:{place.ports['ray']}",
            "name": self.name,
            "cpus": place.settings.cpus,
            "object_store_bytes": place.settings.object_store_megabytes * 2**20,
            "agent_port": place.ports[self._agent],
        }
        # not by PYTHONPATH, which jobs on the node would inherit
        path = f"import sys; sys.path.insert(0, {str(_CODE)!r})"
        return [sys.executable, "-c", f"{path}; from {run_node.__module__} import run_node; run_node(**{options!r})"]

    def environment(self, place: Place) -> dict[str, str]:
        return node_environment(place)

    def answers(self, place: Place) -> bool:
        content = get(f"{place.address('dashboard')}/nodes?view=summary", f"Bearer {place.credentials.ray_token}")
        return content is not None and is_alive(self.name, content)

    def clean(self, folder: StateFolder, ports: Mapping[str, int]) -> None:
        return


def is_alive(name: str, summary: bytes) -> bool:
    """Whether the dashboard's summary of nodes has a living one of this name; lost ones of that name stay in it."""
    raylets = [node["raylet"] for node in json.loads(summary).get("data", {}).get("summary", [])]
    return any(raylet.get("nodeName") == name and raylet.get("state") == "ALIVE" for raylet in raylets)


def recorded_nodes(state: State) -> list[int]:
    """Numbers of the nodes beside the head that were started and not ended."""
    return _numbers(state.processes)


def known_nodes(folder: StateFolder, state: State) -> list[int]:
    """Those, and the ones that an interrupted `up` or a damaged state does not name, by the marks of what runs."""
    prefix = folder.mark("")
    marks = (mark.removeprefix(prefix) for mark in processes.marks() if mark.startswith(prefix))
    return sorted({*recorded_nodes(state), *_numbers(marks)})


def _numbers(names: Iterable[str]) -> list[int]:
    return sorted(int(match[1]) for name in names if (match := _NAME.fullmatch(name)))
