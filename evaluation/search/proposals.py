"""Which choices a search tries: proposed before anything is scored, by Optuna's quasi-random sampler."""

from __future__ import annotations

import itertools
import math
import warnings

from evaluation.search.nested import Choice, Space

# Proposals that were made before are drawn again; a space so full of them is filled up in order.
_DRAWS_PER_CHOICE = 20


def proposals(space: Space, trials: int, seed: int) -> list[Choice]:
    """``trials`` different choices, the fixed setting first; all there are where the space has no more.

    Quasi-random (a scrambled Sobol sequence), and so spread over the space, and a function of its arguments alone: no
    score is seen, see :mod:`evaluation.search.tune_search`.
    """
    sizes = {name: len(values) for name, values in space.items()}
    if math.prod(sizes.values()) <= trials:
        everything: list[tuple[int, ...]] = list(itertools.product(*map(range, sizes.values())))
        return [_choice(space, numbers) for numbers in everything]
    return [_choice(space, numbers) for numbers in _spread(sizes, trials, seed)]


def _spread(sizes: dict[str, int], trials: int, seed: int) -> list[tuple[int, ...]]:
    """Different numbers of values, the first of all settings first."""
    # takes a second to import, and fixed settings do without it
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with warnings.catch_warnings():
        # the sampler counts as experimental; Optuna is pinned by its users
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        sampler = optuna.samplers.QMCSampler(
            qmc_type="sobol", scramble=True, seed=seed, warn_independent_sampling=False
        )
    study = optuna.create_study(sampler=sampler)
    # values are numbered, since the sampler spreads numbers and draws words at random
    distributions: dict[str, optuna.distributions.BaseDistribution] = {
        name: optuna.distributions.IntDistribution(0, size - 1) for name, size in sizes.items()
    }
    study.enqueue_trial(dict.fromkeys(sizes, 0))
    found: dict[tuple[int, ...], None] = {}
    for _ in range(_DRAWS_PER_CHOICE * trials):
        trial = study.ask(distributions)
        # the sampler begins its sequence once a trial is told; what is told is the same for all
        study.tell(trial, 0.0)
        found[tuple(trial.params[name] for name in sizes)] = None
        if len(found) == trials:
            break
    for numbers in itertools.product(*map(range, sizes.values())):
        if len(found) == trials:
            break
        found[numbers] = None
    return list(found)


def _choice(space: Space, numbers: tuple[int, ...]) -> Choice:
    return {name: values[number] for (name, values), number in zip(space.items(), numbers, strict=True)}
