"""A run that is killed leaves nothing for ever that the next one would wait for."""

import os
import subprocess
import sys
import time

import pytest
import ray
from ray.util.placement_group import placement_group
from running_jobs import wait_until

from pretrain.driver.coordinator import start_coordinator
from pretrain.driver.leftovers import remove_groups_of_dead_runs

# Ray Train's controller asks for a group in the moment between its driver's end and its own. Here the one that asks
# is made to live on, so that it does so each time.
KILLED_RUN = """
import threading
import time
import ray
from ray.util.placement_group import placement_group
from pretrain.driver.coordinator import start_coordinator

ray.init(log_to_driver=False, namespace="leftovers")
coordinator = start_coordinator()
ray.get(coordinator.stop_requested.remote())

@ray.remote(num_cpus=0)
class Late:
    def ask_in(self, seconds):
        threading.Timer(seconds, placement_group, [[{"CPU": 3}]]).start()

late = Late.options(lifetime="detached", name="late").remote()
ray.get(late.ask_in.remote(4))
print("asks soon", flush=True)
time.sleep(600)
"""


@pytest.fixture
def cluster(start_cluster):
    cluster = start_cluster(2, dashboard=True)
    ray.init(address=cluster.address, log_to_driver=False, logging_level="warning")
    yield cluster
    ray.shutdown()


def test_what_a_killed_run_holds_is_freed_and_what_a_living_one_holds_is_not(cluster):
    run = subprocess.Popen(
        [sys.executable, "-c", KILLED_RUN],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"RAY_ADDRESS": cluster.address},
    )
    try:
        coordinator = start_coordinator()
        own = placement_group([{"CPU": 3}])
        ray.get([own.ready(), coordinator.stop_requested.remote()])
        assert run.stdout.readline() == "asks soon\n"
    finally:
        run.kill()
        run.wait()
    # the head's CPU is all that neither of the two holds
    wait_until(lambda: ray.available_resources().get("CPU") == 1, 30, lambda: str(ray.available_resources()))
    time.sleep(5)
    assert ray.available_resources()["CPU"] == 1, "Ray itself has removed it: is this still needed?"
    assert remove_groups_of_dead_runs() == 1
    wait_until(lambda: ray.available_resources()["CPU"] == 4, 30, lambda: str(ray.available_resources()))
    assert remove_groups_of_dead_runs() == 0
    assert ray.get(own.ready(), timeout=10)
    # this job has lost its coordinator, as after the end of a run, and uses its group for something else
    ray.kill(coordinator)
    time.sleep(2)
    assert remove_groups_of_dead_runs() == 0
    assert ray.get(own.ready(), timeout=10)
