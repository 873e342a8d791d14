"""Faster forms of the autoencoders in latte.models.vae, equal up to the rounding of float32.

`prepare` exchanges the classes of a VAE's layers for subclasses that have the same weights and compute the same:
convolutions with 3x3 kernels by Winograd's method, those after an upsampling on the small image, GroupNorm and SiLU in
the cache, channels last throughout. A layer decides at each call: under gradients, autocast, a compiler or hooks, or
where it would not be faster, it computes like its base class.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latte.fast.group_norm import norm_affine
from latte.fast.onednn import onednn_is_faster
from latte.fast.switch import is_enabled, is_plain_inference
from latte.fast.upsample import difference_kernel, double_by_differences, double_by_phases, phase_kernel
from latte.fast.winograd import conv_1d, conv_2d, kernel_1d, kernel_2d
from latte.models.vae import VideoVAE
from latte.models.vae_blocks import Resample, ResnetBlock, TemporalResnetBlock

# Number of channels from which Winograd's method pays: additions gain less from wide vectors than matrix products do.
MIN_CHANNELS = 128 if "AVX512" in torch.backends.cpu.get_cpu_capability() else 64
MIN_WORK = 10**7  # inputs x outputs x pixels of an image; with less, calling so many small operations takes longer
MIN_FRAMES = 3  # of a clip; two frames need fewer products without tiles

_kernels: WeakKeyDictionary[nn.Module, tuple[tuple, Any]] = WeakKeyDictionary()


def kernel_of(conv: nn.Module, transform: Callable[[Tensor], Any]) -> Any:
    """The transformed weight of a convolution, kept until the weight changes, in whatever way."""
    weight = conv.weight.detach()
    if weight.device.type != "cpu":
        return transform(weight)  # takes microseconds there, and looking at the values would synchronise
    whole = weight.flatten().view(torch.int64 if weight.nbytes % 8 == 0 else torch.uint8)
    version = 0 if weight.is_inference() else weight._version  # the sum alone misses weights that change places
    state = (transform, weight.dtype, weight.data_ptr(), version, int(whole.sum()), onednn_is_faster())
    kept = _kernels.get(conv)
    if kept is None or kept[0] != state:
        kept = _kernels[conv] = (state, transform(weight))
    return kept[1]


class FastResnetBlock(ResnetBlock):
    """A ResnetBlock whose convolutions are matrix products, or at least have their channels last."""

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) -> (n, out, h, w)."""
        if not is_fast(self, x):
            return super().forward(x)
        x = x.contiguous(memory_format=torch.channels_last)
        if not (pays(self.conv1, x) and pays(self.conv2, x)):
            y = self.conv1(F.silu(self.norm1(x), inplace=True))
            y = self.conv2(F.silu(self.norm2(y), inplace=True))
            return y.add_(self.conv_shortcut(x) if hasattr(self, "conv_shortcut") else x)
        images = x.permute(0, 2, 3, 1)
        out = images.new_empty(*images.shape[:3], self.conv2.out_channels)
        middle = torch.empty_like(out[0])
        kernel1, kernel2 = (kernel_of(conv, kernel_2d) for conv in (self.conv1, self.conv2))
        for image, result in zip(images, out):
            residual = image
            if hasattr(self, "conv_shortcut"):
                residual = F.linear(image, self.conv_shortcut.weight.flatten(1), self.conv_shortcut.bias)
            conv_2d(image, kernel1, self.conv1.bias, middle, norm_silu(self.norm1, image))
            conv_2d(middle, kernel2, self.conv2.bias, result, norm_silu(self.norm2, middle), residual)
        return out.permute(0, 3, 1, 2)


