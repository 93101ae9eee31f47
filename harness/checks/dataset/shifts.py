"""Whether exposure or resolution differ between splits, by more than chance and by enough to matter."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import stats

from harness.checks.dataset.image_features import Look

# All three must be passed. Cliff's δ of 0.474 is "large" (Romano et al., 2006); in large sets far smaller
# ones have tiny p-values. And where light is steady, δ is large for what no network sees.
LEVEL, LARGE, GREY_LEVELS = 0.001, 0.474, 3.0
# Defects may change an image's brightness; from here on (an image AUROC of 90 %) it alone nearly finds them.
GIVEN_AWAY = 0.8
# Share of images in sizes that training has not, and by how much their side differs.
_UNSEEN, _SCALE = 0.1, 1.1
# Fewer images than these have no distribution.
_LEAST = 5
ANOMALOUS = "anomalous test"
What = Literal["brightness", "contrast"]


@dataclass(frozen=True)
class Shift:
    """One number of two groups of images.

    Attributes:
        what: of the images, in grey levels of 255.
        before: the group it is compared with.
        after: the other group.
        means: of both.
        delta: Cliff's δ in [−1, 1]: how much oftener an image of the second group has the larger value.
        p: two-sided, of Mann and Whitney's test.
        large: the decision.
    """

    what: What
    before: str
    after: str
    means: tuple[float, float]
    delta: float
    p: float
    large: bool

    def __str__(self) -> str:
        values = f"{self.means[0]:.1f} → {self.means[1]:.1f} grey levels"
        delta = f"{self.delta:+.2f}".replace("-", "−")
        text = f"{self.what}, {self.before} → {self.after}: {values} (δ = {delta}, p = {self.p:.1g})"
        if self.after != ANOMALOUS:
            return text
        # No shift, but a short cut to the defects.
        return f"{text}: alone an image AUROC of {50 + 50 * abs(self.delta):.0f} %"


def shifts(before: tuple[str, Sequence[Look]], after: tuple[str, Sequence[Look]]) -> Iterator[Shift]:
    """Yields brightness and contrast of two groups of images, each with its name."""
    if min(len(before[1]), len(after[1])) < _LEAST:
        return
    names: tuple[What, ...] = ("brightness", "contrast")
    for what in names:
        old, new = (np.array([getattr(look, what) for look in group[1]]) for group in (before, after))
        found = stats.mannwhitneyu(new, old, alternative="two-sided")
        delta = 2 * float(found.statistic) / (len(old) * len(new)) - 1
        means, p = (float(old.mean()), float(new.mean())), float(found.pvalue)
        enough = GIVEN_AWAY if after[0] == ANOMALOUS else LARGE
        large = p <= LEVEL and abs(delta) >= enough and abs(means[1] - means[0]) >= GREY_LEVELS
        yield Shift(what, before[0], after[0], means, delta, p, large)


def unseen_sizes(training: Sequence[Look], name: str, others: Sequence[Look]) -> str:
    """Says if many images have a resolution that no training image has; nothing where few or none do."""
    if not training or not others:
        return ""
    known = np.array(sorted({look.size for look in training}))
    strange = [look.size for look in others if _apart(look.size, known)]
    if len(strange) < _UNSEEN * len(others):
        return ""
    (width, height), _ = Counter(strange).most_common(1)[0]
    usual = Counter(look.size for look in training).most_common(1)[0][0]
    return (
        f"resolution: {len(strange)} of {len(others)} {name} images have a size that no training image has, "
        f"e.g. {width}×{height}; most of those have {usual[0]}×{usual[1]}"
    )


def _apart(size: tuple[int, int], known: np.ndarray[tuple[int, ...], np.dtype[np.int64]]) -> bool:
    """Whether a size differs from each of the known ones by more than a tenth in width or height."""
    ratio = np.maximum(known / np.array(size), np.array(size) / known).max(axis=1)
    return bool(ratio.min() > _SCALE)
