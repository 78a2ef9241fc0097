"""Small and odd configurations of Stable Diffusion's networks, as diffusers writes them."""

D, C, U, X = "DownBlock2D", "CrossAttnDownBlock2D", "UpBlock2D", "CrossAttnUpBlock2D"

UNETS = {
  "stable_diffusion_1": dict(
    block_out_channels=(4, 8), layers_per_block=1, cross_attention_dim=8, norm_num_groups=2,
    down_block_types=(D, C), up_block_types=(X, U), attention_head_dim=4,
  ),
  "three_levels": dict(
    block_out_channels=(8, 16, 16), layers_per_block=2, cross_attention_dim=8, norm_num_groups=4,
    down_block_types=(C, C, D), up_block_types=(U, X, X), attention_head_dim=4,
  ),
  "inpainting": dict(
    in_channels=9, block_out_channels=(4, 8), layers_per_block=1, cross_attention_dim=8, norm_num_groups=2,
    down_block_types=(D, C), up_block_types=(X, U), attention_head_dim=4,
  ),
  "stable_diffusion_2": dict(
    block_out_channels=(32, 64), layers_per_block=2, cross_attention_dim=32, down_block_types=(D, C),
    up_block_types=(X, U), attention_head_dim=(2, 4), use_linear_projection=True,
  ),
  "stable_diffusion_xl": dict(
    block_out_channels=(2, 4), layers_per_block=2, cross_attention_dim=64, norm_num_groups=1, down_block_types=(D, C),
    up_block_types=(X, U), attention_head_dim=(2, 4), use_linear_projection=True, addition_embed_type="text_time",
    addition_time_embed_dim=8, transformer_layers_per_block=(1, 2), projection_class_embeddings_input_dim=80,
  ),
  "x4_upscaler": dict(
    in_channels=7, out_channels=4, block_out_channels=(32, 32, 64), layers_per_block=2, cross_attention_dim=32,
    down_block_types=(D, C, C), up_block_types=(X, X, U), attention_head_dim=8, use_linear_projection=True,
    only_cross_attention=(True, True, False), num_class_embeds=100,
  ),
  "latent_consistency": dict(
    block_out_channels=(4, 8), layers_per_block=1, cross_attention_dim=8, norm_num_groups=2, down_block_types=(D, C),
    up_block_types=(X, U), attention_head_dim=2, time_cond_proj_dim=32,
  ),
}  # fmt: skip
_blocks = lambda levels: dict(
  down_block_types=("DownEncoderBlock2D",) * levels, up_block_types=("UpDecoderBlock2D",) * levels
)
AUTOENCODERS = {
  "f2": dict(block_out_channels=(4, 8), layers_per_block=1, norm_num_groups=2, latent_channels=4, **_blocks(2)),
  "f4_of_16_channels": dict(
    block_out_channels=(8, 16, 16), layers_per_block=2, norm_num_groups=4, latent_channels=16, use_quant_conv=False,
    use_post_quant_conv=False, scaling_factor=1.5305, shift_factor=0.0609, **_blocks(3),
  ),
  "without_attention": dict(
    block_out_channels=(32, 64), layers_per_block=2, latent_channels=4, mid_block_add_attention=False,
    latents_mean=[0.1, -0.2, 0.3, 0.0], latents_std=[1.0, 2.0, 3.0, 4.0], scaling_factor=0.5, **_blocks(2),
  ),
}  # fmt: skip
TINY = dict(
  encoder_block_out_channels=(8, 8, 8), decoder_block_out_channels=(8, 8, 8), num_encoder_blocks=(1, 2, 1),
  num_decoder_blocks=(2, 1, 1),
)  # fmt: skip
TEXTS = ["a red three on white", "a blue seven on black", "low quality"]
SCHEDULER = dict(
  beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, steps_offset=1
)  # fmt: skip


def pipeline(kind, folder):
  """A small pipeline of theirs with random weights: "1", "2" (v-prediction), "xl", "refiner" or "inpaint"."""
  import torch
  import transformers
  from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
  )

  from diffjax.data import train_tokenizer

  torch.manual_seed(0)
  torch.set_grad_enabled(False)
  ours = train_tokenizer(TEXTS, 600, length=16)
  ours.save(folder / "tokenizer")
  tokenizer = transformers.CLIPTokenizer.from_pretrained(folder / "tokenizer")
  ids = dict(eos_token_id=ours.end_id, bos_token_id=ours.end_id - 1, pad_token_id=ours.pad_id)

  def tower(width, layers, cls=transformers.CLIPTextModel, activation="quick_gelu", **more):
    config = transformers.CLIPTextConfig(
      vocab_size=ours.vocab_size, hidden_size=width, intermediate_size=2 * width, num_hidden_layers=layers,
      num_attention_heads=4, max_position_embeddings=16, hidden_act=activation, **ids, **more,
    )  # fmt: skip
    return moved(cls(config))

  def moved(network):
    for parameter in network.parameters():
      parameter.add_(0.02 * torch.randn_like(parameter))
    return network.eval()

  large = kind in ("xl", "refiner")
  context = {"1": 32, "inpaint": 32, "2": 48, "xl": 32 + 48, "refiner": 48}[kind]
  unet = dict(
    sample_size=8, block_out_channels=(32, 64), layers_per_block=1, cross_attention_dim=context, norm_num_groups=8,
    down_block_types=(D, C), up_block_types=(X, U), attention_head_dim=(2, 4), use_linear_projection=kind != "1",
    in_channels=9 if kind == "inpaint" else 4,
  )  # fmt: skip
  if large:
    numbers = 5 if kind == "refiner" else 6
    unet |= dict(
      addition_embed_type="text_time", addition_time_embed_dim=8, transformer_layers_per_block=(1, 2),
      projection_class_embeddings_input_dim=40 + 8 * numbers,
    )  # fmt: skip
  vae = dict(block_out_channels=(32, 64), layers_per_block=1, norm_num_groups=8, latent_channels=4, **_blocks(2))
  parts = dict(
    vae=moved(AutoencoderKL(**vae)),
    unet=moved(UNet2DConditionModel(**unet)),
    scheduler=DDIMScheduler(**SCHEDULER, prediction_type="v_prediction" if kind == "2" else "epsilon"),
  )
  if not large:
    own = tower(48, 2, activation="gelu") if kind == "2" else tower(32, 3)
    cls = StableDiffusionInpaintPipeline if kind == "inpaint" else StableDiffusionPipeline
    return cls(
      **parts, text_encoder=own, tokenizer=tokenizer, safety_checker=None, feature_extractor=None,
      requires_safety_checker=False,
    )  # fmt: skip
  second = tower(48, 3, transformers.CLIPTextModelWithProjection, "gelu", projection_dim=40)
  parts |= dict(text_encoder_2=second, tokenizer_2=tokenizer)
  if kind == "refiner":
    return StableDiffusionXLImg2ImgPipeline(
      **parts, text_encoder=None, tokenizer=None, requires_aesthetics_score=True, add_watermarker=False
    )
  return StableDiffusionXLPipeline(
    **parts, text_encoder=tower(32, 3), tokenizer=tokenizer, add_watermarker=False, force_zeros_for_empty_prompt=True
  )
