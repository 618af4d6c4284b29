"""How often the intervals of `evaluation scaling fit` hold the truth: 100 made sweeps of a known law, 2 % noise.

Five sizes, four amounts of profiles, two seeds each. Bound: each parameter in at least 90 of 100.
"""

import sys

import numpy as np

from evaluation.scaling.laws import fit_power_law
from evaluation.scaling.points import Points

LAW = {"E": 0.25, "A": 60.0, "a": 0.35, "B": 12.0, "b": 0.4}
SWEEPS, RESAMPLES, NOISE, BOUND = 100, 1000, 0.02, 90


def made_sweep(seed: int) -> Points:
    grid = np.meshgrid(np.array([1e6, 3e6, 1e7, 3e7, 1e8]), np.array([200.0, 1000.0, 5000.0, 25_000.0]))
    parameters, profiles = (np.repeat(values.ravel(), 2) for values in grid)
    loss = LAW["E"] + LAW["A"] / parameters ** LAW["a"] + LAW["B"] / profiles ** LAW["b"]
    return Points(parameters, loss * np.exp(NOISE * np.random.default_rng(seed).standard_normal(len(loss))), profiles)


def main() -> int:
    held = dict.fromkeys(LAW, 0)
    for seed in range(SWEEPS):
        law = fit_power_law(made_sweep(seed), RESAMPLES, seed)
        for name, value in LAW.items():
            interval = law.interval(name)
            held[name] += interval.low <= value <= interval.high
    for name, count in held.items():
        print(f"{name}: {count} of {SWEEPS} intervals hold the truth (bound {BOUND})")
    return int(min(held.values()) < BOUND)


if __name__ == "__main__":
    sys.exit(main())
