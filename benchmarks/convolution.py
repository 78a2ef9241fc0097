"""The 3x3 convolutions of benchmarks/unet.py alone: forward and both gradients, ours and PyTorch's, in GFLOP/s.

    python benchmarks/convolution.py [--repeats=30]

Ours run twenty times inside a compiled loop, as in training and sampling; PyTorch's are oneDNN's, channels_last. Each
library runs in its own process. These figures bound what can be gained outside the convolutions.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time

SHAPES = ((64, 8, 32), (64, 4, 64), (8, 8, 32), (8, 4, 64), (8, 32, 128), (8, 16, 256), (8, 8, 256))
"""(batch, side, channels)."""
LOOP = 20


def median_seconds(run, repeats):
  times = []
  for _ in range(repeats + 3):
    start = time.perf_counter()
    run()
    times.append(time.perf_counter() - start)
  return statistics.median(times[3:])


def ours(repeats):
  import jax
  import jax.numpy as jnp

  from diffjax.networks.convolution import conv2d
  from diffjax.system import compilation

  def looped(step):
    return compilation.jit(lambda x, kernel: jax.lax.scan(lambda c, _: (step(*c), None), (x, kernel), None, LOOP)[0])

  def of_x(x, kernel):
    return jax.vjp(lambda x: conv2d(x, kernel), x)[1](x)[0], kernel

  def of_kernel(x, kernel):
    return x, kernel + 1e-6 * jax.vjp(lambda kernel: conv2d(x, kernel), kernel)[1](x + kernel[0, 0, 0, 0])[0]

  steps = {"forward": lambda x, kernel: (conv2d(x, kernel), kernel), "by input": of_x, "by kernel": of_kernel}
  found = {}
  for batch, side, channels in SHAPES:
    x = jax.random.normal(jax.random.key(0), (batch, side, side, channels))
    kernel = 0.05 * jax.random.normal(jax.random.key(1), (3, 3, channels, channels)) / jnp.sqrt(channels)
    for name, step in steps.items():
      run = looped(step)
      seconds = median_seconds(lambda run=run, x=x, kernel=kernel: jax.block_until_ready(run(x, kernel)), repeats)
      found[f"{batch}x{side}x{side}x{channels} {name}"] = seconds / LOOP
  return found


def pytorch(repeats):
  import torch

  found = {}
  for batch, side, channels in SHAPES:
    last = {"memory_format": torch.channels_last}
    x = torch.randn(batch, channels, side, side).to(**last)
    kernel = (0.05 * torch.randn(channels, channels, 3, 3)).to(**last)

    def backward(mask, x=x, kernel=kernel, channels=channels):
      pair = [1, 1]
      convolution = torch.ops.aten.convolution_backward
      return convolution(x, x, kernel, [channels], pair, pair, pair, False, [0, 0], 1, mask)

    runs = {
      "forward": lambda x=x, kernel=kernel: torch.nn.functional.conv2d(x, kernel, padding=1),
      "by input": lambda: backward((True, False, False)),
      "by kernel": lambda: backward((False, True, False)),
    }
    for name, run in runs.items():
      found[f"{batch}x{side}x{side}x{channels} {name}"] = median_seconds(run, repeats)
  return found


def main():
  parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
  parser.add_argument("--repeats", type=int, default=30)
  parser.add_argument("--call", choices=("ours", "pytorch"), help=argparse.SUPPRESS)
  options = parser.parse_args()
  if options.call:
    print(json.dumps(globals()[options.call](options.repeats)))
    return
  found = {}
  for name in ("ours", "pytorch"):
    command = [sys.executable, __file__, f"--repeats={options.repeats}", f"--call={name}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
      sys.exit(f"{name} failed: {done.stderr.strip().splitlines()[-1]}")
    found[name] = json.loads(done.stdout.splitlines()[-1])
  print(f"{'convolution':<26}{'ours':>8}{'PyTorch':>9}   GFLOP/s{'ratio':>8}")
  for name, seconds in found["ours"].items():
    batch, side, _, channels = map(int, name.split()[0].split("x"))
    flops = 2 * 9 * batch * side**2 * channels**2
    other = found["pytorch"][name]
    print(f"{name:<26}{flops / seconds / 1e9:8.0f}{flops / other / 1e9:9.0f}          {other / seconds:8.2f}")


if __name__ == "__main__":
  main()
