"""Rank histograms and fractions skill scores: what they are of ensembles that are known."""

from __future__ import annotations

import numpy as np
import pytest

from downscale.errors import OptionError, ShapeError
from downscale.metrics.ensemble import CELL_SPACING, Ranks
from downscale.metrics.events import Fractions
from downscale.metrics.scores import Scores, Setting

SHAPE = (6, 96, 96)


def drawn(spread: float, seed: int = 0, members: int = 5) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return spread * rng.standard_normal((members, *SHAPE)), rng.standard_normal(SHAPE)


def test_a_reliable_ensemble_is_flat_and_others_are_not() -> None:
    flat = [Ranks.of(*drawn(1.0, seed), np.ones(SHAPE)) for seed in range(40)]
    # Under the null the probabilities are even: few are small.
    assert sum(one.flatness < 0.05 for one in flat) <= 6
    assert all(one.unevenness < 0.03 for one in flat)
    narrow, wide = (Ranks.of(*drawn(spread), np.ones(SHAPE)) for spread in (0.3, 3.0))
    assert narrow.flatness < 1e-6
    assert narrow.shares[0] > 1.5 / 6 > 0.5 / 6 > narrow.shares[3]
    assert wide.shares[0] < 0.6 / 6
    assert narrow.unevenness > 0.3


def test_ties_are_shared_and_dry_cells_not_ranked() -> None:
    made = np.zeros((3, 1, 1, 2))
    made[2, ..., 1] = 1
    ranks = Ranks.of(made, np.zeros((1, 1, 2)), np.array([[[5.0, 2.0]]]))
    np.testing.assert_allclose(ranks.counts, [2 / 3, 2 / 3, 2 / 3, 0])


def test_sums_are_those_of_parts() -> None:
    made, true = drawn(0.7)
    weight = np.random.default_rng(1).uniform(size=SHAPE) * (np.arange(96) % 7 > 0)
    whole = Ranks.of(made, true, weight)
    parts = Ranks.of(made[:, :2], true[:2], weight[:2]).merge(Ranks.of(made[:, 2:], true[2:], weight[2:]))
    np.testing.assert_allclose(parts.counts, whole.counts)
    np.testing.assert_allclose(parts.sparse_counts, whole.sparse_counts)
    assert whole.counts.sum() == pytest.approx(weight.sum())
    assert whole.sparse_counts.sum() <= 6 * (96 / CELL_SPACING) ** 2
    one, other = (Fractions.of(made[:, s], true[s], weight[s], (0.5,), (1, 9)) for s in (slice(2), slice(2, None)))
    np.testing.assert_allclose(one.merge(other).score, Fractions.of(made, true, weight, (0.5,), (1, 9)).score)


def test_ranks_of_other_ensembles_do_not_add_up() -> None:
    with pytest.raises(ShapeError, match="expected ranks among as many members, received 5 and 4"):
        Ranks.of(*drawn(1.0), np.ones(SHAPE)).merge(Ranks.of(*drawn(1.0, members=4), np.ones(SHAPE)))


def test_fractions_forgive_what_is_near() -> None:
    true = np.zeros((1, 64, 64))
    true[0, 30:34, 30:34] = 1
    shifted, one = np.roll(true, 4, axis=2), np.ones(true.shape)
    score = Fractions.of(shifted[None], true, one, (0.5, 2.0), (1, 5, 17, 63)).score
    assert score[0, 0] == 0
    assert (np.diff(score[0]) > 0).all()
    assert score[0, -1] > 0.9
    assert np.isnan(score[1]).all()


def test_windows_are_counted_one_by_one() -> None:
    rng = np.random.default_rng(3)
    made, true, weight = (rng.uniform(size=(1, 9, 11)) for _ in range(3))
    weight *= rng.uniform(size=weight.shape) > 0.2
    found = Fractions.of(made[None], true, weight, (0.4,), (3,))
    error = most = 0.0
    for i in range(9):
        for j in range(11):
            box = np.s_[0, max(i - 1, 0) : i + 2, max(j - 1, 0) : j + 2]
            valid = weight[box] > 0
            if not valid.any():
                continue
            p, o = ((field[box][valid] >= 0.4).mean() for field in (made, true))
            error += weight[0, i, j] * (p - o) ** 2
            most += weight[0, i, j] * (p**2 + o**2)
    assert found.error[0, 0] == pytest.approx(error)
    assert found.largest_error[0, 0] == pytest.approx(most)


def test_scales_have_a_middle() -> None:
    with pytest.raises(OptionError, match="expected scales as odd numbers of cells from 1 on, received 4"):
        Setting(scales=(1, 4))


def test_scores_know_them() -> None:
    made, true = drawn(1.0)
    scores = Scores(Setting(thresholds=(0.0,), scales=(1, 5)))
    scores.add(made, true)
    scores.add(*drawn(1.0, 1))
    assert scores["rank_unevenness"] < 0.03
    assert scores["rank_flatness"] > 1e-4
    assert scores.fractions.shape == (1, 2)
    single = Scores()
    single.add(made[0], true)
    assert np.isnan(single["rank_unevenness"])
    assert np.isnan(single["rank_flatness"])
