"""Numbers that follow from the settings, and settings that are refused."""

import pytest

from dataprep.runtime.command_line import UserError, read_settings
from pretrain.config import BatchSettings, ModelSettings, OptimizerSettings, RunSettings
from pretrain.shape import size_names

REQUIRED = ["--corpus", "c", "--storage", "s", "--name", "n"]


def test_the_published_batch_is_128_accumulated_passes_of_4_on_8_workers():
    assert BatchSettings(global_profiles=4096, micro_profiles=4).accumulation(workers=8) == 128


def test_a_global_batch_that_does_not_divide_takes_one_more_pass():
    assert BatchSettings(global_profiles=4096, micro_profiles=4).accumulation(workers=3) == 342


def test_sizes_are_the_published_ones_and_a_tiny_one():
    assert size_names() == ["tiny", "37M", "50M", "93M", "127M", "147M"]
    shape = ModelSettings(size="147M").shape(genes=20_010)
    # int(80 ln 80): the released projection matrices are 350 x 80
    assert (shape.dim, shape.performer_layers, shape.heads, shape.random_features) == (640, 12, 8, 350)


def test_numbers_given_replace_those_of_the_size():
    shape = ModelSettings(size="tiny", dim=24, heads=2).shape(genes=5)
    assert (shape.dim, shape.heads, shape.performer_layers) == (24, 2, 1)


def test_warm_up_is_linear_and_reaches_the_peak_after_its_share_of_the_steps():
    schedule = OptimizerSettings(learning_rate=1.0, warmup_fraction=0.1)
    rates = [schedule.learning_rate_at(step, total_steps=100) for step in range(100)]
    assert rates[:10] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0])
    assert set(rates[10:]) == {1.0}


@pytest.mark.parametrize("decay", ["linear", "cosine"])
def test_decay_ends_at_its_fraction_of_the_peak(decay):
    schedule = OptimizerSettings(learning_rate=2.0, warmup_fraction=0.0, decay=decay, final_fraction=0.25)
    rates = [schedule.learning_rate_at(step, total_steps=50) for step in range(51)]
    assert rates == sorted(rates, reverse=True)
    assert rates[0] == pytest.approx(2.0)
    assert rates[50] == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--zero.stgae", "2"], r"unknown setting zero.stgae \(did you mean 'stage'\?\); valid: stage"),
        (["--zero.stage", "4"], r"zero.stage: Input should be less than or equal to 3 \(given: '4'\)"),
        (["--model.size", "38M"], "unknown model size '38M'; sizes: tiny, 37M, 50M, 93M, 127M, 147M"),
        (["--name", "a/b"], "name: String should match pattern"),
        (["--mask.rate", "15"], "mask.rate: Input should be less than 1"),
    ],
)
def test_bad_settings_are_refused_by_name_in_one_line(arguments, message):
    with pytest.raises(UserError, match=message) as refused:
        read_settings(RunSettings, [*REQUIRED, *arguments])
    assert refused.value.exit_code == 2
    assert "\n" not in str(refused.value)


def test_the_command_line_wins_over_environment_and_file(tmp_path, monkeypatch):
    file = tmp_path / "run.yaml"
    file.write_text("seed: 1\nzero:\n  stage: 3\nbatch:\n  micro_profiles: 2\n")
    monkeypatch.setenv("BULKFORMER_SEED", "2")
    monkeypatch.setenv("BULKFORMER_ZERO__STAGE", "2")
    settings = read_settings(RunSettings, [*REQUIRED, "--config", str(file), "--seed", "3"])
    assert (settings.seed, settings.zero.stage, settings.batch.micro_profiles) == (3, 2, 2)
