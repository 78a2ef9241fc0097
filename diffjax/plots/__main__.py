"""Plots of all schedules and samplers.

python -m diffjax.plots schedules [--out=docs/schedules.png]    log-SNR over time of every schedule
python -m diffjax.plots samplers  [--out=docs/samplers.png]     error against network calls of every sampler
"""

import itertools
import pathlib
import sys
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import scipy.special
from absl import flags

from diffjax import arrays, from_config, grids, randomness, sample
from diffjax.cluster import command_line
from diffjax.samplers import METHODS
from diffjax.samplers.adaptive import Adaptive, solve
from diffjax.system import compilation, writing

HIGH, LOW = 20.0, 0.05
CALLS = (8, 16, 32, 64, 128)
TOLERANCES = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7)
NUM_DRAWN = 20_000
LEFT_OUT = ("consistency", "lcm", "tcd")
"""They need a model that jumps straight to the data, which an ideal denoiser does not."""
MEANS, STD = np.array([-1.0, 0.2, 0.7]), 0.3
INK, RULE = "#262b33", "#e6e9ee"


def log_snrs() -> dict[str, tuple[np.ndarray, np.ndarray]]:
  """(time from 0 to 1, log-SNR) for every entry of SCHEDULES, between its own ends."""
  fractions, curves = np.linspace(0, 1, 400), {}
  for name, make in from_config.SCHEDULES.items():
    schedule = make()
    times = schedule.t_min + fractions * (schedule.t_max - schedule.t_min)
    curves[name] = fractions, np.asarray(-2 * jnp.log(schedule.sigma(times)))
  return curves


def mixture(x, sigma, cond=None, *, key=None):
  """The ideal denoiser of pictures whose pixels are a mixture of three Gaussians."""
  variance = jnp.broadcast_to(arrays.expand(jnp.square(sigma), x), x.shape)
  distances = jnp.square(x[..., None] - MEANS.reshape((1,) * x.ndim + (-1,)))
  weights = jax.nn.softmax(-distances / (2 * (variance + STD**2))[..., None], axis=-1)
  return (weights @ MEANS * variance + STD**2 * x) / (variance + STD**2)


@jax.jit
def _step(sampler, x, sigma, sigma_next, carry, keys, number):
  return sampler.step(mixture, x, sigma, sigma_next, carry, randomness.fold_in(keys, number))


def walk(sampler, x, num_steps: int):
  """x0 after `num_steps` levels above zero, from x [B, N]; the step is compiled once for all grids."""
  sigmas, carry = grids.exponential(num_steps, LOW, HIGH), sampler.init(x)
  keys = randomness.sample_keys(jax.random.key(0), x.shape[0])
  for number, levels in enumerate(itertools.pairwise(sigmas[:-1])):
    x, carry = _step(sampler, x, *levels, carry, keys, number)
  return mixture(x, sigmas[-2])


def calls_of(sampler, num_steps: int) -> int:
  """The number of network calls of one trajectory."""
  counted = []

  def counting(x, sigma, cond=None, *, key=None):
    jax.debug.callback(lambda: counted.append(None))
    return mixture(x, sigma)

  draw = lambda x: sample(counting, sampler, x, grids.exponential(num_steps, LOW, HIGH), key=jax.random.key(0))
  jax.block_until_ready(jax.jit(draw)(jnp.ones((1, 1))))
  jax.effects_barrier()
  return len(counted)


