"""Two-dimensional convolution whose gradients stay fast inside compiled loops on CPU."""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from diffjax.typing import Array

Padding = tuple[tuple[int, int], ...]
LAYOUT = ("NHWC", "HWIO", "NHWC")


def conv2d(x: Array, kernel: Array, stride: int = 1, padding: Padding = ((1, 1), (1, 1))) -> Array:
  """Cross-correlates x [B, H, W, I] with kernel [h, w, I, O], with zeros outside the image: [B, H', W', O].

  This is a separate bilinear primitive, so that it supports all JAX transformations while its transposes, the
  gradients, are ours. On CPU both gradients are convolutions of the same kind, because XLA converts the stock
  gradients' transposed layouts to its fast form only outside `scan` and `while`. GPU and TPU use the stock gradients.
  """
  return conv2d_p.bind(x, kernel, stride=stride, padding=padding)


def _correlate(x: Array, kernel: Array, stride: int, padding: Padding) -> Array:
  return lax.conv_general_dilated(x, kernel, (stride, stride), padding, dimension_numbers=LAYOUT)


def stock_x_gradient(dy: Array, kernel: Array, like: jax.ShapeDtypeStruct, stride: int, padding: Padding) -> Array:
  """The gradient with respect to x, shaped like `like`, by the transpose rule of `lax.conv_general_dilated`."""
  return jax.linear_transpose(lambda x: _correlate(x, kernel, stride, padding), like)(dy)[0]


def stock_kernel_gradient(dy: Array, x: Array, like: jax.ShapeDtypeStruct, stride: int, padding: Padding) -> Array:
  """The gradient with respect to the kernel, likewise."""
  return jax.linear_transpose(lambda kernel: _correlate(x, kernel, stride, padding), like)(dy)[0]


def explicit_x_gradient(dy: Array, kernel: Array, like: jax.ShapeDtypeStruct, stride: int, padding: Padding) -> Array:
  """The gradient with respect to x, as a stride-1 convolution with the rotated kernel."""
  dy = _dilate(dy, stride)
  ends = zip(kernel.shape[:2], padding, _spare(like, kernel, dy, padding))
  around = tuple((k - 1 - low, k - 1 - high + extra) for k, (low, high), extra in ends)
  return conv2d(dy, kernel[::-1, ::-1].swapaxes(2, 3), 1, around)


def explicit_kernel_gradient(dy: Array, x: Array, like: jax.ShapeDtypeStruct, stride: int, padding: Padding) -> Array:
  """The gradient with respect to the kernel, as a stride-1 convolution of x with dy, channels and batch swapped."""
  dy = _dilate(dy, stride)
  around = tuple((low, high - extra) for (low, high), extra in zip(padding, _spare(x, like, dy, padding)))
  return conv2d(x.transpose(3, 1, 2, 0), dy.transpose(1, 2, 0, 3), 1, around).transpose(1, 2, 0, 3)


def _spare(x, kernel, dy, padding):
  """How many of x's last rows and columns the stride leaves unused."""
  size = zip(x.shape[1:3], kernel.shape[:2], dy.shape[1:3], padding)
  return [n + low + high - k + 1 - m for n, k, m, (low, high) in size]


def _dilate(x: Array, stride: int) -> Array:
  gaps = [(0, 0, n) for n in (0, stride - 1, stride - 1, 0)]
  return x if stride == 1 else lax.pad(x, jnp.zeros((), x.dtype), gaps)


def _transposed(explicit, stock, dy, other, undefined, **params):
  bind = lambda gradient: functools.partial(gradient, like=undefined.aval, **params)
  return lax.platform_dependent(dy, other, cpu=bind(explicit), default=bind(stock))


def _abstract(x, kernel, **params):
  y = jax.eval_shape(functools.partial(_correlate, **params), x, kernel)
  return x.update(shape=y.shape, dtype=y.dtype)


def _batched(arguments, axes, **params):
  x, kernel = arguments
  if axes[1] is not None:  # batched kernels: a grouped convolution, with the stock gradients
    return jax.vmap(functools.partial(_correlate, **params), axes)(x, kernel), 0
  x = jnp.moveaxis(x, axes[0], 0)
  y = conv2d(x.reshape(-1, *x.shape[2:]), kernel, **params)
  return y.reshape(*x.shape[:2], *y.shape[1:]), 0


conv2d_p = Primitive("conv2d")
conv2d_p.def_impl(jax.jit(_correlate, static_argnames=("stride", "padding")))
conv2d_p.def_abstract_eval(_abstract)
ad.defbilinear(
  conv2d_p,
  lambda dy, x, kernel, **params: _transposed(explicit_x_gradient, stock_x_gradient, dy, kernel, x, **params),
  lambda dy, x, kernel, **params: _transposed(explicit_kernel_gradient, stock_kernel_gradient, dy, x, kernel, **params),
)
batching.primitive_batchers[conv2d_p] = _batched
mlir.register_lowering(conv2d_p, mlir.lower_fun(_correlate, multiple_results=False))
