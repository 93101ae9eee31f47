"""Thresholds from normal images alone, and what they do: against definitions, simulations and hand counts."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from scipy.stats import binomtest, genpareto
from sklearn.metrics import roc_curve

from harness.metrics import thresholds
from harness.metrics.thresholds import beyond, false_positives, frontier, operating_points, quantile, tail
from harness.spec.operating_points import Costs, Operating, choices, wilson

SCORES = st.lists(st.integers(0, 12), min_size=1, max_size=25).map(lambda v: np.array(v, np.float64))


@given(st.integers(1, 300).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_intervals_are_scipys(counts: tuple[int, int]) -> None:
    hits, count = counts
    rate = wilson(hits, count)
    own = binomtest(hits, count).proportion_ci(method="wilson")
    assert rate is not None
    assert (rate.value, rate.low, rate.high) == pytest.approx((hits / count, own.low, own.high), abs=1e-12)
    assert rate.low <= rate.value <= rate.high
    assert wilson(0, 0) is None


@pytest.mark.parametrize(("count", "target"), [(19, 0.05), (40, 0.05), (99, 0.01), (500, 0.01)])
def test_the_quantile_keeps_its_promise(count: int, target: float) -> None:
    rng = np.random.default_rng(0)
    share = np.mean([rng.gumbel() > quantile(rng.gumbel(size=count), target) for _ in range(20_000)])
    assert share < target + 3 * math.sqrt(target / 20_000)
    assert share > target / 2, "and is no stricter than it need be"


def test_the_quantile_of_too_few_is_the_highest() -> None:
    assert quantile(np.array([3.0, 1.0, 2.0]), 0.01) == 3.0
    assert quantile(np.arange(1.0, 20.0), 0.05) == 19.0
    assert quantile(np.arange(1.0, 21.0), 0.05) == 20.0
    assert quantile(np.arange(1.0, 40.0), 0.05) == 38.0


@pytest.mark.parametrize("shape", [-0.3, 0.0, 0.3])
def test_the_fit_finds_the_tail(shape: float) -> None:
    rng = np.random.default_rng(1)
    scores = 5 + 1e-4 * genpareto.rvs(shape, size=20_000, random_state=rng)
    fitted = tail(scores)
    assert not isinstance(fitted, str)
    assert fitted[1] == 0.25
    assert fitted[2] == pytest.approx(shape, abs=0.07)
    for target in (0.05, 0.01, 0.001):
        wanted = 5 + 1e-4 * genpareto.isf(target, shape)
        assert beyond(fitted, target) - 5 == pytest.approx(wanted - 5, rel=0.1)


def test_a_fit_that_cannot_be_says_why() -> None:
    assert tail(np.arange(99.0)) == "99 validation images are too few, a fit needs 100"
    assert tail(np.ones(100)) == "the highest 26 scores are equal"
    assert not isinstance(tail(np.random.default_rng(0).normal(size=100)), str)


@given(SCORES, SCORES, st.sampled_from([0.5, 0.95, 0.99, 1.0]))
def test_false_positives_are_those_of_the_roc_curve(
    normal: np.ndarray, bad: np.ndarray, recall: float
) -> None:
    labels = np.r_[np.zeros(len(normal)), np.ones(len(bad))]
    fpr, tpr, _ = roc_curve(labels, np.r_[normal, bad], drop_intermediate=False)
    assert false_positives(normal, bad, recall) == pytest.approx(fpr[tpr >= recall - 1e-9].min())


@given(SCORES, SCORES, st.floats(0, 1), st.floats(0.01, 100))
def test_no_threshold_is_cheaper_than_the_cheapest_of_the_frontier(
    normal: np.ndarray, bad: np.ndarray, rate: float, miss: float
) -> None:
    costs = Costs(1.0, miss, rate)
    kinds = ["normal"] * len(normal) + ["bad"] * len(bad)
    scores = np.r_[normal, bad].astype(np.float32)
    found = operating_points(np.ones(3, np.float32), np.ones((3, 2, 2), np.float32), scores, kinds, ["bad"])
    least = min(choice.cost for choice in choices(found, costs))
    for value in np.arange(-0.5, 13):
        own = costs.per_part(float((normal > value).mean()), float((bad > value).mean()))
        assert own >= least - 1e-9
    values = [t.value for t in found.frontier]
    assert values == sorted(values, reverse=True)
    assert len(frontier(normal, bad)) < len({*normal, *bad})


def points(**changed: object) -> Operating:
    given: dict[str, object] = {
        "normal": np.arange(100, dtype=np.float32),
        "maps": np.arange(400, dtype=np.float32).reshape(100, 2, 2),
        "scores": np.array([50, 95.5, 99.5, 10, 98, 100, 200, 0], np.float32),
        "kinds": ["normal"] * 3 + ["logical"] * 2 + ["structural"] * 3,
        "splits": ["logical", "structural", "absent"],
    }
    return operating_points(**given | changed)  # type: ignore[arg-type]


def test_counts_by_hand() -> None:
    found = points()
    assert found.images == {"normal": 3, "all": 5, "logical": 2, "structural": 3}
    five, one = found.find("quantile", 0.05), found.find("quantile", 0.01)
    assert five is not None and one is not None
    assert (five.value, one.value) == (95, 99)
    assert five.above == {"normal": 2, "all": 3, "logical": 1, "structural": 2}
    assert one.above == {"normal": 1, "all": 2, "logical": 0, "structural": 2}
    assert found.fpr["structural"] == {"0.95": 1.0, "0.99": 1.0}
    assert found.fpr["logical"]["0.95"] == 1.0
    assert found.map_range == (199.5, 399)
    assert found.left_out == []
    assert [t.name for t in found.thresholds][2:] == ["extreme value, 5 %", "extreme value, 1 %"]
    rate = found.rate(five, "normal")
    assert rate is not None and rate.text() == "66.7 % (20.8 to 93.9)"
    assert Operating.model_validate_json(found.model_dump_json()) == found


def test_what_is_less_than_it_looks_is_said() -> None:
    few = points(normal=np.arange(20, dtype=np.float32), maps=np.zeros((20, 2, 2), np.float32))
    assert few.left_out == [
        "for 1 % the quantile is the highest of 20 scores, which promises no less than 4.8 % false alarms",
        "no extreme-value thresholds: 20 validation images are too few, a fit needs 100",
    ]
    assert "normal test images" in points(from_test=True).left_out[0]
    assert (
        points(normal=np.ones(6, np.float32), maps=np.ones((6, 2, 2), np.float32))
        .left_out[0]
        .startswith(
            "for 5 % and 1 % the quantile is the highest of 6 scores, which promises no less than 14.3 %"
        )
    )
    broken = points(normal=np.array([1, np.nan], np.float32))
    assert (broken.thresholds, broken.map_range) == ([], None)
    assert "not finite" in broken.left_out[0]
    alone = points(scores=np.ones(2, np.float32), kinds=["normal", "normal"])
    assert (alone.frontier, alone.fpr) == ([], {})
    with pytest.raises(ValueError, match="anomalous"):
        list(choices(alone, Costs(1, 1, 0.1)))


def test_costs_per_part() -> None:
    # Of 1,000 parts 990 are good: 99 stopped; 10 are defective: 4 missed at 20 each.
    assert Costs(1, 20, 0.01).per_part(0.1, 0.6) == pytest.approx((99 + 80) / 1000)
    best = {c.name: c.cost for c in choices(points(), Costs(1, 1, 0.0))}
    assert best["let all parts pass"] == 0
    assert best["stop all parts"] == 1


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["norm", "gumbel_r"])
def test_from_how_many_images_on_a_fit_stops_what_it_should(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Why there must be a hundred: with 40 images two to three times as many are stopped as was meant."""
    distribution, rng = getattr(stats, kind), np.random.default_rng(0)
    monkeypatch.setattr(thresholds, "LEAST", 10)
    for count, least, most in ((40, 2, 3.5), (100, 1, 2), (200, 1, 1.7)):
        stopped = []
        for _ in range(200):
            fitted = tail(distribution.rvs(size=count, random_state=rng))
            assert not isinstance(fitted, str)
            stopped.append(distribution.sf(beyond(fitted, 0.01)))
        shown = f"{kind}, {count} images: 1 % was meant, {100 * np.mean(stopped):.2f} % are stopped"
        print(shown)  # noqa: T201 - the numbers of docs/line.md
        assert least < np.mean(stopped) / 0.01 < most
