"""``python -m cluster check`` on real nodes: all is well, and then each fault on the node that has it."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from running_jobs import RayCluster

from dataprep.runtime.storage import Folder

ROOT = Path(__file__).parents[2]
# the smallest step, and thresholds that a busy machine meets
SMALL = ("--size", "tiny", "--genes", "64", "--precision", "fp32", "--storage-test-megabytes", "1",
         "--min-storage-megabytes-per-second", "0", "--all-reduce-megabytes", "1",
         "--min-free-disk-gigabytes", "0.1", "--min-shared-memory-gigabytes", "0.01")  # fmt: skip

FULL_DISK = """
import psutil
usage = psutil.disk_usage
psutil.disk_usage = lambda path: usage(path)._replace(free=1000)
"""


@pytest.fixture
def nodes(start_cluster: Callable[..., RayCluster], mlflow_server, monkeypatch: pytest.MonkeyPatch) -> RayCluster:
    """A head and one node, which run the code of this checkout."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return start_cluster(1)


def check(cluster: RayCluster, folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command from ``folder``: Ray's workers look for code where their driver was started."""
    environment = os.environ | {"RAY_ADDRESS": cluster.address, "PYTHONPATH": str(ROOT)} | environment
    command = [sys.executable, "-m", "cluster", "check", "--json", *SMALL, *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


def rows_of(done: subprocess.CompletedProcess[str]) -> dict[str, dict[str, Any]]:
    assert done.stdout, done.stderr
    return {row["check"]: row for row in json.loads(done.stdout.splitlines()[-1])}


def failed_nodes(row: dict[str, Any]) -> set[str]:
    """Ids, as far as they are shown, of the nodes at which a check failed."""
    return {place.partition("(")[2][:8] for place, found in row["places"].items() if found["outcome"] == "failed"}


def test_a_sound_cluster_passes_and_each_planted_fault_is_found_where_it_is(nodes, s3_server, tmp_path: Path):
    storage = s3_server.prefix("check")
    sound = check(nodes, tmp_path, "--storage", storage, "--nodes", "2")

    rows = rows_of(sound)
    assert sound.returncode == 0, [row for row in rows.values() if row["outcome"] == "failed"]
    without_need = {name for name, row in rows.items() if row["outcome"] == "not applicable"}
    assert without_need == {"gpus", "torch", "all-reduce within nodes"}
    assert rows["all-reduce between nodes"]["value"].partition(" ")[2].startswith("GB/s")
    assert Folder(storage).files() == []

    other = nodes.add_node(env_vars={"PYTHONPATH": str(code_with_a_clock_set_forward(tmp_path / "other"))})
    faulty = nodes.add_node(
        env_vars={
            "PYTHONPATH": f"{another_torch_on_a_full_disk(tmp_path / 'faulty')}{os.pathsep}{ROOT}",
            "MLFLOW_TRACKING_URI": "http://127.0.0.1:9",
        }
    )
    done = check(nodes, tmp_path, "--storage", "s3://misspelt/runs", "--gpus", "1", "--nodes", "5", "--no-devices")

    rows = rows_of(done)
    assert done.returncode == 1
    found = {name: failed_nodes(row) for name, row in rows.items() if row["outcome"] == "failed"}
    everywhere = {place.partition("(")[2][:8] for place in rows["code"]["places"]}
    one, two = other.node_id[:8], faulty.node_id[:8]
    assert found == {
        "nodes": {""},
        "code": {one},
        "clock": {one},
        "versions": {two},
        "mlflow": {two},
        "disk": {two},
        "gpus": {""},
        "storage": everywhere,
    }
    assert len(everywhere) == 4
    assert "torch 9.9.9, not" in rows["versions"]["value"]
    assert "bucket does not exist" in rows["storage"]["value"]
    assert not [row["check"] for row in rows.values() if row["outcome"] == "failed" and not row["advice"]]

    without_token = check(nodes, tmp_path, RAY_AUTH_TOKEN="", HOME=str(tmp_path))
    assert without_token.returncode == 1
    assert "token" in without_token.stderr
    assert "Traceback" not in without_token.stderr


def code_with_a_clock_set_forward(folder: Path) -> Path:
    """A copy of this code, changed: other code, in which a node's clock is a minute ahead."""
    for package in ("cluster", "dataprep", "pretrain"):
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    changed = folder / "cluster" / "check" / "host.py"
    changed.write_text(changed.read_text().replace("return time.time()", "return time.time() + 60"))
    (folder / "dataprep" / "planted.py").write_text("")
    return folder


def another_torch_on_a_full_disk(folder: Path) -> Path:
    (folder / "torch-9.9.9.dist-info").mkdir(parents=True)
    (folder / "torch-9.9.9.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: torch\nVersion: 9.9.9\n")
    (folder / "sitecustomize.py").write_text(FULL_DISK)
    return folder
