"""A wider UNet that computes what a narrower one did: where a training goes on when its network
has become too small (Net2Net, Chen et al. 2016, section 2.3).

Every channel of the wide network is a copy of one of the narrow network's: whoever writes the
channel writes all its copies, and whoever reads it shares its weights out among them, unevenly, so
that the copies get different gradients and part. For this, each axis of a weight has a `Copies`:

    source    the narrow channel that each wide one is a copy of, (wide,)
    share     how much of that channel's weight it gets, (wide,): the shares of a channel sum to 1

If every channel gets equally many copies, the wide network's output is the narrow one's. If some
get more, groups and layers are normalised by slightly different means, and the output is near it.
"""
from typing import NamedTuple

import torch
from torch import nn

from tiny_unet import time_features


class Copies(NamedTuple):
    source: torch.Tensor
    share: torch.Tensor


def copies(narrow, wide, groups, generator):
    """Channels stay in their group, so that the groups' norms see the same numbers."""
    if narrow % groups or wide % groups:  # none of its own: all are one group
        groups = 1
    a, b = narrow // groups, wide // groups
    source = torch.cat([g * a + torch.arange(b) * a // b for g in range(groups)])
    share = 0.5 + torch.rand(wide, generator=generator)
    return Copies(source, share / torch.zeros(narrow).index_add_(0, source, share)[source])


def joined(first, second):
    """Of two maps one behind the other, as the way up reads them."""
    behind = second.source + first.source.max() + 1
    return Copies(torch.cat([first.source, behind]), torch.cat([first.share, second.share]))


def fill(layer, narrow, written=None, read=None):
    """A convolution or linear layer; an axis without copies is the same in both."""
    weight, bias = narrow.weight, narrow.bias
    if read:
        weight = weight[:, read.source] * read.share.view(1, -1, *[1] * (weight.ndim - 2))
    if written:
        weight, bias = weight[written.source], bias if bias is None else bias[written.source]
    layer.weight.copy_(weight)
    if bias is not None:
        layer.bias.copy_(bias)


def fill_norm(norm, narrow, of):
    norm.weight.copy_(narrow.weight[of.source])
    norm.bias.copy_(narrow.bias[of.source])


class Widening:
    """UNet `narrow` into UNet `wide`, block by block in the order of forward."""

    @torch.no_grad()
    def __init__(self, narrow, wide, seed=0):
        self.groups = narrow.config.norm_num_groups
        self.generator = torch.Generator().manual_seed(seed)
        levels = [self.channels(a, b) for a, b in zip(narrow.config.block_out_channels,
                                                      wide.config.block_out_channels)]
        self.time = self.time_embedding(narrow.time_embedding, wide.time_embedding)
        fill(wide.conv_in, narrow.conv_in, written=levels[0])
        x, skips = levels[0], [levels[0]]
        for block, old, level in zip(wide.down_blocks, narrow.down_blocks, levels):
            for j in range(len(old.resnets)):
                x = self.layer(block, old, j, x, level)
                skips.append(x)
            for new, down in zip(block.downsamplers, old.downsamplers):
                fill(new.conv, down.conv, x, x)
                skips.append(x)
        for j in range(2):
            self.layer(wide.mid_block, narrow.mid_block, j, x, x)
        for block, old, level in zip(wide.up_blocks, narrow.up_blocks, levels[::-1]):
            for j in range(len(old.resnets)):
                x = self.layer(block, old, j, joined(x, skips.pop()), level)
            for new, up in zip(block.upsamplers, old.upsamplers):
                fill(new.conv, up.conv, x, x)
        fill_norm(wide.conv_norm_out, narrow.conv_norm_out, x)
        fill(wide.conv_out, narrow.conv_out, read=x)

    def channels(self, narrow, wide, groups=None):
        return copies(narrow, wide, groups or self.groups, self.generator)

    def inner(self, new, old, groups=None):
        """Of what a layer writes and only the next one reads."""
        return self.channels(len(old.weight), len(new.weight), groups)

    def time_embedding(self, old, new):
        """The waves of a wider UNet have other frequencies, so its first layer is fitted: the same
        numbers at every t from 0 to 999, as nearly as its waves can say them."""
        hidden = self.inner(new.linear_1, old.linear_1, 1)
        time = self.inner(new.linear_2, old.linear_2, 1)
        t = torch.arange(1000)
        before, after = (time_features(t, layer.linear_1.in_features).double()
                         for layer in (old, new))
        said = before @ old.linear_1.weight.T.double()
        calm = 0.01 * torch.eye(after.shape[1]).double()  # no large weights that cancel out
        fitted = torch.linalg.lstsq(torch.cat([after, calm]),
                                    torch.cat([said, torch.zeros(len(calm), said.shape[1])]))
        new.linear_1.weight.copy_(fitted.solution.T[hidden.source])
        new.linear_1.bias.copy_(old.linear_1.bias[hidden.source])
        fill(new.linear_2, old.linear_2, time, hidden)
        return time

    def layer(self, block, old, j, x, out):
        self.resnet(block.resnets[j], old.resnets[j], x, out)
        if j < len(old.attentions):
            self.transformer(block.attentions[j], old.attentions[j], out)
        return out

    def resnet(self, new, old, x, out):
        inside = self.inner(new.conv1, old.conv1)
        fill_norm(new.norm1, old.norm1, x)
        fill(new.conv1, old.conv1, inside, x)
        fill(new.time_emb_proj, old.time_emb_proj, inside, self.time)
        fill_norm(new.norm2, old.norm2, inside)
        fill(new.conv2, old.conv2, out, inside)
        if isinstance(old.conv_shortcut, nn.Conv2d):
            fill(new.conv_shortcut, old.conv_shortcut, out, x)

    def transformer(self, new, old, x):
        d = self.inner(new.proj_in, old.proj_in)
        fill_norm(new.norm, old.norm, x)
        fill(new.proj_in, old.proj_in, d, x)
        fill(new.proj_out, old.proj_out, x, d)
        new, old = new.transformer_blocks[0], old.transformer_blocks[0]
        for name in ("norm1", "norm2", "norm3"):
            fill_norm(getattr(new, name), getattr(old, name), d)
        self.attention(new.attn1, old.attn1, d, d)
        self.attention(new.attn2, old.attn2, d, None)  # the words are as wide as they were
        hidden = self.channels(old.ff.net[2].in_features, new.ff.net[2].in_features, 1)
        gated = Copies(torch.cat([hidden.source, hidden.source + old.ff.net[2].in_features]), None)
        fill(new.ff.net[0].proj, old.ff.net[0].proj, gated, d)
        fill(new.ff.net[2], old.ff.net[2], d, hidden)

    def attention(self, new, old, d, context):
        asked, told = (self.inner(new.to_q, old.to_q, old.heads) for _ in range(2))
        fill(new.to_q, old.to_q, asked, d)
        fill(new.to_k, old.to_k, asked, context)
        # A product of q and k adds up over copies, and is divided by the root of a wider head.
        wider = len(new.to_q.weight) / len(old.to_q.weight)
        new.to_q.weight.mul_(asked.share[:, None] * wider ** 0.5)
        fill(new.to_v, old.to_v, told, context)
        fill(new.to_out[0], old.to_out[0], d, told)
