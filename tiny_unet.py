"""The UNet: the network that looks at a noisy latent, the time and the words, and predicts the
noise (or v: ddpm.py).

Down, the map shrinks and the channels grow; up, the reverse, and at each size the way up sees what
the way down saw (skips). Every resnet is told the time t, every transformer looks at the words.
Stable Diffusion's, for 64 x 64 latents:

    row                    resnets  words?  map       channels
    conv_in                                 64 x 64      4 -> 320
    down_blocks.0          2        yes     64 x 64    320           then the map is halved
    down_blocks.1          2        yes     32 x 32    640           then the map is halved
    down_blocks.2          2        yes     16 x 16   1280           then the map is halved
    down_blocks.3          2        no       8 x 8    1280
    mid_block              2        yes      8 x 8    1280
    up_blocks.0            3        no       8 x 8    1280           then the map is doubled
    up_blocks.1            3        yes     16 x 16   1280           then the map is doubled
    up_blocks.2            3        yes     32 x 32    640           then the map is doubled
    up_blocks.3            3        yes     64 x 64    320
    conv_out                                64 x 64    320 -> 4

Letters in the shape comments, the same in every file of the project:
    b    pictures in a batch                      l  text tokens: 77 (tiny world: 32)
    c    channels; of a latent 4 (tiny world: 8)  d  width of a token
    y x  rows and columns of a map                h  heads
    n    = y*x positions of a map                 k  width of one head
    t    time, 0 .. T-1                           e  width of the time embedding

The modules carry the names of the public checkpoints. By config alone this is SD 1.x (859,520,964
parameters), SD 2.x (865,910,724), BK-SDM small and tiny (482,346,884 and 323,384,964), and the tiny
world's (tiny_world/model/unet/config.json).

Not here: class labels, added conditions, ControlNet, dropout.
"""
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint


@dataclass(frozen=True)
class UNetConfig:
    """unet/config.json. The defaults are SD 1.5's."""
    sample_size: int = 64        # side of the latents it was trained on; others work too
    in_channels: int = 4
    out_channels: int = 4
    block_out_channels: tuple = (320, 640, 1280, 1280)
    down_block_types: tuple = ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",)
    up_block_types: tuple = ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3
    mid_block_type: str | None = "UNetMidBlock2DCrossAttn"  # None, null in a file: no mid block
    layers_per_block: int = 2
    attention_head_dim: int | tuple = 8  # the NUMBER of heads, in spite of its name; or one a level
    cross_attention_dim: int = 768
    use_linear_projection: bool = False  # in and out of a transformer; False: by a 1x1 convolution
    norm_num_groups: int = 32
    norm_eps: float = 1e-5

    def heads(self, level):
        heads = self.attention_head_dim
        return heads if isinstance(heads, int) else heads[level]


def time_features(t, width):  # (b,) -> (b, width)
    """Waves of falling frequency: cos and sin of t / 10000^(i / half) (Vaswani et al. 2017, section
    3.5)."""
    half = width // 2
    frequency = torch.exp(-math.log(10_000) / half * torch.arange(half, device=t.device))
    angle = t[:, None].float() * frequency
    return torch.cat([angle.cos(), angle.sin()], dim=-1)


class TimeEmbedding(nn.Module):
    """Two layers that turn the waves into what the resnets read."""

    def __init__(self, width, e):
        super().__init__()
        self.linear_1, self.linear_2 = nn.Linear(width, e), nn.Linear(e, e)

    def forward(self, features):  # (b, width) -> (b, e)
        return self.linear_2(F.silu(self.linear_1(features)))


class ResnetBlock2D(nn.Module):
    """x + conv(conv(x) + time): local work; the time adds to each channel a number of its own, the
    same at every position."""

    def __init__(self, c_in, c_out, e, groups, eps):
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, c_in, eps=eps)
        self.conv1 = nn.Conv2d(c_in, c_out, 3, padding=1)
        self.time_emb_proj = nn.Linear(e, c_out)
        self.norm2 = nn.GroupNorm(groups, c_out, eps=eps)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(c_in, c_out, 1) if c_in != c_out else nn.Identity()

    def forward(self, x, time):  # (b, c_in, y, x), (b, e) -> (b, c_out, y, x)
        h = self.conv1(F.silu(self.norm1(x)))
        h = h + self.time_emb_proj(F.silu(time))[:, :, None, None]
        h = self.conv2(F.silu(self.norm2(h)))
        return h + self.conv_shortcut(x)


