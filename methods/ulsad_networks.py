"""The two networks that ULSAD trains."""

from __future__ import annotations

import itertools

from torch import Tensor, nn

from methods.branches import upsample


class FeatureReconstructionNetwork(nn.Module):
    """N_ψ, Appendix A: U ``[B, c*, h*, w*]`` → (Ũ′, Ũ″) ``[B, 2 c*, h*, w*]``; h* and w* divisible by 4.

    Table corrections as in the code: no ReLU after conv3, padding 2 and 2 c* output channels in deconv3.
    65.5 million parameters at c* = 384.

    Args:
        c: c*.
        rectified: whether a ReLU ends it, as in the code. A network that ends so can never give the negative
            half of signed features, and what it misses buries the defects.
    """

    def __init__(self, c: int, rectified: bool = True) -> None:
        super().__init__()

        def conv(i: int, o: int, stride: int) -> list[nn.Module]:
            return [nn.Conv2d(i, o, 3, stride, 1, bias=False), nn.BatchNorm2d(o)]

        def deconv(i: int, o: int, kernel: int, stride: int, padding: int) -> list[nn.Module]:
            up = nn.ConvTranspose2d(i, o, kernel, stride, padding, bias=False)
            return [up, nn.BatchNorm2d(o), nn.ReLU()]

        self.layers = nn.Sequential(
            *conv(c, 2 * c, 2),
            nn.ReLU(),
            *conv(2 * c, 4 * c, 2),
            nn.ReLU(),
            *conv(4 * c, 4 * c, 1),
            *deconv(4 * c, 2 * c, 4, 2, 1),
            *deconv(2 * c, c, 4, 2, 1),
            *deconv(c, 2 * c, 5, 1, 2)[: None if rectified else -1],
        )
        for layer in self.layers:
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.xavier_uniform_(layer.weight, nn.init.calculate_gain("leaky_relu"))

    def forward(self, U: Tensor) -> tuple[Tensor, Tensor]:
        """Returns Ũ′ and Ũ″, each ``[B, c*, h*, w*]``."""
        local, through_global = self.layers(U).chunk(2, dim=1)
        return local, through_global


class GlobalAutoencoder(nn.Module):
    """N_φ, Appendix A: X ``[B, 3, S, S]`` → Û ``[B, c*, S/8, S/8]`` through one vector of 64 numbers.

    As in the code: ReLU for the text's LeakyReLU, a bottleneck convolution without padding, and upsampling
    to S/64−1, S/32, S/16−1, S/8−1, S/4−1, S/8. The bottleneck's kernel is 8 at S = 256 and above; smaller
    images, which the paper has none of, get S/32, so that the bottleneck stays one position. Its batch norm
    sees one value per image and channel, so that a training batch needs two images.
    1.0 million parameters at c* = 384.
    """

    def __init__(self, c: int, size: int) -> None:
        super().__init__()
        widths = (3, 32, 32, 64, 64, 64)

        def norm_relu(channels: int) -> list[nn.Module]:
            return [nn.BatchNorm2d(channels, eps=1e-4, affine=False), nn.ReLU()]

        encoder: list[nn.Module] = []
        for i, o in itertools.pairwise(widths):
            encoder += [nn.Conv2d(i, o, 4, 2, 1), *norm_relu(o)]
        bottleneck = nn.Conv2d(64, 64, min(8, size // 32))
        self.encoder = nn.Sequential(*encoder, bottleneck, *norm_relu(64))
        self.sizes = (max(1, size // 64 - 1), size // 32, size // 16 - 1, size // 8 - 1, size // 4 - 1)
        self.out_size = size // 8
        self.decoder = nn.ModuleList(
            nn.Sequential(nn.Conv2d(64, 64, 4, 1, 2), *norm_relu(64)) for _ in self.sizes
        )
        self.head = nn.Sequential(nn.Conv2d(64, 64, 3, 1, 1), *norm_relu(64), nn.Conv2d(64, c, 3, 1, 1))

    def forward(self, X: Tensor) -> Tensor:
        """Returns Û."""
        y: Tensor = self.encoder(X)
        for size, block in zip(self.sizes, self.decoder, strict=True):
            y = block(upsample(y, size))
        return self.head(upsample(y, self.out_size))  # type: ignore[no-any-return]
