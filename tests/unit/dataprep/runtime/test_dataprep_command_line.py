"""Settings from the command line, YAML and defaults, in the forms that people type them."""

import pytest

from dataprep.__main__ import COMMANDS
from dataprep.runtime.command_line import UserError, main, read_settings
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
