"""What a killed run can leave in Ray: a placement group that nobody removes.

When a driver dies, Ray removes its placement groups and ends its actors. But a Ray Train controller that sees its
workers end just before itself asks for a new group for their successors, of a job that is over by then. Ray removes
that one never (seen with Ray 2.60), and the next run would wait for its CPUs and GPUs for ever.
"""

from __future__ import annotations

import time

from ray import PlacementGroupID
from ray.util.placement_group import PlacementGroup, remove_placement_group
from ray.util.state import list_actors, list_jobs, list_placement_groups
from ray.util.state.exception import RayStateApiException

from pretrain.driver.coordinator import NAME_PREFIX

# How long a controller may take to follow its driver.
_DYING_SECONDS = 5.0
_LIMIT = 10_000
_OVER = ("SUCCEEDED", "FAILED", "STOPPED")


def remove_groups_of_dead_runs() -> int:
    """Remove what runs of this project hold whose jobs are over; returns how many groups that were.

    A job is a run of this project if it had a coordinator, by its name, and over if Ray says so of the job itself: one
    that lives may have lost its coordinator and use its groups for something else. Without Ray's dashboard nobody can
    be asked: then nothing is removed.
    """
    try:
        over = _jobs_of_runs() & {job.job_id for job in list_jobs(limit=_LIMIT) if job.status in _OVER}
        give_up_at = time.monotonic() + _DYING_SECONDS
        while (training := over & _jobs_that_train()) and time.monotonic() < give_up_at:
            time.sleep(0.2)
        orphaned = [group for group, job in _groups().items() if job in over - training]
    except RayStateApiException:
        return 0
    for group in orphaned:
        remove_placement_group(PlacementGroup(PlacementGroupID.from_hex(group)))
    return len(orphaned)


def _jobs_of_runs() -> set[str]:
    found = list_actors(filters=[("class_name", "=", "RunCoordinator")], limit=_LIMIT)
    return {actor.job_id for actor in found if (actor.name or "").startswith(NAME_PREFIX)}


def _jobs_that_train() -> set[str]:
    alive = list_actors(filters=[("class_name", "=", "TrainController"), ("state", "=", "ALIVE")], limit=_LIMIT)
    return {actor.job_id for actor in alive}


def _groups() -> dict[str, str]:
    """Placement groups that hold something or wait for it, with their jobs."""
    found = list_placement_groups(filters=[("state", "!=", "REMOVED")], limit=_LIMIT)
    return {group.placement_group_id: group.creator_job_id for group in found if not group.is_detached}
