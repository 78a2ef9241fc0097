"""The roofline: counts against closed forms, times against arithmetic."""

import itertools
import math
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffjax import from_config, scaling
from diffjax.runs.dry_run import examples
from diffjax.scaling import Cost, Device

pytestmark = pytest.mark.slow

CONFIG = pathlib.Path(__file__).parents[1] / "configs" / "digits.py"


def counted(function, *shapes, platform="tpu"):
  arrays = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
  return scaling.count(jax.make_jaxpr(function)(*arrays).jaxpr, platform)


@pytest.mark.parametrize("num", [1, 2, 3, 8])
def test_all_reduce_volume_is_that_of_a_ring(num):
  """Each device in turn passes one of N parts on: N - 1 times to sum, N - 1 times to spread."""
  parts = np.random.default_rng(0).normal(size=(num, num, 5))  # [device, part, values]
  whole, sent = parts.sum(axis=0), np.zeros(num)
  for turn in range(2 * (num - 1)):
    messages = [(device, (device - turn) % num) for device in range(num)]
    moved = [(part, parts[device, part].copy()) for device, part in messages]
    for (device, _), (part, values) in zip(messages, moved):
      sent[device] += values.nbytes
      there = (device + 1) % num
      parts[there, part] = values + (parts[there, part] if turn < num - 1 else 0)
  np.testing.assert_allclose(parts, np.broadcast_to(whole, parts.shape))
  np.testing.assert_allclose(sent, scaling.all_reduce_bytes(whole.nbytes, num))


def test_dense_network():
  """Forward, and backward twice that but for the gradient of the input: 2 b i o FLOPs for each product."""
  b, widths = 7, (11, 13, 17)

  def loss(first, second, x):
    return (jnp.tanh(x @ first) @ second).sum()

  shapes = ((11, 13), (13, 17), (b, 11))
  sizes = [b * i * o for i, o in itertools.pairwise(widths)]
  matrices = [b * i + i * o + b * o for i, o in itertools.pairwise(widths)]
  assert counted(loss, *shapes) == (2 * sum(sizes), 4 * sum(matrices))
  flops, moved = counted(jax.value_and_grad(loss, argnums=(0, 1)), *shapes)
  assert flops == 2 * (2 * sizes[0] + 3 * sizes[1])
  assert moved == 4 * (2 * matrices[0] + 3 * matrices[1])


def test_convolution():
  def conv(x, kernel):
    return jax.lax.conv_general_dilated(x, kernel, (2, 2), ((1, 1), (1, 1)), dimension_numbers=("NHWC", "HWIO", "NHWC"))

  shapes = ((2, 8, 8, 6), (3, 3, 6, 10))
  forward = 2 * (2 * 4 * 4 * 10) * 3 * 3 * 6
  assert counted(conv, *shapes)[0] == forward
  for argument in (0, 1):  # the gradient of x is a convolution of a picture with zeros between
    assert counted(jax.value_and_grad(lambda *a: conv(*a).sum(), argument), *shapes)[0] == 2 * forward


def test_loops_and_branches():
  product, shape = lambda a: a @ a, (4, 4)
  once = counted(product, shape)[0]
  assert counted(lambda a: jax.lax.scan(lambda a, _: (a @ a, ()), a, None, 5)[0], shape)[0] == 5 * once
  branches = lambda a: jax.lax.cond(a[0, 0] > 0, lambda a: a @ a @ a, product, a)
  assert counted(branches, shape)[0] == 2 * once
  by_platform = lambda a: jax.lax.platform_dependent(a, cpu=lambda a: a @ a @ a, default=product)
  assert [counted(by_platform, shape, platform=p)[0] / once for p in ("cpu", "tpu")] == [2, 1]


