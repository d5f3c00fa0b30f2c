"""The network that `dcgan` is measured against, as a tutorial writes it: plain PyTorch, nothing of ganvas.

    z [B, 100] ─ linear 1024, ReLU ─ 1024×1×1 ─ five 5×5 stride-2 transposed convolutions 512 … 32 ─ one more ─ tanh
    image 64×64 ─ five 5×5 stride-2 convolutions 64 … 1024, leaky ReLU 0.2 ─ linear ─ logit

Batch normalisation after every hidden convolution, weights from N(0, 0.02), Adam 2e-4 with β1 = 0.5, sigmoid
cross-entropy with the non-saturating generator. Everything is PyTorch's default: fp32, NCHW memory, its Adam, its
allocator and its OpenMP. One thing is kinder than a tutorial: pictures lie in memory as fp32 tensors, no loader runs.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

Z_DIM, SIDE = 100, 64


class Generator(nn.Module):
    """`z [B, 100] -> images [B, C, 64, 64]` in [-1, 1]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.project = nn.Sequential(nn.Linear(Z_DIM, 1024), nn.ReLU())
        layers: list[nn.Module] = []
        inputs = 1024
        for outputs in (512, 256, 128, 64, 32):
            layers += [
                nn.ConvTranspose2d(inputs, outputs, 5, stride=2, padding=2, output_padding=1, bias=False),
                nn.BatchNorm2d(outputs),
                nn.ReLU(),
            ]
            inputs = outputs
        layers += [nn.ConvTranspose2d(inputs, channels, 5, stride=2, padding=2, output_padding=1), nn.Tanh()]
        self.layers = nn.Sequential(*layers)

    def forward(self, z: Tensor) -> Tensor:
        x: Tensor = self.layers(self.project(z).view(-1, 1024, 1, 1))
        return x


class Discriminator(nn.Module):
    """`images [B, C, 64, 64] -> logits [B]`."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = channels
        for outputs in (64, 128, 256, 512, 1024):
            layers += [
                nn.Conv2d(inputs, outputs, 5, stride=2, padding=2, bias=False),
                nn.BatchNorm2d(outputs),
                nn.LeakyReLU(0.2),
            ]
            inputs = outputs
        self.layers = nn.Sequential(*layers)
        self.judge = nn.Linear(1024 * 2 * 2, 1)

    def forward(self, images: Tensor) -> Tensor:
        x: Tensor = self.judge(self.layers(images).flatten(1))
        return x.view(-1)


def start_weights(module: nn.Module) -> None:
    """For `nn.Module.apply`: N(0, 0.02) weights and zero biases; batch normalisation starts as the identity."""
    if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
        nn.init.normal_(module.weight, 0.0, 0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


class Loop:
    """Both networks, their optimisers, and a step."""

    def __init__(self, channels: int, device: str) -> None:
        self.device = device
        self.generator = Generator(channels).to(device)
        self.discriminator = Discriminator(channels).to(device)
        self.generator.apply(start_weights)
        self.discriminator.apply(start_weights)
        self.criterion = nn.BCEWithLogitsLoss()
        self.generator_optimiser = torch.optim.Adam(self.generator.parameters(), lr=2e-4, betas=(0.5, 0.999))
        self.discriminator_optimiser = torch.optim.Adam(self.discriminator.parameters(), lr=2e-4, betas=(0.5, 0.999))

    def step(self, real: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """Train both on one batch: `real [B, C, 64, 64]` in [-1, 1], `z [B, 100]`. Returns both losses, [] each."""
        ones, zeros = torch.ones(len(real), device=self.device), torch.zeros(len(real), device=self.device)

        self.discriminator_optimiser.zero_grad()
        loss_real = self.criterion(self.discriminator(real), ones)
        loss_real.backward()
        fake = self.generator(z)
        loss_fake = self.criterion(self.discriminator(fake.detach()), zeros)
        loss_fake.backward()
        self.discriminator_optimiser.step()

        self.generator_optimiser.zero_grad()
        loss_generator = self.criterion(self.discriminator(fake), ones)
        loss_generator.backward()
        self.generator_optimiser.step()
        return (loss_real + loss_fake).detach(), loss_generator.detach()
