"""Numbers that follow from the settings, and settings that are refused."""

import pytest
import yaml

from dataprep.runtime.command_line import UserError, read_settings
from pretrain.config import BatchSettings, BenchSettings, ExportSettings, ModelSettings, OptimizerSettings, RunSettings
from pretrain.presets import preset_names
from pretrain.shape import packaged_size_names, size_names
from pretrain.training.job import schedule_steps_of, total_steps

REQUIRED = ["--corpus", "c", "--storage", "s", "--name", "n"]


def test_the_published_batch_is_128_accumulated_passes_of_4_on_8_workers():
    assert BatchSettings(global_profiles=4096, micro_profiles=4).accumulation(workers=8) == 128


def test_a_global_batch_that_does_not_divide_takes_one_more_pass():
    assert BatchSettings(global_profiles=4096, micro_profiles=4).accumulation(workers=3) == 342


def test_sizes_are_the_published_ones_and_a_tiny_one():
    assert size_names() == ["tiny", "37M", "50M", "93M", "101M", "127M", "147M"]
    shape = ModelSettings(size="147M").shape(genes=20_010)
    # int(80 ln 80): the released projection matrices are 350 x 80
    assert (shape.dim, shape.performer_layers, shape.heads, shape.random_features) == (640, 12, 8, 350)


def test_numbers_given_replace_those_of_the_size():
    shape = ModelSettings(size="tiny", dim=24, heads=2).shape(genes=5)
    assert (shape.dim, shape.heads, shape.performer_layers) == (24, 2, 1)


def test_warm_up_is_linear_and_reaches_the_peak_after_its_share_of_the_steps():
    schedule = OptimizerSettings(learning_rate=1.0, warmup_fraction=0.1)
    rates = [schedule.learning_rate_at(step, schedule_steps=100) for step in range(100)]
    assert rates[:10] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0])
    assert set(rates[10:]) == {1.0}


@pytest.mark.parametrize("decay", ["linear", "cosine"])
def test_decay_ends_at_its_fraction_of_the_peak(decay):
    schedule = OptimizerSettings(learning_rate=2.0, warmup_fraction=0.0, decay=decay, final_fraction=0.25)
    rates = [schedule.learning_rate_at(step, schedule_steps=50) for step in range(51)]
    assert rates == sorted(rates, reverse=True)
    assert rates[0] == pytest.approx(2.0)
    assert rates[50] == pytest.approx(0.5)


@pytest.mark.parametrize("decay", ["linear", "cosine", "none"])
def test_a_run_that_goes_beyond_its_schedule_keeps_the_rate_that_it_ended_at(decay):
    schedule = OptimizerSettings(learning_rate=2.0, warmup_fraction=0.1, decay=decay, final_fraction=0.25)
    end = 2.0 if decay == "none" else 0.5
    assert [schedule.learning_rate_at(step, 100) for step in (100, 101, 5000)] == pytest.approx([end] * 3)


def test_max_steps_and_epochs_changed_on_resume_do_not_bend_the_schedule():
    """Warm-up of a run of 1,000 steps is over after 50, also when it is resumed to 100,000."""
    first = RunSettings(corpus="c", storage="s", name="n", epochs=1000, batch={"global_profiles": 10}, max_steps=1000)
    state = {"schedule_steps": total_steps(first, profiles=1000), "settings": first.resolved()}
    resumed = first.model_copy(update={"max_steps": 100_000})
    assert total_steps(resumed, profiles=1000) == 100_000
    assert schedule_steps_of(state, profiles=1000) == 1000
    peak = resumed.optimizer.learning_rate
    assert resumed.optimizer.learning_rate_at(1000, schedule_steps_of(state, profiles=1000)) == peak
    del state["schedule_steps"]
    assert schedule_steps_of(state, profiles=1000) == 1000, "checkpoints of the first version have only the settings"


def test_each_setting_says_whether_it_may_change_when_a_run_resumes():
    may_change = {name for name in RunSettings.model_fields if RunSettings.may_change(name)}
    assert may_change == {
        "storage", "epochs", "max_steps", "deterministic", "log_every_steps", "profile", "zero", "workers", "data",
        "validation", "checkpoint", "tracking", "preset",
    }  # fmt: skip


def test_settings_that_must_not_change_are_named_with_both_values():
    began = RunSettings(corpus="c", storage="s", name="n").resolved()
    now = RunSettings(corpus="c", storage="moved", name="n", seed=1, model={"dim": 8}, max_steps=3, zero={"stage": 2})
    assert now.changed_since(began) == {"seed": (0, 1), "model.dim": (None, 8)}


