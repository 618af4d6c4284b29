"""What a run asks of Ray Train for its workers."""

import pytest

from pretrain.config import RunSettings
from pretrain.driver.run import worker_environment
from pretrain.training.job import collective_timeout_seconds


def settings(**changes) -> RunSettings:
    return RunSettings(corpus="c", storage="s", name="n", **changes)


@pytest.mark.parametrize(("patience", "seconds"), [(300, 1800), (600, 1800), (7200, 21600), (1e3 + 0.5, 3002)])
def test_collectives_outlast_a_store_that_a_rank_waits_for(patience, seconds):
    assert collective_timeout_seconds(settings(data={"outage_patience_seconds": patience})) == seconds


def test_gpu_workers_get_an_allocator_whose_segments_grow_unless_the_user_has_another(monkeypatch):
    for name in ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"):
        monkeypatch.delenv(name, raising=False)
    gpu = settings(workers={"gpu": True})
    assert worker_environment(gpu) == {"PYTORCH_ALLOC_CONF": "expandable_segments:True"}
    for name in ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"):
        with monkeypatch.context() as own:
            own.setenv(name, "max_split_size_mb:512")
            assert worker_environment(gpu) == {}


def test_cpu_workers_get_malloc_settings_unless_the_cluster_has_them(monkeypatch):
    for name in ("MALLOC_ARENA_MAX", "GLIBC_TUNABLES"):
        monkeypatch.delenv(name, raising=False)
    wanted = worker_environment(settings())
    assert set(wanted) == {"MALLOC_ARENA_MAX", "GLIBC_TUNABLES"}
    for name, value in wanted.items():
        monkeypatch.setenv(name, value)
    assert worker_environment(settings()) == {}
