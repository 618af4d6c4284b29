"""Scaling laws: the published line, known laws found again, and what points cannot tell said in words."""

import json
from pathlib import Path

import numpy as np
import pytest

from dataprep.runtime.command_line import UserError, main
from evaluation.__main__ import COMMANDS
from evaluation.scaling.laws import PowerLaw, fit_line, fit_power_law, identifiable
from evaluation.scaling.plot import draw
from evaluation.scaling.points import Points, read_points

# Read off the figure of the BulkFormer preprint: millions of parameters, log10 of the validation MSE.
PUBLISHED = {37: -0.2993, 50: -0.3435, 93: -0.4880, 127: -0.6267, 147: -0.6804}
LAW = {"E": 0.25, "A": 60.0, "a": 0.35, "B": 12.0, "b": 0.4}


def sweep(noise: float = 0.0, seed: int = 0, sizes: tuple[float, ...] = (1e6, 3e6, 1e7, 3e7, 1e8)) -> Points:
    """Two runs each of all sizes and four amounts of profiles, with losses of LAW."""
    grid = np.meshgrid(np.array(sizes), np.array([200.0, 1000.0, 5000.0, 25_000.0]))
    parameters, profiles = (np.repeat(values.ravel(), 2) for values in grid)
    loss = LAW["E"] + LAW["A"] / parameters ** LAW["a"] + LAW["B"] / profiles ** LAW["b"]
    loss = loss * np.exp(noise * np.random.default_rng(seed).standard_normal(len(loss)))
    return Points(parameters, loss, profiles)


@pytest.fixture(scope="module")
def noisy() -> tuple[Points, PowerLaw]:
    points = sweep(noise=0.02)
    return points, fit_power_law(points, resamples=100, seed=0)


@pytest.fixture
def published(tmp_path: Path) -> Path:
    rows = [f"{size}e6,{10**loss:.8f}" for size, loss in PUBLISHED.items()]
    (tmp_path / "points.csv").write_text("parameters,loss\n" + "\n".join(rows) + "\n")
    return tmp_path / "points.csv"


def test_the_published_points_give_the_published_line(published: Path) -> None:
    line = fit_line(read_points(str(published)))
    assert line.slope.value == pytest.approx(-0.64, abs=0.005)
    assert line.intercept.value == pytest.approx(0.73, abs=0.01)
    assert line.r2 == pytest.approx(0.971, abs=0.002)
    assert line.slope.low < line.slope.value < line.slope.high


def test_a_law_without_noise_is_found_to_six_digits() -> None:
    law = fit_power_law(sweep(), resamples=0, seed=0)
    assert {name: getattr(law, name) for name in law.NAMES} == pytest.approx(LAW, rel=1e-6)
    assert not np.isfinite(law.interval("a").low)


def test_a_law_with_two_percent_noise_is_within_its_intervals(noisy: tuple[Points, PowerLaw]) -> None:
    """How often over many seeds is measured by benchmarks/scaling_intervals.py."""
    _, law = noisy
    for name, value in LAW.items():
        interval = law.interval(name)
        assert interval.low <= value <= interval.high
        assert interval.low < interval.value < interval.high


def test_the_best_size_and_profiles_for_a_budget_have_the_least_loss(noisy: tuple[Points, PowerLaw]) -> None:
    _, law = noisy
    parameters, profiles = law.optimum(1e10)
    assert parameters.value * profiles.value == pytest.approx(1e10)
    best = law.loss(parameters.value, profiles.value)
    for other in (0.8, 0.99, 1.01, 1.25):
        assert law.loss(parameters.value * other, profiles.value / other) > best
    assert parameters.low < parameters.value < parameters.high


def test_the_largest_size_is_predicted_from_the_others() -> None:
    points = sweep(noise=0.01)
    largest = points.parameters == 1e8
    law = fit_power_law(points.where(~largest), resamples=0, seed=0)
    np.testing.assert_allclose(law.loss(1e8, points.profiles[largest]), points.loss[largest], rtol=0.06)


def test_one_wild_point_moves_the_law_little() -> None:
    points = sweep(noise=0.001)
    points.loss[7] *= 1.5
    law = fit_power_law(points, resamples=0, seed=0)
    assert law.a == pytest.approx(LAW["a"], rel=0.05)
    assert law.b == pytest.approx(LAW["b"], rel=0.05)


def test_what_points_cannot_tell_is_said(noisy: tuple[Points, PowerLaw]) -> None:
    points, law = noisy
    assert identifiable(law, points)["a"].startswith("identified: 0.3")
    alone = points.where(points.profiles == 5000)
    said = identifiable(fit_power_law(alone, resamples=50, seed=0), alone)
    assert said["b"] == "not identified: 1 amounts of profiles, three are needed beside E"


