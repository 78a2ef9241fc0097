"""Our U-Net in JAX against the same one in PyTorch: diffusers' UNet2DModel, eager, channels_last, compiled.

    python benchmarks/unet.py [--cases=8x8x64,8x8x8,32x32x8] [--rounds=3] [--repeats=10] [--sampling_steps=50]

Every measurement runs in its own process, alternating between implementations; each figure is the median over rounds
of a process's median call. The ratio is PyTorch's best over JAX: above 1, JAX is faster. Before anything is timed, both
networks are run with the same weights and must agree. On a GPU it then prints images/s, TFLOP/s (counted by XLA's cost
model) and the fraction of the matmul rate measured on the same card, in bfloat16. Without torch only JAX is measured.
"""

import argparse
import importlib.util
import json
import pathlib
import statistics
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
SMALL = dict(width=32, multipliers=(1, 2), blocks_per_level=2, attention_resolutions=(4,), num_groups=8)
DDPM = dict(width=128, multipliers=(1, 2, 2, 2), blocks_per_level=2, attention_resolutions=(16,), num_groups=32)
CASES = {"8x8x64": (8, 1, 64, SMALL), "8x8x8": (8, 1, 8, SMALL), "32x32x8": (32, 3, 8, DDPM)}
JOBS = ("forward", "training", "sampling")
TORCH = ("torch eager", "torch channels_last", "torch compile")
STEPS_PER_CALL = 10
LEARNING_RATE, DECAYS, EPSILON, EMA_DECAY = 1e-4, (0.9, 0.999), 1e-8, 0.999


def ratios(sampling_steps):
  """The a of x_next = a * x + (1 - a) * network, a plain deterministic loop, the same in both libraries."""
  return [1 - 1 / (n + 1) for n in range(sampling_steps, 0, -1)]


def median_ms(run, repeats):
  """Median milliseconds of `run`, which blocks on its own result, after two warm-up calls."""
  times = []
  for _ in range(repeats + 2):
    start = time.perf_counter()
    run()
    times.append(1e3 * (time.perf_counter() - start))
  return statistics.median(times[2:])


def jax_case(case, job, repeats, sampling_steps, dtype="float32"):
  import jax
  import jax.numpy as jnp
  import optax

  from diffjax import networks
  from diffjax.system import compilation

  compilation.use_persistent_cache()
  size, channels, batch, config = CASES[case]
  net = networks.UNet(out_channels=channels, resample="convolution", dtype=jnp.dtype(dtype), **config)
  x = jax.random.normal(jax.random.key(0), (batch, size, size, channels))
  c_noise = jnp.full((batch,), 500.0)
  params = jax.jit(net.init)(jax.random.key(1), x, c_noise)

  def train(params, state, average, x):
    adam = optax.adam(LEARNING_RATE, *DECAYS, EPSILON)

    def step(carry, _):
      params, state, average = carry
      grads = jax.grad(lambda p: jnp.square(net.apply(p, x, c_noise) - x).mean())(params)
      updates, state = adam.update(grads, state)
      params = optax.apply_updates(params, updates)
      average = optax.incremental_update(params, average, 1 - EMA_DECAY)
      return (params, state, average), None

    return jax.lax.scan(step, (params, state, average), None, length=STEPS_PER_CALL)[0]

  def draw(params, x):
    step = lambda x, a: (a * x + (1 - a) * net.apply(params, x, c_noise), None)
    return jax.lax.scan(step, x, jnp.array(ratios(sampling_steps), jnp.float32))[0]

  if job == "training":
    trainer = compilation.jit(train, donate_argnums=(0, 1, 2))
    carry = params, optax.adam(LEARNING_RATE).init(params), jax.tree.map(jnp.copy, params)

    def run():
      nonlocal carry
      carry = jax.block_until_ready(trainer(*carry, x))

    return median_ms(run, repeats) / STEPS_PER_CALL
  program = compilation.jit(draw if job == "sampling" else lambda params, x: net.apply(params, x, c_noise))
  return median_ms(lambda: program(params, x).block_until_ready(), repeats)


