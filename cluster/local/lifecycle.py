"""Bring the embedded services up, report on them, and end them."""

from __future__ import annotations

import fcntl
import json
import os
import shlex
import shutil
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from cluster.config import DownSettings, StatusSettings, UpSettings
from cluster.local import processes
from cluster.local.object_store import ObjectStore
from cluster.local.ray_head import RayHead
from cluster.local.ray_node import FIRST, RayNode, known_nodes, recorded_nodes
from cluster.local.service import FOREIGN_VARIABLES, LOOPBACK, Place, Service, job_environment
from cluster.local.state import State, StateFolder, shell_lines
from cluster.local.tracking_server import Tracking
from dataprep.runtime.command_line import UserError
from dataprep.runtime.terminal import log, write_result

SERVICES: tuple[Service, ...] = (ObjectStore(), Tracking(), RayHead())
_POLL_SECONDS = 0.25
_LOG_LINES = 15
# Ray's head gives itself 30 seconds to start, which a machine that is busy with something else can exceed.
_ATTEMPTS = 2


def up(settings: UpSettings, services: Sequence[Service] = SERVICES) -> dict[str, Any]:
    """Start what does not run, wait until all of it answers, print the addresses and return them.

    Safe to repeat: what runs is left alone, with the settings it was started with. If it is interrupted, what was
    started is on record, and a second `up` or a `down` continues from there. Further Ray nodes are started once the
    head answers; fewer than run are left as they are.
    """
    folder = StateFolder.at(settings.state)
    with _one_line_for_file_errors(folder):
        is_earlier = folder.exists and folder.is_unmarked_state
        folder.make()
        with folder.locked(), ExitStack() as starting:
            state = folder.read()
            nodes = _nodes_to_be(settings, state)
            services = [*services, *nodes]
            fresh = _fresh(services, folder, state)
            running = [state.processes[service.name] for service in services if service not in fresh]
            if any(process.is_of_earlier_version for process in running) or (is_earlier and running):
                log("what runs is of an earlier version, and other users can reach it: `down`, then `up` again")
            for service in reversed(fresh):
                stop(service, folder, state)
            if fresh:
                starting.enter_context(_only_one_starting(settings.timeout_seconds))
            state = _with_ports(state, folder, [*SERVICES, *nodes], fresh)
            folder.write(state)
            place = Place(folder, state.ports, folder.credentials(), settings)
            folder.write_private(folder.environment_file.name, shell_lines(job_environment(place), FOREIGN_VARIABLES))
            # nodes would give up before the head is ready
            for group in ([service for service in services if service not in nodes], nodes):
                _start_group(group, fresh, place, state)
    addresses = {service.name: _address(service, state) for service in services}
    if not settings.json_line:
        for name, address in addresses.items():
            write_result(f"{name:<7} {address}")
    environment_file = shlex.quote(str(folder.environment_file))
    log(f"settings for your shell: . {environment_file}")
    if Tracking.name in addresses:
        variables = "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
        log(f"MLflow asks browsers for {variables}, which are in {environment_file}")
    return addresses


def down(settings: DownSettings) -> dict[str, Any]:
    """End every process of the services, jobs included, and return how many there were. Safe to repeat."""
    folder = StateFolder.at(settings.state)
    with _one_line_for_file_errors(folder), ExitStack() as stack:
        folder.require_ours()
        # an empty folder is not a state, and stays empty
        is_state = folder.exists and folder.is_ours
        if is_state:
            stack.enter_context(folder.locked())
        state = _state_or_none(folder)
        nodes = [RayNode(number) for number in known_nodes(folder, state)]
        if settings.node is not None:
            return {"ended": _lose(settings.node, nodes, folder, state)}
        ended = 0
        # the object store last, so that what others still have to write finds it
        for service in reversed([*SERVICES, *nodes]):
            ended += stop(service, folder, state, settings.grace_seconds)
        if is_state and settings.delete_data:
            folder.delete()
        elif is_state:
            folder.delete_partial_files()
            folder.write(State(ports=state.ports))
    log(f"ended {ended} processes" if ended else "nothing was running")
    return {"ended": ended}


