"""What the default configs of all kinds of models are made of."""

import dataclasses
from typing import Any

IN_EVERY_MODULE = ("parent", "name")
FROM_DATA = ("out_channels", "image_size", "channels", "vocab_size", "context")
"""Fields determined by the data."""


def fields(network: type, besides: tuple[str, ...] = ()) -> Any:
  """A key for every field of a network; None, until set, means the network's own default."""
  from ml_collections import ConfigDict

  left_out = {*IN_EVERY_MODULE, *FROM_DATA, *besides}
  kept = [field for field in dataclasses.fields(network) if field.name not in left_out]
  return ConfigDict({field.name: unset(_type(field)) for field in kept})


def _type(field):
  if field.name == "dtype":
    return str
  return int if field.default in (None, dataclasses.MISSING) else type(field.default)


def unset(kind: type) -> Any:
  """The value of a key that is None until it is set, to a value of this type."""
  from ml_collections import config_dict

  return config_dict.placeholder(kind)


def image_size(config) -> tuple[int, int]:
  """(H, W) of a config's images: squares of data.image_size pixels, unless data.image_width is set."""
  return config.data.image_size, config.data.get("image_width") or config.data.image_size


def common() -> Any:
  """A ConfigDict with the keys that every kind of model has."""
  from ml_collections import ConfigDict

  config = ConfigDict()
  config.data = ConfigDict(dict(name="", folder="", data_dir="", image_size=0, channels=0, flip=False, in_memory=True))
  config.data.image_width = unset(int)  # None: that of a square
  config.model = ConfigDict()
  config.noise_levels = ConfigDict()
  config.train = ConfigDict(
    dict(
      steps=0,
      batch_size=128,
      seed=0,
      optimizer="adam",
      learning_rate=1e-3,
      warmup_steps=0,
      decay="constant",
      b1=0.9,
      b2=0.999,
      weight_decay=0.0,
      clip_norm=0.0,
      accumulate=1,
      steps_per_call=1,
      log_every=100,
      checkpoint_every=1000,
      sample_every=1000,
      keep_checkpoints=3,
      max_skipped_in_row=50,
    )
  )
  config.ema = ConfigDict(dict(decays=(0.999,)))
  config.parallel = "pmap"
  return config


def guidance() -> Any:
  """The default CLIP guidance, with every key; configs/guidance.py has named alternatives."""
  from ml_collections import ConfigDict

  config = ConfigDict(dict(method="energy", scale=23.0, distance="spherical", repeats=1, repeat_interval=(0.0, 1e6)))
  config.options = ConfigDict()
  config.views = ConfigDict(dict(name="small_views"))
  config.penalties = ConfigDict()
  config.sampler = ""  # empty: the run's
  config.accept = 0.0  # minimum share of what was asked for; images below it are drawn again
  config.by_steps = ConfigDict()  # {"minimum number of steps": other values for these keys}
  return config
