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
