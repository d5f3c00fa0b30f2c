"""The networks: one family a file, and the table that builds them.

    dcgan    the tutorial network: transposed convolutions, batch normalisation         (power-of-two squares)
    style    ours: mapping network, modulated convolutions, lean residual critic        (32 to 256, rectangles)

A pair is (generator, discriminator): latents [B, Z] to images [B, C, H, W], and images to logits [B].
"""

from ganvas.networks.build import FAMILIES, Pair, build, build_generator, check, patch_for, width_for

__all__ = ["FAMILIES", "Pair", "build", "build_generator", "check", "patch_for", "width_for"]
