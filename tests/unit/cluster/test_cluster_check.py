"""What each check says of what was measured; the measuring itself is in tests/integration/cluster."""

import json

import pytest
from rich.console import Console

from cluster.__main__ import run
from cluster.check import command, host
from cluster.check.code import CODE, VERSIONS
from cluster.check.collectives import Rates, verdicts
from cluster.check.contract import Unmeasured, Verdict, failed, not_applicable, ok, verdict, verdict_on
from cluster.check.gpu import GPUS, PRODUCT, TORCH, Inventory, Product, TorchOnGpu, gpu_place
from cluster.check.host import DISK, SHARED_MEMORY, TOKEN, FreeDisk, clock_offset_seconds, clock_verdict
from cluster.check.step import STEP, Step
from cluster.check.storage import NAME, Throughput, judge_throughput, trial
from cluster.check.tracking import IMPATIENCE, MLFLOW
from cluster.config import CheckSettings
from dataprep.runtime.command_line import UserError

SETTINGS = CheckSettings()
GIGABYTE = 10**9
SERVER = "http://mlflow:5000"
A, B = "10.0.0.1", "10.0.0.2"
GPU_A, GPU_B = gpu_place(A, 0), gpu_place(B, 0)
H100 = Inventory(1, ("H100",), "580.1")
TORCH_H100 = TorchOnGpu("2.13.0+cu130", "13.0", "H100", "2.28.3")


def judged(check, found, driver=None, **settings) -> Verdict:
    return verdict_on(check, found, driver, CheckSettings(**settings))


def bad_places(found: Verdict) -> list[str]:
    return [place for place, judgement in found.places.items() if judgement.outcome == "failed"]


def test_a_line_names_the_places_that_failed_and_else_the_least_of_what_is_good():
    mixed = verdict("x", {"a": ok("1"), "b": failed("2", "mend b"), "c": not_applicable("3")})
    good = verdict("x", {"a": ok("9 GB", 9), "b": ok("4 GB", 4), "c": not_applicable("none")})
    same = verdict("x", {"a": ok("1"), "b": ok("1")})

    assert (mixed.outcome, mixed.value, mixed.advice) == ("failed", "1 of 3: b: 2", "mend b")
    assert (good.outcome, good.value) == ("ok", "4 GB (the least of 2: b)")
    assert same.value == "1"
    assert verdict("x", {"a": not_applicable("none")}).outcome == "not applicable"
    assert verdict("x", {str(number): failed("off", "") for number in range(9)}).value.endswith("2: off; ...")


def test_what_could_not_be_measured_has_failed_and_the_rest_is_judged():
    found = judged(DISK, {A: FreeDisk("/tmp", 50 * GIGABYTE), B: Unmeasured("ModuleNotFoundError: no module")})

    assert found.outcome == "failed"
    assert bad_places(found) == [B]
    assert "no module" in found.value
    assert judged(CODE, {A: "x"}, Unmeasured("unreadable")).value == "driver: unreadable"


def test_other_code_on_a_node_is_found():
    found = judged(CODE, {A: "aaaa", B: "bbbb"}, "aaaa")

    assert bad_places(found) == [B]
    assert found.value == "1 of 2: 10.0.0.2: bbbb, not aaaa"
    assert judged(CODE, {A: "aaaa", B: "aaaa"}, "aaaa").outcome == "ok"


def test_other_versions_on_a_node_are_found():
    driver = {"python": "3.11.9", "torch": "2.13.0"}
    found = judged(VERSIONS, {A: driver, B: {"python": "3.11.9", "torch": "2.12.0"}}, driver)

    assert bad_places(found) == [B]
    assert "torch 2.12.0, not 2.13.0" in found.value
    assert "torch missing, not 2.13.0" in judged(VERSIONS, {A: {"python": "3.11.9"}}, driver).value


def test_versions_are_those_of_all_direct_dependencies_without_the_build():
    versions = VERSIONS.measure(SETTINGS)

    assert {"python", "torch", "ray", "deepspeed", "mlflow"} <= versions.keys()
    assert "pytest" not in versions
    assert not [value for value in versions.values() if "+" in value or value == "missing"]


def test_a_full_disk_and_little_shared_memory_are_found():
    disk = judged(DISK, {A: FreeDisk("/tmp", 50 * GIGABYTE), B: FreeDisk("/tmp/ray", GIGABYTE)})
    memory = judged(SHARED_MEMORY, {A: 64 * 10**6, B: 8 * GIGABYTE})

    assert bad_places(disk) == [B]
    assert "1.0 of 20 GB free in /tmp/ray" in disk.value
    assert bad_places(memory) == [A]
    assert "shm-size" in memory.advice
    assert judged(DISK, {B: FreeDisk("/tmp/ray", GIGABYTE)}, min_free_disk_gigabytes=0.5).outcome == "ok"
    assert judged(SHARED_MEMORY, {A: None}).outcome == "not applicable"


