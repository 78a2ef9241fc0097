"""Stable Diffusion 1.5's networks with random weights, here against diffusers in PyTorch: eager and compiled.

    python benchmarks/stable_diffusion.py [--size=256 --batches=1 --steps=50 --repeats=3 --rounds=1]
    python benchmarks/stable_diffusion.py --size=512 --batches=1,8          # on a GPU, in bfloat16

Measured: a call of the U-Net with both halves of classifier-free guidance, encoding a prompt and the empty one,
decoding, and all of it together with `steps` steps. JAX encodes text by text, three of them, as prompts of any number
and length compile nothing new so; PyTorch both in one batch. Every implementation runs in a process of its own, in
turn; each figure is the median over rounds of a process's median, in milliseconds. The ratio is PyTorch's best over
JAX: above 1, JAX is faster. On a GPU also TFLOP/s of the U-Net (counted by XLA's cost model), and their share of the
rate of a large matrix product measured on the same card. Without torch and diffusers only JAX is measured. Neither TFDS
nor ml_collections is needed.
"""

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import time

import numpy as np

TORCH = ("torch eager", "torch compile")
JOBS = ("unet", "text", "decode", "whole")
LENGTH, WIDTH = 77, 768
VAE = dict(
  block_out_channels=[128, 256, 512, 512], layers_per_block=2, down_block_types=["DownEncoderBlock2D"] * 4,
  up_block_types=["UpDecoderBlock2D"] * 4,
)  # fmt: skip
BLOCK = np.random.RandomState(0).normal(scale=0.02, size=2**20).astype(np.float32)


def median_ms(run, repeats):
  """Median milliseconds of `run`, which blocks on its own result, after one call to warm up."""
  run()
  times = []
  for _ in range(repeats):
    start = time.perf_counter()
    run()
    times.append(1e3 * (time.perf_counter() - start))
  return statistics.median(times)


