"""The statistics of `bench check`: against their references, and their error rates on simulated nights."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import special, stats

from harness.checks.regression.significance import (
    Losses,
    discoveries,
    longer_p,
    mean_loss_p,
    moderate,
    slow_down,
)
from tests.harness.checks.regression.rates import FIRST, MACHINE, METHOD, World, called, false_alarm, rate

ROUGH = World(low=0.5, high=0.5, loss=1, changed=5)


def test_discoveries_are_scipys() -> None:
    rng = np.random.default_rng(0)
    for size in (1, 2, 30):
        for _ in range(50):
            p = rng.uniform(0, 1, size) ** 4
            assert (discoveries(p, 0.05) == (stats.false_discovery_control(p) <= 0.05)).all()
    assert discoveries(np.array([]), 0.05).shape == (0,)


def test_few_cells_have_the_plain_paired_t_test() -> None:
    rng = np.random.default_rng(0)
    changes = [rng.normal(-0.5, 0.4, 5), rng.normal(0, 1, 4)]
    p = Losses(changes, [0, 0]).p()
    assert p == pytest.approx([stats.ttest_1samp(change, 0, alternative="less").pvalue for change in changes])


def test_equal_differences_take_the_noise_of_other_cells_or_are_not_tested() -> None:
    alone = Losses([np.full(5, -1.0), np.full(5, 1.0)], [0, 0])
    assert alone.p().tolist() == [0.5, 0.5]
    assert not alone.testable.any()
    rng = np.random.default_rng(0)
    noisy = list(rng.normal(0, 0.4, (40, 5)))
    beside = Losses([np.full(5, -1.0), *noisy], [0] * 41)
    assert beside.testable.all()
    assert 0 < beside.p()[0] < 0.001
    assert mean_loss_p(np.full(3, -1.0)) == 1 / 8
    assert mean_loss_p(np.full(3, 1.0)) == 7 / 8


def test_cells_of_few_images_give_no_false_alarm_by_equal_steps() -> None:
    """Two seeds, five cells in AUROC steps of 4 points, shifted at random: equal falls are common there."""
    rng = np.random.default_rng(0)
    alarms, equal = 0, 0
    for _ in range(400):
        changes = [4.0 * rng.integers(-1, 2, 2) for _ in range(5)]
        changes = [change for change in changes if np.abs(change).max() > 0]
        equal += any(np.ptp(change) == 0 and change[0] < 0 for change in changes)
        p = Losses(changes, [0] * len(changes)).p() if changes else np.array([])
        alarms += bool(discoveries(p, 0.0025).any())
    assert equal > 100
    assert alarms <= 4


def test_variances_are_drawn_as_far_as_they_were_made_to_agree() -> None:
    rng = np.random.default_rng(0)
    freedom = np.full(4000, 4.0)
    kinds = np.repeat([0, 1], 2000)
    level = np.where(kinds == 0, 1.0, 9.0)
    true = level * 10 / rng.chisquare(10, 4000)
    moderated, degrees = moderate(true * rng.chisquare(4, 4000) / 4, freedom, kinds)
    assert degrees[0] == pytest.approx(14, rel=0.15)
    assert np.corrcoef(np.log(moderated), np.log(true))[0, 1] > 0.6
    t = rng.normal(0, np.sqrt(true)) / np.sqrt(moderated)
    assert stats.kstest(special.stdtr(degrees, t), "uniform").pvalue > 0.01


def test_equal_variances_become_one() -> None:
    rng = np.random.default_rng(3)
    moderated, degrees = moderate(rng.chisquare(4, 60) / 4, np.full(60, 4.0), np.zeros(60, dtype=np.int64))
    assert degrees.min() > 40
    assert np.ptp(moderated) < 0.5


def test_times_are_compared_by_quotients() -> None:
    old, new = np.array([10.0, 10.1, 9.9]), np.array([11.0, 11.1, 10.9])
    assert slow_down(old, new) == pytest.approx(1.1, abs=0.001)
    p = longer_p([(np.log(old), np.log(new)), (np.log(new), np.log(old))], 0.0)
    assert p[0] == pytest.approx(stats.ttest_ind(np.log(old), np.log(new), alternative="less").pvalue)
    assert p[1] > 0.99


def test_false_alarms_are_rare() -> None:
    assert rate(World(), 100, false_alarm)[2] <= 0.04, "1 % and chance"


def test_a_point_lost_by_a_method_is_found() -> None:
    assert rate(ROUGH, 30, lambda report: called(report, METHOD)) >= 0.9


def test_a_slow_down_is_found() -> None:
    slow = World(slow=1.1, changed=1)
    assert rate(slow, 20, lambda report: called(report, FIRST)) >= 0.9
    assert rate(replace(slow, changed=45), 20, lambda report: called(report, MACHINE)) >= 0.9


@pytest.mark.slow
def test_error_rates_over_many_nights() -> None:
    assert rate(World(), 1500, false_alarm)[2] < 0.01
    assert rate(ROUGH, 400, lambda report: called(report, METHOD)) >= 0.95
    single = World(low=0.2, high=0.2, loss=1, changed=1)
    assert rate(single, 400, lambda report: called(report, FIRST)) >= 0.95
    slow = World(slow=1.1, changed=1)
    assert rate(slow, 400, lambda report: called(report, FIRST)) >= 0.95
    assert rate(replace(slow, changed=45), 400, lambda report: called(report, MACHINE)) >= 0.95
