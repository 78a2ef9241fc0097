"""Handwritten digits by label, labels dropped at times, so that one model draws with and without.

python train.py --config=configs/digits_conditional.py --workdir=runs/digits_conditional
"""

from configs import digits


def get_config():
  config = digits.get_config()
  config.model.num_classes = 10
  config.train.label_dropout = 0.1
  config.sampler.guidance_scale = 2.0
  return config
