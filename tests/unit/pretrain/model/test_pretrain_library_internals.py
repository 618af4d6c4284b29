"""Private names of torch and PyG: that they are there, do what they are used for, and are still needed."""

import platform
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch_geometric.nn import GCNConv

from dataprep.runtime import allocator
from pretrain.kernels import torch_internals
from pretrain.kernels.device import retain_freed_memory
from pretrain.model.layers import GraphConvolution


def test_marked_dimensions_are_compiled_once_and_others_stay_constants():
    def double(values):
        return values * 2

    compiled = torch.compile(double, backend="eager", fullgraph=True)
    counters = torch._dynamo.utils.counters

    def graphs_for(*lengths: int, mark: bool) -> int:
        torch._dynamo.reset()
        counters.clear()
        for length in lengths:
            values = torch.ones(length, 3)
            if mark:
                torch_internals.compile_for_any_length(values, 0)
            compiled(values)
        return counters["stats"]["unique_graphs"]

    assert graphs_for(7, 5, 4, mark=True) == 1
    assert graphs_for(7, 5, 4, mark=False) > 1, "no longer needed: torch.compile takes other lengths by itself"
    assert not hasattr(torch.compiler, "maybe_mark_dynamic"), "there is a public name now"


def test_a_processor_is_asked_for_bf16_by_a_private_name_only():
    flags = Path("/proc/cpuinfo").read_text()
    assert torch_internals.cpu_multiplies_bf16() == ("avx512_bf16" in flags or "amx_bf16" in flags)
    assert not hasattr(torch.cpu, "is_bf16_supported"), "there is a public name now"


def test_private_names_of_torch_are_used_behind_the_fence_only():
    root = Path(torch_internals.__file__).parents[2]
    files = [path for package in ("dataprep", "pretrain", "evaluation") for path in (root / package).rglob("*.py")]
    users = [path.name for path in files if re.search(r"\btorch(\.\w+)*\._[a-z]|\._version\b", path.read_text())]
    assert users == ["torch_internals.py"]


def test_changes_in_place_are_counted():
    weight = torch.nn.Parameter(torch.ones(2))
    before = torch_internals.change_count(weight)
    with torch.no_grad():
        weight.add_(1)
    assert torch_internals.change_count(weight) != before
    with torch.inference_mode():
        assert torch_internals.change_count(torch.ones(2)) == -1


def test_a_convolution_leaves_no_file_behind(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    class Convolution(GraphConvolution):
        """PyG generates code, in a file, for a class that it has not seen."""

    assert Convolution.propagate.__module__ != f"{__name__}_Convolution_propagate"
    layer = Convolution(4)
    assert layer.propagate.__module__ == f"{__name__}_Convolution_propagate"


def test_pyg_itself_still_leaves_a_file_behind(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    class Plain(GCNConv):
        """PyG generates code for a class that it has not seen."""

    Plain(4, 4)
    assert list(tmp_path.iterdir()), "no longer needed: PyG cleans up"


# ---- glibc ---------------------------------------------------------------------------------------------------------


def test_workers_get_the_malloc_settings_that_their_cluster_lacks(monkeypatch):
    for name in ("MALLOC_ARENA_MAX", "GLIBC_TUNABLES"):
        monkeypatch.delenv(name, raising=False)
    wanted = {"MALLOC_ARENA_MAX": "1", "GLIBC_TUNABLES": "glibc.malloc.tcache_count=0"}
    assert allocator.missing_malloc_settings() == wanted
    for name, value in wanted.items():
        monkeypatch.setenv(name, value)
    assert allocator.missing_malloc_settings() == {}


def test_tunables_of_the_users_own_stay():
    for own, both in (
        ("glibc.malloc.check=3", "glibc.malloc.check=3:glibc.malloc.tcache_count=0"),
        ("glibc.malloc.tcache_count=2", "glibc.malloc.tcache_count=2"),
    ):
        assert allocator.malloc_settings({"GLIBC_TUNABLES": own})["GLIBC_TUNABLES"] == both


def test_freed_memory_is_kept_where_tensors_are_the_process_s_own(monkeypatch):
    monkeypatch.setattr("pretrain.kernels.device.keep_freed_memory", lambda: True)
    assert retain_freed_memory(torch.device("cpu"))
    assert not retain_freed_memory(torch.device("cuda"))


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="not glibc")
def test_glibc_takes_the_settings():
    code = "from dataprep.runtime.allocator import keep_freed_memory; print(keep_freed_memory())"
    # in a process of its own: they last until its end
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "True\n"


def test_operations_on_tensors_without_data_are_seen_below_autograd():
    seen = []

    class Seen(torch_internals.OperationMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            seen.append((func.name(), torch_internals.changes_inputs(func)))
            return func(*args, **(kwargs or {}))

    with torch_internals.tensors_without_data():
        weight = torch.empty(10**6, 10**6, requires_grad=True)
        with Seen(), torch.autocast("cpu", torch.bfloat16):
            (weight @ weight).sum().backward()
        assert torch_internals.memory_of(weight) != torch_internals.memory_of(weight.grad)
        assert torch_internals.memory_of(weight) == torch_internals.memory_of(weight.T)
    assert ("aten::mm", False) in seen
    assert weight.grad.shape == weight.shape
    with pytest.raises(RuntimeError):
        torch.autocast("meta")  # no longer needed: meta tensors would do
