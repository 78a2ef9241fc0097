"""The digits with a network that trains in milliseconds: for tests."""

from diffjax.from_config.configuration import default_config


def get_config():
  config = default_config()
  config.data.update(name="digits", image_size=8, channels=1)
  config.model.update(
    name="unet", width=8, multipliers=(1,), blocks_per_level=1, attention_resolutions=(), num_groups=2, num_classes=0,
    dropout=0.0, embedding="fourier",
  )  # fmt: skip
  config.schedule.name = "edm"
  config.prediction.update(name="edm", sigma_data=0.75)
  config.noise_levels.update(name="log_normal", mean=-1.0, std=1.2)
  config.loss.name = "simple"
  config.train.update(
    steps=8, batch_size=16, learning_rate=5e-3, warmup_steps=2, decay="cosine", stratified=True, steps_per_call=3,
    log_every=2, checkpoint_every=3, sample_every=0,
  )  # fmt: skip
  config.ema.decays = (0.9,)
  config.sampler.update(name="dpmpp_2m", steps=4)
  config.sampler.grids = {"1": dict(name="karras", sigma_min=0.1, sigma_max=8.0, rho=7.0)}
  return config
