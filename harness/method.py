"""The one interface that every method implements, and what the harness hands to it.

A method learns from normal images, then scores new ones; ``bench init method`` writes a small one whole.

Seeding, device, precision, the evaluation of epochs, model selection and timing belong to the harness.
A method gets normal training and normal validation images and nothing else; test images reach it one
batch at a time in :meth:`Method.predict`; labels and masks never do.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn


class Hyperparameters(BaseModel):
    """Base of every ``Method.Config``: frozen, unknown names refused, defaults checked."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)


@dataclass(frozen=True)
class Citation:
    """What a leaderboard cites for a method.

    Attributes:
        title: title of the paper.
        authors: BibTeX ``author`` field, names joined by ``and``.
        year: year of publication.
        licence: licence of this implementation (SPDX identifier).
        venue: journal or conference, empty for none.
        url: where the paper is found, empty for none.
    """

    title: str
    authors: str
    year: int
    licence: str
    venue: str = ""
    url: str = ""

    def bibtex(self, key: str) -> str:
        """Returns a BibTeX entry with the given citation key."""
        fields = {
            "title": f"{{{self.title}}}",
            "author": self.authors,
            "year": str(self.year),
            "journal": self.venue,
            "url": self.url,
        }
        body = ",\n".join(f"  {k} = {{{v}}}" for k, v in fields.items() if v)
        return f"@article{{{key},\n{body}\n}}\n"


@dataclass(frozen=True)
class Asset:
    """A file or folder from elsewhere that a method needs beside pretrained backbones.

    ``bench prepare`` fetches it into the cache; a run never downloads.

    Attributes:
        name: what :attr:`Setup.asset` is asked for, and its folder's name: lower-case letters, digits, ``-``.
        about: what it is, for people.
        licence: SPDX identifier, or the licence's name.
        url: address of the file; empty for what the harness makes itself.
        sha256: SHA-256 of the downloaded file, or its first digits where only those are published; empty
            where no checksum is.
    """

    name: str
    about: str
    licence: str
    url: str = ""
    sha256: str = ""


PHOTOGRAPHS = Asset(
    "photographs",
    "a few real photographs that come with scikit-image, as PNG files; a small stand-in for large image sets",
    "see scikit-image's data licences",
)


@dataclass(frozen=True)
class Needs:
    """What a method needs before it can run; checked before the first run starts.

    Attributes:
        backbones: timm names of the pretrained networks it asks :class:`Setup` for, each with the strides
            of the feature maps it takes, or with none for the whole network.
        assets: files and folders that it asks :attr:`Setup.asset` for.
        image_size_multiple: the side of its images must be a multiple of this.
        image_size_least: the least side of its images, in pixels.
        modules: importable modules beyond the core dependencies.
        extra: the extra of ulsad-bench that installs those modules, empty for none.
    """

    backbones: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    assets: tuple[Asset, ...] = ()
    image_size_multiple: int = 1
    image_size_least: int = 1
    modules: tuple[str, ...] = ()
    extra: str = ""


@dataclass(frozen=True)
class Prediction:
    """Scores and anomaly maps of one batch; higher is more anomalous.

    Attributes:
        score: image-level scores, float32 ``[B]``, any finite range.
        map: anomaly maps at the resolution of the input, float32 ``[B, H, W]``, any finite range.
        parts: named component maps, each ``[B, H, W]`` (ULSAD gives ``local`` and ``global``).
    """

    score: Tensor
    map: Tensor
    parts: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Epoch:
    """What a method reports at the end of an epoch.

    Attributes:
        number: the epoch just finished, from 1.
        of: how many there will be.
        losses: named mean training losses of the epoch.
    """

    number: int
    of: int
    losses: Mapping[str, float] = field(default_factory=dict)


class Images:
    """A fixed sequence of equally sized RGB images, kept as uint8 and possibly memory-mapped.

    Args:
        array: indexable storage of shape ``[N, H, W, 3]``, uint8 (a NumPy array or memory map).
        rows: which rows of the storage belong to the sequence, in order; all of them by default.
    """

    def __init__(self, array: object, rows: Sequence[int] | None = None) -> None:
        self._array = array
        self._rows = list(rows) if rows is not None else list(range(len(array)))  # type: ignore[arg-type]

    def __len__(self) -> int:
        return len(self._rows)

    def batch(self, indices: Sequence[int]) -> Tensor:
        """Returns the images at ``indices`` as uint8 ``[B, 3, H, W]`` on the CPU."""
        rows = [self._rows[i] for i in indices]
        return torch.stack([torch.from_numpy(self._array[r].copy()) for r in rows]).permute(0, 3, 1, 2)  # type: ignore[index]

    def batches(self, size: int) -> Iterator[Tensor]:
        """Yields all images in order as uint8 ``[<=size, 3, H, W]`` batches."""
        for start in range(0, len(self), size):
            yield self.batch(range(start, min(start + size, len(self))))


