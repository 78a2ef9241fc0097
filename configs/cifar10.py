"""CIFAR-10 without labels, by the recipe of Karras et al. 2022 (table 7): DDPM++, batch 512, 200 M pictures.

  pip install -e ".[cuda,tensorflow]"   # TFDS prepares CIFAR-10 with TensorFlow, once
  python train.py --config=configs/cifar10.py --workdir=runs/cifar10

The network is conditioned on the augmentation, 12 % of each kind, here with bilinear interpolation. The EMA has the
paper's half-life of 0.5 M pictures. Hardware, time and result: not run here.
"""

from diffjax.from_config.configuration import default_config


def get_config():
  config = default_config()
  config.data.update(name="cifar10", image_size=32, channels=3, augment=0.12)
  config.model.update(name="ddpmpp_cifar10", width=128, num_classes=0, dropout=0.13, dtype="bfloat16")
  config.schedule.name = "edm"
  config.prediction.update(name="edm", sigma_data=0.5)
  config.noise_levels.update(name="log_normal", mean=-1.2, std=1.2)
  config.loss.name = "simple"
  config.train.update(
    steps=390_625, batch_size=512, learning_rate=1e-3, warmup_steps=19_531,
    steps_per_call=10, checkpoint_every=5000, sample_every=5000,
  )  # fmt: skip
  config.ema.decays = (0.9993,)  # 0.5 ** (batch_size / 500_000)
  config.sampler.update(name="heun", steps=18)
  config.sampler.grids = {"1": dict(name="karras", sigma_min=0.002, sigma_max=80.0, rho=7.0)}
  return config