def status(settings: StatusSettings) -> list[dict[str, Any]]:
    """Print how the services are. Raises :class:`UserError` if one that was started does not answer."""
    folder = StateFolder.at(settings.state)
    with _one_line_for_file_errors(folder):
        state = folder.read() if folder.exists and folder.is_ours else State()
        if not state.processes:
            raise UserError(f"no services were started in {folder.path}; `python -m cluster up` does it")
        place = Place(folder, state.ports, folder.credentials(), UpSettings(state=folder.path))
        services: list[Service] = [*SERVICES, *(RayNode(number) for number in recorded_nodes(state))]
        rows = [_row(service, place, state) for service in services if service.name in state.processes]
    silent = [row["service"] for row in rows if not row["answers"]]
    if not settings.json_line:
        Console().print(_table(rows))
    elif silent:
        write_result(json.dumps(rows))
    if silent:
        raise UserError(
            f"not answering, though started earlier: {', '.join(silent)}; `python -m cluster up` starts what is missing"
        )
    return rows


def stop(service: Service, folder: StateFolder, state: State, grace_seconds: float = 5.0) -> int:
    """End all processes of one service and return how many there were."""
    mark, root = folder.mark(service.name), state.processes.get(service.name)
    temporary = processes.multiprocessing_folders(processes.belonging_to(mark, root))
    ended = processes.end(lambda: processes.belonging_to(mark, root), grace_seconds)
    for path in temporary:
        shutil.rmtree(path, ignore_errors=True)
    service.clean(folder, state.ports)
    return ended


def _nodes_to_be(settings: UpSettings, state: State) -> list[Service]:
    """Nodes beside the head: those that were started, and those that are asked for."""
    recorded, asked = recorded_nodes(state), range(FIRST, settings.nodes + 1)
    if more := [number for number in recorded if number > settings.nodes and "nodes" in settings.model_fields_set]:
        log(f"more than {settings.nodes} nodes were started: `down --node {more[-1]}` ends one of them")
    return [RayNode(number) for number in sorted({*recorded, *asked})]


def _fresh(services: Sequence[Service], folder: StateFolder, state: State) -> list[Service]:
    """What has to be started: what does not run, and all nodes of a head that does not."""
    dead = [service for service in services if not _runs(service, folder, state)]
    without_head = any(service.name == RayHead.name for service in dead)
    return [service for service in services if service in dead or (without_head and isinstance(service, RayNode))]


def _lose(number: int, nodes: Sequence[RayNode], folder: StateFolder, state: State) -> int:
    """End one node and forget it. Returns the number of its processes; raises UserError where it does not run."""
    node = next((node for node in nodes if node.number == number), None)
    if node is None:
        others = ", ".join(str(node.number) for node in nodes) or "none beside the head"
        raise UserError(f"node {number} does not run in {folder.path} (running: {others}); `up --nodes` starts some")
    ended = stop(node, folder, state, grace_seconds=0.0)
    state.processes.pop(node.name, None)
    if folder.exists:
        folder.write(state)
    log(f"ended {ended} processes of node {number}")
    return ended


@contextmanager
def _only_one_starting(patience_seconds: float) -> Iterator[None]:
    """Keep every other `up` of this machine from choosing ports that are chosen here and not yet listened on.

    The lock is on the folder of temporary files itself, which every user can open, so that no file is left. Whoever
    holds it for longer than our patience is passed by.
    """
    lock = os.open("/tmp", os.O_RDONLY)  # noqa: S108
    try:
        give_up_at = time.monotonic() + patience_seconds
        while not _is_locked(lock) and time.monotonic() < give_up_at:
            time.sleep(_POLL_SECONDS)
        yield
    finally:
        os.close(lock)


def _is_locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _start_group(group: Sequence[Service], fresh: Sequence[Service], place: Place, state: State) -> None:
    """Start those of the group that do not run, at once, and wait for all of it."""
    began = time.monotonic()
    for service in group:
        if service in fresh:
            _start(service, place, state)
    for service in group:
        _wait_for(service, place, state)
        how = f"started in {time.monotonic() - began:.1f} s" if service in fresh else "already running"
        log(f"{service.name}: {how}")


