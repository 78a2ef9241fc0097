"""Pictures of what the library offers.

python -m diffjax.plots schedules [--out=docs/schedules.png]    log-SNR over time of every schedule
python -m diffjax.plots samplers  [--out=docs/samplers.png]     error against network calls of every sampler
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from diffjax import build, command_line, compilation, grids, plots, sample
from diffjax.samplers.methods import METHODS

HIGH, LOW = 20.0, 0.05
CALLS = (8, 16, 32, 64, 128)
MEANS, STD = np.array([-1.0, 0.2, 0.7]), 0.3
INK, RULE = "#262b33", "#e6e9ee"


def log_snrs() -> dict[str, tuple[np.ndarray, np.ndarray]]:
  """(time from 0 to 1, log-SNR) of every entry of SCHEDULES, between its own ends."""
  fractions, curves = np.linspace(0, 1, 400), {}
  for name, make in build.SCHEDULES.items():
    schedule = make()
    times = schedule.t_min + fractions * (schedule.t_max - schedule.t_min)
    curves[name] = fractions, np.asarray(-2 * jnp.log(schedule.sigma(times)))
  return curves


def mixture(x, sigma, cond=None, *, key=None):
  """The ideal denoiser of pictures whose pixels are a mixture of three Gaussians."""
  variance = jnp.broadcast_to(jnp.square(sigma), x.shape)
  distances = jnp.square(x[..., None] - MEANS.reshape((1,) * x.ndim + (-1,)))
  weights = jax.nn.softmax(-distances / (2 * (variance + STD**2))[..., None], axis=-1)
  return (weights @ MEANS * variance + STD**2 * x) / (variance + STD**2)


def errors() -> dict[str, tuple[list[int], list[float]]]:
  """(network calls, greatest error of x0) on the mixture of every sampler that follows the ODE, in float64."""
  start, curves = HIGH * jnp.linspace(-2.5, 2.5, 9)[:, None], {}
  draw = jax.jit(sample)
  solve = lambda sampler, num_steps: draw(
    jax.tree_util.Partial(mixture), sampler, start, grids.exponential(num_steps, LOW, HIGH), key=jax.random.key(0)
  )
  exact = solve(build.SAMPLERS["heun"](), 20_000)
  for name in build.SAMPLERS:
    method = METHODS[name]
    if method.stochastic == "yes" or method.order == "-" or not isinstance(method.calls, int):
      continue
    steps = [(calls - 1) // method.calls + 1 for calls in CALLS]
    made = build.SAMPLERS[name]()
    drawn = [float(jnp.abs(solve(made, num) - exact).max()) for num in steps]
    curves[name] = [(num - 1) * method.calls + 1 for num in steps], drawn
  return curves


def draw(curves, path, title: str, x_label: str, y_label: str, logarithmic: bool) -> None:
  """Writes a picture with one line a curve, each named at the side in the order in which they end."""
  from matplotlib import colormaps
  from matplotlib.figure import Figure

  figure = Figure(figsize=(9, 5.5), dpi=120, layout="constrained")
  axes = figure.subplots()
  ranked = sorted(curves, key=lambda name: -curves[name][1][-1])
  for i, name in enumerate(ranked):
    style = ("-", "--", ":")[i % 3]  # so that curves that coincide are both seen
    marker = "o" if logarithmic else None
    axes.plot(*curves[name], style, color=colormaps["tab10"](i % 10), label=name, linewidth=1.8, marker=marker, ms=4)
  if logarithmic:
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(CALLS, map(str, CALLS))
  axes.set_title(title, loc="left", fontweight="bold", color=INK)
  axes.set_xlabel(x_label)
  axes.set_ylabel(y_label)
  axes.grid(color=RULE, linewidth=0.6)
  axes.spines[["top", "right"]].set_visible(False)
  figure.legend(loc="outside right upper", frameon=False)
  with plots.replacing(path) as part:
    figure.savefig(part)


def main(argv: list[str]) -> None:
  """Runs the command line; a mistake ends the process with one sentence."""
  options = flags.FlagValues()
  flags.DEFINE_string("out", None, "Where to write (default: docs/NAME.png).", flag_values=options)
  with command_line.reporting():
    which = argv[1] if len(argv) > 1 else ""
    if which not in ("schedules", "samplers"):
      raise ValueError(f"there is no picture {which!r}; ask for 'schedules' or 'samplers'.")
    command_line.parse(argv[1:], options)
    path = options.out or f"docs/{which}.png"
    if which == "schedules":
      draw(log_snrs(), path, "Noise schedules", "time, from data to noise", "log-SNR", False)
    else:
      with jax.enable_x64(True):
        curves = errors()
      draw(curves, path, "Error on a Gaussian mixture", "network calls", "greatest error of x0", True)
    print(f"wrote {path}")


if __name__ == "__main__":
  compilation.use_persistent_cache()
  main(sys.argv)
