"""transformers' CLIP and SigLIP, tiny and with random weights, by the options in which the published ones differ."""

import numpy as np
import torch

IMAGE = dict(hidden_size=24, intermediate_size=40, num_hidden_layers=3, num_attention_heads=3, image_size=12)
TEXT = dict(hidden_size=16, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2, vocab_size=60)
OLD_EOS, NEW_EOS = dict(eos_token_id=2), dict(eos_token_id=59)

# image options, text options, of both
VARIANTS = {
  "vit_b_32": (dict(patch_size=6), OLD_EOS, dict(hidden_act="quick_gelu")),
  "vit_b_16": (dict(patch_size=4), NEW_EOS, dict(hidden_act="quick_gelu")),
  "vit_l_14": (dict(patch_size=3, num_attention_heads=4), OLD_EOS, dict(hidden_act="quick_gelu")),
  "vit_l_14_336": (dict(patch_size=3, image_size=18), OLD_EOS, dict(hidden_act="quick_gelu")),
  "openclip_vit_h_14": (dict(patch_size=5), NEW_EOS, dict(hidden_act="gelu")),
  "openclip_vit_bigg_14": (dict(patch_size=5, intermediate_size=118), NEW_EOS, dict(hidden_act="gelu")),
  "gray": (dict(patch_size=4, num_channels=1), NEW_EOS, dict(hidden_act="gelu")),
}


def clip(name):
  """transformers' CLIPModel in a variant."""
  from transformers import CLIPConfig, CLIPModel

  image, text, both = VARIANTS[name]
  text = {**TEXT, "max_position_embeddings": 11, **text, **both}
  config = CLIPConfig(text_config=text, vision_config={**IMAGE, **image, **both}, projection_dim=20)
  return randomised(CLIPModel(config))


def siglip(**image):
  """transformers' SiglipModel."""
  from transformers import SiglipConfig, SiglipModel

  text = {**TEXT, "hidden_size": 24, "max_position_embeddings": 11}
  return randomised(SiglipModel(SiglipConfig(text_config=text, vision_config={**IMAGE, "patch_size": 4, **image})))


def randomised(model, scale=0.1):
  """The model with its trivial parameters moved too, so that a mix-up shows, ready to be evaluated."""
  torch.manual_seed(0)
  with torch.no_grad():
    for parameter in model.parameters():
      parameter.add_(scale * torch.randn_like(parameter))
  return model.eval()


def pictures(model, batch=3):
  """float32 [batch, H, W, C] as the model takes them."""
  config = model.config.vision_config
  size = (batch, config.image_size, config.image_size, config.num_channels)
  return np.random.default_rng(1).normal(size=size).astype(np.float32)


def tokens(rows=4, length=11, eos=59):
  """int32 [rows, length]: texts of several lengths, end-of-text once, then padding by it."""
  rng = np.random.default_rng(2)
  ids = rng.integers(1, eos - 1, (rows, length)).astype(np.int32)
  for row, end in zip(ids, rng.integers(1, length, rows)):
    row[end:] = eos
  return ids


def to_torch(images):
  return torch.from_numpy(images.transpose(0, 3, 1, 2).copy())


def open_clip_tensors(model, text=""):
  """The weights of a CLIPModel under OpenCLIP's names, those of the text tower beginning with `text`."""
  state, tensors = {key: value.numpy() for key, value in model.state_dict().items()}, {}
  towers = {"text_model": text, "vision_model": "visual."}
  heads = {"layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj"}
  for tower, start in towers.items():
    for i in range(10):
      layer, block = f"{tower}.encoder.layers.{i}.", f"{start}transformer.resblocks.{i}."
      if f"{layer}layer_norm1.weight" not in state:
        break
      for kind in ("weight", "bias"):
        parts = [state[f"{layer}self_attn.{name}_proj.{kind}"] for name in "qkv"]
        tensors[f"{block}attn.in_proj_{kind}"] = np.concatenate(parts)
        tensors[f"{block}attn.out_proj.{kind}"] = state[f"{layer}self_attn.out_proj.{kind}"]
        for theirs, name in heads.items():
          tensors[f"{block}{name}.{kind}"] = state[f"{layer}{theirs}.{kind}"]
  for kind in ("weight", "bias"):
    tensors[f"{text}ln_final.{kind}"] = state[f"text_model.final_layer_norm.{kind}"]
    tensors[f"visual.ln_pre.{kind}"] = state[f"vision_model.pre_layrnorm.{kind}"]
    tensors[f"visual.ln_post.{kind}"] = state[f"vision_model.post_layernorm.{kind}"]
  tensors |= {
    f"{text}token_embedding.weight": state["text_model.embeddings.token_embedding.weight"],
    f"{text}positional_embedding": state["text_model.embeddings.position_embedding.weight"],
    f"{text}text_projection": state["text_projection.weight"].T,
    "visual.conv1.weight": state["vision_model.embeddings.patch_embedding.weight"],
    "visual.class_embedding": state["vision_model.embeddings.class_embedding"],
    "visual.positional_embedding": state["vision_model.embeddings.position_embedding.weight"],
    "visual.proj": state["visual_projection.weight"].T,
    "logit_scale": state["logit_scale"],
  }
  return {name: np.ascontiguousarray(tensor).reshape(tensor.shape) for name, tensor in tensors.items()}


def open_clip_config(model):
  """OpenCLIP's model_cfg of a CLIPModel."""
  image, text = model.config.vision_config, model.config.text_config
  return {
    "embed_dim": model.config.projection_dim,
    "quick_gelu": image.hidden_act == "quick_gelu",
    "vision_cfg": {
      "image_size": image.image_size,
      "layers": image.num_hidden_layers,
      "width": image.hidden_size,
      "head_width": image.hidden_size // image.num_attention_heads,
      "mlp_ratio": image.intermediate_size / image.hidden_size + 1e-4,
      "patch_size": image.patch_size,
    },
    "text_cfg": {
      "context_length": text.max_position_embeddings,
      "vocab_size": text.vocab_size,
      "width": text.hidden_size,
      "heads": text.num_attention_heads,
      "layers": text.num_hidden_layers,
      "mlp_ratio": text.intermediate_size / text.hidden_size,
    },
  }
