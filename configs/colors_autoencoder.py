"""The autoencoder of the miniature of Stable Diffusion: handwritten digits in colours, 32x32, as 8x8x4 latents.

python train.py --config=configs/colors_autoencoder.py --workdir=runs/colors_autoencoder

Needs the extra `examples`. Hardware: 2 cores of an AMD EPYC with AVX-512. Time: 2 min 33 s from an empty cache.
`python -m diffjax.evaluation --workdir=runs/colors_autoencoder`, three trainings: 32.9 dB (32.6 to 33.3).
"""

from diffjax.from_config.configuration import default_autoencoder_config


def get_config():
  config = default_autoencoder_config()
  config.data.update(name="colored_digits", image_size=32, channels=3)
  config.model.update(latent_channels=4, widths=(8, 32, 64), layers_per_level=1, num_groups=1, middle_attention=False)
  config.loss.kl_weight = 3e-3
  config.train.update(
    steps=2200, batch_size=8, optimizer="muon", learning_rate=2e-3, b2=0.99, warmup_steps=100, decay="cosine",
    steps_per_call=50, checkpoint_every=2200, sample_every=2200,
  )  # fmt: skip
  config.ema.decays = (0.995,)
  return config
