"""conv2d against the stock operation, its gradients against the stock gradients and a float64 sum."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffjax.networks.convolution import conv2d, explicit_kernel_gradient, explicit_x_gradient

CASES = [
  (3, 1, ((1, 1), (1, 1)), (8, 8)),
  (3, 1, ((1, 1), (1, 1)), (5, 7)),
  (3, 2, ((0, 1), (0, 1)), (8, 8)),
  (3, 2, ((1, 1), (1, 1)), (8, 6)),
  (3, 2, ((1, 1), (1, 1)), (7, 5)),
  (4, 4, ((0, 0), (0, 0)), (11, 8)),
  (1, 1, ((0, 0), (0, 0)), (4, 4)),
]


def example(size, stride, padding, shape, dtype=jnp.float32):
  keys = jax.random.split(jax.random.key(0), 3)
  x = jax.random.normal(keys[0], (2, *shape, 3), dtype)
  kernel = jax.random.normal(keys[1], (size, size, 3, 4), dtype)
  y = jax.eval_shape(lambda: conv2d(x, kernel, stride, padding))
  return x, kernel, jax.random.normal(keys[2], y.shape, dtype)


def stock_gradients(x, kernel, dy, stride, padding):
  """(dx, dkernel) by the transposition rules of `lax.conv_general_dilated`."""
  layout = ("NHWC", "HWIO", "NHWC")
  stock = lambda x, k: jax.lax.conv_general_dilated(x, k, (stride, stride), padding, dimension_numbers=layout)
  return jax.vjp(stock, x, kernel)[1](dy)


def explicit_gradients(x, kernel, dy, stride, padding):
  """(dx, dkernel) by ours for CPU."""
  return explicit_x_gradient(dy, kernel, x, stride, padding), explicit_kernel_gradient(dy, x, kernel, stride, padding)


def summed(x, kernel, stride, padding):
  """The definition: a sum over the kernel's window at each output pixel."""
  x = np.pad(np.asarray(x, np.float64), ((0, 0), *padding, (0, 0)))
  h, w = kernel.shape[:2]
  windows = np.lib.stride_tricks.sliding_window_view(x, (h, w), (1, 2))[:, ::stride, ::stride]
  return np.einsum("bpqiuv,uvio->bpqo", windows, np.asarray(kernel, np.float64))


@pytest.mark.parametrize("case", CASES)
def test_forward_is_the_definition(case):
  _, stride, padding, _ = case
  x, kernel, dy = example(*case)
  y = conv2d(x, kernel, stride, padding)
  assert y.shape == dy.shape
  np.testing.assert_allclose(y, summed(x, kernel, stride, padding), atol=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_explicit_gradients_equal_stock(case):
  _, stride, padding, _ = case
  x, kernel, dy = example(*case)
  expected = stock_gradients(x, kernel, dy, stride, padding)
  for gradients in (
    explicit_gradients(x, kernel, dy, stride, padding),
    jax.vjp(lambda x, kernel: conv2d(x, kernel, stride, padding), x, kernel)[1](dy),
  ):
    for a, b in zip(gradients, expected):
      np.testing.assert_allclose(a, b, atol=2e-5, rtol=1e-5)


@pytest.mark.slow
def test_gradients_in_float64_agree_to_rounding(x64):
  for case in CASES:
    x, kernel, dy = example(*case, dtype=jnp.float64)
    for a, b in zip(explicit_gradients(x, kernel, dy, *case[1:3]), stock_gradients(x, kernel, dy, *case[1:3])):
      np.testing.assert_allclose(a, b, atol=1e-12)


def test_cpu_gradient_has_no_transposed_convolution():
  x, kernel, _ = example(*CASES[0])
  text = jax.jit(jax.grad(lambda x, k: conv2d(x, k).sum(), (0, 1))).trace(x, kernel).lower(lowering_platforms=("cpu",))
  lines = [line for line in text.as_text().splitlines() if "stablehlo.convolution" in line]
  assert len(lines) >= 2
  assert all("[b, 0, 1, f]x[0, 1, i, o]->[b, 0, 1, f]" in line for line in lines)


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_other_platforms_lower_to_the_stock_gradient(platform):
  x, kernel, dy = example(*CASES[2])
  ours = lambda x, k, dy: jax.vjp(lambda x, k: conv2d(x, k, *CASES[2][1:3]), x, k)[1](dy)
  stock = lambda x, k, dy: stock_gradients(x, k, dy, *CASES[2][1:3])
  texts = [
    [line.split("convolution", 1)[1] for line in lowered.as_text().splitlines() if "stablehlo.convolution" in line]
    for lowered in (jax.jit(f).trace(x, kernel, dy).lower(lowering_platforms=(platform,)) for f in (ours, stock))
  ]
  attributes = [sorted(line.split("dim_numbers", 1)[1] for line in text) for text in texts]
  assert attributes[0] and attributes[0] == attributes[1]


def test_gradient_wrt_input_inside_scan_and_grad_of_grad():
  x, kernel, _ = example(*CASES[0])
  energy = lambda conv: lambda x: jnp.square(conv(x, kernel)).mean()
  stock = lambda x, k: jax.lax.conv_general_dilated(
    x, k, (1, 1), ((1, 1), (1, 1)), dimension_numbers=("NHWC", "HWIO", "NHWC")
  )

  def descend(conv, x):
    return jax.lax.scan(lambda x, _: (x - 0.01 * jax.grad(energy(conv))(x), ()), x, None, length=3)[0]

  ours, theirs = (jax.jit(lambda x, c=c: descend(c, x))(x) for c in (conv2d, stock))
  np.testing.assert_allclose(ours, theirs, atol=1e-5)
  slope = lambda conv, k: jax.grad(lambda x: jnp.square(conv(x, k)).mean())(x)
  penalty = lambda conv: jax.grad(lambda k: jnp.square(slope(conv, k)).sum())(kernel)
  np.testing.assert_allclose(penalty(conv2d), penalty(stock), rtol=1e-4, atol=1e-6)


def test_vmap_of_values_and_gradients_is_a_loop():
  x, kernel, _ = example(*CASES[2])
  f = lambda x, k: jnp.square(conv2d(x, k, *CASES[2][1:3])).sum()
  xs, kernels = jnp.stack([x, 2 * x, -x]), jnp.stack([kernel, kernel[::-1], 3 * kernel])
  for axes in [(0, None), (None, 0), (0, 0)]:
    args = [a if axis == 0 else b for a, b, axis in zip((xs, kernels), (x, kernel), axes)]
    got = jax.vmap(jax.grad(f, (0, 1)), axes)(*args)
    for i in range(3):
      want = jax.grad(f, (0, 1))(*(a[i] if axis == 0 else a for a, axis in zip(args, axes)))
      for a, b in zip(got, want):
        np.testing.assert_allclose(a[i], b, rtol=1e-4, atol=1e-4)
