"""The autoencoder between pictures and latents: AutoencoderKL (Rombach et al. 2022, section 3.1).

A picture of 512 x 512 x 3 numbers is mostly detail that no one looks at. The encoder squeezes it
into 64 x 64 x 4 numbers, the decoder paints it back, and diffusion happens in between, on 48 times
fewer numbers. "KL" names the light pull towards N(0, 1) with which the encoder was trained: it
outputs a mean and a standard deviation for each latent number, and a latent is drawn from them.

    x (b, 3, y, x) --Encoder--> mean, std (b, 4, y/8, x/8) each;  z = mean + std eps, eps ~ N(0, I)
    z (b, 4, y/8, x/8) --Decoder--> (b, 3, y, x), about [-1, 1]

Letters in the shape comments, the same in every file: see tiny_unet.py; f is how much smaller a
latent is, 8 (tiny world: 4).

The modules carry the names of the public checkpoints, so their weights load as they are.
    VAEConfig()                       83,653,863 parameters: Stable Diffusion 1.x and 2.x
    the tiny world's config           see tiny_world/model/vae/config.json

Not here: tiling and slicing for very large pictures, the discriminator that the public weights were
trained with.
"""
from dataclasses import dataclass

import torch.nn.functional as F
from torch import nn


@dataclass(frozen=True)
class VAEConfig:
    """vae/config.json. The defaults are Stable Diffusion's: its older files leave keys out."""
    in_channels: int = 3
    out_channels: int = 3
    latent_channels: int = 4
    block_out_channels: tuple = (128, 256, 512, 512)  # all levels but the last halve the picture
    layers_per_block: int = 2
    norm_num_groups: int = 32
    scaling_factor: float = 0.18215  # times this, latents have a variance of about 1


class ResnetBlock2D(nn.Module):
    """x + conv(conv(x)): two 3x3 convolutions, each after a normalisation and SiLU; 1x1 on the way
    past if the width changes."""

    def __init__(self, c_in, c_out, groups):
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, c_in, eps=1e-6)
        self.conv1 = nn.Conv2d(c_in, c_out, 3, padding=1)
        self.norm2 = nn.GroupNorm(groups, c_out, eps=1e-6)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(c_in, c_out, 1) if c_in != c_out else nn.Identity()

    def forward(self, x):  # (b, c_in, y, x) -> (b, c_out, y, x)
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        return h + self.conv_shortcut(x)


class Attention(nn.Module):
    """One head that lets every position of the small map look at every other: the only global step
    of the autoencoder."""

    def __init__(self, c, groups):
        super().__init__()
        self.group_norm = nn.GroupNorm(groups, c, eps=1e-6)
        self.to_q, self.to_k, self.to_v = nn.Linear(c, c), nn.Linear(c, c), nn.Linear(c, c)
        self.to_out = nn.ModuleList([nn.Linear(c, c)])

    def forward(self, x):  # (b, c, y, x) -> (b, c, y, x)
        h = self.group_norm(x).flatten(2).transpose(1, 2)                       # (b, n, c)
        q, k, v = self.to_q(h), self.to_k(h), self.to_v(h)
        h = F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None])  # (b, 1, n, c)
        h = h[:, 0]                                                             # (b, n, c)
        # h first: a sum takes the memory layout of its first term, here channels last, and the
        # convolutions that follow are faster so (on CPUs by an eighth to a third of all of decode).
        return self.to_out[0](h).transpose(1, 2).reshape(x.shape) + x


class MidBlock(nn.Module):
    """resnet, attention, resnet at the smallest size."""

    def __init__(self, c, groups):
        super().__init__()
        self.resnets = nn.ModuleList([ResnetBlock2D(c, c, groups), ResnetBlock2D(c, c, groups)])
        self.attentions = nn.ModuleList([Attention(c, groups)])

    def forward(self, x):  # (b, c, y, x) -> (b, c, y, x)
        return self.resnets[1](self.attentions[0](self.resnets[0](x)))


