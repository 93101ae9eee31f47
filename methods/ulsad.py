"""ULSAD: deep feature reconstruction plus a global autoencoder, for structural and logical anomalies.

S. Patra, S. Ben Taieb, "Revisiting Deep Feature Reconstruction for Logical and Structural Industrial
Anomaly Detection", TMLR 2024. Symbols and equation numbers are the paper's.

    X   image                               [3, S, S], S = 256
    U   = N_θ(X), frozen features           [c*, h*, w*] = [384, 32, 32]
    Z   U, flattened over positions         [c*, k*], k* = h* w*
    Ũ′  FRN's reconstruction of U           first c* channels of N_ψ(U): the local branch
    Ũ″  FRN's reconstruction of Û           last c* channels of N_ψ(U)
    Û   = N_φ(X), global autoencoder        [c*, h*, w*]: the global branch

Where the printed paper and the authors' published code differ, this file follows the code, since the
published numbers come from it, and says so at that line.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from harness.method import (
    Citation,
    Epoch,
    Hyperparameters,
    Images,
    Method,
    Needs,
    Prediction,
    Setup,
    TrainingData,
)
from methods.blur import gaussian_kernel
from methods.branches import attend, attention, combine, distance, quantiles, upsample
from methods.features import FrozenFeatures
from methods.folding import fold_batch_norms
from methods.precision import has_bf16
from methods.replay import Replayed
from methods.ulsad_networks import FeatureReconstructionNetwork, GlobalAutoencoder

STRIDES = (8, 16)
BRANCHES = ("local", "global")


class ULSADConfig(Hyperparameters):
    """Hyper-parameters; the defaults are the paper's or, where so said, the code's."""

    backbone: str = Field("wide_resnet50_2", description="timm name of N_θ, with strides 8 and 16; Fig. 7")
    channels: int = Field(
        384, ge=1, description="c*, channels of U; all are kept where there are fewer; Appendix A"
    )
    lambda_l: float = Field(
        0.5, ge=0, description="λ_l, weight of the cosine term in eq. 1 and 7; paper, training set-up"
    )
    lambda_g: float = Field(
        0.5, ge=0, description="λ_g, weight of the cosine term in eq. 5, 6 and 8; paper, training set-up"
    )
    loss_pl: bool = Field(True, description="whether L_pl (eq. 1) is trained; Table 3")
    loss_pg: Literal["attention", "direct", "off"] = Field(
        "attention", description="L_pg (eq. 5), its variant L_pg^d without attention, or none; Table 3"
    )
    loss_lg: bool = Field(True, description="whether L_lg (eq. 6) is trained; Table 3")
    output: Literal["auto", "relu", "linear"] = Field(
        "auto",
        description="activation of N_ψ's output; auto: ReLU, as in the code, where N_θ's features are "
        "rectified (the paper's ResNets), none where they are signed (EfficientNet's linear bottlenecks)",
    )
    local_only: bool = Field(False, description="local branch alone: no N_φ, M = M^l; Table 28")
    alpha: float = Field(0.9, ge=0, lt=1, description="α, the normal quantile mapped to 0; Fig. 8")
    beta: float = Field(0.995, gt=0, le=1, description="β, the normal quantile mapped to 0.1; Fig. 8")
    quantiles: bool = Field(True, description="whether maps are normalised by the quantiles; paper, scoring")
    blur: float = Field(
        4.0, ge=0, le=32, description="σ of the Gaussian blur of each map in pixels, 0 for none; code only"
    )
    epochs: int = Field(200, ge=1, description="passes over the training images; paper, training set-up")
    batch_size: int = Field(8, ge=1, description="training images per step; paper, training set-up")
    lr: float = Field(2e-4, gt=0, description="learning rate of Adam, constant; paper, training set-up")
    weight_decay: float = Field(2e-5, ge=0, description="L2 weight decay of Adam; paper, training set-up")
    precision: Literal["float32", "bf16"] = Field(
        "float32",
        description="arithmetic of the networks; bf16 is faster where the hardware has it, elsewhere it "
        "does not train and predicts in float32; weights, distances and maps stay float32",
    )
    q_samples: int = Field(2**24, ge=1000, description="at most so many random pixels per quantile; code")

    @model_validator(mode="after")
    def _consistent(self) -> ULSADConfig:
        if self.alpha >= self.beta:
            raise ValueError(f"alpha ({self.alpha}) must be below beta ({self.beta})")
        if self.local_only and not self.loss_pl:
            raise ValueError("local_only needs loss_pl, which trains the local branch")
        if not (self.loss_pl or self.loss_lg or self.loss_pg != "off"):
            raise ValueError("all losses are off, nothing would be trained")
        if self.batch_size < 2 and not self.local_only:
            raise ValueError(
                "batch_size must be at least 2: N_φ's bottleneck has one value per image to norm"
            )
        return self


class ULSAD(Method):
    """ULSAD (Patra and Ben Taieb, TMLR 2024)."""

    version = 3
    postprocessing = frozenset({"alpha", "beta", "blur"})
    Config = ULSADConfig
    config: ULSADConfig
    citation = Citation(
        title="Revisiting Deep Feature Reconstruction for Logical and Structural Industrial "
        "Anomaly Detection",
        authors="Patra, Sukanya and Ben Taieb, Souhaib",
        year=2024,
        venue="Transactions on Machine Learning Research",
        licence="Apache-2.0",
    )

    @classmethod
    def needs(cls, config: ULSADConfig) -> Needs:
        """The backbone's ImageNet weights; three halvings of N_θ and two of the FRN."""
        return Needs(backbones={config.backbone: STRIDES}, image_size_multiple=32)

    def __init__(self, config: ULSADConfig, setup: Setup) -> None:
        super().__init__(config, setup)
        self._bf16 = config.precision == "bf16" and has_bf16(setup.device)
        self.backbone = setup.load_features(config.backbone, STRIDES)
        self.c = min(config.channels, sum(self.backbone.channels))
        device = setup.device
        self._pixel_mean = torch.tensor(self.backbone.mean, device=device).view(1, 3, 1, 1) * 255
        self._pixel_std = torch.tensor(self.backbone.std, device=device).view(1, 3, 1, 1) * 255
        rectified = self._has_rectified_features() if config.output == "auto" else config.output == "relu"
        self.frn = FeatureReconstructionNetwork(self.c, rectified).to(device)
        self.autoencoder = (
            None if config.local_only else GlobalAutoencoder(self.c, setup.image_size).to(device)
        )
        if self._bf16:
            if isinstance(self.backbone, nn.Module):
                fold_batch_norms(self.backbone, self.normalise(self._ramp()))
            # bf16 convolutions are written for channels last.
            self.modules().to(memory_format=torch.channels_last)
        self.mean = torch.zeros(self.c, device=device)
        self.std = torch.ones(self.c, device=device)
        # Rows: local, global; columns: q_α, q_β. Raw maps are averaged until they are known.
        self.q: Tensor | None = None
        self._statistics: dict[str, Tensor] = {}
        self._kernel = gaussian_kernel(config.blur).to(device) if config.blur else None
        self._scored = Replayed(self._score, device)

    # Features

    def _arithmetic(self) -> torch.autocast:
        """Whatever the networks compute within has the configured precision."""
        return torch.autocast(self.setup.device.type, torch.bfloat16, enabled=self._bf16)

    def _laid_out(self, x: Tensor) -> Tensor:
        return x.contiguous(memory_format=torch.channels_last) if self._bf16 else x

    def normalise(self, images: Tensor) -> Tensor:
        """uint8 ``[B, 3, S, S]`` → X on the device, normalised as the backbone expects."""
        X = (images.to(self.setup.device).float() - self._pixel_mean) / self._pixel_std
        return self._laid_out(X)

    def reconstruct(self, U: Tensor) -> tuple[Tensor, Tensor]:
        """N_ψ: Ũ′ and Ũ″, float32."""
        with self._arithmetic():
            local, through_global = self.frn(self._laid_out(U))
        return local.float(), through_global.float()

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """N_θ before standardisation: uint8 ``[B, 3, S, S]`` → ``[B, c*, h*, w*]``, Appendix A."""
        with self._arithmetic():
            fine, coarse = self.backbone(self.normalise(images))
            y = torch.cat([fine, upsample(coarse, fine.shape[-1])], dim=1)
            # Adaptive average pooling along the channel axis: 1536 → 384 are means of 4 neighbours.
            pooled = F.adaptive_avg_pool1d(y.flatten(2).transpose(1, 2), self.c).transpose(1, 2)
        # A traced `len` is a constant, a traced shape is not.
        return pooled.reshape(y.shape[0], self.c, *y.shape[2:])

    def _has_rectified_features(self) -> bool:
        """Whether N_θ gives no negative value: any one image tells, signed features have both signs."""
        return bool((self.features(self._ramp()) >= 0).all())

    def _ramp(self) -> Tensor:
        """An image, uint8 ``[1, 3, S, S]``, where no image is at hand yet."""
        size = self.setup.image_size
        return torch.linspace(0, 255, size).to(torch.uint8).expand(1, 3, size, size)

    def standardise(self, y: Tensor) -> Tensor:
        """U: features standardised by μ and σ of the training set."""
        return (y.float() - self.mean.view(1, -1, 1, 1)) / self.std.view(1, -1, 1, 1)

    def _learn_statistics(self, features: FrozenFeatures, rows: Sequence[int]) -> None:
        """μ and σ per channel over these training images and all positions, from float64 sums."""
        count = 0
        total = torch.zeros(self.c, dtype=torch.float64, device=self.setup.device)
        squares = torch.zeros_like(total)
        for start in range(0, len(rows), 16):
            y = features.batch(rows[start : start + 16]).double()
            count += y.numel() // self.c
            total += y.sum(dim=(0, 2, 3))
            squares += y.square().sum(dim=(0, 2, 3))
        mean = total / count
        std = (squares / count - mean.square()).clamp_min(0).sqrt()
        self.mean = mean.float()
        # A channel that never varies in training carries nothing to scale by.
        self.std = torch.where(std > 1e-12, std, 1.0).float()
        self._scored.forget()

    # Training

    def losses(self, X: Tensor, U: Tensor) -> dict[str, Tensor]:
        """The terms of L = L_pl + L_pg + L_lg that are on, each a mean over batch and positions."""
        config = self.config
        local, through_global = self.reconstruct(U)
        terms = {}
        if config.loss_pl:
            terms["L_pl"] = distance(local, U, config.lambda_l).mean()  # eq. 1, 2
        if self.autoencoder is None:
            return terms
        with self._arithmetic():
            U_hat = self.autoencoder(X).float()
        if config.loss_pg == "attention":
            Z, Z_hat = U.flatten(2), U_hat.flatten(2)
            A, A_hat = attend(Z, Z), attend(Z_hat, Z)  # eq. 3, 4
            terms["L_pg"] = distance(A_hat, A, config.lambda_g).mean()  # eq. 5
        elif config.loss_pg == "direct":
            terms["L_pg"] = distance(U_hat, U, config.lambda_g).mean()  # L_pg^d, Table 3
        if config.loss_lg:
            terms["L_lg"] = distance(
                through_global, U_hat, config.lambda_g
            ).mean()  # eq. 6, gradients into both
        return terms

    def modules(self) -> nn.ModuleDict:
        """The trained networks by name."""
        networks: dict[str, nn.Module] = {"frn": self.frn}
        if self.autoencoder is not None:
            networks["autoencoder"] = self.autoencoder
        return nn.ModuleDict(networks)

    def fit(self, data: TrainingData, on_epoch: Callable[[Epoch], None]) -> None:
        """Trains both branches jointly with Adam; quantiles from the normal validation images.

        Raises:
            ValueError: ``precision`` is bf16, which the device has no arithmetic for.
        """
        if self.config.precision == "bf16" and not self._bf16:
            raise ValueError(
                f"precision=bf16 needs bfloat16 arithmetic, which this {self.setup.device.type} has not "
                "(it would train many times slower than float32): leave precision out"
            )
        config, networks = self.config, self.modules()
        features, images = FrozenFeatures(data.train, self.features, self.setup), self._pixels(data.train)
        generator = torch.Generator().manual_seed(data.seed)
        # One value per image and channel cannot be normed: a lone last image waits for another epoch.
        least = 1 if self.autoencoder is None else 2
        rows: Sequence[int] = range(len(features))
        if data.drop_last:  # as the code, whose statistics come from one pass over the same loader
            rows = [row for batch in data.shuffled_rows(config.batch_size, generator) for row in batch]
        self._learn_statistics(features, rows)
        on_gpu = self.setup.device.type == "cuda"
        optimiser = torch.optim.Adam(
            networks.parameters(),
            lr=config.lr,
            weight_decay=config.weight_decay,
            fused=on_gpu,
            capturable=on_gpu,
        )

        def state() -> list[Tensor]:
            moments = [tensor for values in optimiser.state.values() for tensor in values.values()]
            return [*networks.state_dict().values(), *moments]

        step = Replayed(lambda X, y: self._step(optimiser, X, y), self.setup.device, state)
        parts = {"networks": networks, "optimiser": optimiser, "generator": generator}
        for number in data.epochs(config.epochs, parts):
            networks.train()
            sums = torch.zeros((), device=self.setup.device)
            for rows in data.shuffled_rows(config.batch_size, generator, least):
                (terms,) = step(images.batch(rows), features.batch(rows))
                sums = sums + terms * len(rows)
            networks.eval()
            if number == config.epochs and config.quantiles:
                # As in the code, only the last epoch has quantiles: an earlier one, if a protocol selects it,
                # averages the raw maps.
                self._learn_quantiles(data.validation, generator)
            trained = data.images_per_epoch(config.batch_size, least)
            means = [total / trained for total in sums.tolist()]
            on_epoch(Epoch(number, config.epochs, dict(zip(self._terms, means, strict=True))))
        if on_gpu:
            self.setup.choices["training steps"] = step.how

    def _step(self, optimiser: torch.optim.Optimizer, images: Tensor, y: Tensor) -> tuple[Tensor]:
        """One step of the optimiser; returns the terms of its loss."""
        losses = self.losses(self.normalise(images), self.standardise(y))
        # A recording leaves out what is not the GPU's, but the names are the same in every step.
        self._terms = tuple(losses)
        terms = torch.stack(list(losses.values()))
        terms.sum().backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        return (terms.detach(),)

    def _pixels(self, images: Images) -> Images | FrozenFeatures:
        """The training images, on a GPU in its memory where they fit: as bytes they are small."""
        if self.setup.device.type != "cuda":
            return images
        return FrozenFeatures(images, lambda batch: batch.to(self.setup.device), self.setup, name="images")

    @torch.no_grad()
    def _learn_quantiles(self, images: Images, generator: torch.Generator) -> None:
        """q_α and q_β of each branch over the pixels of the blurred normal validation maps."""
        maps = torch.cat([torch.stack(self.raw_maps(batch)) for batch in images.batches(16)], dim=1)
        self._statistics = {"validation": maps, "generator": generator.get_state()}
        at = (self.config.alpha, self.config.beta)
        size, most = self.setup.image_size, self.config.q_samples
        self.q = quantiles(maps, at, self._kernel, size, most, generator)
        self._scored.forget()

    # Scoring

    @torch.no_grad()
    def raw_maps(self, images: Tensor) -> list[Tensor]:
        """M^l (eq. 7) and, with the global branch, M^g (eq. 8), ``[B, h*, w*]`` each."""
        self.modules().eval()
        U = self.standardise(self.features(images))
        local, through_global = self.reconstruct(U)
        maps = [distance(local, U, self.config.lambda_l)]  # eq. 7
        if self.autoencoder is not None:
            with self._arithmetic():
                U_hat = self.autoencoder(self.normalise(images)).float()
            maps.append(distance(through_global, U_hat, self.config.lambda_g))  # eq. 8
        return maps

    def predict(self, images: Tensor) -> Prediction:
        """M = (t(M^l) + t(M^g)) / 2, each blurred; the score is its maximum."""
        with torch.no_grad():
            score, combined, *maps = self._scored(images.to(self.setup.device))
        if self.setup.device.type == "cuda":
            self.setup.choices["predictions"] = self._scored.how
        return Prediction(score, combined, dict(zip(BRANCHES, maps, strict=False)))

    def _score(self, images: Tensor) -> tuple[Tensor, ...]:
        found = combine(self.raw_maps(images), self.q, self._kernel, self.setup.image_size)
        return found.score, found.map, *found.parts.values()

    @torch.no_grad()
    def raw(self, images: Tensor) -> dict[str, Tensor]:
        """M^l, M^g, and the attention that each position gets in A (eq. 3) and in Â (eq. 4), a mean."""
        maps = dict(zip(BRANCHES, self.raw_maps(images), strict=False))
        if self.autoencoder is not None:
            U, U_hat = self.standardise(self.features(images)), self.autoencoder(self.normalise(images))
            maps |= {"attention": attention(U, U), "attention_global": attention(U_hat, U)}
        return maps

    def statistics(self) -> dict[str, Tensor]:
        """The normal validation maps, and the generator that draws from their pixels."""
        return self._statistics

    @classmethod
    def postprocessor(
        cls, config: ULSADConfig, statistics: Mapping[str, Tensor], image_size: int
    ) -> Callable[[Mapping[str, Tensor]], Prediction]:
        """Quantiles, blur and mean of the branches, by other values of ``postprocessing``."""
        q, generator = None, torch.Generator()
        kernel = gaussian_kernel(config.blur) if config.blur else None
        if config.quantiles:
            generator.set_state(statistics["generator"])
            at = (config.alpha, config.beta)
            q = quantiles(statistics["validation"], at, kernel, image_size, config.q_samples, generator)
        return lambda raw: combine([raw[b] for b in BRANCHES if b in raw], q, kernel, image_size)

    # State

    def state_dict(self) -> dict[str, Tensor]:
        """Both networks, μ and σ, and the quantiles if known; the frozen backbone is left out."""
        state = {"mean": self.mean, "std": self.std, **self.modules().state_dict()}
        return state if self.q is None else {**state, "quantiles": self.q}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restores what :meth:`state_dict` returned."""
        rest = {name: tensor.to(self.setup.device) for name, tensor in state.items()}
        self.mean, self.std = rest.pop("mean"), rest.pop("std")
        self.q = rest.pop("quantiles", None)
        self._scored.forget()
        self.modules().load_state_dict(rest)