@pytest.mark.parametrize("offset", [3.0, -3600.0])
def test_a_clock_that_is_off_is_found_either_way(offset: float):
    found = clock_verdict({A: 0.01, B: offset}, SETTINGS)

    assert bad_places(found) == [B]
    assert clock_verdict({A: 0.01, B: -0.5}, SETTINGS).value == "-0.500 s (the least of 2: 10.0.0.2)"
    assert clock_verdict({A: Unmeasured("gone")}, SETTINGS).outcome == "failed"


def test_the_offset_of_a_clock_is_that_of_the_quickest_reading(monkeypatch: pytest.MonkeyPatch):
    now = [100.0]
    delays = iter([8.0, 0.2, 6.0, 4.0, 5.0])
    monkeypatch.setattr(host, "clock", lambda: now[0])

    def read() -> float:
        # the question is quick, the answer takes its time
        now[0] += next(delays)
        return now[0] + 30.0

    assert clock_offset_seconds(read) == pytest.approx(30.0, abs=0.1)


def test_ray_without_a_token_is_found_where_others_can_reach_it():
    assert judged(TOKEN, {A: True, B: False}).value == "1 of 2: 10.0.0.2: none wanted"
    assert judged(TOKEN, {"127.0.0.1 (3f2a)": False}).outcome == "not applicable"
    assert judged(TOKEN, {"some-host": False}).outcome == "failed"


def test_an_mlflow_server_that_is_away_unset_or_another_one_is_found():
    assert judged(MLFLOW, {A: SERVER, B: None}, SERVER).value.startswith("1 of 2: 10.0.0.2: MLFLOW_TRACKING_URI is not")
    assert bad_places(judged(MLFLOW, {A: SERVER, B: "http://else:5000"}, SERVER)) == [B]
    assert bad_places(judged(MLFLOW, {A: SERVER, B: Unmeasured("away")}, SERVER)) == [B]
    assert judged(MLFLOW, {A: SERVER, B: SERVER}, None).outcome == "ok"
    assert judged(MLFLOW, {A: None}, None).outcome == "not applicable"


@pytest.mark.parametrize("port", [9, None])
def test_mlflow_is_asked_a_question_and_its_address_is_shown_without_a_password(monkeypatch, port):
    # which the measurement changes, and the other tests are to have as they were
    for name in IMPATIENCE:
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://someone:secret@127.0.0.1:{port}" if port else "")

    if port is None:
        assert MLFLOW.measure(SETTINGS) is None
        return
    with pytest.raises(UserError, match=r"^http://127\.0\.0\.1:9: does not answer$"):
        MLFLOW.measure(SETTINGS)


def test_missing_gpus_are_no_failure_unless_they_are_asked_for():
    on_cpus = {A: Inventory(0, (), None)}

    assert judged(GPUS, on_cpus).outcome == "not applicable"
    assert judged(GPUS, on_cpus, gpus=1).value == "1 of 2: cluster: 0 of 1 GPUs"
    assert judged(GPUS, {A: H100, B: H100}, gpus=3).outcome == "failed"
    assert judged(GPUS, {A: H100, B: H100}, gpus=2).value == "1 x H100, driver 580.1"


def test_gpus_that_ray_or_the_driver_does_not_know_and_other_drivers_are_found():
    assert "Ray counts 2 GPUs, the driver 0" in judged(GPUS, {A: Inventory(2, (), None)}).value
    assert "Ray counts 0 of 1 GPUs" in judged(GPUS, {A: Inventory(0, ("H100",), "580.1")}).value
    others = {A: H100, B: H100, "c": Inventory(1, ("H100",), "550.9")}
    assert bad_places(judged(GPUS, others)) == ["c"]


def test_a_torch_that_sees_no_gpu_or_has_another_nccl_is_found():
    blind = TorchOnGpu("2.13.0+cpu", None, None, None)
    other = TorchOnGpu("2.13.0+cu130", "13.0", "H100", "2.21.5")

    assert "(a CPU build) sees no GPU" in judged(TORCH, {GPU_A: TORCH_H100, GPU_B: blind}).value
    found = judged(TORCH, {GPU_A: TORCH_H100, gpu_place(A, 1): TORCH_H100, GPU_B: other})
    assert bad_places(found) == [GPU_B]
    assert judged(TORCH, {A: blind}).outcome == "not applicable"


