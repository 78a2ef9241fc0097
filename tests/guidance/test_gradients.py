"""Gradients by the start are finite through every guidance with its defaults, alone, nested, and in what uses them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import Mixture

import diffjax
from diffjax import editing, grids, guidance, likelihood, samplers, schedules
from diffjax.arrays import expand
from diffjax.guidance import inverse

pytestmark = pytest.mark.slow

KEYS = jax.random.split(jax.random.key(0), 2)
LABEL, NULL = {"label": jnp.array([1, 2])}, {"label": jnp.asarray(0)}
SIGMAS = grids.karras(5, 0.1, 5.0)
X = 5 * jax.random.normal(jax.random.key(1), (2, 4, 4, 1))
OPERATOR = inverse.SuperResolution(2)
Y = jax.random.normal(jax.random.key(2), (1, 2, 2, 1))


def by_label(x, sigma, cond=None, *, key=None):
  return Mixture()(x, sigma) + (0 if cond is None else expand(0.1 * cond["label"], x))


def energy(x0, key=None):
  return jnp.square(x0 - 1).mean((1, 2, 3))


def logits(x, sigma):
  return jnp.stack([x.mean((1, 2, 3)), jnp.zeros(x.shape[0]), -x.mean((1, 2, 3))], 1)


def composed(denoiser):
  both = guidance.Composed(denoiser, NULL, (1.0, 0.5))
  return lambda x, sigma, cond=None, *, key=None: both(x, sigma, [cond, cond], key=key)


GUIDANCE = {
  "classifier-free": lambda d: guidance.ClassifierFree(d, NULL),
  "adaptive projected": lambda d: guidance.AdaptiveProjected(d, NULL),
  "composed": composed,
  "autoguidance": lambda d: guidance.AutoGuidance(d, Mixture()),
  "perturbed attention": guidance.PerturbedAttention,
  "classifier": lambda d: guidance.Classifier(d, logits, conditional=True),
  **{
    f"energy {position}": lambda d, position=position: guidance.EnergyGuidance(d, energy, position=position)
    for position in ("score", "mean", "x0")
  },
  "lgd": lambda d: guidance.lgd(d, energy),
  "dps": lambda d: guidance.dps(d, OPERATOR, Y),
  "pigdm": lambda d: guidance.pigdm(d, OPERATOR, Y),
  "freedom": lambda d: guidance.freedom(d, energy),
  "disco": lambda d: guidance.disco(d, energy),
  "static": guidance.StaticThreshold,
  "dynamic": guidance.DynamicThreshold,
  "inpaint": lambda d: editing.Inpaint(d, jnp.zeros_like(X[:1]), jnp.ones((1, 4, 4, 1)).at[:, :2].set(0)),
  "compose": lambda d: editing.Ensemble(d, (Mixture(),), (0.5,)),
}


def is_finite(function, x=X):
  gradient = jax.grad(lambda x: jnp.square(function(x)).sum())(x)
  return np.isfinite(gradient).all() and (gradient != 0).any()


@pytest.mark.parametrize("name", GUIDANCE)
def test_alone(name):
  guided = GUIDANCE[name](by_label)
  assert is_finite(lambda x: guided(x, jnp.asarray(1.0), LABEL, key=KEYS))


@pytest.mark.parametrize("inner", GUIDANCE)
def test_nested(inner):
  for outer, make in GUIDANCE.items():
    guided = make(GUIDANCE[inner](by_label))
    assert is_finite(lambda x, guided=guided: guided(x, jnp.asarray(1.0), LABEL, key=KEYS)), outer


@pytest.mark.parametrize("name", ["energy score", "energy x0", "adaptive projected"])
def test_through_a_trajectory(name):
  guided = GUIDANCE["inpaint"](GUIDANCE[name](by_label))
  again = editing.RePaint(samplers.Euler(1.0), SIGMAS, jump=2, resamples=2)
  options = dict(key=KEYS, cond=LABEL)
  assert is_finite(lambda x: diffjax.sample(guided, again, x, SIGMAS, **options))
  assert is_finite(lambda x: editing.img2img(guided, samplers.Heun(), x, SIGMAS, strength=0.5, **options))


@pytest.mark.parametrize("name", ["energy mean", "dps"])
def test_through_guidance_at_the_mean(name):
  sampler = samplers.MeanGuided(samplers.DDPM(), schedules.variance_preserving)
  assert is_finite(lambda x: diffjax.sample(GUIDANCE[name](by_label), sampler, x, SIGMAS, key=KEYS, cond=LABEL))


def test_log_likelihood_of_a_guided_model():
  guided = GUIDANCE["energy score"](by_label)
  assert np.isfinite(likelihood.log_likelihood(guided, X[:, :2, :2], SIGMAS[-2::-1], cond=LABEL)).all()
