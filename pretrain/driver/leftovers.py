"""What a killed run can leave in Ray: a placement group that nobody removes.

When a driver dies, Ray removes its placement groups and ends its actors. But a Ray Train controller that sees its
workers end just before itself asks for a new group for their successors, of a job that is over by then. Ray removes
that one never (seen with Ray 2.60), and the next run would wait for its CPUs and GPUs for ever.
"""

from __future__ import annotations

import time

from ray import PlacementGroupID
from ray.util.placement_group import PlacementGroup, remove_placement_group
from ray.util.state import list_actors, list_placement_groups
from ray.util.state.exception import RayStateApiException

# How long a controller may take to follow its driver.
_DYING_SECONDS = 5.0
_LIMIT = 10_000


def remove_groups_of_dead_runs() -> int:
    """Remove what runs hold whose drivers are gone; returns how many groups that were.

    A job is one of ours if it had a ``ProgressBoard``, an actor that lives as long as its driver. Without Ray's
    dashboard nobody can be asked about actors: then nothing is removed.
    """
    try:
        dead = _jobs("ProgressBoard", "DEAD")
        give_up_at = time.monotonic() + _DYING_SECONDS
        while (training := dead & _jobs("TrainController", "ALIVE")) and time.monotonic() < give_up_at:
            time.sleep(0.2)
        # a controller that lives on has lost its board alone: what it holds is in use
        orphaned = [group for group, job in _groups().items() if job in dead - training]
    except RayStateApiException:
        return 0
    for group in orphaned:
        remove_placement_group(PlacementGroup(PlacementGroupID.from_hex(group)))
    return len(orphaned)


def _jobs(actor: str, state: str) -> set[str]:
    """Jobs that have an actor of this class in this state."""
    found = list_actors(filters=[("class_name", "=", actor), ("state", "=", state)], limit=_LIMIT)
    return {actor.job_id for actor in found}


def _groups() -> dict[str, str]:
    """Placement groups that hold something or wait for it, with their jobs."""
    found = list_placement_groups(filters=[("state", "!=", "REMOVED")], limit=_LIMIT)
    return {group.placement_group_id: group.creator_job_id for group in found if not group.is_detached}
