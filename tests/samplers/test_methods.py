"""The rows of `sample.py --list_samplers` are complete and true."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import Gaussian
from test_multistep import rate
from test_stochastic import errors

import diffjax
from diffjax import from_config, grids, samplers
from diffjax.samplers import METHODS
from diffjax.samplers.methods import table

STEPS = 6


def count_calls(sampler):
  """Network calls of each step, and of the last one, to zero."""
  calls = []

  def denoiser(x, sigma, cond=None, *, key=None):
    jax.debug.callback(lambda: calls.append(None))
    return Gaussian()(x, sigma)

  sigmas, counts = grids.karras(STEPS, 0.02, 20.0), [0]
  count = lambda step: counts.append(len(calls))
  with jax.disable_jit():
    diffjax.sample(denoiser, sampler, jnp.ones((1, 2)), sigmas, key=jax.random.key(0), callback=count)
  jax.effects_barrier()
  return np.diff(counts).tolist()


def test_old_class_names_warn():
  with pytest.warns(DeprecationWarning, match=r"samplers\.DPM2 is now diffjax\.samplers\.METHODS\['dpm2'\]"):
    churned = samplers.DPM2(s_churn=2.0, num_steps=6)
  assert churned == samplers.Churn(samplers.DPMSolver(2), 2.0, num_steps=6)
  with pytest.warns(DeprecationWarning):
    assert samplers.DPM2Ancestral(0.5) == samplers.Ancestral(samplers.DPMSolver(2), 0.5)
  with pytest.warns(DeprecationWarning):
    assert samplers.DPMpp2SAncestral() == samplers.Ancestral(samplers.DPMppS(2))
  assert not hasattr(samplers, "DPM4")


@pytest.mark.parametrize("name", from_config.SAMPLERS)
def test_network_calls_are_those_of_the_table(name):
  calls, counted = METHODS[name].calls, count_calls(from_config.SAMPLERS[name]())
  assert counted[-1] == 1
  if isinstance(calls, int):
    assert counted[:-1] == [calls] * (STEPS - 1)
  elif calls != "varies":
    first, later = map(int, calls.split(", "))
    assert set(counted[:-1]) == {first, later} and counted[:-1] == sorted(counted[:-1], reverse=first > later)


@pytest.mark.slow
@pytest.mark.parametrize("name", from_config.SAMPLERS)
def test_stochastic_ones_draw_by_their_key_and_the_others_do_not(name):
  make, stochastic = from_config.SAMPLERS[name], METHODS[name].stochastic
  draw = lambda sampler, seed: np.asarray(
    diffjax.sample(Gaussian(), sampler, jnp.ones((1, 2)), grids.karras(9, 0.01, 9.0), key=jax.random.key(seed))
  )
  differs = lambda sampler: not np.array_equal(draw(sampler, 0), draw(sampler, 1))
  if stochastic not in ("yes", "no"):
    steps = {"num_steps": 9} if stochastic == "s_churn" else {}  # what the churn is spread over
    assert differs(make(**{stochastic: 0.5}, **steps))
    assert not differs(make(**{stochastic: 0.0}, **steps))
  else:
    assert differs(make()) == (stochastic == "yes")


ELSEWHERE = ("restart", "adaptive")
"""Their orders, of steps within a restart and of calls by tolerance, are measured in their own files."""


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n, m in METHODS.items() if m.order != "-" and n not in ELSEWHERE])
def test_orders_are_those_of_the_table(name, x64):
  sampler, order = from_config.SAMPLERS[name](), METHODS[name].order
  if METHODS[name].stochastic == "yes":
    found = [errors(sampler, 1.0, num)[0] for num in (64, 128)]
    seen = np.log2(found[0] / found[1])
  else:
    seen, _ = rate(sampler, "mixture", "exponential", 160 if order == 4 else 320)
  # what is of second order in er_sde's variance is so small that it shows from some thousands of steps on
  assert seen > order - 0.25 and (seen < order + 0.25 or name == "er_sde"), seen


def test_every_method_of_the_table_is_measured_or_has_no_order():
  assert {name for name, method in METHODS.items() if method.order == "-"} == {
    *("predictor_corrector", "consistency", "lcm", "tcd"),
  }


def test_table_has_a_line_for_each_name():
  heading, *lines = table(METHODS).splitlines()
  assert heading.split() == ["name", "order", "calls", "per", "step", "stochastic", "paper"]
  assert [line.split()[0] for line in lines] == list(from_config.SAMPLERS)
