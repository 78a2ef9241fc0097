"""Roofline estimate of a config's training step on a kind of device.

  python -m diffjax.scaling --config=configs/cifar10.py --device=v5e,h100 --count=1,8,64
  python -m diffjax.scaling --config=configs/digits.py --device=cpu

The step is traced, not run. The estimate counts the FLOPs of matrix products and convolutions, the bytes of their
operands and results, as if everything else were fused with them, and the state and the gradients, each read and
written once. Compute, memory and communication are assumed to overlap, so the slowest of them is the step's time: a
lower bound. The rates of "cpu" are measured when the command runs.
"""

import dataclasses
import functools
import math
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from jax.interpreters.partial_eval import dce_jaxpr

from diffjax import from_config
from diffjax.cluster import command_line
from diffjax.from_config.construction import lookup
from diffjax.runs.dry_run import examples
from diffjax.runs.frozen import load_frozen
from diffjax.system.memory import tree_bytes


@dataclasses.dataclass(frozen=True)
class Device:
  """Peak rates of one chip.

  Attributes:
    platform: JAX's platform name.
    flops: FLOP/s of matrix products in bfloat16, dense.
    bandwidth: bytes/s to and from its memory.
    link: bytes/s in each direction to the other chips of its island.
    island: number of chips joined by such links.
    network: bytes/s sent beyond the island.
  """

  platform: str
  flops: float
  bandwidth: float
  link: float = 0.0
  island: int = 1
  network: float = 0.0


DEVICES = {
  # Google Cloud, "TPU v5e": 197 TFLOPs, 819 GBps, ICI 1600 Gbps each way (400 GBps both), pods of 256 with 6.4 Tbps.
  "v5e": Device("tpu", 197e12, 819e9, 200e9, 256, 6.4e12 / 8 / 256),
  # Google Cloud, "TPU v5p": 459 TFLOPs, 2765 GBps, ICI 4800 Gbps each way (1200 GBps both), 6144 a slice, DCN 50 Gbps.
  "v5p": Device("tpu", 459e12, 2765e9, 600e9, 6144, 50e9 / 8),
  # NVIDIA, H100 data sheet, SXM: 989 TFLOPS (1979 with sparsity), 3.35 TB/s, NVLink 900 GB/s both ways.
  # NVIDIA, DGX H100 data sheet: 8 GPUs, a port of 400 Gb/s for each.
  "h100": Device("cuda", 989e12, 3350e9, 450e9, 8, 50e9),
  # NVIDIA, H200 data sheet, SXM: as H100, 4.8 TB/s.
  "h200": Device("cuda", 989e12, 4800e9, 450e9, 8, 50e9),
}


@dataclasses.dataclass(frozen=True)
class Cost:
  """Per-device cost of a step: floating-point operations, bytes to and from memory, bytes of the gradients."""

  flops: float
  bytes: float
  gradients: float


def all_reduce_bytes(num_bytes: float, count: int) -> float:
  """Bytes that each of `count` devices sends in a ring all-reduce of `num_bytes`: 2 (N - 1) / N of them.

  Each of the N parts travels round the ring twice, to be summed and to be distributed (Patarasuk & Yuan 2009).
  """
  return 2 * (count - 1) / count * num_bytes


def step_cost(config, batch_size: int, platform: str = "tpu") -> Cost:
  """The cost of a training step with `batch_size` examples on each device."""
  step = dataclasses.replace(from_config.train_step(config), accumulate=1)
  frozen = load_frozen(config)
  state = jax.eval_shape(lambda frozen: from_config.initial_state(config, frozen), frozen)
  key = jax.eval_shape(lambda: jax.random.key(0))
  flops, operands = count(jax.make_jaxpr(step)(state, examples(config, batch_size, frozen=frozen), key).jaxpr, platform)
  gradients = tree_bytes(state.params)
  return Cost(flops, operands + 2 * tree_bytes(state) + 2 * gradients, gradients)


def count(jaxpr, platform: str = "tpu") -> tuple[float, float]:
  """(FLOPs, bytes of operands and results) of all matrix products and convolutions, loops of known length unrolled."""
  total = np.zeros(2)
  used, _ = dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))
  for equation in used.eqns:
    inner = [np.array(count(sub, platform)) for sub in _inner(equation.params)]
    if equation.primitive.name == "cond":
      total += _branch(inner, equation.params.get("branches_platforms"), platform)
    elif inner:
      total += equation.params.get("length", 1) * sum(inner)
    elif equation.primitive.name in ("dot_general", "conv_general_dilated", "conv2d"):
      arrays = [variable.aval for variable in (*equation.invars, *equation.outvars)]
      total += _flops(equation), tree_bytes(arrays)
  return float(total[0]), float(total[1])


def _inner(params):
  for value in params.values():
    for part in value if isinstance(value, tuple | list) else (value,):
      part = getattr(part, "jaxpr", part)
      if hasattr(part, "eqns"):
        yield part


def _branch(costs, platforms, platform):
  if platforms is None:  # the branch depends on data: assume the most expensive
    return max(costs, key=lambda cost: cost[0])
  return next(cost for cost, names in zip(costs, platforms) if names is None or platform in names)


