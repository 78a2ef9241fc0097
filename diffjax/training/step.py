"""One optimiser step, as a pure function."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import optax

from diffjax import struct
from diffjax.cluster import devices
from diffjax.training import ema
from diffjax.typing import Array, Objective, PyTree


@struct.dataclass
class TrainState:
  """The complete state of a run. `skipped` counts non-finite updates, `skipped_in_row` the latest consecutive ones.

  `frozen` is what steps read but do not change, such as a teacher; usually None. It can be large and comes from
  elsewhere, so checkpoints hold `trained`, and a resumed run adds `frozen` again.
  """

  step: Array
  params: PyTree
  opt_state: PyTree
  ema: tuple[PyTree, ...]
  skipped: Array
  skipped_in_row: Array
  frozen: PyTree = None

  @property
  def averaged(self) -> PyTree:
    """The parameters to draw with: the first average, or the parameters themselves if there is none."""
    return self.ema[0] if self.ema else self.params

  @property
  def trained(self) -> "TrainState":
    """The state without `frozen`: all that a checkpoint holds."""
    return dataclasses.replace(self, frozen=None)


def init_state(
  params: PyTree, optimizer: optax.GradientTransformation, num_ema: int, frozen: PyTree = None
) -> TrainState:
  """The state before the first step."""
  zero = lambda: jnp.zeros((), jnp.int32)
  return TrainState(zero(), params, optimizer.init(params), ema.init(params, num_ema), zero(), zero(), frozen)


@struct.dataclass
class TrainStep:
  """(state, batch, key) -> (state, metrics): one update from one batch.

  Attributes:
    objective: what is trained; an objective that needs the whole batch gathers it over `axis_name`.
    optimizer: an optax transformation.
    ema_decays: one for each average in the state.
    accumulate: the number of parts the batch is split into, whose gradients are averaged.
  """

  objective: Objective
  ema_decays: tuple[float, ...]
  optimizer: optax.GradientTransformation = struct.field(pytree_node=False)
  accumulate: int = struct.field(pytree_node=False, default=1)

  def __call__(
    self, state: TrainState, batch: PyTree, key: Array, *, axis_name: str | None = None
  ) -> tuple[TrainState, dict[str, Array]]:
    """Runs the step.

    Args:
      state: the state to start from.
      batch: arrays with leading [b], including "index", each example's position in the global batch.
      key: the same on all devices and for all parts; folded with the state's step, then with each example's index.
      axis_name: of the mapped device axis to average over, if any.

    Returns:
      The next state, and "loss", "grad_norm", "skipped", "skipped_in_row" and the objective's own metrics. An update
      whose loss or gradient is not finite changes only the step and the counters, on all devices alike.
    """
    key = jax.random.fold_in(key, state.step)
    (loss, aux), grads = devices.mean(self._loss_and_grads(state, batch, key, axis_name), axis_name)
    grad_norm = optax.tree.norm(grads)
    finite = jnp.isfinite(loss) & jnp.isfinite(grad_norm)
    updates, opt_state = self.optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    averages = ema.update(state.ema, params, self.ema_decays, state.step - state.skipped)
    kept = (state.params, state.opt_state, state.ema)
    params, opt_state, averages = jax.tree.map(
      lambda new, old: jnp.where(finite, new, old), (params, opt_state, averages), kept
    )
    state = TrainState(
      step=state.step + 1,
      params=params,
      opt_state=opt_state,
      ema=averages,
      skipped=state.skipped + ~finite,
      skipped_in_row=jnp.where(finite, 0, state.skipped_in_row + 1),
      frozen=state.frozen,
    )
    counters = {"skipped": state.skipped, "skipped_in_row": state.skipped_in_row}
    return state, {"loss": loss, "grad_norm": grad_norm, **aux, **counters}

  def _loss_and_grads(self, state, batch, key, axis_name):
    def mean_loss(params, part):
      losses, aux = self.objective(params, part, key, frozen=state.frozen, axis_name=axis_name)
      return losses.mean(), jax.tree.map(jnp.mean, aux)

    # inlined as if not jitted, but traced only once, for the shapes of its sums and the loop over parts
    value_and_grad = jax.jit(jax.value_and_grad(mean_loss, has_aux=True), inline=True)
    if self.accumulate == 1:
      return value_and_grad(state.params, batch)
    # strided, so that each part is spread over the devices like the batch
    parts = jax.tree.map(lambda a: a.reshape(-1, self.accumulate, *a.shape[1:]).swapaxes(0, 1), batch)

    def add(total, part):
      return jax.tree.map(jnp.add, total, value_and_grad(state.params, part)), None

    first = jax.tree.map(lambda a: a[0], parts)
    zeros = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), jax.eval_shape(value_and_grad, state.params, first))
    total, _ = jax.lax.scan(add, zeros, parts)
    return jax.tree.map(lambda a: a / self.accumulate, total)


def several_steps(step: TrainStep, state, data, batches, num, key, *, axis_name=None):
  """Runs `num` steps in one call.

  Args:
    step: the train step.
    state: the state to start from.
    data: arrays with leading [N] resident on the device, or {} if the batches hold the examples themselves.
    batches: arrays with leading [K, b]; "id" [K, b] selects examples from `data`.
    num: int [], how many of the K batches to use: traced, so that stopping at an exact step does not recompile.
    key: as in `TrainStep`.
    axis_name: as in `TrainStep`.

  Returns:
    The state after `num` steps, and the metrics of each, [K]; those beyond `num` are zero.
  """

  def fetch(i):
    batch = jax.tree.map(lambda a: a[i], batches)
    return batch | jax.tree.map(lambda a: a[batch["id"]], data)

  # inlined as if not jitted, but traced only once, for its metrics' shapes and the loop
  traced = jax.jit(functools.partial(step, axis_name=axis_name), inline=True)

  def body(i, carry):
    state, history = carry
    state, metrics = traced(state, fetch(i), key)
    return state, jax.tree.map(lambda h, m: h.at[i].set(m), history, metrics)

  slots = batches["index"].shape[0]
  _, metrics = jax.eval_shape(traced, state, jax.eval_shape(fetch, 0), key)
  history = {name: jnp.zeros(slots, metric.dtype) for name, metric in metrics.items()}
  return jax.lax.fori_loop(0, num, body, (state, history))
