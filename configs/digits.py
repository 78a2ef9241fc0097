"""The handwritten digits that come with the library, without labels.

python train.py --config=configs/digits.py --workdir=runs/digits
python -m diffjax.evaluation --workdir=runs/digits --steps=5

Hardware: 2 cores of an AMD EPYC with AVX-512. Time: 2 min 45 s from an empty cache; 4 min 31 s on 2 cores without
AVX-512, with the same result.
Result, 1000 samples: 5 steps Frechet 0.213, precision 0.911, recall 0.902; 10 steps 0.173, 0.929, 0.910; distance to
the nearest training digit 0.97 and 0.96 of a held-out digit's.
"""

from diffjax.from_config.configuration import default_config


def get_config():
  config = default_config()
  config.data.update(name="digits", image_size=8, channels=1)
  config.model.update(
    name="unet", width=16, multipliers=(1, 4), blocks_per_level=1, attention_resolutions=(4,), head_dim=32,
    resample="convolution", num_groups=8, dropout=0.0, num_classes=0, dtype="float32",
  )  # fmt: skip
  config.schedule.name = "edm"
  config.prediction.update(name="edm", sigma_data=0.75)
  config.noise_levels.update(name="log_normal", mean=-0.7, std=0.8)
  config.loss.name = "simple"
  config.train.update(
    steps=2500, batch_size=64, optimizer="muon", learning_rate=5e-3, b2=0.99, warmup_steps=200, decay="cosine",
    stratified=True, steps_per_call=50, checkpoint_every=1250, sample_every=1250,
  )  # fmt: skip
  config.ema.decays = (0.995,)
  config.sampler.update(name="dpmpp_2m", steps=10)
  config.sampler.grids = {
    "1": dict(name="karras", sigma_min=0.11, sigma_max=6.0, rho=7.0),
    "8": dict(name="karras", sigma_min=0.04, sigma_max=14.0, rho=6.0),
  }
  return config
