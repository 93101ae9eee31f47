"""An anomalib Lightning module, trained by a bare loop: no Engine, validation, callbacks or pictures.

The module's own optimisers, schedules, training step and hooks are used as Lightning would; what is left out
is what would look at test data or write files. Images come resized from the harness and are normalised as the
model's own pre-processor does; a pre-processor's centre crop is left out, so that the whole image is scored.
Scores and maps are raw: no normalisation by a validation set.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterator, Mapping
from types import SimpleNamespace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from harness.method import Epoch, Method, Prediction, Setup, TrainingData
from methods.anomalib import peculiar
from methods.anomalib.networks import timm_networks, torchvision_networks
from methods.anomalib.signatures import Source

_SINGLE = ("pre_processor", "post_processor", "evaluator", "visualizer")


class AnomalibModel(Method):
    """A model of anomalib by name; subclasses are made by :mod:`methods.anomalib.family`.

    Class attributes:
        source: the model.
        passes: over the training images, of a model that only gathers features; 0 for a trained one.
        note: what is peculiar about it, for people.
    """

    version = 2
    score_rule = "the model's own"
    source: ClassVar[Source]
    passes: ClassVar[int] = 0
    note: ClassVar[str] = ""

    def __init__(self, config: Any, setup: Setup) -> None:
        super().__init__(config, setup)
        states = {_plain(name): setup.load_state(name) for name in self.needs(config).backbones}
        others = peculiar.torchvision_assets(self.source.name, config)
        try:
            with timm_networks(states), torchvision_networks(setup, others), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self.module, self._normalise = _build(self.source, config, setup)
        except torch.OutOfMemoryError:
            raise
        except (KeyError, NotImplementedError, RuntimeError, ValueError) as error:
            raise ValueError(f"anomalib's {self.source.name} cannot be built ({_said(error)}).") from error
        self.module.to(setup.device)
        # Frozen parts are in evaluation mode from their construction, and Lightning leaves them there.
        self._modes = {name: part.training for name, part in self.module.named_modules()}

    def batch(self, images: Tensor) -> Tensor:
        """uint8 ``[B, 3, S, S]`` → what the model takes, float32 on the device."""
        return self._normalise(images.to(self.setup.device).contiguous().float() / 255)

    def fit(self, data: TrainingData, on_epoch: Callable[[Epoch], None]) -> None:
        """Trains as the module says, for ``epochs`` or ``steps``; validation images are not used.

        Raises:
            ValueError: neither length is known, or the images are too few or of a size that does not fit.
        """
        epochs = self.passes or self.config.epochs  # type: ignore[attr-defined]
        steps = None if self.passes else self.config.steps  # type: ignore[attr-defined]
        if epochs is None and steps is None:
            raise ValueError(f"anomalib states no length of training for {self.source.name}: set epochs.")
        least = getattr(self.config, "n_pca_components", 1)
        if len(data.train) < least:
            # anomalib would quietly make no model.
            raise ValueError(
                f"{self.source.name} needs {least} training images for its n_pca_components, "
                f"not {len(data.train)}."
            )
        loader = _Loader(data, self.config.batch_size, self.batch)  # type: ignore[attr-defined]
        if steps is not None:
            epochs = min(epochs or steps, -(-steps // len(loader)))
        loop = Loop(self.module, loader, epochs, steps, self._train)
        try:
            with warnings.catch_warnings(), torch.enable_grad():
                warnings.simplefilter("ignore")
                # Before its last pass a model that gathers features cannot predict.
                loop.run((lambda _: None) if self.passes else on_epoch)
        except torch.OutOfMemoryError:
            raise
        except (IndexError, RuntimeError) as error:
            # Sizes that do not fit come out of anomalib as errors of tensors.
            note = f" Note: {self.note}." if self.note else ""
            raise ValueError(
                f"anomalib's {self.source.name} cannot be trained on {len(data.train)} images of "
                f"{self.setup.image_size} px as it is configured ({_said(error)}).{note}"
            ) from error
        if self.passes:
            on_epoch(Epoch(1, 1))
        self.module.eval()

    def _train(self) -> None:
        for name, part in self.module.named_modules():
            part.training = self._modes.get(name, True)

    @torch.no_grad()
    def predict(self, images: Tensor) -> Prediction:
        """The model's raw score and map; a model without maps fills one with its score."""
        self.module.eval()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            output = self.module.model(self.batch(images))
        return unified(output, len(images), self.setup.image_size)

    def state_dict(self) -> dict[str, Tensor]:
        """Everything of the model; copies, since networks may share weights."""
        return {name: value.detach().clone() for name, value in self.module.model.state_dict().items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restores what :meth:`state_dict` returned."""
        self.module.model.load_state_dict(
            {name: value.to(self.setup.device) for name, value in state.items()}
        )
        self.module.eval()


def unified(output: Any, count: int, size: int) -> Prediction:
    """Returns score ``[B]`` and map ``[B, S, S]`` of whatever of the two a model gives."""
    score: Tensor | None = getattr(output, "pred_score", None)
    maps: Tensor | None = getattr(output, "anomaly_map", None)
    if score is not None:
        score = score.float().reshape(count)
    if maps is None:
        if score is None:
            raise RuntimeError("the model gives neither a score nor a map")
        return Prediction(score, score[:, None, None].expand(count, size, size).contiguous())
    maps = maps.float().reshape(count, 1, *maps.shape[-2:])
    if maps.shape[-2:] != (size, size):
        maps = F.interpolate(maps, size=(size, size), mode="bilinear", align_corners=False)
    maps = maps[:, 0]
    return Prediction(maps.amax(dim=(1, 2)) if score is None else score, maps)


def _said(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")


def _plain(name: Any) -> Any:
    """Returns a network's name without the file that its weights come from."""
    return name.partition("@file:")[0] if isinstance(name, str) else name


def _build(source: Source, config: Any, setup: Setup) -> tuple[Any, Callable[[Tensor], Tensor]]:
    """Returns the Lightning module, and what normalises its images ``[B, 3, S, S]`` in [0, 1]."""
    from importlib import import_module

    from anomalib.pre_processing import PreProcessor
    from torchvision.transforms.v2 import Compose, Normalize, Resize

    kind = peculiar.kind(source.name, getattr(import_module(source.module), source.name), setup)
    size = setup.image_size
    default = getattr(kind.configure_pre_processor(), "transform", None)
    steps = getattr(default, "transforms", [default])
    normalise = [step for step in steps if isinstance(step, Normalize)]
    transform = Compose([Resize((size, size), antialias=True), *normalise])
    given = {
        name: _plain(getattr(config, name))
        for name, parameter in source.parameters.items()
        if name in type(config).model_fields and getattr(config, name) != parameter.default
    }
    given |= {name: False for name in _SINGLE if name in source.accepted}
    given |= peculiar.arguments(source.name, setup)
    given["pre_processor"] = PreProcessor(transform=transform)
    return kind(**given), Compose(normalise) if normalise else lambda images: images


class _Loader:
    """The training images as batches of anomalib, in a new order each time; all are normal."""

    def __init__(self, data: TrainingData, batch_size: int, prepare: Callable[[Tensor], Tensor]) -> None:
        self._data, self._size, self._prepare = data, batch_size, prepare
        self._generator = torch.Generator().manual_seed(data.seed)

    def __len__(self) -> int:
        return -(-len(self._data.train) // self._size)

    def __iter__(self) -> Iterator[Any]:
        from anomalib.data import ImageBatch

        for images in self._data.shuffled(self._size, self._generator):
            batch = self._prepare(images)
            count, _, height, width = batch.shape
            yield ImageBatch(
                image=batch,
                gt_label=torch.zeros(count, dtype=torch.bool, device=batch.device),
                gt_mask=torch.zeros(count, height, width, dtype=torch.bool, device=batch.device),
            )


class Loop:
    """Lightning's fit loop for one device, with nothing around it.

    Args:
        module: the Lightning module.
        loader: sized and iterable, yields batches.
        epochs: how many.
        steps: optimiser steps after which training ends; ``None`` for no limit.
        train: puts the module back into training mode.
    """

    def __init__(
        self, module: Any, loader: Any, epochs: int, steps: int | None, train: Callable[[], None]
    ) -> None:
        self.module, self.loader, self.epochs, self.steps, self.train = module, loader, epochs, steps, train
        data = SimpleNamespace(train_dataloader=lambda: loader)
        self.trainer = SimpleNamespace(
            max_epochs=epochs,
            max_steps=-1 if steps is None else steps,
            current_epoch=0,
            global_step=0,
            datamodule=data,
            train_dataloader=loader,
            num_training_batches=len(loader),
            estimated_stepping_batches=min(epochs * len(loader), steps or epochs * len(loader)),
        )
        self.logged: dict[str, list[Tensor]] = {}

    def run(self, on_epoch: Callable[[Epoch], None]) -> None:
        """Trains; the losses of an epoch are the means of what the module returned as losses."""
        module = self.module
        module._trainer = self.trainer
        self._stand_in()
        self.optimisers, self.schedules = configured(module.configure_optimizers())
        self.clip = module.trainer_arguments.get("gradient_clip_val") or 0
        module.on_train_start()
        for number in range(1, self.epochs + 1):
            self.trainer.current_epoch = number - 1
            self.train()
            self.logged.clear()
            module.on_train_epoch_start()
            for index, batch in enumerate(self.loader):
                if self.steps is not None and self.trainer.global_step >= self.steps:
                    break
                self._step(batch, index)
            module.on_train_epoch_end()
            self._schedule("epoch")
            means = {name: float(torch.stack(v).double().mean()) for name, v in self.logged.items()}
            on_epoch(Epoch(number, self.epochs, means))
        module._trainer = None

    def _stand_in(self) -> None:
        """Gives the module what it asks its trainer for."""
        module = self.module
        for name in ("log", "log_dict"):
            setattr(module, name, lambda *_, **__: None)
        module.manual_backward = lambda loss, *_, **options: loss.backward(**options)
        module.optimizers = lambda *_, **__: (
            self.optimisers[0] if len(self.optimisers) == 1 else self.optimisers
        )

    def _step(self, batch: Any, index: int) -> None:
        module = self.module
        takes_index = len(inspect.signature(module.training_step).parameters) > 1
        output = module.training_step(*([batch, index] if takes_index else [batch]))
        losses = output if isinstance(output, Mapping) else {"loss": output}
        for name, value in losses.items():
            if isinstance(value, Tensor) and value.numel() == 1:
                self.logged.setdefault(name, []).append(value.detach().reshape(()))
        loss = losses.get("loss")
        if module.automatic_optimization and self.optimisers and isinstance(loss, Tensor):
            self.optimisers[0].zero_grad(set_to_none=True)
            module.backward(loss)
            if self.clip:
                parameters = [p for group in self.optimisers[0].param_groups for p in group["params"]]
                torch.nn.utils.clip_grad_norm_(parameters, self.clip)
            self.optimisers[0].step()
        module.on_train_batch_end(output, batch, index)
        self.trainer.global_step += 1
        self._schedule("step")

    def _schedule(self, interval: str) -> None:
        # Under manual optimisation Lightning leaves schedules to the module.
        if self.module.automatic_optimization:
            for schedule, every in self.schedules:
                if every == interval:
                    schedule.step()


def configured(given: Any) -> tuple[list[Any], list[tuple[Any, str]]]:
    """Takes apart what ``configure_optimizers`` may return: optimisers, and schedules with their interval."""
    if given is None:
        return [], []
    if isinstance(given, Mapping):
        schedule = given.get("lr_scheduler")
        return [given["optimizer"]], [_schedule_of(schedule)] if schedule is not None else []
    if not isinstance(given, (list, tuple)):
        return [given], []
    if len(given) == 2 and isinstance(given[0], (list, tuple)):
        return list(given[0]), [_schedule_of(schedule) for schedule in given[1]]
    parts = [configured(one) for one in given]
    return [o for optimisers, _ in parts for o in optimisers], [s for _, found in parts for s in found]


def _schedule_of(given: Any) -> tuple[Any, str]:
    if isinstance(given, Mapping):
        return given["scheduler"], given.get("interval", "epoch")
    return given, "epoch"
