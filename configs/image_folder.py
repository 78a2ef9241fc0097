"""A folder of your own images, any size and format, at 64x64.

  python train.py --config=configs/image_folder.py --workdir=runs/mine --config.data.folder=path/to/pictures

Sub-folders are searched; unreadable images are named and skipped. Hardware, time and result depend on the images: not
run here beyond a few steps.
"""

from diffjax.from_config.configuration import default_config


def get_config():
  config = default_config()
  config.data.update(name="image_folder", folder="", image_size=64, channels=3, flip=True, in_memory=False)
  config.model.update(
    name="unet", width=128, multipliers=(1, 2, 2, 2), blocks_per_level=2, attention_resolutions=(16, 8), head_dim=64,
    resample="residual", num_groups=32, scale_shift=True, dropout=0.1, num_classes=0, dtype="bfloat16", remat=False,
  )  # fmt: skip
  config.schedule.name = "edm"
  config.prediction.update(name="edm", sigma_data=0.5)
  config.noise_levels.update(name="log_normal", mean=-1.0, std=1.4)
  config.loss.name = "simple"
  config.train.update(
    steps=100_000, batch_size=64, learning_rate=2e-4, warmup_steps=1000, clip_norm=1.0, stratified=True,
    checkpoint_every=2000, sample_every=2000,
  )  # fmt: skip
  config.ema.decays = (0.9995,)
  config.sampler.update(name="dpmpp_2m", steps=25)
  config.sampler.grids = {"1": dict(name="karras", sigma_min=0.002, sigma_max=80.0, rho=7.0)}
  return config
