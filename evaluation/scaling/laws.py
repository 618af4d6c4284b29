"""Two laws of scaling, fitted to the losses of trained models. P points, R resamples.

* The line of the BulkFormer preprint: log10(loss) over log10(millions of parameters).
* A power law with an irreducible part, ``L(N, D) = E + A / N^a + B / D^b`` over N parameters and D profiles (Hoffmann
  et al. 2022, "Training Compute-Optimal Large Language Models", approach 3): the Huber loss of the logarithms is
  minimised from many starts. Where one amount of profiles was used, B / D^b cannot be told from E and is left out.

Intervals of the power law are those of a residual bootstrap: residuals are drawn anew, scaled to what they would be
without the fit's degrees of freedom, and the law is fitted again. Quantiles are taken where Student's t has its own,
which matters with few points.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import OptimizeResult, least_squares
from scipy.special import ndtr, stdtrit
from scipy.stats import linregress

from dataprep.runtime.command_line import UserError
from evaluation.scaling.points import Points
from evaluation.scores.intervals import CONFIDENCE, Interval

# Bounds of exponents. What is fitted to them was not found.
_SMALLEST_EXPONENT, _LARGEST_EXPONENT = 0.01, 5.0
# An exponent counts as found where its interval is narrower than its value times this.
_WIDEST_RELATIVE_INTERVAL = 2.0


@dataclass(frozen=True)
class LogLogLine:
    """``log10(loss) = slope * log10(parameters / 1e6) + intercept``; ``r2`` is the share of variance it explains."""

    slope: Interval
    intercept: Interval
    r2: float


def fit_line(points: Points) -> LogLogLine:
    """Least squares with Student's t intervals, which two points do not have. Raises UserError for a single size."""
    if points.sizes < 2:
        raise UserError(f"all {len(points)} points have the same size: no line over sizes can be fitted", exit_code=2)
    x, y = np.log10(points.parameters / 1e6), np.log10(points.loss)
    found = linregress(x, y)
    freedom = len(points) - 2
    t = stdtrit(freedom, 0.5 + CONFIDENCE / 2) if freedom else float("nan")

    def interval(value: float, error: float) -> Interval:
        return Interval(float(value), float(value - t * error), float(value + t * error))

    return LogLogLine(
        interval(found.slope, found.stderr),
        interval(found.intercept, found.intercept_stderr),
        float(found.rvalue**2),
    )


@dataclass(frozen=True)
class PowerLaw:
    """``E + A / N^a + B / D^b``, with N parameters and D profiles; ``B`` and ``b`` are NaN in a law over sizes alone.

    ``resamples``: float64 [R, 5] of the same, from the bootstrap; ``freedom``: points beyond the law's parameters.
    """

    E: float
    A: float
    a: float
    B: float
    b: float
    resamples: np.ndarray
    freedom: int

    NAMES = ("E", "A", "a", "B", "b")

    def interval(self, name: str) -> Interval:
        """The 95 % interval of a parameter; NaN where there are too few points for one."""
        return self._interval(getattr(self, name), self.resamples[:, self.NAMES.index(name)])

    def loss(self, parameters: np.ndarray | float, profiles: np.ndarray | float | None = None) -> np.ndarray:
        """The law's loss."""
        return _loss(np.array([self.E, self.A, self.a, self.B, self.b]), parameters, profiles)

    def loss_interval(self, parameters: float, profiles: float | None = None) -> Interval:
        """The law's loss at one point, with an interval (of the law; a single run scatters around it)."""
        values = _loss(self.resamples.T, parameters, profiles)
        return self._interval(float(self.loss(parameters, profiles)), values)

    def optimum(self, budget: float) -> tuple[Interval, Interval]:
        """Parameters and profiles of the smallest loss where parameters x profiles = ``budget``, with intervals.

        Hoffmann et al. 2022, equation 4: N = G budget^(b / (a + b)), with G = (a A / (b B))^(1 / (a + b)).
        """

        def best(law: np.ndarray) -> np.ndarray:
            _, A, a, B, b = law
            return np.asarray((a * A / (b * B)) ** (1 / (a + b)) * budget ** (b / (a + b)))

        value = float(best(np.array([self.E, self.A, self.a, self.B, self.b])))
        found = self._interval(value, best(self.resamples.T))
        return found, Interval(budget / value, budget / found.high, budget / found.low)

    def _interval(self, value: float, values: np.ndarray) -> Interval:
        if not len(values) or not np.isfinite(values).all():
            return Interval(value)
        # the share of the normal distribution beyond Student's quantile, where its own would be 2.5 %
        tail = float(ndtr(stdtrit(self.freedom, 0.5 - CONFIDENCE / 2)))
        low, high = np.quantile(values, [tail, 1 - tail])
        return Interval(value, float(min(low, value)), float(max(high, value)))


def fit_power_law(points: Points, resamples: int, seed: int) -> PowerLaw:
    """Fit the law; with ``resamples`` 0, or no degree of freedom left, without intervals.

    Raises UserError where there are fewer points or sizes than the law has parameters for.
    """
    with_profiles = points.amounts > 1
    needed = 5 if with_profiles else 3
    if len(points) < needed or points.sizes < 3:
        raise UserError(
            f"{len(points)} points of {points.sizes} sizes are too few for the power law: it takes {needed} points and "
            "three sizes at least"
        )
    fit = _Fit.of(points, with_profiles)
    best = fit.from_many_starts(np.log(points.loss), np.random.default_rng([seed, 0]))
    rng = np.random.default_rng([seed, 1])
    freedom = len(points) - needed
    laws = []
    if freedom:
        predicted = fit.log_loss(best)
        residuals = np.log(points.loss) - predicted
        residuals = (residuals - residuals.mean()) * np.sqrt(len(points) / freedom)
        for _ in range(resamples):
            again = predicted + rng.choice(residuals, size=len(points))
            laws.append(fit.natural(fit.from_start(again, best).x))
    E, A, a, B, b = map(float, fit.natural(best))
    return PowerLaw(E, A, a, B, b, np.array(laws).reshape(-1, 5), freedom)


