"""Handwritten digits conditioned on labels, with label dropout, so that one model samples with and without labels.

python train.py --config=configs/digits_conditional.py --workdir=runs/digits_conditional
python -m diffjax.evaluation --workdir=runs/digits_conditional --steps=10 --guidance_scale=2

Hardware and time: as configs/digits.py. Result, 1000 samples: an SVC recognises the requested digit in 100.0 %;
Frechet 0.240, precision 0.992, recall 0.796, distance to the nearest training digit 0.85 of a held-out digit's.
"""

from configs import digits


def get_config():
  config = digits.get_config()
  config.model.num_classes = 10
  config.train.label_dropout = 0.1
  config.sampler.guidance_scale = 2.0
  return config
