"""`fit` is as many train steps on the data's own batches."""

import io
import sys

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from diffjax import data, training
from diffjax.cluster.layouts import Replicated


def objective(params, batch, key, *, frozen=None, axis_name=None):
  error = jnp.square(params["w"][None] - frozen["scale"] * batch["x"]).sum(1)
  return error, {"far": error > 1}


def test_fit_is_so_many_steps_of_sgd():
  x, reports = np.random.default_rng(0).normal(size=(10, 3)).astype(np.float32), []
  state = training.fit(
    objective, {"w": jnp.zeros(3)}, {"x": x}, steps=7, batch_size=4, optimizer=optax.sgd(0.1), seed=3,
    steps_per_call=3, frozen={"scale": jnp.float32(2.0)}, report=lambda step, means: reports.append((step, means)),
  )  # fmt: skip
  w, batches, losses = np.zeros(3), data.id_batches(10, 4, 3), []
  for _ in range(7):
    target = 2 * x[next(batches)["id"]]
    losses.append(np.square(w - target).sum(1).mean())
    w = w - 0.1 * 2 * (w - target).mean(0)
  np.testing.assert_allclose(state.params["w"], w, rtol=1e-5)
  assert [step for step, _ in reports] == [3, 6, 7] and state.step == 7
  np.testing.assert_allclose(
    [means["loss"] for _, means in reports], [np.mean(losses[:3]), np.mean(losses[3:6]), losses[6]], rtol=1e-5
  )
  assert all(0 <= means["far"] <= 1 for _, means in reports) and state.frozen["scale"] == 2


def test_the_bar_leaves_out_the_first_call_which_compiles(monkeypatch):
  now, terminal, seconds = 0.0, io.StringIO(), iter((100, 2, 2, 2))
  terminal.isatty = lambda: True

  class Timed(Replicated):
    def compile(self, step):
      def timed(*args):
        nonlocal now
        now += next(seconds)
        return compiled(*args)

      compiled = super().compile(step)
      return timed

  monkeypatch.setattr("tqdm.std.time", lambda: now)
  monkeypatch.setattr(sys, "stderr", terminal)
  monkeypatch.setattr(sys.modules["diffjax.training.fit"], "Replicated", Timed)
  training.fit(
    objective, {"w": jnp.zeros(3)}, {"x": np.ones((10, 3), np.float32)}, steps=8, batch_size=4, steps_per_call=2,
    frozen={"scale": jnp.float32(2.0)},
  )  # fmt: skip
  assert "6/8 [00:04<00:02," in terminal.getvalue() and "8/8 [00:06<00:00," in terminal.getvalue()


def test_what_cannot_be_fitted_is_said():
  params = {"w": jnp.zeros(3)}
  with pytest.raises(ValueError, match="data has arrays of lengths"):
    training.fit(objective, params, {"x": np.zeros((3, 3)), "y": np.zeros(2)}, steps=1)
  with pytest.raises(ValueError, match="data is of type ndarray; pass a dict of arrays"):
    training.fit(objective, params, np.zeros((3, 3)), steps=1)
  for wrong, says in (
    (dict(steps=0), "steps is 0"),
    (dict(steps=1, ema_decay=-1), r"ema_decay is -1, but must be in \[0, 1\)"),
    (dict(steps=1, seed=0.5), "seed is 0.5, but must be a whole number"),
  ):
    with pytest.raises(ValueError, match=says):
      training.fit(objective, params, {"x": np.zeros((3, 3))}, **wrong)