def shuffled(count: int, batch_size: int, generator: torch.Generator, least: int = 1) -> Iterator[list[int]]:
    """Yields the numbers below ``count`` in an order drawn from ``generator``, in batches.

    A last batch of fewer than ``least`` is left out.
    """
    order: list[int] = torch.randperm(count, generator=generator).tolist()
    for start in range(0, count - least + 1, batch_size):
        yield order[start : start + batch_size]


class Checkpoints(Protocol):
    """Where trainings are saved and restored: ``harness.execution.checkpoint`` does it."""

    def restore(self, parts: Mapping[str, Any]) -> int:
        """Restores the parts as they were last saved; returns after which epoch, 0 where nothing was."""

    def offer(self, epoch: int, parts: Mapping[str, Any]) -> None:
        """May save the parts as they are after an epoch."""


@dataclass(frozen=True)
class TrainingData:
    """All that ``fit`` may learn from: normal images. There is no handle on test images, labels or masks.

    Attributes:
        train: normal training images, never empty.
        validation: normal images for quantiles and other statistics, never empty.
        seed: seed for the method's own generators (shuffling, sampling).
        checkpoints: where :meth:`epochs` saves; ``None`` for nowhere.
        drop_last: whether each epoch leaves out what does not fill a batch, as published code often does
            and the protocol then asks for; :meth:`shuffled` and :meth:`shuffled_rows` see to it.
    """

    train: Images
    validation: Images
    seed: int
    checkpoints: Checkpoints | None = None
    drop_last: bool = False

    def epochs(self, count: int, parts: Mapping[str, Any]) -> Iterator[int]:
        """Yields the numbers of the epochs to do, from 1, or from where an interrupted training left off.

        ``for number in data.epochs(100, {"network": …, "optimiser": …, "generator": …})`` makes a training
        that can be interrupted: what is named is saved between epochs, with the global random
        generators, and restored before the first number.

        Args:
            count: how many epochs there are.
            parts: all that changes from one epoch to the next: modules, optimisers, schedules (anything with
                ``state_dict`` and ``load_state_dict``) and ``torch.Generator``.
        """
        done = self.checkpoints.restore(parts) if self.checkpoints else 0
        for number in range(done + 1, count + 1):
            yield number
            if self.checkpoints and number < count:
                self.checkpoints.offer(number, parts)

    def images_per_epoch(self, batch_size: int, least: int = 1) -> int:
        """Returns how many images :meth:`shuffled_rows` yields in an epoch."""
        rest = len(self.train) % batch_size
        return len(self.train) - (rest if rest < (batch_size if self.drop_last else least) else 0)

    def shuffled_rows(
        self, batch_size: int, generator: torch.Generator, least: int = 1
    ) -> Iterator[list[int]]:
        """Yields the numbers of the training images of one epoch, in an order drawn from ``generator``.

        Args:
            batch_size: images per batch.
            generator: draws the order.
            least: a last batch of fewer images is left out; with ``drop_last`` any that is not full.

        Raises:
            ValueError: no batch would be left.
        """
        least = batch_size if self.drop_last else least
        if len(self.train) < least:
            raise ValueError(
                f"no batch to train on: there are {len(self.train)} training images, and batches of fewer "
                f"than {least} are left out"
            )
        return shuffled(len(self.train), batch_size, generator, least)

    def shuffled(self, batch_size: int, generator: torch.Generator) -> Iterator[Tensor]:
        """Yields the training images once, in an order drawn from ``generator``, as uint8 batches."""
        for rows in self.shuffled_rows(batch_size, generator):
            yield self.train.batch(rows)


class Backbone(Protocol):
    """A frozen, pretrained feature extractor in evaluation mode.

    Attributes:
        channels: number of channels of each feature map it returns.
        reductions: stride of each feature map against the input.
        mean: normalisation mean, one per RGB channel, for inputs in [0, 1].
        std: normalisation standard deviation, one per RGB channel.
    """

    channels: tuple[int, ...]
    reductions: tuple[int, ...]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __call__(self, x: Tensor) -> list[Tensor]:
        """Maps normalised images ``[B, 3, H, W]`` to feature maps ``[B, C_i, H/s_i, W/s_i]``."""


def _no_state(name: str) -> Mapping[str, Tensor] | None:
    raise RuntimeError(f"there are no weights of '{name}' here")


