"""Published U-Net configurations by name: `UNet(**PUBLISHED["ddpm_cifar10"])`."""

_ADM = dict(
  attention_resolutions=(32, 16, 8),
  head_dim=64,
  scale_shift=True,
  resample="residual",
  embedding="sinusoidal_adm",
  null_label=False,
  learned_variance=True,
  norm_eps=1e-5,
)
_ADM_256 = dict(_ADM, width=256, multipliers=(1, 1, 2, 2, 4, 4), blocks_per_level=2)

PUBLISHED = {
  # Ho et al. 2020, appendix B.
  "ddpm_cifar10": dict(
    width=128,
    multipliers=(1, 2, 2, 2),
    blocks_per_level=2,
    attention_resolutions=(16,),
    dropout=0.1,
    resample="convolution",
  ),
  # Karras et al. 2022, table 7, unconditional, with the labels of its augmentation.
  "ddpmpp_cifar10": dict(
    width=128,
    multipliers=(2, 2, 2),
    blocks_per_level=4,
    attention_resolutions=(16,),
    decoder_attention="last",
    dropout=0.13,
    resample="residual_projected",
    skip_scale=0.5**0.5,
    augment_dim=9,
  ),
  # Dhariwal & Nichol 2021, table 11, with 1000 classes.
  "adm_imagenet64": dict(_ADM, width=192, multipliers=(1, 2, 3, 4), blocks_per_level=3, dropout=0.1, num_classes=1000),
  "adm_imagenet256": dict(_ADM_256, num_classes=1000),
  "adm_imagenet256_unconditional": _ADM_256,
}