class Attention(nn.Module):
    """Each position asks a question (q); tokens answer by how well their key (k) fits, with their
    value (v).

    attn1 asks the other positions of the picture (self-attention), attn2 the words
    (cross-attention)."""

    kernel = staticmethod(F.scaled_dot_product_attention)

    def __init__(self, d, d_context, heads):
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(d, d, bias=False)
        self.to_k = nn.Linear(d_context, d, bias=False)
        self.to_v = nn.Linear(d_context, d, bias=False)
        self.to_out = nn.ModuleList([nn.Linear(d, d)])

    def forward(self, x, context, maps=None):  # (b, n, d), (b, l, d_context) -> (b, n, d)
        def split(tokens):                                      # (b, l, h*k) -> (b, h, l, k)
            return tokens.unflatten(-1, (self.heads, -1)).transpose(1, 2)
        q, k, v = split(self.to_q(x)), split(self.to_k(context)), split(self.to_v(context))
        if maps is None:
            out = self.kernel(q, k, v)
        else:  # the same written out, when someone wants to see who looks at what
            weights = torch.einsum("bhnk,bhlk->bhnl", q, k) * q.shape[-1] ** -0.5
            weights = weights.softmax(dim=-1)                   # each position looks at all tokens
            maps.append(weights)
            out = torch.einsum("bhnl,bhlk->bhnk", weights, v)
        return self.to_out[0](out.transpose(1, 2).flatten(2))   # (b, n, h*k = d)


class GEGLU(nn.Module):
    """A layer whose one half opens and closes the other (Shazeer 2020)."""

    def __init__(self, d, d_out):
        super().__init__()
        self.proj = nn.Linear(d, 2 * d_out)

    def forward(self, x):  # (b, n, d) -> (b, n, d_out)
        h, gate = self.proj(x).chunk(2, dim=-1)
        return h * F.gelu(gate)


class FeedForward(nn.Module):
    """What each position does by itself with what it has seen: out to four times the width and
    back."""

    def __init__(self, d):
        super().__init__()
        dropout = nn.Identity()  # not here, but the last layer's public name counts it
        self.net = nn.ModuleList([GEGLU(d, 4 * d), dropout, nn.Linear(4 * d, d)])

    def forward(self, x):  # (b, n, d) -> (b, n, d)
        return self.net[2](self.net[0](x))


class BasicTransformerBlock(nn.Module):
    """Look at the picture, look at the words, think: three residual steps."""

    def __init__(self, d, d_context, heads):
        super().__init__()
        self.norm1, self.attn1 = nn.LayerNorm(d), Attention(d, d, heads)
        self.norm2, self.attn2 = nn.LayerNorm(d), Attention(d, d_context, heads)
        self.norm3, self.ff = nn.LayerNorm(d), FeedForward(d)

    def forward(self, x, context, maps=None):  # (b, n, d), (b, l, d_context) -> (b, n, d)
        h = self.norm1(x)
        x = x + self.attn1(h, h)
        x = x + self.attn2(self.norm2(x), context, maps)
        return x + self.ff(self.norm3(x))


class Transformer2D(nn.Module):
    """A transformer block over the positions of a feature map, as one more residual step."""

    def __init__(self, c, d_context, heads, groups, linear):
        super().__init__()
        self.norm = nn.GroupNorm(groups, c, eps=1e-6)
        self.proj_in = nn.Linear(c, c) if linear else nn.Conv2d(c, c, 1)
        self.transformer_blocks = nn.ModuleList([BasicTransformerBlock(c, d_context, heads)])
        self.proj_out = nn.Linear(c, c) if linear else nn.Conv2d(c, c, 1)

    def forward(self, x, context, maps=None):  # (b, c, y, x), (b, l, d_context) -> (b, c, y, x)
        # A 1x1 convolution is a linear layer at every position: SD 1 and SD 2 differ in the
        # weight's shape only.
        def project(layer, h):
            return F.linear(h, layer.weight.flatten(1), layer.bias)
        h = project(self.proj_in, self.norm(x).flatten(2).transpose(1, 2))  # (b, n, c)
        h = project(self.proj_out, self.transformer_blocks[0](h, context, maps))
        return x + h.transpose(1, 2).reshape(x.shape)


