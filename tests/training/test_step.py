"""One step against optax by hand, on a least-squares problem with noise from the key."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from diffjax import from_config, randomness
from diffjax.training import ema
from diffjax.training.step import TrainStep, init_state, several_steps

DECAYS = (0.5, 0.99)


def objective(params, batch, key, frozen=None, axis_name=None):
  noise = randomness.normal(randomness.fold_in_each(key, batch["index"]), batch["x"].shape)
  return jnp.square(params["w"][None] - batch["x"] - 0.1 * noise).sum(1), {
    "distance": jnp.abs(params["w"][None] - batch["x"]).sum(1)
  }


def rooted(params, batch, key, frozen=None, axis_name=None):
  """Finite everywhere, but its gradient is not finite at the solution."""
  losses, metrics = objective(params, batch, key)
  return jnp.sqrt(losses * 0), metrics


def a_batch(seed, size=8):
  x = np.random.default_rng(seed).normal(size=(size, 3)).astype(np.float32)
  return {"x": jnp.asarray(x), "index": jnp.arange(size)}


def a_step(objective=objective, accumulate=1):
  step = TrainStep(jax.tree_util.Partial(objective), DECAYS, optax.adam(0.1), accumulate)
  return step, init_state({"w": jnp.zeros(3)}, step.optimizer, len(DECAYS))


def assert_equal(a, b, **tolerance):
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, **tolerance), a, b)


def test_equals_optax_by_hand():
  step, state = a_step()
  params, opt_state = state.params, state.opt_state
  averages = state.ema
  key = jax.random.key(3)
  for i in range(5):
    state, metrics = jax.jit(step)(state, a_batch(i), key)
    mean = lambda p, i=i: objective(p, a_batch(i), jax.random.fold_in(key, i))[0].mean()
    loss, grads = jax.value_and_grad(mean)(params)
    updates, opt_state = optax.adam(0.1).update(grads, opt_state)
    params = optax.apply_updates(params, updates)
    averages = ema.update(averages, params, DECAYS, jnp.int32(i))
    assert_equal((loss, optax.tree.norm(grads)), (metrics["loss"], metrics["grad_norm"]), rtol=1e-6)
  assert_equal((params, opt_state, averages), (state.params, state.opt_state, state.ema), rtol=1e-5)
  assert (state.step, state.skipped) == (5, 0)


def test_accumulation_changes_nothing():
  key = jax.random.key(0)
  (one, state), (four, _) = a_step(), a_step(accumulate=4)
  whole, in_parts = one(state, a_batch(0), key), four(state, a_batch(0), key)
  assert_equal(whole, in_parts, rtol=1e-5)


@pytest.mark.parametrize("broken", ["loss", "gradient", "one example of a part"])
def test_update_that_is_not_finite_is_skipped_and_counted(broken):
  key = jax.random.key(0)
  good, state = a_step(accumulate=2)
  state, _ = good(state, a_batch(0), key)
  bad, batch = good, a_batch(1)
  if broken == "gradient":
    bad, _ = a_step(rooted)
  else:
    batch["x"] = batch["x"].at[5, 1].set(jnp.nan if broken == "loss" else jnp.inf)
  skipped, metrics = bad(state, batch, key)
  assert jnp.isfinite(metrics["loss"]) == (broken == "gradient")
  skipped, metrics = bad(skipped, batch, key)
  for name in ("params", "opt_state", "ema"):
    jax.tree.map(np.testing.assert_array_equal, getattr(state, name), getattr(skipped, name))
  assert (skipped.step, skipped.skipped, skipped.skipped_in_row) == (3, 2, 2)
  assert (metrics["skipped"], metrics["skipped_in_row"]) == (2, 2)
  mended, _ = good(skipped, a_batch(2), key)
  assert (mended.step, mended.skipped, mended.skipped_in_row) == (4, 2, 0)
  expected = ema.update(state.ema, mended.params, DECAYS, jnp.int32(1))  # the second update that counts
  assert_equal(expected, mended.ema, rtol=1e-6)


@pytest.mark.parametrize("resident", [True, False])
@pytest.mark.parametrize("num", [1, 3, 4])
def test_several_steps_are_single_steps(num, resident):
  step, state = a_step()
  key = jax.random.key(1)
  data = {"x": jax.random.normal(jax.random.key(5), (20, 3))}
  batches = {"id": jax.random.randint(jax.random.key(6), (4, 8), 0, 20), "index": jnp.tile(jnp.arange(8), (4, 1))}
  feed = (data, batches) if resident else ({}, {"x": data["x"][batches["id"]], "index": batches["index"]})
  together, history = jax.jit(several_steps)(step, state, *feed, num, key)
  losses = []
  for i in range(num):
    batch = {"x": data["x"][batches["id"][i]], "index": batches["index"][i]}
    state, metrics = step(state, batch, key)
    losses.append(metrics["loss"])
  assert_equal(state, together, rtol=1e-5)
  np.testing.assert_allclose(history["loss"], losses + [0] * (4 - num), rtol=1e-6)


def test_number_of_steps_does_not_recompile():
  step, state = a_step()
  batches = {"x": jnp.ones((4, 8, 3)), "index": jnp.tile(jnp.arange(8), (4, 1))}
  traced = []

  @jax.jit
  def run(*arguments):
    traced.append(arguments)
    return several_steps(*arguments)

  for num in (1, 2, 4):
    run(step, state, {}, batches, num, jax.random.key(0))
  assert len(traced) == 1


def test_learning_rate_warms_up_and_decays(tiny):
  config = tiny(steps=14, warmup_steps=4, learning_rate=0.8, decay="cosine")
  rates = [float(from_config.learning_rate(config)(step)) for step in range(15)]
  cosine = 0.4 * (1 + np.cos(np.pi * np.arange(11) / 10))
  np.testing.assert_allclose(rates, [0.2, 0.4, 0.6, 0.8, *cosine], atol=1e-6)
  config.train.decay, config.train.warmup_steps = "constant", 0
  assert float(from_config.learning_rate(config)(12)) == pytest.approx(0.8)


def test_clipping_limits_the_global_norm(tiny):
  """Adam's first moment after one step is 0.1 times the gradient that reached it."""
  params = {"w": jnp.zeros(2)}
  grads = {"w": jnp.array([3.0, 4.0])}
  for clip_norm, norm in ((0.0, 5.0), (1.0, 1.0), (10.0, 5.0)):
    optimizer = from_config.optimizer(tiny(clip_norm=clip_norm))
    _, state = optimizer.update(grads, optimizer.init(params), params)
    first_moment = optax.tree_utils.tree_get(state, "mu")["w"]
    np.testing.assert_allclose(jnp.linalg.norm(first_moment), 0.1 * norm, rtol=1e-5)
