"""The cost of a CLIP-guided step, compared with an unguided one and with the sum of its parts.

    python benchmarks/clip_guidance.py [--batch=64] [--views=4] [--steps=25] [--repeats=9]

Everything runs in compiled loops of `steps` steps, alternating between the variants; medians in milliseconds per step.
The parts are the U-Net forward and backward to its input, and CLIP's image tower forward and backward on all views. The
networks are those of configs/digits.py and configs/clip_digits.py with random weights; on a GPU also ADM's for ImageNet
256 with ViT-B/16 and 64 cutouts, in bfloat16. Neither TFDS nor ml_collections is needed.
"""

import argparse
import statistics
import time

import jax
import jax.numpy as jnp

from diffjax import denoisers, grids, guidance, networks, randomness, sample, samplers, schedules
from diffjax.system import compilation

DIGITS = dict(
  width=16, multipliers=(1, 4), blocks_per_level=1, attention_resolutions=(4,), head_dim=32, resample="convolution",
  num_groups=8,
)  # fmt: skip
TOWER = dict(image_size=8, patch=2, width=64, layers=3, heads=4, features=32)


def a_model(module, size, prediction, schedule):
  """A denoiser with random weights."""
  x = jnp.zeros((1, size, size, module.out_channels))
  params = jax.jit(module.init)(jax.random.key(0), x, jnp.zeros(()))
  return denoisers.NetworkDenoiser(denoisers.BoundNetwork(params, module), prediction, schedule)


def an_energy(tower, views):
  """A CLIP energy with random weights."""
  params = jax.jit(tower.init)(jax.random.key(1), jnp.zeros((1, tower.image_size, tower.image_size, 3)))
  target = networks.unit(jax.random.normal(jax.random.key(2), (1, tower.features)))
  return guidance.clip(networks.ImageFeatures(params, tower), target, views=views)


def programs(denoiser, energy, sigmas):
  """A dict from name to program (denoiser, energy, x, key) -> x, each a loop over the noise levels."""

  def drawn(make):
    def draw(denoiser, energy, x, key):
      return sample(make(denoiser, energy), samplers.Euler(1.0), x, sigmas, key=key)

    return draw

  def looped(step):
    def run(denoiser, energy, x, key):
      keys = randomness.sample_keys(key, len(x))
      body = lambda x, sigma: (x + 1e-3 * step(denoiser, energy, x, sigma, keys), None)
      return jax.lax.scan(body, x, sigmas[:-1])[0]

    return run

  def forward_and_backward(denoiser, energy, x, sigma, keys):
    x0, pullback = jax.vjp(lambda x: denoiser(x, sigma), x)
    return pullback(x0)[0]

  slope = lambda energy, x, keys: jax.grad(lambda x0: energy(x0, keys).sum())(x)
  return {
    "unguided": drawn(lambda denoiser, energy: denoiser),
    "guided": drawn(lambda denoiser, energy: guidance.EnergyGuidance(denoiser, energy, 10.0, report=None)),
    "U-Net forward and backward": looped(forward_and_backward),
    "CLIP": looped(lambda denoiser, energy, x, sigma, keys: slope(guidance.energy.at(energy, sigma), x, keys)),
  }


def measure(title, denoiser, energy, shape, steps, repeats):
  """Times all programs, alternating, and prints milliseconds per step, ratios and compile times."""
  sigmas = grids.karras(steps, sigma_min=0.05, sigma_max=10.0)
  inputs = denoiser, energy, jax.random.normal(jax.random.key(3), shape), jax.random.key(4)
  compiled, seconds = {}, {}
  for name, program in programs(denoiser, energy, sigmas).items():
    start = time.perf_counter()
    compiled[name] = compilation.jit(program).lower(*inputs).compile()
    seconds[name] = time.perf_counter() - start
  times = {name: [] for name in compiled}
  for _ in range(repeats + 1):
    for name, run in compiled.items():
      start = time.perf_counter()
      run(*inputs).block_until_ready()
      times[name].append(1e3 * (time.perf_counter() - start) / steps)
  ms = {name: statistics.median(values[1:]) for name, values in times.items()}
  parts = ms["U-Net forward and backward"] + ms["CLIP"]
  print(f"{title}, batch {shape[0]}, {steps} steps, {jax.devices()[0].device_kind}")
  for name, value in ms.items():
    print(f"  {name:<28}{value:8.2f} ms per step, compiled in {seconds[name]:.1f} s")
  print(f"  guided / unguided {ms['guided'] / ms['unguided']:.2f}; guided / its parts {ms['guided'] / parts:.2f}")
  print(f"  CLIP's share {ms['CLIP'] / ms['guided']:.0%}", flush=True)


def main():
  parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
  parser.add_argument("--batch", type=int, default=64)
  parser.add_argument("--views", type=int, default=4)
  parser.add_argument("--steps", type=int, default=25)
  parser.add_argument("--repeats", type=int, default=9)
  options = parser.parse_args()
  model = a_model(networks.UNet(out_channels=1, **DIGITS), 8, denoisers.EDM(0.75), schedules.SigmaAsTime())
  energy = an_energy(networks.ImageEncoder(**TOWER), guidance.small_views(8, options.views))
  measure("digits", model, energy, (options.batch, 8, 8, 1), options.steps, options.repeats)
  if jax.default_backend() == "gpu":
    adm = networks.UNet(**networks.PUBLISHED["adm_imagenet256_unconditional"], dtype=jnp.bfloat16)
    tower = networks.PUBLISHED_CLIP["vit_b_16"]["image"].clone(dtype=jnp.bfloat16)
    model = a_model(adm, 256, denoisers.Eps(), schedules.linear())
    energy = an_energy(tower, guidance.Cutouts(overview=32, inner=32))
    measure("ADM-256 with ViT-B/16, 64 cutouts", model, energy, (1, 256, 256, 3), options.steps, options.repeats)


if __name__ == "__main__":
  main()
