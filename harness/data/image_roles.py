"""Which images of a category are trained, validated and tested on, by protocol and contamination."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.common.errors import UserError
from harness.data.card import NORMAL
from harness.method import Images
from harness.spec.protocols import PROTOCOLS, PUBLISHED_BATCH, IncompleteBatches, unfilled
from harness.spec.run import RunSpec

HELD_OUT = 0.1


@dataclass(frozen=True)
class Roles:
    """Rows of a category's training, validation and test images.

    Attributes:
        train: of the training images.
        moved: of the test images, anomalous: they are trained on too, and not tested on.
        held_out: of the training images, validated on; where empty, other images are.
        normals: of the test images, validated on; where both are empty, the dataset's own are.
        test: of the test images.
        unscored: of the test images, the last of those not moved: the protocol leaves them out.
    """

    train: tuple[int, ...]
    moved: tuple[int, ...]
    held_out: tuple[int, ...]
    normals: tuple[int, ...]
    test: tuple[int, ...]
    unscored: tuple[int, ...] = ()


def assign(train: int, validation: int, kinds: Sequence[str], spec: RunSpec) -> Roles:
    """Assigns images to roles.

    ``held_out``: the dataset's own validation images, else a tenth (at least one) of the training images,
    drawn by the run's seed and not trained on. ``test_normals``: the normal ones of the test images that are
    scored. Contamination adds anomalous test images to the training images, so many that they make up its
    share of them, at least one. Of the test images that are left, in their order, a protocol that drops
    incomplete batches leaves out the last ones that fill none.

    Args:
        train: number of training images that there are.
        validation: number of validation images that the dataset has of its own.
        kinds: ``normal`` or the kind of anomaly of each test image.
        spec: the run.

    Raises:
        UserError: no image would be left to train, to validate or to test on.
    """
    rows = np.random.default_rng(spec.seed).permutation(train).tolist()
    held_out: list[int] = []
    normals: list[int] = []
    protocol = PROTOCOLS[spec.protocol]
    from_test = protocol.validation == "test_normals"
    if not (from_test or validation):
        count = _held_out(train)
        if count >= train:
            raise UserError(f"{spec.label()}: {train} training image is too few, one is held out.")
        held_out, rows = sorted(rows[:count]), rows[count:]
    chosen = sorted(rows[: spec.limit_train])
    count = _count(len(chosen), kinds, spec)
    left = remaining(kinds, count, spec.seed)
    moved = sorted(set(range(len(kinds))).difference(left))
    test = scored(left, protocol.incomplete_batches)
    if not test:
        raise UserError(
            f"{spec.label()}: there are {len(left)} test images, and the protocol scores full batches of "
            f"{PUBLISHED_BATCH} alone: none would be scored. Choose another protocol, or leave out the "
            "category."
        )
    if from_test and not (normals := [i for i in test if kinds[i] == NORMAL]):
        there = kinds.count(NORMAL)
        raise UserError(
            f"{spec.label()}: the protocol needs normal test images, there is none"
            + (
                f" among the {len(test)} that it scores ({there} of {len(kinds)} are normal)."
                if there
                else "."
            )
        )
    rest = left[len(test) :]
    return Roles(*map(tuple, (chosen, moved, held_out, normals, test, rest)))


def sizes(train: int, validation: int, test: int, spec: RunSpec) -> tuple[int, int]:
    """Returns how many images :func:`assign` trains and tests on, without looking whether there are enough.

    Args:
        train: number of training images that there are.
        validation: number of validation images that the dataset has of its own.
        test: number of test images that there are.
        spec: the run.
    """
    own = validation or PROTOCOLS[spec.protocol].validation == "test_normals"
    chosen = train if own else train - _held_out(train)
    chosen = chosen if spec.limit_train is None else min(chosen, spec.limit_train)
    moved = _moved(chosen, spec)
    left_out = unfilled(test - moved) if PROTOCOLS[spec.protocol].incomplete_batches == "dropped" else 0
    return chosen + moved, test - moved - left_out


@dataclass(frozen=True)
class Parts:
    """The images of each role."""

    train: Images
    validation: Images
    test: Images


def parts_of(
    roles: Roles, train: NDArray[np.uint8], validation: NDArray[np.uint8], test: NDArray[np.uint8]
) -> Parts:
    """Returns the images of each role, from those that there are."""
    learned = Images(train, roles.train)
    if roles.moved:
        learned = Images([*(train[i] for i in roles.train), *(test[i] for i in roles.moved)])
    normal = Images(validation)
    if roles.held_out or roles.normals:
        normal = Images(train, roles.held_out) if roles.held_out else Images(test, roles.normals)
    return Parts(learned, normal, Images(test, roles.test))


def remaining(kinds: Sequence[str], moved: int, seed: int) -> list[int]:
    """Returns the rows of the test images that are left when so many anomalous ones, drawn, are trained on.

    With the same seed the images of a smaller number are among those of a larger one.
    """
    anomalous = [i for i, kind in enumerate(kinds) if kind != NORMAL]
    order = np.random.default_rng([seed, 1]).permutation(len(anomalous)).tolist()
    out = {anomalous[i] for i in order[:moved]}
    return [i for i in range(len(kinds)) if i not in out]


def scored(rows: Sequence[int], incomplete_batches: IncompleteBatches) -> list[int]:
    """Returns those of the remaining test images that are scored: all, or the first that fill batches."""
    return list(rows[: len(rows) - unfilled(len(rows))] if incomplete_batches == "dropped" else rows)


def counted(roles: Roles, kinds: Sequence[str], spec: RunSpec) -> dict[str, int]:
    """Returns the counts of a record that tell of its test images: by kind, moved and left out.

    Args:
        roles: of the images.
        kinds: of those that are scored.
        spec: the run.
    """
    found = {kind: kinds.count(kind) for kind in sorted(set(kinds))}
    if roles.moved:
        found["moved"] = len(roles.moved)
    if PROTOCOLS[spec.protocol].incomplete_batches == "dropped":
        found["unscored"] = len(roles.unscored)
    return found


def _held_out(train: int) -> int:
    return max(1, round(HELD_OUT * train))


def _moved(normal: int, spec: RunSpec) -> int:
    share = spec.contamination
    # Of a small set a share may be less than half an image: it is one, for no clean run is to be called so.
    return max(1, round(share / (1 - share) * normal)) if share else 0


def _count(normal: int, kinds: Sequence[str], spec: RunSpec) -> int:
    count = _moved(normal, spec)
    anomalous = sum(kind != NORMAL for kind in kinds)
    if count and count >= anomalous:
        raise UserError(
            f"{spec.label()}: besides {normal} normal training images there would be {count} anomalous ones, "
            f"but the test set has {anomalous} of them, and must keep one: choose a smaller share."
        )
    return count
