"""Pinball, CRPS and Tversky: against brute force, closed forms and the properties that define them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from strategies import generator, seeds

from downscale.errors import OptionError, ShapeError
from downscale.losses.pointwise import mae
from downscale.losses.probabilistic import crps_of_quantiles, fair_crps, pinball, soft_tversky, standard_crps

pytestmark = pytest.mark.usefixtures("one_thread")


def ensemble(members: int, seed: int, missing: float = 0.3, whole: bool = False):
    rng = generator(seed)
    made, true = rng.standard_normal((members, 2, 3, 4)), rng.standard_normal((2, 3, 4))
    weight = rng.uniform(0.1, 2, (3, 4))
    if whole:  # many ties
        made, true = np.rint(made), np.rint(true)
    true[rng.uniform(size=true.shape) < missing] = np.nan
    return made, true, weight


def tensors(*arrays):
    return tuple(torch.from_numpy(np.ascontiguousarray(array)) for array in arrays)


def crps_by_hand(made: np.ndarray, true: np.ndarray, weight: np.ndarray, fair: bool) -> float:
    members = len(made)
    total = share = 0.0
    for index in np.ndindex(true.shape):
        if np.isnan(true[index]):
            continue
        x, w = made[(slice(None), *index)], weight[index[-2:]]
        pairs = sum(abs(a - b) for a in x for b in x) / (2 * (members * (members - 1) if fair else members**2))
        total, share = total + w * (sum(abs(a - true[index]) for a in x) / members - pairs), share + w
    return total / share if share else 0.0


@given(st.integers(2, 6), seeds, st.booleans(), st.sampled_from([0.0, 0.4, 1.0]), st.integers(-3, 2))
def test_crps_is_that_of_all_pairs(members, seed, whole, missing, place):
    made, true, weight = ensemble(members, seed, missing, whole)
    moved = np.moveaxis(made, 0, place)
    for score, fair in ((fair_crps, True), (standard_crps, False)):
        found = float(score(*tensors(moved, true, weight), members=place))
        assert found == pytest.approx(crps_by_hand(made, true, weight, fair), rel=1e-10, abs=1e-13)


def integral_of(law, y: float) -> float:
    """The CRPS as it is defined: the integral of (F - step)**2."""
    x = np.linspace(-40, 40, 400_001)
    return float(np.trapezoid((law.cdf(x) - (x >= y)) ** 2, x))


def normal_crps(z: float) -> float:
    """The closed form for the normal law (Gneiting and Raftery 2007, equation 21)."""
    return z * (2 * stats.norm.cdf(z) - 1) + 2 * stats.norm.pdf(z) - 1 / np.sqrt(np.pi)


def exponential_crps(y: float) -> float:
    return y - 2 * stats.expon.cdf(y) + 0.5


LAWS = {
    "normal": (stats.norm(), normal_crps, 0.3),
    "exponential": (stats.expon(), exponential_crps, 0.8),
    "uniform": (stats.uniform(), lambda y: 1 / 3 - y + y**2, 0.2),
}


@pytest.mark.parametrize("name", LAWS)
@pytest.mark.parametrize("members", [2, 5])
def test_the_fair_score_expects_the_closed_form_and_the_standard_one_does_not(name, members):
    law, closed, y = LAWS[name]
    expected = closed(y)
    assert expected == pytest.approx(integral_of(law, y), abs=2e-4)
    draws = law.ppf(np.random.default_rng(5).uniform(size=(members, 400, 500)))
    made, true = tensors(draws, np.full((400, 500), y))
    fair, standard = float(fair_crps(made, true)), float(standard_crps(made, true))
    # Half the mean difference of two draws is what the closed form takes off; a finite ensemble takes off less.
    half = float(law.expect(lambda x: x * (2 * law.cdf(x) - 1)))
    assert fair == pytest.approx(expected, abs=0.006)
    assert standard - fair == pytest.approx(half / members, abs=0.006)
    assert standard - expected > 0.02


def test_only_the_fair_score_asks_for_the_right_spread():
    """Members and truth of one law: the spread that the mean score likes best."""
    rng = np.random.default_rng(2)
    draws, true = tensors(rng.standard_normal((3, 400, 500)), rng.standard_normal((400, 500)))
    widths = np.arange(0.5, 1.5, 0.05)
    best = [widths[np.argmin([float(score(w * draws, true)) for w in widths])] for score in (fair_crps, standard_crps)]
    assert best[0] == pytest.approx(1.0, abs=0.051)
    assert best[1] < 0.8


def test_one_member_has_the_absolute_error_and_no_fair_score():
    made, true, weight = tensors(*ensemble(1, 3))
    assert float(standard_crps(made, true, weight)) == pytest.approx(float(mae(made[0], true, weight)), rel=1e-14)
    with pytest.raises(ShapeError, match=r"two members along dimension 0 for a fair CRPS, received shape \(1,"):
        fair_crps(made, true, weight)
    with pytest.raises(ShapeError, match="expected members along dimension 0 for a CRPS"):
        standard_crps(made[:0], true, weight)


@pytest.mark.parametrize("score", [fair_crps, standard_crps])
def test_derivative_of_crps(score):
    made, true, weight = tensors(*ensemble(4, 1))
    made.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: score(x, true, weight), (made,))
    ties = torch.zeros(3, 2, 2, dtype=torch.float64, requires_grad=True)
    score(ties, torch.zeros(2, 2, dtype=torch.float64)).backward()
    assert bool(torch.isfinite(ties.grad).all())
    assert float(ties.grad.sum()) == pytest.approx(0.0, abs=1e-12)


# Quantiles


@given(seeds, st.lists(st.floats(0.01, 0.99), min_size=1, max_size=4), st.integers(-3, 2))
def test_pinball_is_the_mean_over_levels(seed, levels, place):
    made, true, weight = ensemble(len(levels), seed)
    total = share = 0.0
    for index in np.ndindex(true.shape):
        if not np.isnan(true[index]):
            w = weight[index[-2:]]
            gaps = true[index] - made[(slice(None), *index)]
            total += w * np.mean([q * g if g > 0 else (q - 1) * g for q, g in zip(levels, gaps, strict=True)])
            share += w
    found = pinball(*tensors(np.moveaxis(made, 0, place), true, weight), levels=levels, dimension=place)
    assert float(found) == pytest.approx(total / share if share else 0.0, rel=1e-10, abs=1e-13)


@pytest.mark.parametrize("level", [0.1, 0.5, 0.9])
def test_the_quantile_is_the_least_pinball(level):
    true = generator(4).exponential(size=(50, 41))
    tries = np.linspace(0, 4, 401)
    made = [torch.full((1, 50, 41), q, dtype=torch.float64) for q in tries]
    losses = [float(pinball(one, torch.from_numpy(true), levels=[level])) for one in made]
    assert tries[np.argmin(losses)] == pytest.approx(np.quantile(true, level), abs=0.02)


@given(st.integers(1, 7), seeds)
def test_sorted_members_at_middle_levels_have_the_standard_crps(members, seed):
    made, true, weight = tensors(*ensemble(members, seed))
    levels = (np.arange(members) + 0.5) / members
    found = crps_of_quantiles(made.sort(0).values, true, weight, levels=levels)
    assert float(found) == pytest.approx(float(standard_crps(made, true, weight)), rel=1e-10, abs=1e-13)


def test_many_quantiles_of_a_law_have_its_crps():
    """Levels that are not equally far apart, too."""
    for levels in ((np.arange(400) + 0.5) / 400, np.sin(np.linspace(0.02, np.pi / 2 - 0.02, 800)) ** 2):
        quantiles = torch.from_numpy(stats.norm.ppf(levels)).reshape(-1, 1, 1)
        found = crps_of_quantiles(quantiles, torch.full((1, 1), 0.3).double(), levels=levels)
        assert float(found) == pytest.approx(normal_crps(0.3), abs=2e-3)


def test_derivative_of_pinball():
    made, true, weight = tensors(*ensemble(3, 6))
    made.requires_grad_()
    for loss in (pinball, crps_of_quantiles):
        assert torch.autograd.gradcheck(lambda x, loss=loss: loss(x, true, weight, levels=[0.1, 0.5, 0.7]), (made,))
    ties = torch.zeros(1, 2, 2, requires_grad=True)
    pinball(ties, torch.zeros(2, 2), levels=[0.9]).backward()
    assert bool(torch.isfinite(ties.grad).all())


@pytest.mark.parametrize("levels", [[], [0.0], [1.0], [0.5, float("nan")]])
def test_levels_are_probabilities(levels):
    with pytest.raises(OptionError, match="expected quantile levels between 0 and 1, received"):
        pinball(torch.zeros(1, 2, 2), torch.zeros(2, 2), levels=levels)


def test_levels_and_predictions_go_together():
    with pytest.raises(ShapeError, match=r"expected 2 quantiles, one per level, along dimension 0 .*\(3, 2, 2\)"):
        pinball(torch.zeros(3, 2, 2), torch.zeros(2, 2), levels=[0.1, 0.9])
    with pytest.raises(OptionError, match="expected increasing quantile levels for the CRPS"):
        crps_of_quantiles(torch.zeros(2, 2, 2), torch.zeros(2, 2), levels=[0.9, 0.1])


# Rare events


def events(seed: int, missing: float = 0.2):
    made, true, weight = ensemble(1, seed, missing)
    return made[0], true, weight


some_thresholds = st.lists(st.floats(-1, 1), min_size=1, max_size=3)


@given(seeds, some_thresholds, st.floats(0, 2), st.floats(0.1, 2), st.floats(0.05, 1))
def test_tversky_is_the_ratio_of_areas(seed, thresholds, alpha, beta, width):
    made, true, weight = events(seed)
    smooth = 1e-6
    w = np.broadcast_to(weight, true.shape) * ~np.isnan(true)
    w = w / w.max() if w.max() > 0 else w
    expected = []
    for threshold in thresholds:
        both = false = missed = 0.0
        for index in np.ndindex(true.shape):
            if w[index] > 0:
                p = 1 / (1 + np.exp(-(made[index] - threshold) / width))
                hit = float(true[index] >= threshold)
                both += w[index] * p * hit
                false += w[index] * p * (1 - hit)
                missed += w[index] * (1 - p) * hit
        least = smooth * w.sum() if w.sum() > 0 else smooth
        expected.append(1 - (both + least) / (both + alpha * false + beta * missed + least))
    found = soft_tversky(*tensors(made, true, weight), thresholds=thresholds, width=width, alpha=alpha, beta=beta)
    assert float(found) == pytest.approx(np.mean(expected), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize(
    ("alpha", "beta", "index"),
    [
        (0.5, 0.5, lambda p, t: 2 * (p & t).sum() / (p.sum() + t.sum())),
        (1, 1, lambda p, t: (p & t).sum() / (p | t).sum()),
    ],
    ids=["dice", "jaccard"],
)
def test_sharp_masks_have_the_index_of_dice_and_jaccard(alpha, beta, index):
    made, true, _ = events(3, 0.0)
    found = soft_tversky(*tensors(made, true), thresholds=[0.2], width=1e-6, alpha=alpha, beta=beta, smooth=1e-12)
    assert 1 - float(found) == pytest.approx(index(made >= 0.2, true >= 0.2), rel=1e-9)


def test_cells_without_the_event_do_not_dilute():
    made, true, _ = events(3, 0.0)
    wide = [np.concatenate([part, np.full((2, 3, 40), -9.0)], axis=-1) for part in (made, true)]
    near, far = (
        float(soft_tversky(*tensors(*pair), thresholds=[0.2], width=0.1, smooth=1e-12)) for pair in ((made, true), wide)
    )
    assert far == pytest.approx(near, rel=1e-9)


def test_no_events_anywhere_is_no_loss_and_nothing_is_not_a_number():
    field = torch.full((3, 4), -1e3, requires_grad=True)
    loss = soft_tversky(field, field.detach(), thresholds=[1.0], width=0.1)
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert bool(torch.isfinite(field.grad).all())
    nothing = soft_tversky(field, torch.full((3, 4), torch.nan), thresholds=[1.0], width=0.1)
    assert float(nothing.detach()) == 0.0


def test_a_false_alarm_and_a_missed_event_cost_what_was_said():
    wet, dry = torch.full((2, 2), 10.0).double(), torch.zeros(2, 2).double()
    half = torch.tensor([[10.0, 10.0], [0.0, 0.0]]).double()
    options = {"thresholds": [5.0], "width": 0.05, "alpha": 0.3, "beta": 0.7, "smooth": 1e-12}
    assert float(soft_tversky(wet, half, **options)) == pytest.approx(0.6 / 2.6, rel=1e-9)
    assert float(soft_tversky(half, wet, **options)) == pytest.approx(1.4 / 3.4, rel=1e-9)
    assert float(soft_tversky(dry, wet, **options)) == pytest.approx(1.0, rel=1e-9)


def test_derivative_of_tversky():
    made, true, weight = tensors(*events(5))
    made.requires_grad_()
    loss = lambda x: soft_tversky(x, true, weight, thresholds=[0.0, 0.5], width=0.3)  # noqa: E731
    assert torch.autograd.gradcheck(loss, (made,))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"thresholds": []}, "at least one Tversky threshold"),
        ({"width": 0.0}, "expected Tversky width > 0, received 0.0"),
        ({"alpha": -1.0}, "expected Tversky alpha >= 0, received -1.0"),
        ({"beta": float("nan")}, "expected Tversky beta >= 0, received nan"),
        ({"smooth": 0.0}, "expected Tversky smooth > 0, received 0.0"),
    ],
)
def test_tversky_settings_have_a_meaning(options, words):
    with pytest.raises(OptionError, match=words):
        soft_tversky(torch.zeros(2, 2), torch.zeros(2, 2), **{"thresholds": [1.0], "width": 1.0, **options})