def _start(service: Service, place: Place, state: State) -> None:
    home = place.folder.path / service.folder
    home.mkdir(mode=0o700, exist_ok=True)
    command = service.prepare(place)
    started = processes.start(
        command, place.folder.mark(service.name), service.environment(place), home, place.folder.log(service.name)
    )
    state.processes[service.name] = started
    # on record at once: an interruption from here on leaves nothing behind that `down` would not know
    place.folder.write(state)


def _wait_for(service: Service, place: Place, state: State) -> None:
    """Return when the service answers. Raises :class:`UserError` with the end of its log if it does not."""
    log_file = place.folder.log(service.name)
    give_up_at = time.monotonic() + place.settings.timeout_seconds
    attempts = 1
    while not service.answers(place):
        if time.monotonic() > give_up_at:
            raise UserError(
                f"{service.name} does not answer at {_address(service, state)} after "
                f"{place.settings.timeout_seconds:.0f} s. {_end_of(log_file)}"
            )
        if not _runs(service, place.folder, state):
            if attempts == _ATTEMPTS:
                raise UserError(f"{service.name} ended while it was starting. {_end_of(log_file)}")
            attempts += 1
            stop(service, place.folder, state)
            _start(service, place, state)
        time.sleep(_POLL_SECONDS)


def _end_of(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines()[-_LOG_LINES:] if log.exists() else []
    return "\n  ".join((f"The end of {log}:", *lines))


def _with_ports(state: State, folder: StateFolder, services: Sequence[Service], fresh: Sequence[Service]) -> State:
    """The state with ports for the services to be started: the ones they had, else the usual ones, else free ones.

    Raises :class:`UserError` where a service would have to move while others that know its address run: a service
    knows those before it in ``services``.
    """
    ports = dict(state.ports)
    with ExitStack() as reserved:
        for position, service in enumerate(services):
            is_known = any(_runs(other, folder, state) for other in services[position + 1 :])
            for name, usual in service.ports.items():
                if name in ports and service not in fresh:
                    continue
                port = _reserve((ports.get(name), usual, 0), reserved)
                if is_known and name == _main_port(service) and ports.get(name, port) != port:
                    raise UserError(
                        f"port {ports[name]} of {service.name} was taken by another program, and the services that "
                        f"run know it under that address; end that program, or `down` and `up` again"
                    )
                ports[name] = port
    return State(ports, state.processes)


def _reserve(wishes: Sequence[int | None], reserved: ExitStack) -> int:
    """The first port of the wishes that is free (0 is any), kept from being chosen again while ``reserved`` is open."""
    for wish in wishes:
        if wish is None:
            continue
        candidate = reserved.enter_context(socket.socket())
        candidate.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            candidate.bind((LOOPBACK, wish))
            candidate.listen()
        except OSError:
            continue
        return int(candidate.getsockname()[1])
    raise UserError("no free port on 127.0.0.1")


def _runs(service: Service, folder: StateFolder, state: State) -> bool:
    return processes.find(state.processes.get(service.name), folder.mark(service.name)) is not None


def _state_or_none(folder: StateFolder) -> State:
    try:
        return folder.read()
    except UserError:
        # the marks of the processes are enough to find them
        return State()


def _row(service: Service, place: Place, state: State) -> dict[str, Any]:
    return {
        "service": service.name,
        "address": _address(service, state),
        "pid": state.processes[service.name].pid,
        "answers": _runs(service, place.folder, state) and service.answers(place),
    }


def _table(rows: Sequence[dict[str, Any]]) -> Table:
    table = Table("service", "address", "pid", "answers", box=None)
    for row in rows:
        table.add_row(row["service"], row["address"], str(row["pid"]), "yes" if row["answers"] else "no")
    return table


def _main_port(service: Service) -> str:
    return next(iter(service.ports))


def _address(service: Service, state: State) -> str:
    return f"http://{LOOPBACK}:{state.ports[_main_port(service)]}"


@contextmanager
def _one_line_for_file_errors(folder: StateFolder) -> Iterator[None]:
    """A full disk, missing permissions and the like as one line."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{error.filename or folder.path}: {error.strerror or error}") from None