def test_counts_what_xla_counts_of_products():
  def network(x, kernel, matrix):
    y = jax.lax.conv_general_dilated(x, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    return y.reshape(2, -1) @ matrix

  shapes = ((2, 8, 8, 6), (3, 3, 6, 10), (360, 20))
  lowered = jax.jit(network).lower(*(jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes))
  assert counted(network, *shapes)[0] == lowered.cost_analysis()["flops"]


def test_training_step_against_xla(tiny):
  """XLA counts what lies between the products too, and leaves out what they multiply with zeros at the border."""
  config, key = tiny(), jax.eval_shape(lambda: jax.random.key(0))
  config.model.width, config.data.image_size = 64, 32
  arguments = (jax.eval_shape(lambda: from_config.initial_state(config)), examples(config, 16), key)
  theirs = jax.jit(from_config.train_step(config)).lower(*arguments).cost_analysis()["flops"]
  assert theirs == pytest.approx(scaling.step_cost(config, 16, "cpu").flops, rel=0.05)


def test_platforms_do_the_same_products(tiny):
  """The gradients of convolutions are written in two ways, which multiply the same numbers."""
  config = tiny()
  by_platform = [scaling.step_cost(config, 16, platform).flops for platform in ("cpu", "tpu", "cuda")]
  assert max(by_platform) <= 1.01 * min(by_platform)


def test_cost_of_a_step(tiny):
  """Products grow with the batch; the state is read and written once, gradients are written and read."""
  config = tiny()
  state = from_config.initial_state(config)
  nbytes = lambda tree: sum(leaf.nbytes for leaf in jax.tree.leaves(tree))
  one, two, four = (scaling.step_cost(config, size) for size in (1, 2, 4))
  assert four.flops - two.flops == 2 * (two.flops - one.flops) > 0
  assert one.gradients == nbytes(state.params)
  assert 2 * one.bytes - two.bytes > 2 * nbytes(state) + 2 * nbytes(state.params)
  assert scaling.step_cost(tiny(accumulate=2), 4) == four


def test_times():
  device = Device("tpu", flops=100.0, bandwidth=10.0, link=5.0, island=4, network=1.0)
  cost = Cost(flops=200.0, bytes=30.0, gradients=20.0)
  assert scaling.times(cost, device, 1) == {"compute": 2.0, "memory": 3.0, "communication": 0.0}
  assert scaling.times(cost, device, 4)["communication"] == pytest.approx(2 * 3 / 4 * 20 / 5)
  assert scaling.times(cost, device, 8)["communication"] == pytest.approx(2 * 7 / 8 * 20 / 1)
  with pytest.raises(ValueError, match="use --count=1"):
    scaling.times(cost, Device("cpu", 1.0, 1.0), 2)


def test_table(tiny):
  """The slowest part is the step, and the rates follow from it."""
  header, *rows = (line.split() for line in scaling.table(tiny(), ["v5e", "h100"], [1, 2]).splitlines())
  assert [row[:2] for row in rows] == [["v5e", "1"], ["v5e", "2"], ["h100", "1"], ["h100", "2"]]
  assert header[-2:] == ["images/s", "efficiency"]
  link = {"v5e": 200, "h100": 450}  # GB/s
  for row in rows:
    assert float(row[4]) == pytest.approx(float(row[9]) * link[row[0]] / 1e3, rel=0.01)
    parts, bounds = [float(row[i]) for i in (5, 7, 9)], [row[i] == "ms*" for i in (6, 8, 10)]
    step, rate = float(row[11]), float(row[13].replace(",", ""))
    assert step == max(parts) and sum(bounds) == 1 and bounds[parts.index(step)]
    assert rate == pytest.approx(16 / step * 1e3, rel=0.01)
    assert float(row[14].rstrip("%")) == pytest.approx(100 * parts[0] / step, abs=1)


@pytest.mark.parametrize(
  ("arguments", "says"),
  [
    ([], "--config is missing"),
    ([f"--config={CONFIG}", "--device=v5f"], "there is no device 'v5f' (did you mean 'v5"),
    ([f"--config={CONFIG}", "--count=7"], "7 devices cannot share a batch of 64"),
    ([f"--config={CONFIG}", "--count=many"], "--count=many is not a number"),
  ],
)
def test_mistakes(monkeypatch, arguments, says):
  monkeypatch.setattr("sys.argv", ["scaling", *arguments])
  with pytest.raises(SystemExit) as stop:
    scaling.main(["scaling", *arguments])
  assert stop.value.code.startswith("error: ") and says in stop.value.code


def test_rates_measured_here_are_those_of_a_processor():
  device = scaling.measured("float32")
  assert 1e9 < device.flops < 1e14 and 1e8 < device.bandwidth < 1e13 and math.isfinite(device.flops)