def test_settings_that_a_run_began_without_had_their_defaults():
    began = RunSettings(corpus="c", storage="s", name="n").resolved()
    del began["mask"], began["deterministic"], began["optimizer"]["decay"]
    assert RunSettings(corpus="c", storage="s", name="n").changed_since(began) == {}
    changed = RunSettings(corpus="c", storage="s", name="n", optimizer={"decay": "linear"}).changed_since(began)
    assert changed == {"optimizer.decay": ("none", "linear")}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--zero.stgae", "2"], r"unknown setting zero.stgae \(did you mean 'stage'\?\); valid: stage"),
        (["--zero.stage", "4"], r"zero.stage: Input should be less than or equal to 3 \(given: '4'\)"),
        (["--model.size", "38M"], "unknown model size '38M'; sizes: tiny, 37M, 50M, 93M, 101M, 127M, 147M"),
        (["--name", "a/b"], "name: String should match pattern"),
        (["--mask.rate", "15"], "mask.rate: Input should be less than 1"),
        (["--mask.highest-rate", "0.1"], "mask.highest_rate 0.1 is under mask.rate 0.15"),
        (["--preset", "newest"], "unknown preset 'newest'; presets: latest"),
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


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        (["--workers.resize-check-seconds", "5"], "resize_check_seconds would have no effect unless workers.min_count"),
        (["--workers.gpu", "--workers.threads-each", "2"], "threads_each would have no effect with workers.gpu"),
        (["--optimizer.final-fraction", "0.2"], "final_fraction would have no effect with optimizer.decay none"),
        (["--model.kernel", "reference", "--model.compile"], "compile would have no effect with model.kernel"),
        (["--model.kernel", "reference", "--model.recompute", "hidden"], "recompute would have no effect"),
        (["--model.family", "latest", "--model.redraw-every-steps", "5"], "redraw_every_steps would have no effect"),
    ],
)
def test_settings_of_a_new_run_that_would_do_nothing_are_refused(given, complaint):
    with pytest.raises(UserError, match=complaint):
        read_settings(RunSettings, [*REQUIRED, *given]).require_effects()


@pytest.mark.parametrize(
    "given",
    [
        ["--workers.count", "3", "--workers.min-count", "2", "--workers.resize-check-seconds", "5"],
        ["--optimizer.final-fraction", "0.2", "--optimizer.decay", "cosine"],
        ["--model.kernel", "reference", "--model.recompute", "layers"],
        ["--model.compile", "--model.recompute", "hidden"],
    ],
)
def test_settings_that_do_something_are_accepted(given):
    read_settings(RunSettings, [*REQUIRED, *given]).require_effects()


def test_a_preset_counts_where_nothing_else_is_given(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("batch:\n  micro_profiles: 2\nepochs: 3\n")
    given = ["--preset", "latest", "--model.kernel", "reference", "--mask.highest-rate", "0.2", "--config", str(file)]
    settings = read_settings(RunSettings, [*REQUIRED, *given])
    settings.require_effects()
    assert (settings.batch.global_profiles, settings.batch.micro_profiles, settings.epochs) == (96, 2, 3)
    assert (settings.mask.rate, settings.mask.highest_rate) == (0.05, 0.2)
    assert settings.optimizer.learning_rate_at(1000, 1000) == pytest.approx(1e-5)
    shape = settings.model.shape(genes=19_973)
    assert (shape.family, shape.dim, shape.performer_layers, shape.heads) == ("latest", 768, 12, 12)
    assert (shape.random_features, shape.graph_dim, settings.model.kernel) == (256, 192, "reference")
    # a run that has its numbers needs no preset
    assert settings.model_copy(update={"preset": None}).changed_since(settings.resolved()) == {}


def test_a_preset_is_no_size():
    assert preset_names() == ["latest"]
    assert "latest" not in packaged_size_names()


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        (["--model.graph-width", "8"], "graph_width: family original has no bottleneck around its graph convolution"),
        (["--model.family", "latest", "--model.blocks", "2"], "family latest has one block"),
        (["--model.family", "latest", "--model.gene-identity", "esm2"], "family latest has .* a learned table"),
    ],
)
def test_what_a_family_does_not_have_is_refused(given, complaint):
    with pytest.raises(UserError, match=f"^model: .*{complaint}") as refused:
        read_settings(RunSettings, [*REQUIRED, *given]).model.shape(genes=5)
    assert "\n" not in str(refused.value)


def test_printed_settings_can_be_given_again(tmp_path):
    """They hold the defaults of settings that do nothing."""
    for name, arguments in (("tiny", REQUIRED), ("one", [*REQUIRED, "--model.kernel", "reference"])):
        file = tmp_path / f"{name}.yaml"
        file.write_text(yaml.safe_dump(read_settings(RunSettings, arguments).resolved()))
        read_settings(RunSettings, ["--config", str(file)]).require_effects()


@pytest.mark.parametrize("number", ["inf", "-inf", "nan"])
@pytest.mark.parametrize("name", ["optimizer.learning_rate", "workers.cpus_each", "data.outage_patience_seconds"])
def test_numbers_that_are_not_finite_are_refused(name, number):
    with pytest.raises(UserError, match=f"{name}: Input should be a finite number"):
        read_settings(RunSettings, [*REQUIRED, f"--{name}={number}"])


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        (["--model", "m", "--format", "released", "--checkpoint", "best"], "--checkpoint would have no effect with"),
        (["--model", "m", "--format", "released", "--corpus", "c"], "--corpus would have no effect with --model"),
    ],
)
def test_an_export_of_a_model_takes_nothing_that_is_about_runs(given, complaint):
    with pytest.raises(UserError, match=complaint):
        read_settings(ExportSettings, ["--output", "o", *given])


def test_a_bench_of_the_reference_kernel_takes_no_settings_of_the_other():
    with pytest.raises(UserError, match="--recompute would have no effect with kernel reference"):
        read_settings(BenchSettings, ["--kernel", "reference", "--recompute", "layers"])
