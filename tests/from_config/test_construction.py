"""Names to objects, and mistakes told with the nearest name."""

import functools

import jax
import jax.numpy as jnp
import pytest

from diffjax import from_config, guidance, samplers
from diffjax.from_config import construction

WITH_ETA = (
  *(samplers.Euler, functools.partial(samplers.Ancestral, samplers.Heun())),
  *(samplers.DPMppSDE, samplers.DPMpp2M, samplers.DPMpp3M),
)


@pytest.mark.parametrize(
  ("spec", "says"),
  [
    ({"name": "huen"}, r"there is no sampler 'huen' \(did you mean 'heun'\?\); choose one of .*ddpm, .*heun.*\.$"),
    ({"name": "zzz"}, r"there is no sampler 'zzz'; choose one of"),
    ({"name": "heun", "s_chrun": 1}, r"sampler 'heun' has no parameter 's_chrun' \(did you mean 's_churn'\?\); choose"),
    ({}, r"there is no sampler ''; choose one of"),
  ],
)
def test_unknown_names(spec, says):
  with pytest.raises(ValueError, match=says):
    construction.construct(from_config.SAMPLERS, "sampler", spec)


@pytest.mark.parametrize(
  ("spec", "says"),
  [
    ({"name": "tcd", "gamma": 3.0}, r"tcd\.gamma is 3\.0, but must be in \[0, 1\]"),
    ({"name": "ddpm", "fraction": -1.0}, r"ddpm\.fraction is -1\.0"),
    ({"name": "heun", "s_tmax": -1.0}, r"heun\.s_tmax is -1\.0"),
    ({"name": "adaptive", "rtol": -1.0}, r"adaptive\.rtol is -1\.0"),
    ({"name": "adaptive", "max_steps": 0}, r"adaptive\.max_steps is 0"),
    ({"name": "predictor_corrector", "num_corrections": 1.5}, r"num_corrections is 1\.5, but must be a whole number"),
    ({"name": "er_sde", "scale": 3.0}, r"scale is 3\.0, but must be a function of sigma"),
  ],
)
def test_numbers_that_a_sampler_cannot_use(spec, says):
  with pytest.raises(ValueError, match=says):
    construction.construct(from_config.SAMPLERS, "sampler", spec)


NAN = float("nan")


@pytest.mark.parametrize(
  ("make", "says"),
  [
    *((lambda make=make: make(2.0), r"eta is 2\.0, but must be in \[0, 1\]") for make in WITH_ETA),
    (lambda: samplers.Euler(NAN), "eta is nan"),
    (lambda: samplers.DDPM(-0.1), r"fraction is -0\.1, but must be in \[0, 1\]"),
    (lambda: samplers.SASolver(tau=NAN), "tau is nan"),
    (lambda: samplers.Adaptive(0.0, 0.0), "rtol and atol are both 0"),
    (lambda: samplers.Adaptive(-1.0, -1.0), r"rtol is -1\.0, but must be in \[0, inf\)"),
    (lambda: samplers.Adaptive(max_steps=0), "max_steps is 0, but must be a whole number of at least 1"),
    (lambda: samplers.TCD(2.0), r"gamma is 2\.0"),
    (lambda: samplers.Consistency(-0.1), "sigma_min is -0.1".replace(".", r"\.")),
    (lambda: samplers.Churn(samplers.Heun(), -1.0, num_steps=8), r"s_churn is -1\.0"),
    (lambda: samplers.Churn(samplers.Heun(), 1.0, s_noise=NAN, num_steps=8), "s_noise is nan"),
    (lambda: samplers.Restart(t_min=1.0, t_max=0.5), r"from t_min = 1\.0 up to t_max = 0\.5; give 0 < t_min < t_max"),
    (lambda: samplers.PredictorCorrector(snr=-1.0), r"snr is -1\.0"),
    (lambda: samplers.Momentum(samplers.Euler(), NAN), "momentum is nan"),
    (lambda: guidance.DynamicThreshold(None, quantile=2.0), r"quantile is 2\.0, but must be in \[0, 1\]"),
    (lambda: guidance.StaticThreshold(None, bound=-1.0), r"bound is -1\.0, but must be in \(0, inf\]"),
    (lambda: guidance.ClassifierFree(None, None, NAN), "scale is nan"),
    (lambda: guidance.ClassifierFree(None, None, rescale=2.0), r"rescale is 2\.0"),
    (lambda: guidance.AdaptiveProjected(None, None, radius=0.0), r"radius is 0\.0"),
    (lambda: guidance.EnergyGuidance(None, None, NAN), "scale is nan"),
    (lambda: guidance.EnergyGuidance(None, None, clamp=-1.0), r"clamp is -1\.0, but must be in \[0, inf\]"),
    (lambda: guidance.EnergyGuidance(None, None, inner_steps=-1), "inner_steps is -1, but must be a whole number"),
    (lambda: guidance.EnergyGuidance(None, None, num_samples=-1), "num_samples is -1, but must be a whole number"),
  ],
)
def test_numbers_that_are_refused_in_python(make, says):
  with pytest.raises(ValueError, match=says):
    make()


@pytest.mark.parametrize("make", WITH_ETA)
def test_arrays_and_what_is_traced_are_left_alone(make):
  jax.jit(lambda eta: make(eta).eta)(2.0)
  jax.vmap(lambda sampler: sampler.eta)(make(jnp.array([0.0, 2.0])))
  jax.tree.map(lambda leaf: None, make(1.0))


def test_own_keys_come_before_the_context():
  class Table:
    def __init__(self, a=1, b=2):
      self.a, self.b = a, b

  made = construction.construct({"t": Table}, "thing", {"name": "t", "a": 5}, a=7, b=8, c=9)
  assert (made.a, made.b) == (5, 8)