def curve(name: str, error) -> tuple[Sequence[float], Sequence[float]]:
  """(network calls, error(sampler, num_steps)) of a sampler for about the numbers of calls in CALLS."""
  sampler, each = from_config.SAMPLERS[name](), METHODS[name].calls
  per_step = each if isinstance(each, int) else 1
  steps = [(calls - 1) // per_step + 1 for calls in CALLS]
  spent = [(num - 1) * each + 1 if isinstance(each, int) else calls_of(sampler, num) for num in steps]
  return spent, [float(error(sampler, num)) for num in steps]


def errors() -> dict[str, tuple[Sequence[float], Sequence[float]]]:
  """(network calls, largest error of x0) on the mixture for every sampler that follows the ODE, in float64."""
  start = HIGH * jnp.linspace(-2.5, 2.5, 9)[:, None]
  fine = grids.exponential(20_000, LOW, HIGH)
  ideal = jax.tree_util.Partial(mixture)
  exact = jax.jit(sample)(ideal, from_config.SAMPLERS["heun"](), start, fine, key=jax.random.key(0))
  error = lambda sampler, num: jnp.abs(walk(sampler, start, num) - exact).max()
  curves = {name: curve(name, error) for name in from_config.SAMPLERS if follows_ode(name)}
  if "adaptive" in from_config.SAMPLERS:
    found = [
      solve(ideal, start, HIGH, LOW, key=jax.random.key(0), sampler=Adaptive(tolerance, tolerance))
      for tolerance in TOLERANCES
    ]
    curves["adaptive"] = (
      [float(calls.mean()) for _, calls in found],
      [float(jnp.abs(x0 - exact).max()) for x0, _ in found],
    )
  return curves


def distances() -> dict[str, tuple[Sequence[float], Sequence[float]]]:
  """(network calls, Wasserstein distance of x0 to the mixture) for every sampler that always draws noise."""
  # one picture of many pixels, since the corrector takes a picture's norm
  at = lambda sigma: jnp.asarray(quantiles(np.hypot(STD, sigma)))[None]
  exact, start = mixture(at(LOW), jnp.asarray(LOW)), at(HIGH)  # the ideal denoiser is increasing in x
  distance = lambda sampler, num: jnp.abs(jnp.sort(walk(sampler, start, num)) - exact).mean()
  return {name: curve(name, distance) for name in from_config.SAMPLERS if draws_noise(name)}


def follows_ode(name: str) -> bool:
  return METHODS[name].stochastic != "yes" and name != "adaptive"


def draws_noise(name: str) -> bool:
  return METHODS[name].stochastic == "yes" and name not in LEFT_OUT


def quantiles(std: float) -> np.ndarray:
  """NUM_DRAWN quantiles of the mixture whose components have standard deviation `std`."""
  places = np.linspace(-8 * std - 1, 8 * std + 1, 200_001)
  below = scipy.special.ndtr((places[:, None] - MEANS) / std).mean(1)
  return np.interp((np.arange(NUM_DRAWN) + 0.5) / NUM_DRAWN, below, places)


def draw(panels, path, x_label: str, logarithmic: bool) -> None:
  """Writes a plot of panels, each (curves, title, y label); the legend lists the curves by their final value."""
  from matplotlib import colormaps
  from matplotlib.figure import Figure

  figure = Figure(figsize=(2 + 7 * len(panels), 5.5), dpi=120, layout="constrained")
  for axes, (curves, title, y_label) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels):
    ranked = sorted(curves, key=lambda name: -curves[name][1][-1])
    for i, name in enumerate(ranked):
      style = ("-", "--", ":")[i % 3]  # so that coinciding curves are both visible
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
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
  with writing.replacing(path) as part:
    figure.savefig(part)


def main(argv: list[str]) -> None:
  """Runs the command line; an error exits with one sentence."""
  options = flags.FlagValues()
  flags.DEFINE_string("out", None, "Where to write (default: docs/NAME.png).", flag_values=options)
  with command_line.reporting():
    which = argv[1] if len(argv) > 1 else ""
    if which in ("--help", "-h"):
      print("python -m diffjax.plots schedules|samplers [--out=FILE.png]")
      return
    if which not in ("schedules", "samplers"):
      raise ValueError(f"there is no plot {which!r}; choose 'schedules' or 'samplers'.")
    command_line.parse(argv[1:], options)
    path = options.out or f"docs/{which}.png"
    if pathlib.Path(path).suffix not in (".pdf", ".png", ".svg"):
      raise ValueError(f"--out={path} has no known image suffix; use .png, .pdf or .svg.")
    if which == "schedules":
      draw([(log_snrs(), "Noise schedules", "log-SNR")], path, "time, from data to noise", False)
    else:
      with jax.enable_x64(True):
        panels = [
          (errors(), "Samplers of the ODE, on a Gaussian mixture", "largest error of x0"),
          (distances(), "Samplers that draw noise", "Wasserstein distance to the mixture"),
        ]
      draw(panels, path, "network calls", True)
    print(f"wrote {path}")


if __name__ == "__main__":
  compilation.use_persistent_cache()
  main(sys.argv)