def torch_case(case, job, repeats, sampling_steps, form):
  import torch

  reference = key_map().reference
  size, channels, batch, config = CASES[case]
  torch.manual_seed(0)
  torch.set_float32_matmul_precision("high")  # TF32 on a GPU, as JAX does by default
  device = "cuda" if torch.cuda.is_available() else "cpu"
  net = reference(channels, size=size, **config).to(device)
  x = torch.randn(batch, channels, size, size, device=device)
  if form == "torch channels_last":
    net, x = net.to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last)
  t = torch.full((batch,), 500.0, device=device)
  call = torch.compile(net) if form == "torch compile" else net
  steps = ratios(sampling_steps)

  @torch.no_grad()
  def forward():
    return call(x, t).sample

  @torch.no_grad()
  def sampling():
    y = x
    for a in steps:
      y = a * y + (1 - a) * call(y, t).sample
    return y

  adam = torch.optim.Adam(net.parameters(), lr=LEARNING_RATE, betas=DECAYS, eps=EPSILON)
  average = [p.detach().clone() for p in net.parameters()]

  def training():
    adam.zero_grad(set_to_none=True)
    (call(x, t).sample - x).square().mean().backward()
    adam.step()
    with torch.no_grad():
      torch._foreach_lerp_(average, list(net.parameters()), 1 - EMA_DECAY)

  work = {"forward": forward, "sampling": sampling, "training": training}[job]

  def run():
    work()
    if device == "cuda":
      torch.cuda.synchronize()

  return median_ms(run, repeats)


