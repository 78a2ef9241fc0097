"""Published networks of latent diffusion by name: `TextUNet(**PUBLISHED_TEXT_UNETS["stable_diffusion_xl"])`."""

from typing import Any

PUBLISHED_TEXT_UNETS: dict[str, dict[str, Any]] = {
  # Rombach et al. 2022, as released in version 1.5; its inpainting model has 9 input channels, InstructPix2Pix 8.
  "stable_diffusion_1": dict(),
  # Version 2.1; its inpainting model has 9 input channels, its depth model 5.
  "stable_diffusion_2": dict(num_heads=(5, 10, 20, 20)),
  # Podell et al. 2023, section 2.1, and the refiner of section 2.5.
  "stable_diffusion_xl": dict(
    widths=(320, 640, 1280),
    attending=(False, True, True),
    depth=(1, 2, 10),
    num_heads=(5, 10, 20),
    only_cross_attention=(False, False, False),
    size_dim=256,
  ),
  "stable_diffusion_xl_refiner": dict(
    widths=(384, 768, 1536, 1536),
    attending=(False, True, True, False),
    depth=(4, 4, 4, 4),
    num_heads=(6, 12, 24, 24),
    size_dim=256,
  ),
  # The upscaler of version 2: 7 input channels, the low-resolution image among them.
  "stable_diffusion_x4_upscaler": dict(
    widths=(256, 512, 512, 1024),
    attending=(False, True, True, True),
    only_cross_attention=(True, True, True, False),
    num_labels=1000,
  ),
  # Luo et al. 2023, distilled from version 1.5.
  "latent_consistency_1": dict(guidance_dim=256),
}
PUBLISHED_AUTOENCODERS: dict[str, dict[str, Any]] = {
  # Rombach et al. 2022; the same for versions 1, 2 and XL, with other weights.
  "stable_diffusion": dict(),
  "stable_diffusion_x4_upscaler": dict(widths=(128, 256, 512)),
  # Esser et al. 2024, table 3.
  "stable_diffusion_3": dict(latent_channels=16, quant_conv=False, post_quant_conv=False),
}
