"""Forward and reverse mode of layers and whole networks against each other and against finite differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffjax.networks import ImageEncoder, TextEncoder, UNet
from diffjax.networks.convolution import conv2d
from diffjax.networks.layers import Dense, GroupNorm, add_bias, normalise

UNET = UNet(width=4, multipliers=(1, 2), blocks_per_level=1, attention_resolutions=(2,), out_channels=1)
TOWER = dict(width=8, layers=1, heads=2, features=6)
IMAGE, TEXT = ImageEncoder(image_size=4, patch=2, channels=1, **TOWER), TextEncoder(vocab_size=9, context=5, **TOWER)
TOKENS = np.array([[7, 3, 8, 0, 0], [1, 8, 2, 5, 6]])
DENSE, NORM = Dense(3), GroupNorm(2)
STEP = 0.01


def shape(*sizes):
  return jax.ShapeDtypeStruct(sizes, jnp.float32)


def parameters(module, *inputs):
  return jax.eval_shape(module.init, jax.random.key(0), *inputs)


X, CONV, PICTURE = shape(2, 3, 4, 8), (shape(2, 5, 4, 3), shape(3, 3, 3, 4)), shape(2, 4, 4, 1)
LAYERS = {
  "conv2d": (conv2d, CONV),
  "strided conv2d": (lambda x, kernel: conv2d(x, kernel, 2, ((0, 1), (0, 1))), CONV),
  "bias": (add_bias, (shape(2, 3, 5), shape(5))),
  "dense": (DENSE.apply, (parameters(DENSE, shape(2, 5)), shape(2, 5))),
  "normalise": (lambda *args: normalise(*args, 2, 1e-5), (X, shape(2, 8), shape(2, 8))),
  "group norm": (NORM.apply, (parameters(NORM, X), X, shape(2, 8), shape(2, 8))),
}
NETWORKS = {
  "unet": (lambda *args: UNET.apply(*args, jnp.array([0.2, 0.7])), (parameters(UNET, PICTURE, shape(2)), PICTURE)),
  "image tower": (lambda *args: IMAGE.apply(*args).features, (parameters(IMAGE, PICTURE), PICTURE)),
  "text tower": (lambda params: TEXT.apply(params, TOKENS).features, (parameters(TEXT, TOKENS),)),
}
CASES = LAYERS | NETWORKS
slow_networks = pytest.mark.parametrize("name", [*LAYERS, *(pytest.param(n, marks=pytest.mark.slow) for n in NETWORKS)])


def example(name):
  """The function of one tuple, two points stacked, a direction and a cotangent."""
  f, shapes = CASES[name]
  of_tuple = lambda args: f(*args)
  output = jax.eval_shape(of_tuple, shapes)
  rng = np.random.default_rng(0)
  draw = lambda tree, *ahead: jax.tree.map(lambda a: 0.5 * rng.normal(size=(*ahead, *a.shape)).astype(np.float32), tree)
  return of_tuple, draw(shapes, 2), draw(shapes), draw(output)


def inner(a, b):
  return sum(jnp.vdot(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def difference(f, point, direction):
  """Derivative by the central difference of fourth order."""
  at = lambda n: f(jax.tree.map(lambda p, d: p + n * STEP * d, point, direction))
  weigh = lambda a, b, c, d: (8 * (a - b) - (c - d)) / (12 * STEP)
  return jax.tree.map(weigh, at(1), at(-1), at(2), at(-2))


def assert_close(got, expected, tolerance):
  """Of the same structure, and apart by less than tolerance of the length of each leaf, or of the longest one."""
  longest = max(np.linalg.norm(a) for a in jax.tree.leaves(expected))
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
    assert np.linalg.norm(np.subtract(a, b)) < tolerance * longest


def test_unet_has_forward_mode():
  f, points, direction, cotangent = example("unet")
  point = jax.tree.map(lambda a: a[0], points)
  assert jax.eval_shape(lambda p: jax.jvp(f, (p,), (direction,))[1], point).shape == cotangent.shape


@slow_networks
def test_forward_reverse_and_differences_agree_compiled_in_a_scan_and_by_linearize(name):
  f, points, direction, cotangent = example(name)

  def derivatives(point):
    tangent = jax.jvp(f, (point,), (direction,))[1]
    return tangent, jax.linearize(f, point)[1](direction), jax.vjp(f, point)[1](cotangent)[0]

  scanned = jax.jit(lambda points: jax.lax.scan(lambda _, point: (None, derivatives(point)), None, points)[1])(points)
  expected = jax.jit(lambda points: jax.lax.map(lambda point: difference(f, point, direction), points))(points)
  for i in range(2):
    tangent, linearized, gradient = jax.tree.map(lambda a, i=i: a[i], scanned)
    assert_close(tangent, expected[i], 2e-3)
    assert_close(linearized, tangent, 1e-5)
    reference = np.linalg.norm(tangent) * np.linalg.norm(cotangent)
    assert abs(inner(gradient, direction) - inner(cotangent, tangent)) < 1e-5 * reference


@slow_networks
def test_eager_derivatives_are_the_compiled_ones(name):
  f, points, direction, cotangent = example(name)
  point = jax.tree.map(lambda a: a[0], points)
  both = lambda point: (jax.jvp(f, (point,), (direction,))[1], jax.vjp(f, point)[1](cotangent)[0])
  assert_close(both(point), jax.jit(both)(point), 1e-5)


@slow_networks
def test_second_derivatives_and_checkpoint(name):
  f, points, direction, cotangent = example(name)
  point = jax.tree.map(lambda a: a[0], points)
  energy = lambda f, point: inner(cotangent, jnp.square(f(point)))
  slope = lambda point: jax.grad(lambda point: energy(jax.checkpoint(f), point))(point)
  forward_over_reverse = jax.jit(lambda point: jax.jvp(slope, (point,), (direction,))[1])(point)
  along = lambda point: jax.jvp(lambda point: energy(f, point), (point,), (direction,))[1]
  reverse_over_forward = jax.jit(jax.grad(along))(point)
  expected = jax.jit(lambda point: difference(slope, point, direction))(point)
  assert_close(forward_over_reverse, expected, 2e-3)
  assert_close(reverse_over_forward, forward_over_reverse, 1e-4)


@slow_networks
def test_vmap_of_gradients_and_tangents_is_a_loop(name):
  f, points, direction, cotangent = example(name)
  both = lambda point: (jax.vjp(f, point)[1](cotangent)[0], jax.jvp(f, (point,), (direction,))[1])
  assert_close(jax.jit(jax.vmap(both))(points), jax.jit(lambda points: jax.lax.map(both, points))(points), 1e-5)
