"""MNIST at 28x28, without padding: the U-Net halves it twice, to 7x7.

  pip install -e ".[tensorflow]"   # TFDS prepares MNIST with TensorFlow, once
  python train.py --config=configs/mnist.py --workdir=runs/mnist

Hardware, time and result: not run here (needs a download).
"""

from diffjax.from_config.configuration import default_config


def get_config():
  config = default_config()
  config.data.update(name="mnist", image_size=28, channels=1)
  config.model.update(
    name="unet", width=64, multipliers=(1, 2, 2), blocks_per_level=2, attention_resolutions=(7,), head_dim=64,
    resample="residual", num_groups=32, scale_shift=True, dropout=0.1, num_classes=0, dtype="bfloat16",
  )  # fmt: skip
  config.schedule.name = "edm"
  config.prediction.update(name="edm", sigma_data=0.6)
  config.noise_levels.update(name="log_normal", mean=-1.0, std=1.2)
  config.loss.name = "simple"
  config.train.update(
    steps=20_000, batch_size=256, learning_rate=1e-3, warmup_steps=500, decay="cosine", stratified=True, clip_norm=1.0,
    steps_per_call=10, checkpoint_every=2000, sample_every=2000,
  )  # fmt: skip
  config.ema.decays = (0.999,)
  config.sampler.update(name="dpmpp_2m", steps=20)
  config.sampler.grids = {"1": dict(name="karras", sigma_min=0.005, sigma_max=40.0, rho=7.0)}
  return config