def test_two_sizes_are_too_few_for_the_law_and_one_for_a_line() -> None:
    with pytest.raises(UserError, match="16 points of 2 sizes are too few for the power law"):
        fit_power_law(sweep(sizes=(1e6, 1e7)), resamples=0, seed=0)
    with pytest.raises(UserError, match="all 8 points have the same size"):
        fit_line(sweep(sizes=(1e6,)))


def test_the_command_prints_draws_and_writes_and_the_same_again(published: Path, tmp_path: Path, capsys) -> None:
    arguments = ["scaling", "fit", "--points", str(published), "--resamples", "20", "--json"]
    arguments += ["--plot", str(tmp_path / "law"), "--output", str(tmp_path / "law.json")]
    seen = []
    for _ in range(2):
        assert main("evaluation", "", COMMANDS, arguments) == 0
        out = capsys.readouterr().out
        seen.append((out, (tmp_path / "law.json").read_bytes(), (tmp_path / "law.svg").read_bytes()))
    assert seen[0] == seen[1]
    result = json.loads(seen[0][0].splitlines()[-1])
    assert result["log_log"]["slope"] == pytest.approx(-0.639, abs=1e-3)
    assert set(result["power_law"]) == set(LAW)
    assert result["power_law"]["a"]["low"] < result["power_law"]["a"]["value"] < result["power_law"]["a"]["high"]
    assert result["power_law"]["b"]["value"] is None
    assert result["largest_size"]["parameters"] == 147e6
    assert json.loads(seen[0][1]) == {key: value for key, value in result.items() if key != "mlflow_run_id"}
    assert (tmp_path / "law.png").read_bytes().startswith(b"\x89PNG")
    assert b"parameters (millions)" in seen[0][2]


@pytest.mark.parametrize("losses", [(0.68, 0.67, 0.66), (0.9, 0.3, 0.1)], ids=["narrow", "wide"])
def test_axes_have_numbers_however_little_the_losses_differ(losses: tuple[float, ...]) -> None:
    points = Points(np.array([1.7e5, 3e5, 5.6e5]), np.array(losses), None)
    figure = draw(points, fit_line(points), None)
    figure.draw_without_rendering()
    (axes,) = figure.axes
    for axis in (axes.xaxis, axes.yaxis):
        low, high = axis.get_view_interval()
        ticks = [*axis.get_major_ticks(), *axis.get_minor_ticks()]
        shown = [tick for tick in ticks if tick.label1.get_text() and low <= tick.get_loc() <= high]
        assert len(shown) >= 2


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("size,loss\n1,2\n", "has no column parameters; its columns are size, loss"),
        ("parameters,loss\n37e6,0.5\n50e6,-1\n", "1 of 2 values of loss are no numbers over 0, e.g. '-1' in row 2"),
        (
            "parameters,loss\n37e6,0.5\nlarge,0.4\n",
            "1 of 2 values of parameters are no numbers over 0, e.g. 'large'",
        ),
        ("parameters,loss\n37e6,0.5\n", "holds 1 points; a line takes two at least"),
        ("", "is no table of points"),
        ("parameters,loss\n37e6,0.5\n37e6,0.4\n", "all 2 points have the same size"),
    ],
)
def test_a_file_of_something_else_is_one_line(tmp_path: Path, capsys, text: str, line: str) -> None:
    (tmp_path / "points.csv").write_text(text)
    assert main("evaluation", "", COMMANDS, ["scaling", "fit", "--points", str(tmp_path / "points.csv")]) == 2
    error = capsys.readouterr().err
    assert line in error
    assert error.count("\n") == 1


def test_sizes_in_millions_are_taken_for_what_they_are(tmp_path: Path, capsys) -> None:
    (tmp_path / "points.csv").write_text("parameters,loss\n37,0.5\n147,0.2\n")
    assert list(read_points(str(tmp_path / "points.csv")).parameters) == [37e6, 147e6]
    assert "taken as millions" in capsys.readouterr().err


def test_a_budget_takes_points_with_several_amounts_of_profiles(published: Path, capsys) -> None:
    arguments = ["scaling", "fit", "--points", str(published), "--resamples", "0", "--budget-flops", "1e20"]
    assert main("evaluation", "", COMMANDS, arguments) == 2
    assert "--budget-flops takes points of at least three sizes and two amounts" in capsys.readouterr().err