@dataclass(frozen=True)
class Setup:
    """What the harness decides for a method.

    Attributes:
        device: where the method computes.
        image_size: side S of the square images ``[3, S, S]`` it will be given.
        seed: the run's seed; torch, NumPy and Python are already seeded with it.
        load_features: gives a pretrained timm network's feature maps of the given strides, see
            :class:`Backbone`.
        load_network: gives the whole pretrained timm network of a name, frozen, in evaluation mode and on
            the device, with its normalisation mean and standard deviation. Weights, their source and
            their hash are the harness's business.
        asset: gives the folder of an :class:`Asset` by its name; archives are unpacked there.
        scratch: a folder that exists during the run; whatever is written there is deleted afterwards.
        choices: where the method writes how it goes about its work on this machine, such as where it keeps
            features, as far as that changes no result but by rounding. The record keeps it.
        load_state: gives the weights of a declared network alone, by name as timm publishes them, for code
            that builds the network itself; ``None`` where random ones are wanted.
    """

    device: torch.device
    image_size: int
    seed: int
    load_network: Callable[[str], tuple[nn.Module, tuple[float, ...], tuple[float, ...]]]
    load_features: Callable[[str, Sequence[int]], Backbone]
    asset: Callable[[str], Path]
    scratch: Path
    choices: dict[str, str] = field(default_factory=dict)
    load_state: Callable[[str], Mapping[str, Tensor] | None] = _no_state


class Method(ABC):
    """An anomaly detector: learns from normal images, then scores new ones.

    Attributes:
        version: raised by the author whenever results change, so that old records are not reused.
        citation: the paper and the licence.
        Config: validated hyper-parameters, the paper's values as defaults.
        score_rule: how a map becomes an image score, for the protocol fingerprint.
        depends_on_batch: why an image's score depends on what else is in its batch, where that is so; the
            contract test reports it instead of a breach.
        postprocessing: names of the hyper-parameters that only :meth:`postprocessor` reads. Their values can
            be tried on kept parts (``--keep parts``), without training.
    """

    version: ClassVar[int]
    citation: ClassVar[Citation]
    score_rule: ClassVar[str] = "max of the map"
    depends_on_batch: ClassVar[str] = ""
    postprocessing: ClassVar[frozenset[str]] = frozenset()

    Config: ClassVar[type[Hyperparameters]] = Hyperparameters
    config: Hyperparameters

    # ``config`` is an instance of the subclass's own ``Config``, which it may write as the type.
    def __init__(self, config: Any, setup: Setup) -> None:
        self.config = config
        self.setup = setup

    @classmethod
    def needs(cls, config: Any) -> Needs:
        """Returns what this method needs under ``config`` (weights, extras)."""
        return Needs()

    @classmethod
    def remarks(cls, config: Any) -> tuple[str, ...]:
        """Returns what a reader must know about numbers made under ``config``, in sentences.

        For what makes them another method's than the published one: a stand-in for data or weights, scores
        that depend on the batch. Reports print them below the table.
        """
        return ()

    @abstractmethod
    def fit(self, data: TrainingData, on_epoch: Callable[[Epoch], None]) -> None:
        """Learns from normal images.

        Call ``on_epoch`` at the end of every epoch (once, for a method without epochs): the harness
        reports progress there, and under the ``paper`` protocol it calls :meth:`predict` from within
        it. So :meth:`predict` must work by then, and ``fit`` must set its modules back to training mode
        at the start of each epoch.
        """

    @abstractmethod
    def predict(self, images: Tensor) -> Prediction:
        """Scores a batch.

        Args:
            images: uint8 ``[B, 3, S, S]``, RGB, on the CPU or the device.

        Returns:
            Scores ``[B]`` and maps ``[B, S, S]``, on any device; they must not depend on what else is
            in the batch.
        """

    @abstractmethod
    def state_dict(self) -> dict[str, Tensor]:
        """Returns everything learned, as named tensors; frozen pretrained weights may be left out."""

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restores what :meth:`state_dict` returned."""

    # Of methods with ``postprocessing``

    def raw(self, images: Tensor) -> Mapping[str, Tensor]:
        """Returns named maps ``[B, h, w]`` of any size before post-processing, and others to look at."""
        return {}

    def statistics(self) -> Mapping[str, Tensor]:
        """Returns what post-processing needs beside :meth:`raw`, as it is after ``fit``."""
        return {}

    @classmethod
    def postprocessor(
        cls, config: Any, statistics: Mapping[str, Tensor], image_size: int
    ) -> Callable[[Mapping[str, Tensor]], Prediction]:
        """Returns the function from what :meth:`raw` gave of a batch to what :meth:`predict` gives of it."""
        raise NotImplementedError(f"{cls.__name__} has no post-processing of its own.")