def test_a_product_that_is_wrong_or_much_slower_than_others_is_found():
    good = Product(True, 600e12, 1e-3)

    assert bad_places(judged(PRODUCT, {GPU_A: good, GPU_B: Product(True, 600e12, 0.5)})) == [GPU_B]
    assert bad_places(judged(PRODUCT, {GPU_A: good, GPU_B: Product(True, 600e12, float("nan"))})) == [GPU_B]
    slow = {GPU_A: good, gpu_place(A, 1): good, GPU_B: Product(True, 300e12, 1e-3)}
    assert bad_places(judged(PRODUCT, slow)) == [GPU_B]
    assert judged(PRODUCT, {A: Product(False, 1e12, 1e-3), B: Product(False, 1e11, 1e-3)}).outcome == "ok"


def test_a_step_that_fails_or_takes_much_longer_than_others_is_found():
    good = Step(0.5, 3 * GIGABYTE, "cuda")

    assert bad_places(judged(STEP, {GPU_A: good, GPU_B: Unmeasured("out of memory")})) == [GPU_B]
    assert bad_places(judged(STEP, {GPU_A: good, gpu_place(A, 1): good, GPU_B: Step(1.0, 1, "cuda")})) == [GPU_B]
    assert judged(STEP, {A: Step(0.5, 1, "cpu"), B: Step(5.0, 1, "cpu")}).outcome == "ok"


def test_slow_and_failed_all_reduces_are_found_and_lonely_devices_have_none():
    within, between = verdicts({GPU_A: Rates(200e9, 5e9), gpu_place(A, 1): Rates(1e9, 0.1e9)}, SETTINGS)
    assert bad_places(within) == bad_places(between) == [gpu_place(A, 1)]

    within, between = verdicts({A: Rates(None, 1e8), B: Rates(None, 1e8)}, SETTINGS)
    assert (within.outcome, between.outcome) == ("not applicable", "ok")

    for found in verdicts({GPU_A: Rates(None, 1e9), GPU_B: Unmeasured("timeout")}, SETTINGS):
        assert bad_places(found) == [GPU_B]


def test_a_slow_bucket_is_found():
    found = judge_throughput({A: Throughput(2e8, 3e8), B: Throughput(2e8, 1e6)}, None, SETTINGS)

    assert found[A].value == "write 200, read 300 MB/s"
    assert found[B].outcome == "failed"


def test_storage_is_written_read_and_left_as_it_was(tmp_path):
    (tmp_path / "kept").write_text("x")
    settings = CheckSettings(storage=str(tmp_path), storage_test_megabytes=1, min_storage_megabytes_per_second=0)
    with trial(settings) as begun:
        found = judged(begun.check, {A: begun.check.measure(settings), B: begun.check.measure(settings)})
        assert begun.seen(found).outcome == "ok"

        # a node wrote to a disk of its own
        only_here = verdict(NAME, {A: ok(""), B: ok(""), "c": ok("")})
        assert "sees the files of 2 of 3 nodes" in begun.seen(only_here).value

    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_a_folder_that_is_not_there_is_not_made(tmp_path):
    settings = CheckSettings(storage=str(tmp_path / "absent"))
    with trial(settings) as begun, pytest.raises(UserError, match="there is no folder"):
        begun.check.measure(settings)
    assert not (tmp_path / "absent").exists()


@pytest.fixture
def examined(monkeypatch: pytest.MonkeyPatch) -> list[Verdict]:
    """What the command is to find."""
    verdicts = [verdict("nodes", {"cluster": ok("2 [x]")})]
    monkeypatch.setattr("cluster.check.examination.examined", lambda settings: verdicts)
    return verdicts


def test_the_command_prints_a_line_for_each_check_and_exits_1_where_one_failed(examined, capsys, monkeypatch):
    monkeypatch.setattr(command, "Console", lambda: Console(width=120))
    assert run(["check"]) == 0
    assert "2 [x]" in capsys.readouterr().out

    examined.append(verdict("disk", {A: failed("full", "make room")}))
    assert run(["check"]) == 1
    output = capsys.readouterr()
    assert [line.split()[:2] for line in output.out.splitlines()[1:]] == [["nodes", "ok"], ["disk", "failed"]]
    assert "make room" in output.out
    assert output.err == "error: 1 of 2 checks failed: disk\n"


def test_json_is_printed_whether_or_not_a_check_failed(examined, capsys):
    assert run(["check", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["outcome"] == "ok"

    examined.append(verdict("disk", {A: failed("full", "make room")}))
    assert run(["check", "--json"]) == 1
    [_, disk] = json.loads(capsys.readouterr().out)
    assert disk["places"] == {A: {"outcome": "failed", "value": "full", "advice": "make room", "goodness": 0.0}}
