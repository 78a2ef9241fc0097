"""Names to objects, and mistakes told with the nearest name."""

import pytest

from diffjax import build, construction


@pytest.mark.parametrize(
  ("spec", "says"),
  [
    ({"name": "huen"}, r"there is no sampler 'huen'\. Did you mean 'heun'\? Choose one of .*ddpm, .*heun"),
    ({"name": "zzz"}, r"there is no sampler 'zzz'\. Choose one of"),
    ({"name": "heun", "s_chrun": 1}, r"sampler 'heun' has no parameter 's_chrun'\. Did you mean 's_churn'\? It has"),
    ({}, r"there is no sampler ''\. Choose one of"),
  ],
)
def test_unknown_names(spec, says):
  with pytest.raises(ValueError, match=says):
    construction.construct(build.SAMPLERS, "sampler", spec)


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
    construction.construct(build.SAMPLERS, "sampler", spec)


def test_own_keys_come_before_the_context():
  class Table:
    def __init__(self, a=1, b=2):
      self.a, self.b = a, b

  made = construction.construct({"t": Table}, "thing", {"name": "t", "a": 5}, a=7, b=8, c=9)
  assert (made.a, made.b) == (5, 8)