class Downsample2D(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.conv = nn.Conv2d(c, c, 3, stride=2, padding=1)

    def forward(self, x):  # (b, c, y, x) -> (b, c, ceil(y/2), ceil(x/2))
        return self.conv(x)


class Upsample2D(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.conv = nn.Conv2d(c, c, 3, padding=1)

    def forward(self, x, size):  # (b, c, y, x) -> (b, c, y_to, x_to)
        # To the skip's size: a map of an odd number of rows does not double exactly.
        return self.conv(F.interpolate(x, size=size, mode="nearest"))


class Block(nn.Module):
    """A row of the table above: resnets; after each of the first ones a transformer, as many as
    there are; then perhaps a change of size."""

    def __init__(self, widths_in, c, config, e, level, transformers, resize=None):
        super().__init__()
        groups, heads = config.norm_num_groups, config.heads(level)
        self.resnets = nn.ModuleList([
            ResnetBlock2D(c_in, c, e, groups, config.norm_eps) for c_in in widths_in])
        self.attentions = nn.ModuleList([
            Transformer2D(c, config.cross_attention_dim, heads, groups,
                          config.use_linear_projection) for _ in range(transformers)])
        self.downsamplers = nn.ModuleList([Downsample2D(c)] if resize == "down" else [])
        self.upsamplers = nn.ModuleList([Upsample2D(c)] if resize == "up" else [])

    def layer(self, j, x, time, context, maps):
        x = self.resnets[j](x, time)
        if j < len(self.attentions):
            x = self.attentions[j](x, context, maps)
        return x


class UNet(nn.Module):
    """The whole network. `checkpointing = True` trades a third more time for far less memory in
    training: the numbers between blocks are forgotten and computed again on the way back."""

    def __init__(self, config=UNetConfig()):
        super().__init__()
        self.config, self.checkpointing = config, False
        widths, last = config.block_out_channels, len(config.block_out_channels) - 1
        e = 4 * widths[0]
        self.conv_in = nn.Conv2d(config.in_channels, widths[0], 3, padding=1)
        self.time_embedding = TimeEmbedding(widths[0], e)

        self.down_blocks = nn.ModuleList()
        skips, c_in = [widths[0]], widths[0]  # skips: the channels of what forward will push
        for i, (c, kind) in enumerate(zip(widths, config.down_block_types)):
            widths_in = [c_in] + [c] * (config.layers_per_block - 1)
            transformers = len(widths_in) if kind == "CrossAttnDownBlock2D" else 0
            resize = "down" if i < last else None
            self.down_blocks.append(Block(widths_in, c, config, e, i, transformers, resize))
            skips += [c] * (len(widths_in) + (1 if resize else 0))
            c_in = c

        self.mid_block = None
        if config.mid_block_type:  # resnet, transformer, resnet
            self.mid_block = Block([c_in, c_in], c_in, config, e, last, transformers=1)

        self.up_blocks = nn.ModuleList()
        for i, (c, kind) in enumerate(zip(widths[::-1], config.up_block_types)):
            widths_in = [c_in + skips.pop()]
            widths_in += [c + skips.pop() for _ in range(config.layers_per_block)]
            transformers = len(widths_in) if kind == "CrossAttnUpBlock2D" else 0
            resize = "up" if i < last else None
            self.up_blocks.append(Block(widths_in, c, config, e, last - i, transformers, resize))
            c_in = c

        self.conv_norm_out = nn.GroupNorm(config.norm_num_groups, widths[0], eps=config.norm_eps)
        self.conv_out = nn.Conv2d(widths[0], config.out_channels, 3, padding=1)

    def forward(self, x, t, context, maps=None):  # (b, c, y, x), (b,), (b, l, d) -> (b, c, y, x)
        """`maps`: a list that receives the cross-attention maps (b, h, n, l), one a transformer, in
        the order of the table."""
        time = self.time_embedding(time_features(t, self.config.block_out_channels[0]).to(x.dtype))

        def run(block, j, x):
            seen = None if maps is None else []  # its own: checkpointing fills it a second time
            if self.checkpointing and torch.is_grad_enabled():
                x = checkpoint(block.layer, j, x, time, context, seen, use_reentrant=False,
                               preserve_rng_state=False)  # nothing there is by chance
            else:
                x = block.layer(j, x, time, context, seen)
            if seen:
                maps.extend(seen)
            return x

        x = self.conv_in(x)
        skips = [x]
        for block in self.down_blocks:
            for j in range(len(block.resnets)):
                x = run(block, j, x)
                skips.append(x)
            for downsample in block.downsamplers:
                x = downsample(x)
                skips.append(x)
        if self.mid_block:
            for j in range(2):
                x = run(self.mid_block, j, x)
        for block in self.up_blocks:
            for j in range(len(block.resnets)):
                x = run(block, j, torch.cat([x, skips.pop()], dim=1))
            for upsample in block.upsamplers:
                x = upsample(x, skips[-1].shape[-2:])
        return self.conv_out(F.silu(self.conv_norm_out(x)))