def _flops(equation) -> float:
  """Two per multiply-add: output elements times terms summed for each, without the zeros of a dilated input."""
  left, right = (variable.aval.shape for variable in equation.invars)
  size = equation.outvars[0].aval.size
  if equation.primitive.name == "dot_general":
    (contracted, _), _ = equation.params["dimension_numbers"]
    return 2.0 * size * math.prod(left[i] for i in contracted)
  if equation.primitive.name == "conv2d":  # ours, with the kernel [h, w, I, O]
    return 2.0 * size * math.prod(right[:3])
  features = equation.params["dimension_numbers"].rhs_spec[0]
  zeros = math.prod(equation.params["lhs_dilation"])
  return 2.0 * size * math.prod(right) / right[features] / zeros


def times(cost: Cost, device: Device, num: int) -> dict[str, float]:
  """Seconds of {"compute", "memory", "communication"} of a step on `num` devices.

  Raises:
    ValueError: if there is more than one device and their interconnect is unknown.
  """
  link = device.link if num <= device.island else device.network
  if num > 1 and not link:
    raise ValueError(f"the interconnect of {num} such devices is unknown; use --count=1.")
  sent = all_reduce_bytes(cost.gradients, num)
  return {
    "compute": cost.flops / device.flops,
    "memory": cost.bytes / device.bandwidth,
    "communication": sent / link if sent else 0.0,
  }


def measured(dtype) -> Device:
  """Measured rates of JAX's default device, from a matrix product of side 2048 and a copy of 256 MiB."""
  side, copied = 2048, 2**28

  def best(program, argument):
    program(argument).block_until_ready()
    seconds = []
    while sum(seconds) < 0.5 or len(seconds) < 3:
      start = time.perf_counter()
      program(argument).block_until_ready()
      seconds.append(time.perf_counter() - start)
    return min(seconds)

  product = best(jax.jit(lambda a: a @ a), jnp.ones((side, side), dtype))
  copy = best(jax.jit(jnp.copy), jnp.ones(copied // 4, jnp.float32))
  return Device("cpu", 2 * side**3 / product, 2 * copied / copy)


def table(config, names: list[str], counts: list[int]) -> str:
  """A row of times, images/s and efficiency for each kind and number of devices, which split the config's batch.

  Raises:
    ValueError: if a device is unknown, or the batch cannot be split evenly.
  """
  batch_size = config.train.batch_size
  rows: list[tuple[str, ...]] = [
    (
      "device",
      "count",
      "TFLOP",
      "GB",
      "GB sent",
      "compute",
      "memory",
      "communication",
      "step",
      "images/s",
      "efficiency",
    )
  ]
  cost_of = functools.cache(lambda size, platform: step_cost(config, size, platform))
  for name in names:
    local = config.model.get("dtype", "float32") if name == "cpu" else None
    device = measured(local) if local else lookup(DEVICES, "device", name)
    for num in counts:
      if num < 1 or batch_size % num:
        raise ValueError(f"{num} devices cannot share a batch of {batch_size} evenly; change --count or the batch.")
      cost = cost_of(batch_size // num, device.platform)
      taken = times(cost, device, num)
      slowest = max(taken, key=lambda part: taken[part])
      step = taken[slowest]
      parts = [f"{seconds * 1e3:.3g} ms" + ("*" if part == slowest else "") for part, seconds in taken.items()]
      sent = all_reduce_bytes(cost.gradients, num)
      cells = (*(f"{n:.3g}" for n in (cost.flops / 1e12, cost.bytes / 1e9, sent / 1e9)), *parts, f"{step * 1e3:.3g} ms")
      rows.append((name, str(num), *cells, f"{batch_size / step:,.0f}", f"{taken['compute'] / step:.0%}"))
  widths = [max(map(len, column)) for column in zip(*rows)]
  return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(row, widths)) for row in rows)


def main(argv: list[str]) -> None:
  """Runs the command line; errors exit with a one-sentence message."""
  from ml_collections import config_flags

  options = flags.FlagValues()
  config_flags.DEFINE_config_file("config", None, "The config to estimate: a file in configs/.", flag_values=options)
  flags.DEFINE_list("device", ["v5e"], f"Kinds of device: {', '.join(DEVICES)} or cpu.", flag_values=options)
  flags.DEFINE_list("count", ["1"], "Device counts.", flag_values=options)
  with command_line.reporting():
    command_line.parse(argv, options)
    if options.config is None:
      raise ValueError("--config is missing; give a file, as in --config=configs/digits.py.")
    from_config.check(options.config)
    if not all(num.isdecimal() for num in options.count):
      raise ValueError(f"--count={','.join(options.count)} is not a number; give one, or several as in --count=1,8,64.")
    print(table(options.config, options.device, [int(num) for num in options.count]))
    print("\nPer device and step: TFLOP, GB to and from memory, GB sent to other devices; * marks the bottleneck.")


if __name__ == "__main__":
  main(sys.argv)