def key_map():
  """The tests' map of diffusers' keys, so that the tests and the benchmark compare the same networks."""
  path = HERE.parent / "tests" / "networks" / "diffusers_unet.py"
  spec = importlib.util.spec_from_file_location("diffusers_unet", path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def agreement(case):
  """Largest difference of the outputs with the same weights, and the two parameter counts."""
  import jax
  import numpy as np
  import torch

  from diffjax import networks

  size, channels, batch, config = CASES[case]
  torch.manual_seed(0)
  theirs = key_map().reference(channels, size=size, **config)
  ours = networks.UNet(out_channels=channels, resample="convolution", **config)
  params = key_map().convert(theirs.state_dict(), len(config["multipliers"]))
  x = np.random.default_rng(0).normal(size=(batch, size, size, channels)).astype(np.float32)
  t = np.full((batch,), 500, np.float32)
  with torch.no_grad():
    expected = theirs(torch.from_numpy(x.transpose(0, 3, 1, 2)), torch.from_numpy(t)).sample.numpy()
  with jax.default_matmul_precision("highest"):  # a GPU's own default rounds to TF32
    found = np.asarray(jax.jit(ours.apply)(params, x, t))
  difference = np.abs(found - expected.transpose(0, 2, 3, 1)).max()
  counts = sum(a.size for a in jax.tree.leaves(params)), sum(p.numel() for p in theirs.parameters())
  return {"difference": float(difference), "parameters": counts}


def gpu_jax(name, batch):
  """Forward pass of a published network in bfloat16 with JAX on a GPU, and the card's measured matmul rate."""
  import jax
  import jax.numpy as jnp

  from diffjax import networks
  from diffjax.system import compilation

  size, n = (256 if "256" in name else 32), 8192
  net = networks.UNet(**networks.PUBLISHED[name], dtype=jnp.bfloat16)
  x = jax.random.normal(jax.random.key(0), (batch, size, size, 3))
  params = jax.jit(net.init)(jax.random.key(1), x[:1], jnp.zeros(()))
  lowered = compilation.jit(lambda params, x: net.apply(params, x, jnp.float32(500))).lower(params, x)
  compiled, flops = lowered.compile(), lowered.cost_analysis()["flops"]  # the compiled program's count omits cuDNN's
  seconds = median_ms(lambda: compiled(params, x).block_until_ready(), 20) / 1e3
  a = jax.random.normal(jax.random.key(2), (n, n), jnp.bfloat16)
  product = jax.jit(lambda a: jax.lax.scan(lambda b, _: ((a @ b) * 1e-2, None), a, None, length=20)[0])
  rate = 20 * 2 * n**3 / (median_ms(lambda: product(a).block_until_ready(), 5) / 1e3)
  return {"images_per_s": batch / seconds, "tflops": flops / seconds / 1e12, "share": flops / seconds / rate}


def gpu_torch(name, batch, form):
  """The DDPM network of diffusers in bfloat16 with PyTorch on a GPU."""
  import torch

  size, channels, _, config = CASES["32x32x8"]
  net = key_map().reference(channels, size=size, **config).to("cuda", torch.bfloat16, memory_format=torch.channels_last)
  call = torch.compile(net) if form == "torch compile" else net
  x = torch.randn(batch, 3, size, size, device="cuda", dtype=torch.bfloat16).to(memory_format=torch.channels_last)

  @torch.no_grad()
  def run():
    call(x, 500)
    torch.cuda.synchronize()

  return {"images_per_s": batch / median_ms(run, 20) * 1e3}


def apart(function, *arguments):
  """Calls a function of this file in its own process; returns (result, None) or (None, reason)."""
  command = [sys.executable, __file__, "--call", json.dumps([function, *arguments])]
  run = subprocess.run(command, capture_output=True, text=True)
  if run.returncode:
    return None, run.stderr.strip().splitlines()[-1]
  return json.loads(run.stdout.splitlines()[-1]), None


def compare(case, options, forms):
  """Times every variant of one case, alternating, and prints the table."""
  if forms[1:]:
    result, why = apart("agreement", case)
    if why or result["difference"] > 1e-4 or len(set(result["parameters"])) > 1:
      sys.exit(f"{case}: the networks disagree with the same weights: {why or result}")
    print(f"{case}: {result['parameters'][0]:,} parameters in both, outputs differ by {result['difference']:.1e}")
  for job in options.jobs.split(","):
    times = {form: [] for form in forms}
    for _ in range(options.rounds):
      for form in forms:
        function, extra = ("jax_case", []) if form == "jax" else ("torch_case", [form])
        result, why = apart(function, case, job, options.repeats, options.sampling_steps, *extra)
        if why:
          print(f"  {job}: {form} failed: {why}")
        else:
          times[form].append(result)
    medians = {form: statistics.median(values) for form, values in times.items() if values}
    line = ", ".join(f"{form} {ms:.2f} ms" for form, ms in medians.items())
    peers = [ms for form, ms in medians.items() if form != "jax"]
    ratio = f": {min(peers) / medians['jax']:.2f} x PyTorch's best" if peers and "jax" in medians else ""
    print(f"  {job}: {line}{ratio}", flush=True)


def on_gpu():
  """Prints the GPU's bfloat16 figures."""
  has_torch = importlib.util.find_spec("torch") and importlib.util.find_spec("diffusers")
  for name, batch in (("ddpm_cifar10", 512), ("adm_imagenet256_unconditional", 16)):
    result, why = apart("gpu_jax", name, batch)
    print(
      f"{name} bfloat16 batch {batch}: "
      + (
        why
        or "{images_per_s:.0f} images/s, {tflops:.0f} TFLOP/s, {share:.0%} of the measured matmul rate".format(**result)
      )
    )
    if has_torch and name == "ddpm_cifar10":
      for form in TORCH[1:]:
        result, why = apart("gpu_torch", name, batch, form)
        print(f"  {form}: " + (why or f"{result['images_per_s']:.0f} images/s"))


def main():
  parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
  parser.add_argument("--cases", default=",".join(CASES), help="HxWxbatch, of: " + ", ".join(CASES))
  parser.add_argument("--jobs", default=",".join(JOBS))
  parser.add_argument("--rounds", type=int, default=3, help="processes per figure")
  parser.add_argument("--repeats", type=int, default=10, help="timed calls per process")
  parser.add_argument("--sampling_steps", type=int, default=50)
  parser.add_argument("--call", help=argparse.SUPPRESS)
  options = parser.parse_args()
  if options.call:
    function, *arguments = json.loads(options.call)
    print(json.dumps(globals()[function](*arguments)))
    return
  has_torch = importlib.util.find_spec("torch") and importlib.util.find_spec("diffusers")
  forms = ("jax", *TORCH) if has_torch else ("jax",)
  for case in options.cases.split(","):
    compare(case, options, forms)
  if apart("platform")[0] == "gpu":
    on_gpu()


def platform():
  import jax

  return jax.default_backend()


if __name__ == "__main__":
  main()