def jax_times(size, batch, steps, repeats):
  import jax
  import jax.numpy as jnp

  from diffjax.codecs import Latents
  from diffjax.conditioning import Text, TextTower
  from diffjax.data import train_tokenizer
  from diffjax.denoisers import BoundNetwork
  from diffjax.networks import PUBLISHED_AUTOENCODERS, PUBLISHED_CLIP, AutoencoderKL, TextUNet
  from diffjax.pretrained import from_diffusers
  from diffjax.pretrained.stable_diffusion import single_file, weights
  from diffjax.pretrained.stable_diffusion.pipeline import assemble
  from diffjax.system import compilation

  compilation.use_persistent_cache()
  on_gpu = jax.default_backend() == "gpu"
  dtype = jnp.bfloat16 if on_gpu else jnp.float32
  filled = lambda shapes: jax.tree.map(lambda a: jnp.asarray(np.resize(BLOCK, a.shape), dtype), shapes)
  unet, autoencoder = TextUNet(dtype=dtype), AutoencoderKL(**PUBLISHED_AUTOENCODERS["stable_diffusion"], dtype=dtype)
  encoder = PUBLISHED_CLIP["vit_l_14"]["text"].clone(features=None, dtype=dtype)
  params = filled(weights.unet_shapes(unet, 4, WIDTH))
  codec = Latents(filled(weights.autoencoder_shapes(autoencoder)), 0.18215, 0.0, autoencoder)
  tower = TextTower(
    filled(single_file.encoder_shapes(encoder)), encoder, train_tokenizer(["a lighthouse"], 600, LENGTH)
  )
  published = from_diffusers(single_file.SCHEDULER | {"prediction_type": "epsilon"})
  pipeline = assemble(BoundNetwork(params, unet), published, codec, Text((tower,)), size, False)

  x = jnp.zeros((2 * batch, size // 8, size // 8, 4))
  cond = {"context": jnp.zeros((2 * batch, LENGTH, WIDTH))}
  step = compilation.jit(lambda params, x, cond: unet.apply(params, x, jnp.full(2 * batch, 500.0), cond))
  decode = compilation.jit(lambda codec, x: codec.decode(x))
  draw = lambda: pipeline.draw(
    batch, prompt="a lighthouse", steps=steps, sampler="euler", size=(size, size), batch_size=batch
  )
  measured = {
    "unet": median_ms(lambda: step(params, x, cond).block_until_ready(), repeats),
    "text": median_ms(lambda: pipeline.conditioner.conds(batch, (size, size), prompt="a lighthouse"), repeats),
    "decode": median_ms(lambda: decode(codec, x[:batch]).block_until_ready(), repeats),
    "whole": median_ms(draw, max(repeats // 3, 1)),
  }
  if on_gpu:
    a = jnp.ones((8192, 8192), dtype)
    product = compilation.jit(lambda a: a @ a)
    flops = step.lower(params, x, cond).cost_analysis()["flops"]
    measured["TFLOP/s"] = flops / measured["unet"] / 1e9
    measured["share"] = measured["TFLOP/s"] / (
      2 * 8192**3 / median_ms(lambda: product(a).block_until_ready(), 20) / 1e9
    )
  return measured


def torch_times(size, batch, steps, repeats, compiled):
  import diffusers
  import torch
  import transformers

  on_gpu = torch.cuda.is_available()
  device, dtype = ("cuda", torch.bfloat16) if on_gpu else ("cpu", torch.float32)
  if not on_gpu:
    torch.set_num_threads(len(os.sched_getaffinity(0)))
  wait = torch.cuda.synchronize if on_gpu else lambda: None

  def made(make):
    with torch.device("meta"):
      network = make()
    network = network.to_empty(device="cpu").to(dtype)
    for tensor in (*network.parameters(), *network.buffers()):
      if tensor.is_floating_point():
        tensor.data.copy_(torch.from_numpy(np.resize(BLOCK, tuple(tensor.shape))))
      else:
        tensor.data.copy_(torch.arange(tensor.numel()).reshape(tensor.shape))
    return network.eval().to(device)

  text_config = transformers.CLIPTextConfig(
    hidden_size=WIDTH, intermediate_size=4 * WIDTH, num_hidden_layers=12, num_attention_heads=12
  )
  unet = made(lambda: diffusers.UNet2DConditionModel(cross_attention_dim=WIDTH, attention_head_dim=8))
  vae = made(lambda: diffusers.AutoencoderKL(**VAE))
  text = made(lambda: transformers.CLIPTextModel(text_config))
  if on_gpu:
    unet, vae = (network.to(memory_format=torch.channels_last) for network in (unet, vae))
  step, decode = unet, vae.decode
  if compiled:
    step, decode = torch.compile(unet, mode="max-autotune" if on_gpu else None), torch.compile(vae.decode)
  x = torch.zeros((2 * batch, 4, size // 8, size // 8), device=device, dtype=dtype)
  context = torch.zeros((2 * batch, LENGTH, WIDTH), device=device, dtype=dtype)
  tokens = torch.zeros((2, LENGTH), device=device, dtype=torch.long)
  levels = torch.linspace(14.6, 0, steps + 1)

  @torch.inference_mode()
  def run(job):
    if job == "unet":
      step(x, 500, context)
    elif job == "text":
      text(tokens)
    elif job == "decode":
      decode(x[:batch])
    else:
      states = text(tokens).last_hidden_state.repeat_interleave(batch, 0)
      drawn = torch.randn_like(x[:batch]) * levels[0]
      for sigma, below in zip(levels[:-1].tolist(), levels[1:].tolist()):
        both = torch.cat([drawn, drawn]) / (sigma**2 + 1) ** 0.5
        null, asked = step(both, 500, states).sample.chunk(2)
        drawn = drawn + (below - sigma) * (null + 7.5 * (asked - null))
      decode(drawn / 0.18215).sample.float().cpu()
    wait()

  return {job: median_ms(lambda job=job: run(job), max(repeats // 3, 1) if job == "whole" else repeats) for job in JOBS}


def measure(name, *numbers):
  return jax_times(*numbers) if name == "jax" else torch_times(*numbers, compiled=name == "torch compile")


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--size", type=int, default=256)
  parser.add_argument("--batches", default="1")
  parser.add_argument("--steps", type=int, default=50)
  parser.add_argument("--repeats", type=int, default=3)
  parser.add_argument("--rounds", type=int, default=1)
  parser.add_argument("--only", help="one implementation, in this process: for the script itself")
  given = parser.parse_args()
  if given.only:
    print(json.dumps(measure(given.only, given.size, int(given.batches), given.steps, given.repeats)))
    return
  peers = all(importlib.util.find_spec(name) for name in ("torch", "diffusers", "transformers"))
  names = ("jax", *(TORCH if peers else ()))
  for batch in map(int, given.batches.split(",")):
    found = {name: [] for name in names}
    for _ in range(given.rounds):
      for name in names:
        asked = [f"--{key}={getattr(given, key)}" for key in ("size", "steps", "repeats")]
        command = [sys.executable, __file__, *asked, f"--batches={batch}", f"--only={name}"]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
          print(f"{name} failed: {done.stderr.strip().splitlines()[-1:]}", file=sys.stderr)
        else:
          found[name].append(json.loads(done.stdout.strip().splitlines()[-1]))
    medians = {
      name: {job: statistics.median(run[job] for run in runs) for job in runs[0]}
      for name, runs in found.items()
      if runs
    }
    print(f"batch {batch}, {given.size} pixels, {given.steps} steps, milliseconds", flush=True)
    for job in sorted({job for jobs in medians.values() for job in jobs}, key=(*JOBS, "TFLOP/s", "share").index):
      row = {name: round(jobs[job], 3) for name, jobs in medians.items() if job in jobs}
      theirs = [value for name, value in row.items() if name != "jax"]
      ratio = f", ratio {min(theirs) / row['jax']:.2f}" if theirs and "jax" in row else ""
      print(f"  {job:<8} {row}{ratio}", flush=True)


if __name__ == "__main__":
  main()
