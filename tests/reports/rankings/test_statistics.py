"""Coverage and false differences on simulated records with known truth; ranks and win rates by hand."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import numpy as np
import pytest
from scipy import stats

from reports.page.critical_difference import critical_difference_svg
from reports.rankings.statistics import compare, estimate, rank_tests, units, win_rates

SIZES = [(c, s) for c in (5, 12, 15) for s in (1, 3, 5)]


def simulate(runs: int, methods: int, categories: int, seeds: int, seed: int = 0) -> np.ndarray:
    """Scores [runs, methods, categories, seeds] of equally good methods, whose true mean is 90."""
    rng = np.random.default_rng([seed, methods, categories, seeds])
    shared = rng.normal(0, 5, (runs, 1, categories, 1))
    interaction = rng.normal(0, 2, (runs, methods, categories, 1))
    return 90 + shared + interaction + rng.normal(0, 1, (runs, methods, categories, seeds))


@pytest.mark.parametrize(("categories", "seeds"), SIZES)
def test_intervals_cover_and_equals_are_told_apart_rarely(categories: int, seeds: int) -> None:
    scores = simulate(8000, 2, categories, seeds)
    means = scores.mean(axis=3)
    for values, truth in ((means[:, 0], 90), (means[:, 0] - means[:, 1], 0)):
        found = estimate(values)
        assert found.low is not None
        assert found.high is not None
        coverage = np.mean((found.low <= truth) & (truth <= found.high))
        assert 0.93 <= coverage <= 0.97
    compared = [compare(one) for one in simulate(1200, 5, categories, seeds)]
    wrong = np.mean([not all(c.tied) for c in compared if c is not None])
    assert wrong <= 0.05


def discrete(rng: np.random.Generator, methods: int, categories: int) -> np.ndarray:
    """AUROCs in percent [methods, categories, 1] of equal methods, of 12 to 59 images a class."""
    scores = np.empty((methods, categories, 1))
    for c in range(categories):
        normal, anomalous = rng.integers(12, 60, 2)
        apart = rng.uniform(1, 4)
        good = rng.normal(0, 1, (methods, normal, 1))
        bad = rng.normal(apart, 1, (methods, 1, anomalous))
        scores[:, c, 0] = 100 * (bad > good).mean(axis=(1, 2))
    return scores


@pytest.mark.parametrize("categories", [2, 3, 5, 6, 8, 12, 15])
@pytest.mark.parametrize("methods", [2, 5])
def test_discrete_aurocs_of_equal_methods_are_told_apart_rarely(categories: int, methods: int) -> None:
    rng = np.random.default_rng([7, categories, methods])
    runs = 500
    compared = [compare(discrete(rng, methods, categories)) for _ in range(runs)]
    wrong = np.mean([not all(c.tied) for c in compared if c is not None])
    # At most 5 %, and three standard errors of so many simulations.
    assert wrong <= 0.05 + 3 * (0.05 * 0.95 / runs) ** 0.5
    assert categories >= 6 or wrong == 0


def test_a_gap_that_is_equal_in_all_units_is_not_certain() -> None:
    scores = np.full((2, 15, 1), 90.0)
    scores[0] += 0.5
    two, six, all_of_them = (compare(scores[:, :count]) for count in (2, 6, 15))
    assert two is not None
    assert six is not None
    assert all_of_them is not None
    assert two.tied == (True, True)
    assert two.ranks == ((1, 2), (1, 2))
    assert six.p[0, 1] == pytest.approx(2 / 2**6)
    assert six.tied == (True, False)
    assert all_of_them.p[0, 1] == pytest.approx(2 / 2**15)


def test_the_percentile_bootstrap_covers_less() -> None:
    """Why there is none: a paired hierarchical bootstrap of a difference over five categories."""
    rng = np.random.default_rng(1)
    hits = []
    for one in simulate(600, 2, 5, 3):
        gaps = one[0] - one[1]
        rows = rng.integers(5, size=(1000, 5))[..., None]
        means = gaps[rows, rng.integers(3, size=(1000, 5, 3))].mean(axis=(1, 2))
        low, high = np.percentile(means, [2.5, 97.5])
        hits.append(low <= 0 <= high)
    assert np.mean(hits) < 0.93


def test_a_clear_order_has_narrow_ranks_and_equals_share_theirs() -> None:
    base = np.arange(6.0)[None, :, None] + np.random.default_rng(0).normal(0, 0.1, (3, 6, 2))
    found = compare(base + np.array([90, 80, 80])[:, None, None])
    assert found is not None
    assert found.tied == (True, False, False)
    assert found.ranks == ((1, 1), (2, 3), (2, 3))


def test_one_run_has_no_interval_and_one_category_uses_seeds() -> None:
    assert compare(np.ones((2, 1, 1))) is None
    assert estimate(np.ones(1)).low is None
    assert units(np.ones((2, 1, 4))).shape == (2, 4)
    same = compare(np.ones((2, 3, 1)))
    assert same is not None
    assert same.tied == (True, True)
    cells = estimate(np.array([[[1.0, 3], [2, 2]]]))
    assert cells.std is not None
    assert cells.std.tolist() == [[pytest.approx(2**0.5), 0]]
    assert estimate(np.array([1.0, 2, 3])).high == pytest.approx(2 + 4.302653 / np.sqrt(3))


def test_average_ranks_and_win_rates_are_those_computed_by_hand() -> None:
    scores = np.array([[9.0, 8, 7, 9], [8, 8, 6, 8], [7, 7, 5, 7]])[..., None]
    found = rank_tests(scores)
    assert found is not None
    assert found.average == pytest.approx([1.125, 1.875, 3])
    # Demšar's table: q = 2.343 for three methods.
    assert found.critical == pytest.approx(2.343 * np.sqrt(3 * 4 / (6 * 4)), rel=1e-3)
    assert win_rates(scores)[0] == pytest.approx([0.5, 0.875, 1])
    assert rank_tests(scores[:2]) is None


def test_the_diagram_is_accessible_and_joins_what_is_within_the_difference() -> None:
    text = critical_difference_svg(["a<b", "c", "d"], [1.2, 1.9, 2.9], 0.8)
    root = ET.fromstring(text)  # noqa: S314
    assert root.get("role") == "img"
    assert [child.tag for child in root][:2] == ["title", "desc"]
    assert "a<b 1.20" in str(root[1].text)
    assert text.count('class="tie"') == 1
    assert "currentColor" in text


def test_signed_rank_tests_are_scipys_pair_by_pair() -> None:
    rng = np.random.default_rng(0)
    for size in (3, 7, 15, 60):
        scores = rng.normal(80, 3, (6, size, 2))
        scores[1] = scores[0]  # equal throughout
        scores[2, 0] = scores[0, 0]  # a difference of zero
        scores[3] = np.round(scores[3])
        scores[4] = scores[3] + 1  # all differences equal
        found = rank_tests(scores)
        assert found is not None
        values = scores.mean(axis=2).round(9)
        raw = [
            stats.wilcoxon(values[a], values[b]).pvalue if (values[a] != values[b]).any() else 1.0
            for a in range(6)
            for b in range(a + 1, 6)
        ]
        # Holm's correction from its definition.
        order = np.argsort(raw)
        holm = np.ones(15)
        holm[order] = np.minimum(np.maximum.accumulate(np.array(raw)[order] * np.arange(15, 0, -1)), 1)
        assert found.wilcoxon[np.triu_indices(6, 1)] == pytest.approx(holm)