def identifiable(law: PowerLaw, points: Points) -> dict[str, str]:
    """For each exponent in words whether these points tell it, and why not."""
    said = {}
    for name, what, values in (("a", "sizes", points.sizes), ("b", "amounts of profiles", points.amounts)):
        interval = law.interval(name)
        if values < 3:
            said[name] = f"not identified: {values or 'no'} {what}, three are needed beside E"
        elif not np.isfinite(interval.low):
            said[name] = "not identified: as many points as parameters"
        elif interval.low <= 2 * _SMALLEST_EXPONENT or interval.high >= 0.99 * _LARGEST_EXPONENT:
            said[name] = f"not identified: anything from {interval.low:.2g} to {interval.high:.2g} fits"
        elif interval.high - interval.low > _WIDEST_RELATIVE_INTERVAL * interval.value:
            said[name] = f"hardly identified: {interval.value:.2g}, from {interval.low:.2g} to {interval.high:.2g}"
        else:
            said[name] = f"identified: {interval.value:.2g}, from {interval.low:.2g} to {interval.high:.2g}"
    return said


def _loss(law: np.ndarray, parameters: np.ndarray | float, profiles: np.ndarray | float | None) -> np.ndarray:
    """``law``: E, A, a, B, b, or five columns of R laws, for one point each."""
    E, A, a, B, b = law
    loss = E + A / np.asarray(parameters, dtype=np.float64) ** a
    if np.isfinite(B).all() and profiles is not None:
        loss = loss + B / np.asarray(profiles, dtype=np.float64) ** b
    return np.asarray(loss)


@dataclass(frozen=True)
class _Fit:
    """The law in coordinates that a solver likes: logarithms, of A and B at the middle of the points.

    Coordinates: log E, log(A / N0^a), a and, over profiles, log(B / D0^b), b; N0 and D0 are geometric means.
    """

    log_size: np.ndarray
    log_amount: np.ndarray | None
    middle: tuple[float, float]

    @classmethod
    def of(cls, points: Points, with_profiles: bool) -> _Fit:
        size = np.log(points.parameters)
        if not with_profiles or points.profiles is None:
            return cls(size - size.mean(), None, (float(size.mean()), 0.0))
        amount = np.log(points.profiles)
        return cls(size - size.mean(), amount - amount.mean(), (float(size.mean()), float(amount.mean())))

    def log_loss(self, at: np.ndarray) -> np.ndarray:
        parts = [np.full_like(self.log_size, at[0]), at[1] - at[2] * self.log_size]
        if self.log_amount is not None:
            parts.append(at[3] - at[4] * self.log_amount)
        return np.logaddexp.reduce(parts)

    def natural(self, at: np.ndarray) -> np.ndarray:
        """E, A, a, B, b."""
        law = np.array([np.exp(at[0]), np.exp(at[1] + at[2] * self.middle[0]), at[2], np.nan, np.nan])
        if self.log_amount is not None:
            law[3:] = np.exp(at[3] + at[4] * self.middle[1]), at[4]
        return law

    def from_start(self, log_loss: np.ndarray, start: np.ndarray, scale: float = 0.0) -> OptimizeResult:
        lower, upper = self._bounds(log_loss)
        start = np.clip(start, lower + 1e-9, upper - 1e-9)
        # residuals beyond about 1.3 of their own spread count linearly, as Huber has it
        scale = scale or 1.345 * max(1.4826 * np.median(np.abs(self.log_loss(start) - log_loss)), 1e-6)
        return least_squares(
            lambda at: self.log_loss(at) - log_loss, start, bounds=(lower, upper), loss="huber", f_scale=scale
        )

    def from_many_starts(self, log_loss: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        lower, upper = self._bounds(log_loss)
        least = log_loss.min()
        starts = []
        for share in (0.1, 0.5, 0.9):
            for exponent in (0.1, 0.4, 1.0):
                rest = least + np.log(1 - share) - np.log(2 if self.log_amount is not None else 1)
                start = [least + np.log(share), rest, exponent]
                starts.append(np.array(start if self.log_amount is None else [*start, rest, exponent]))
        starts += [rng.uniform(np.maximum(lower, least - 3), np.minimum(upper, least + 3)) for _ in range(6)]
        # first by plain squares over the whole scatter, so that all starts are compared alike
        rough = min((self.from_start(log_loss, start, scale=0.1) for start in starts), key=lambda found: found.cost)
        return np.asarray(self.from_start(log_loss, rough.x).x)

    def _bounds(self, log_loss: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        least = log_loss.min()
        lower, upper = [least - 12, least - 12, _SMALLEST_EXPONENT], [least + 0.5, least + 8, _LARGEST_EXPONENT]
        if self.log_amount is not None:
            lower, upper = lower + lower[1:], upper + upper[1:]
        return np.array(lower), np.array(upper)
