"""A CLIP of the digits that trains in milliseconds: for tests."""

from diffjax.from_config.configuration import default_clip_config


def get_config():
  config = default_clip_config()
  config.data.update(name="digits", image_size=8, channels=1, shift=1)
  config.model.update(
    features=8, image=dict(patch=4, width=16, layers=1, heads=2), text=dict(width=16, layers=1, heads=2)
  )
  config.captions.update(
    names=dict(
      word=("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"),
      figure=("0", "1", "2", "3", "4", "5", "6", "7", "8", "9"),
    ),
    templates=("a handwritten {word}", "the digit {figure}"),
    held_out=("the digit {word}",),
    vocab_size=560,
    length=8,
  )
  config.noise_levels.update(name="log_normal", mean=-1.5, std=1.0)
  config.train.update(
    steps=8, batch_size=16, learning_rate=5e-3, warmup_steps=2, steps_per_call=3, log_every=2, checkpoint_every=3,
    sample_every=0,
  )  # fmt: skip
  config.ema.decays = (0.9,)
  return config
