"""Ways of CLIP guidance by name, with the defaults of their papers or notebooks: configs/guidance.py:disco and others.

python sample.py --workdir=RUN --clip=CLIP --prompt="..." --guidance=configs/guidance.py:disco --sampler=euler --eta=0.8

The numbers are those published for ImageNet models of 256 pixels with CLIP ViT-B/16 or the like; the digits' scale is
in `diffjax.configuration.default_guidance_config`. Results of these: not run here.
"""

from diffjax.configuration import default_guidance_config


def get_config(name="energy"):
  make = {
    "energy": default_guidance_config,
    "disco": disco,
    "dps": dps,
    "universal": universal,
    "freedom": freedom,
    "tfg": tfg,
  }
  if name not in make:
    raise ValueError(f"configs/guidance.py has no {name!r}; choose one of {', '.join(make)}.")
  return make[name]()


def disco():
  """Disco Diffusion 5: 250 steps of Euler with eta 0.8, many cutouts, the gradient clamped."""
  config = default_guidance_config()
  config.update(method="disco", scale=5000.0, penalties=dict(out_of_range=150.0), options=dict(clamp=0.05))
  # Overviews first, inner cuts later; sigma 6.1 is 400 of 1000 steps into the linear schedule
  config.views = dict(name="cutouts", overview=((6.1, 12), (0.0, 4)), inner=((6.1, 4), (0.0, 12)))
  return config


def dps():
  """Diffusion posterior sampling (Chung et al. 2023): where a step ends moves by the gradient."""
  config = default_guidance_config()
  config.update(method="dps", scale=1.0, views=dict(name="cutouts"))
  return config


def universal():
  """Universal guidance (Bansal et al. 2023), as for CLIP: forward guidance of 2, each step ten times."""
  config = default_guidance_config()
  config.update(method="universal", scale=1.0, distance="cosine", repeats=10, options=dict(scale=2.0))
  config.views = dict(name="none")
  return config


def freedom():
  """FreeDoM (Yu et al. 2023): the mean moves by the gradient scaled by alpha."""
  config = default_guidance_config()
  config.update(method="freedom", scale=1.0, views=dict(name="none"))
  return config


def tfg():
  """Training-free guidance (Ye et al. 2024), as for CLIP features: rho 0.25, mu 2, smoothing 0.1, 4 inner steps."""
  config = default_guidance_config()
  config.update(method="training_free", scale=1.0, views=dict(name="none"))
  config.options = dict(rho=0.25, mu=2.0, spread=0.1, inner_steps=4)
  return config
