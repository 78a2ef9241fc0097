"""Two-dimensional convolution whose gradients stay fast inside compiled loops on CPU."""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from diffjax.typing import Array

Padding = tuple[tuple[int, int], tuple[int, int]]
LAYOUT = ("NHWC", "HWIO", "NHWC")


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def conv2d(x: Array, kernel: Array, stride: int = 1, padding: Padding = ((1, 1), (1, 1))) -> Array:
  """Cross-correlates x [B, H, W, I] with kernel [h, w, I, O], zeros outside the picture: [B, H', W', O].

  On CPU both gradients are written as ordinary forward convolutions, because XLA brings the transposed layouts of the
  stock gradients into its fast form only outside `scan` and `while`. GPU and TPU keep the stock gradients. Reverse mode
  may be repeated; forward mode (`jax.jvp`) is not defined.
  """
  return _correlate(x, kernel, stride, padding)


def _correlate(x: Array, kernel: Array, stride: int, padding: Padding) -> Array:
  return lax.conv_general_dilated(x, kernel, (stride, stride), padding, dimension_numbers=LAYOUT)


def _forward(x, kernel, stride, padding):
  return _correlate(x, kernel, stride, padding), (x, kernel)


def _backward(stride, padding, residuals, dy):
  x, kernel = residuals
  bind = functools.partial(functools.partial, stride=stride, padding=padding)
  return lax.platform_dependent(x, kernel, dy, cpu=bind(explicit_gradients), default=bind(stock_gradients))


conv2d.defvjp(_forward, _backward)


def stock_gradients(x: Array, kernel: Array, dy: Array, stride: int, padding: Padding) -> tuple[Array, Array]:
  """Gradients of conv2d by the transposition rules of `lax.conv_general_dilated`: (dx, dkernel)."""
  return jax.vjp(lambda x, kernel: _correlate(x, kernel, stride, padding), x, kernel)[1](dy)


def explicit_gradients(x: Array, kernel: Array, dy: Array, stride: int, padding: Padding) -> tuple[Array, Array]:
  """The same gradients by two stride-1 forward convolutions in NHWC and HWIO: (dx, dkernel)."""
  dy = _dilate(dy, stride)
  # A stride may leave the last rows of x unread: `spare` of them get a zero gradient.
  size = zip(x.shape[1:3], kernel.shape[:2], dy.shape[1:3], padding)
  spare = [n + low + high - k + 1 - m for n, k, m, (low, high) in size]
  ends = zip(kernel.shape[:2], padding, spare)
  dx_padding = tuple((k - 1 - low, k - 1 - high + extra) for k, (low, high), extra in ends)
  dx = _correlate(dy, kernel[::-1, ::-1].swapaxes(2, 3), 1, dx_padding)
  dkernel_padding = tuple((low, high - extra) for (low, high), extra in zip(padding, spare))
  dkernel = _correlate(x.transpose(3, 1, 2, 0), dy.transpose(1, 2, 0, 3), 1, dkernel_padding)
  return dx, dkernel.transpose(1, 2, 0, 3)


def _dilate(x: Array, stride: int) -> Array:
  gaps = [(0, 0, n) for n in (0, stride - 1, stride - 1, 0)]
  return x if stride == 1 else lax.pad(x, jnp.zeros((), x.dtype), gaps)