class FastTemporalResnetBlock(TemporalResnetBlock):
    """A TemporalResnetBlock whose convolutions are matrix products."""

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, f, h, w) -> same."""
        if not (is_fast(self, x) and pays(self.conv1, x) and x.shape[2] >= MIN_FRAMES):
            return super().forward(x)
        clips = x.permute(0, 2, 3, 4, 1).contiguous().flatten(2, 3)  # (b, f, n, c)
        out, middle = torch.empty_like(clips), torch.empty_like(clips[0])
        kernel1, kernel2 = (kernel_of(conv, time_kernel) for conv in (self.conv1, self.conv2))
        for clip, result in zip(clips, out):
            conv_1d(clip, kernel1, self.conv1.bias, middle, norm_silu(self.norm1, clip))
            conv_1d(middle, kernel2, self.conv2.bias, result, norm_silu(self.norm2, middle), clip)
        return out.unflatten(2, x.shape[3:]).permute(0, 4, 1, 2, 3)


class FastResample(Resample):
    """A Resample that convolves the small image where it doubles the size."""

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) -> (n, c, h / 2, w / 2) or (n, c, 2 h, 2 w)."""
        if not is_fast(self, x):
            return super().forward(x)
        x = x.contiguous(memory_format=torch.channels_last)
        if self.down:
            return super().forward(x)
        if not pays(self.conv, x):
            return double_by_phases(x, kernel_of(self.conv, phase_kernel), self.conv.bias)
        images, kernel = x.permute(0, 2, 3, 1), kernel_of(self.conv, difference_kernel)
        count, height, width, channels = images.shape
        out = images.new_empty(count, 2 * height, 2 * width, channels)
        for image, result in zip(images, out):
            double_by_differences(image, kernel, self.conv.bias, result)
        return out.permute(0, 3, 1, 2)


FAST: dict[type[nn.Module], type[nn.Module]] = {
    kind.__base__: kind for kind in (FastResnetBlock, FastTemporalResnetBlock, FastResample)
}
PLAIN = {fast: plain for plain, fast in FAST.items()}


def prepare(vae: VideoVAE) -> VideoVAE:
    """Make a VAE fast for its lifetime; load_vae does so.

    Its weights and its state_dict stay as they are. `latte.fast.switch` switches it off.

    Returns:
        The same VAE.
    """
    return exchange(vae, FAST)


def restore(vae: VideoVAE) -> VideoVAE:
    """Undo `prepare`, and free what was made from the weights.

    Returns:
        The same VAE.
    """
    for module in vae.modules():
        _kernels.pop(module, None)
    return exchange(vae, PLAIN)


@contextmanager
def fast_vae(vae: VideoVAE) -> Iterator[VideoVAE]:
    """Within the context, a VAE is fast; afterwards it is as before."""
    was_plain = not any(type(module) in PLAIN for module in vae.modules())
    try:
        yield prepare(vae)
    finally:
        if was_plain:
            restore(vae)


def exchange(vae: VideoVAE, classes: dict[type[nn.Module], type[nn.Module]]) -> VideoVAE:
    """Replace the classes of modules as the table says; other modules stay as they are."""
    for module in vae.modules():
        if type(module) in classes:
            module.__class__ = classes[type(module)]
    return vae


def is_fast(module: nn.Module, x: Tensor) -> bool:
    """Whether to compute differently from the base class."""
    if not is_enabled() or x.dtype != next(module.parameters()).dtype or not is_plain_inference(module, x):
        return False
    return all(is_as_built(layer) for layer in module.children())


def is_as_built(layer: nn.Module) -> bool:
    """Whether a layer is still a norm or a convolution that pads with zeros, not replaced or changed."""
    if type(layer) in (nn.Conv2d, nn.Conv3d):
        return layer.padding_mode == "zeros" and set(layer.dilation) == {1}
    return type(layer) is nn.GroupNorm


def pays(conv: nn.Module, x: Tensor) -> bool:
    """Whether fewer multiplications make this convolution faster, and keep its precision."""
    if x.device.type != "cpu" or x.dtype != torch.float32 or min(conv.in_channels, conv.out_channels) < MIN_CHANNELS:
        return False
    return conv.in_channels * conv.out_channels * x[0, 0].numel() >= MIN_WORK


def norm_silu(norm: nn.GroupNorm, x: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """The function that writes SiLU(GroupNorm(x)) of a part of x, (..., c), to its second argument."""
    factor, shift = norm_affine(x.reshape(-1, x.shape[-1]), norm)
    return lambda part, out: F.silu(torch.addcmul(shift, part, factor, out=out), inplace=True)


def time_kernel(weight: Tensor) -> Tensor:
    """kernel_1d of the weight (out, in, 3, 1, 1) of a convolution over time."""
    return kernel_1d(weight[..., 0, 0])