class Downsample2D(nn.Module):
    """Halves the picture. The zero border goes to the right and the bottom only, since the public
    weights were trained so (probably inherited from "SAME" padding, which does that at stride 2).
    Padding all sides shifts the picture by pixels."""

    def __init__(self, c):
        super().__init__()
        self.conv = nn.Conv2d(c, c, 3, stride=2)

    def forward(self, x):  # (b, c, y, x) -> (b, c, y/2, x/2)
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample2D(nn.Module):
    """Doubles the picture: each pixel becomes four, and a convolution smooths the blocks."""

    def __init__(self, c):
        super().__init__()
        self.conv = nn.Conv2d(c, c, 3, padding=1)

    def forward(self, x):  # (b, c, y, x) -> (b, c, 2y, 2x)
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Level(nn.Module):
    """One resolution: some resnets, then a change of size unless it is the last level."""

    def __init__(self, c_in, c_out, layers, groups, resize=None):
        super().__init__()
        widths_in = [c_in] + [c_out] * (layers - 1)
        self.resnets = nn.ModuleList([ResnetBlock2D(width, c_out, groups) for width in widths_in])
        self.downsamplers = nn.ModuleList([resize(c_out)] if resize is Downsample2D else [])
        self.upsamplers = nn.ModuleList([resize(c_out)] if resize is Upsample2D else [])

    def forward(self, x):
        for layer in [*self.resnets, *self.downsamplers, *self.upsamplers]:
            x = layer(x)
        return x


class Encoder(nn.Module):
    """Picture to moments: levels of falling size, the mid block, and 2 * latent_channels numbers a
    position."""

    def __init__(self, config):
        super().__init__()
        widths, groups = config.block_out_channels, config.norm_num_groups
        self.conv_in = nn.Conv2d(config.in_channels, widths[0], 3, padding=1)
        resizes = [Downsample2D] * (len(widths) - 1) + [None]
        self.down_blocks = nn.ModuleList([
            Level(c_in, c_out, config.layers_per_block, groups, resize)
            for c_in, c_out, resize in zip([widths[0], *widths], widths, resizes)])
        self.mid_block = MidBlock(widths[-1], groups)
        self.conv_norm_out = nn.GroupNorm(groups, widths[-1], eps=1e-6)
        self.conv_out = nn.Conv2d(widths[-1], 2 * config.latent_channels, 3, padding=1)

    def forward(self, x):
        x = self.conv_in(x)
        for level in self.down_blocks:
            x = level(x)
        return self.conv_out(F.silu(self.conv_norm_out(self.mid_block(x))))


class Decoder(nn.Module):
    """Latent to picture: the encoder mirrored, with one resnet more a level."""

    def __init__(self, config):
        super().__init__()
        widths, groups = config.block_out_channels[::-1], config.norm_num_groups
        self.conv_in = nn.Conv2d(config.latent_channels, widths[0], 3, padding=1)
        self.mid_block = MidBlock(widths[0], groups)
        resizes = [Upsample2D] * (len(widths) - 1) + [None]
        self.up_blocks = nn.ModuleList([
            Level(c_in, c_out, config.layers_per_block + 1, groups, resize)
            for c_in, c_out, resize in zip([widths[0], *widths], widths, resizes)])
        self.conv_norm_out = nn.GroupNorm(groups, widths[-1], eps=1e-6)
        self.conv_out = nn.Conv2d(widths[-1], config.out_channels, 3, padding=1)

    def forward(self, z):
        z = self.mid_block(self.conv_in(z))
        for level in self.up_blocks:
            z = level(z)
        return self.conv_out(F.silu(self.conv_norm_out(z)))


class VAE(nn.Module):
    """The autoencoder. Latents here are unscaled; `StableDiffusion.encode` and `.decode` apply
    `scaling_factor`."""

    def __init__(self, config=VAEConfig()):
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.quant_conv = nn.Conv2d(2 * config.latent_channels, 2 * config.latent_channels, 1)
        self.post_quant_conv = nn.Conv2d(config.latent_channels, config.latent_channels, 1)

    @property
    def factor(self):
        """How many picture pixels one latent position stands for along each side: 8 for Stable
        Diffusion."""
        return 2 ** (len(self.config.block_out_channels) - 1)

    def encode(self, x):
        """(b, 3, y, x) in [-1, 1] -> mean and std, each (b, c, y/f, x/f), of the Gaussian q(z|x). y
        and x are multiples of f."""
        mean, log_variance = self.quant_conv(self.encoder(x)).chunk(2, dim=1)
        return mean, (0.5 * log_variance.clamp(-30, 20)).exp()  # clamped: a wild one would overflow

    def decode(self, z):
        """(b, c, y/f, x/f) -> (b, 3, y, x), about [-1, 1]."""
        return self.decoder(self.post_quant_conv(z))
