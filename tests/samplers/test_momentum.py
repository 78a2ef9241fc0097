"""Adaptive projected guidance with its memory, through `sample`."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import Mixture
from traced import traced

import diffjax
from diffjax import grids, guidance, samplers
from diffjax.arrays import expand

KEYS = jax.random.split(jax.random.key(0), 3)
LABEL = {"label": jnp.array([1, 2, 2])}
SIGMAS = grids.karras(6, sigma_min=0.1, sigma_max=5.0)
START = 5 * jax.random.normal(jax.random.key(1), (3, 4, 4, 1))


def by_label(x, sigma, cond, *, key=None):
  return Mixture()(x, sigma) + expand(0.3 * cond["label"], x) * jnp.cos(x)


GUIDED = guidance.AdaptiveProjected(by_label, {"label": 0}, scale=4.0, radius=2.0, eta=0.2)


@traced
def draw(momentum):
  return diffjax.sample(GUIDED, samplers.Momentum(samplers.Euler(), momentum), START, SIGMAS, key=KEYS, cond=LABEL)


def test_differences_add_up():
  x, running = np.asarray(START), 0.0
  along = lambda a, b: (a * b).sum((1, 2, 3), keepdims=True)
  for sigma, sigma_next in itertools.pairwise(SIGMAS):
    conditional = np.asarray(by_label(x, sigma, LABEL))
    momentum = -0.5 if sigma_next > 0 else 0.0
    running = conditional - np.asarray(by_label(x, sigma, {"label": jnp.zeros(3)})) + momentum * running
    update = running * np.minimum(1, 2.0 / np.sqrt(along(running, running)))
    parallel = along(update, conditional) / along(conditional, conditional) * conditional
    x0 = conditional + 3.0 * (update - parallel + 0.2 * parallel)
    x = x0 + float(sigma_next / sigma) * (x - x0)
  np.testing.assert_allclose(draw(-0.5), x, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_without_momentum_it_is_the_sampler():
  before = diffjax.sample(GUIDED, samplers.Euler(), START, SIGMAS, key=KEYS, cond=LABEL)
  np.testing.assert_allclose(draw(0.0), before, rtol=1e-5, atol=1e-5)
  traces = draw.traces
  assert np.abs(draw(-0.75) - before).max() > 0.05 and draw.traces == traces


def test_guidance_without_a_difference_is_refused():
  for denoiser in (Mixture(), guidance.StaticThreshold(GUIDED)):
    with pytest.raises(ValueError, match=r"pass a guidance\.AdaptiveProjected as the denoiser"):
      diffjax.sample(denoiser, samplers.Momentum(samplers.Heun()), START, SIGMAS, key=KEYS, cond=LABEL)
