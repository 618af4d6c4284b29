"""Settings from the command line, YAML and defaults, in the forms that people type them."""

import signal
import sys

import pytest
from mlflow.environment_variables import MLFLOW_DISABLE_TELEMETRY

from dataprep.__main__ import COMMANDS
from dataprep.config import BuildSettings, InspectSettings
from dataprep.runtime.command_line import Command, UserError, main, read_settings
from pretrain.config import RunSettings

REQUIRED = ["--corpus", "c", "--storage", "s", "--name", "n"]


def read(*arguments: str) -> RunSettings:
    return read_settings(RunSettings, [*REQUIRED, *arguments])


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], False),
        (["--model.compile"], True),
        (["--model.compile", "true"], True),
        (["--model.compile=True"], True),
        (["--model.compile", "false"], False),
        (["--no-model.compile"], False),
    ],
)
def test_a_switch_can_stand_alone_or_have_a_value(arguments, expected):
    settings = read(*arguments, "--seed", "7")
    assert settings.model.compile is expected
    assert settings.seed == 7


def test_the_command_line_switches_off_what_a_file_switches_on(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("model: {compile: true}\ntracking: {system_metrics: true}\n")
    assert read("--config", str(file)).model.compile
    settings = read("--config", str(file), "--model.compile", "false", "--tracking.system-metrics=false")
    assert not settings.model.compile
    assert not settings.tracking.system_metrics


def test_a_value_that_is_called_true_stays_a_value():
    assert read("--tracking.experiment", "true").tracking.experiment == "true"


def test_help_is_a_result_and_a_missing_command_is_a_mistake(capsys):
    assert main("dataprep", "summary", COMMANDS, ["--help"]) == 0
    overview = capsys.readouterr()
    assert main("dataprep", "summary", COMMANDS, []) == 2
    assert capsys.readouterr() == ("", overview.out)
    assert overview.err == ""


def test_an_unknown_setting_names_the_nearest_valid_one():
    with pytest.raises(UserError, match=r"unknown setting zero\.stages \(did you mean 'stage'\?\)") as caught:
        read("--zero.stages", "2")
    assert caught.value.exit_code == 2


def test_a_key_that_stands_twice_is_refused_since_one_of_them_would_do_nothing(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("model: {dim: 32, heads: 4, dim: 64}\n")
    with pytest.raises(UserError, match=r"dim stands twice.*line 1") as caught:
        read("--config", str(file))
    assert caught.value.exit_code == 2


def test_a_key_that_is_no_name_is_refused(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("1: 2\n")
    with pytest.raises(UserError, match="1 is not the name of a setting"):
        read("--config", str(file))


def test_a_merged_mapping_may_be_overridden(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("zero: &base {stage: 1}\nworkers: {count: 2}\ndata: {}\nmask: {rate: 0.2}\n")
    assert read("--config", str(file)).mask.rate == 0.2
    file.write_text("optimizer: &base {beta1: 0.5}\nmodel: {<<: {dim: 32}, dim: 64}\n")
    assert read("--config", str(file)).model.dim == 64


def test_a_file_of_settings_that_would_not_be_read_is_refused(tmp_path, monkeypatch):
    file, other = tmp_path / "run.yaml", tmp_path / "other.yaml"
    file.write_text("seed: 3\n")
    other.write_text(f"config: {file}\n")
    with pytest.raises(UserError, match=r"other\.yaml would not be read; name one file"):
        read("--config", str(file), "--config", str(other))
    with pytest.raises(UserError, match=r"other\.yaml: config names another file"):
        read("--config", str(other))
    monkeypatch.setenv("BULKFORMER_CONFIG", str(file))
    with pytest.raises(UserError, match=r"run\.yaml would not be read"):
        read()
    assert read("--config", str(file)).seed == 3


def test_a_file_of_settings_that_cannot_be_opened_is_one_line(tmp_path):
    with pytest.raises(UserError, match="File name too long"):
        read("--config", str(tmp_path / ("x" * 300)))


def test_variables_of_others_are_not_ours(monkeypatch):
    monkeypatch.setenv("JSON", "maybe")
    assert not read().json_line
    monkeypatch.setenv("BULKFORMER_JSON", "true")
    assert read().json_line


def test_a_group_in_the_environment_is_no_value(monkeypatch):
    monkeypatch.setenv("BULKFORMER_SPLIT", "half")
    with pytest.raises(
        UserError, match=r"^split: its value cannot be read; it is a group of settings: by, in_distribution_frac"
    ):
        read_settings(BuildSettings, ["--corpus", "c"])


@pytest.mark.parametrize(("given", "told"), [(None, False), ("false", True)])
def test_a_command_lets_no_library_report_to_its_makers_unless_that_is_wished(monkeypatch, given, told):
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", given or "")
    if given is None:
        monkeypatch.delenv("MLFLOW_DISABLE_TELEMETRY")
    seen = []

    def work(_: InspectSettings) -> None:
        seen.append(not MLFLOW_DISABLE_TELEMETRY.get())

    assert main("x", "", {"work": Command(InspectSettings, work, "")}, ["work", "c"]) == 0
    assert seen == [told]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_request_to_end_ends_a_command_in_order(number, capsys, request):
    before = signal.signal(number, signal.SIG_DFL)
    request.addfinalizer(lambda: signal.signal(number, before))
    closed = []

    def work(_: InspectSettings) -> None:
        try:
            signal.raise_signal(number)
            pytest.fail("the command went on")
        finally:
            closed.append(True)

    assert main("x", "", {"work": Command(InspectSettings, work, "")}, ["work", "c"]) == 1
    assert capsys.readouterr().err == f"error: stopped by {number.name}\n"
    assert closed == [True]
    assert signal.getsignal(number) == signal.SIG_DFL


def test_what_is_ignored_stays_ignored(capsys):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        command = Command(InspectSettings, lambda _: signal.raise_signal(signal.SIGHUP), "")
        assert main("x", "", {"work": command}, ["work", "c"]) == 0
    finally:
        signal.signal(signal.SIGHUP, before)


def test_the_end_that_ray_makes_of_sigterm_is_one_line_too(capsys):
    command = Command(InspectSettings, lambda _: sys.exit(signal.SIGTERM), "")
    assert main("x", "", {"work": command}, ["work", "c"]) == 1
    assert capsys.readouterr().err == "error: stopped by SIGTERM\n"
