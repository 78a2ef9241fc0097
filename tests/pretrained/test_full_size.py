"""Folders as large as the published ones load with no tensor left over, in little more memory than the weights take.

Names and shapes are those of diffusers and transformers; the files are full of zeros, and take no room on a file system
with sparse files.
"""

import json
import pathlib
import re
import struct
import subprocess
import sys
import time

import jax.numpy as jnp
import pytest

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

import transformers  # noqa: E402 - after the skips

from diffjax import pretrained  # noqa: E402
from diffjax.data import train_tokenizer  # noqa: E402
from diffjax.pipelines import dry_run  # noqa: E402

DOWN, CROSS = "DownBlock2D", "CrossAttnDownBlock2D"
UP, CROSS_UP = "UpBlock2D", "CrossAttnUpBlock2D"
UNET_1 = dict(sample_size=64, cross_attention_dim=768, attention_head_dim=8)
UNETS = {
  "1.5": UNET_1,
  "2.1": UNET_1
  | dict(sample_size=96, cross_attention_dim=1024, attention_head_dim=[5, 10, 20, 20], use_linear_projection=True),
  "xl": dict(
    sample_size=128, block_out_channels=[320, 640, 1280], down_block_types=[DOWN, CROSS, CROSS],
    up_block_types=[CROSS_UP, CROSS_UP, UP], transformer_layers_per_block=[1, 2, 10], attention_head_dim=[5, 10, 20],
    cross_attention_dim=2048, use_linear_projection=True, addition_embed_type="text_time", addition_time_embed_dim=256,
    projection_class_embeddings_input_dim=2816,
  ),
}  # fmt: skip
VAE = dict(
  block_out_channels=[128, 256, 512, 512], layers_per_block=2, down_block_types=["DownEncoderBlock2D"] * 4,
  up_block_types=["UpDecoderBlock2D"] * 4,
)  # fmt: skip


def tower(width, layers, heads, **more):
  return dict(
    hidden_size=width, intermediate_size=4 * width, num_hidden_layers=layers, num_attention_heads=heads,
    eos_token_id=49407, **more,
  )  # fmt: skip


SMALL = ("text_encoder", transformers.CLIPTextModel, tower(768, 12, 12))
TOWERS = {
  "1.5": [SMALL],
  "2.1": [("text_encoder", transformers.CLIPTextModel, tower(1024, 23, 16, hidden_act="gelu"))],
  "xl": [
    SMALL,
    (
      "text_encoder_2",
      transformers.CLIPTextModelWithProjection,
      tower(1280, 32, 20, hidden_act="gelu", projection_dim=1280),
    ),
  ],
}
LOAD = """
import sys
import jax, jax.numpy as jnp
from diffjax import pretrained
jnp.zeros(1).block_until_ready()
print("ready", flush=True)
pipeline = pretrained.load_pipeline(sys.argv[1], dtype=jnp.float16)
towers = [tower.params for tower in pipeline.conditioner.towers]
leaves = jax.tree.leaves((pipeline.denoiser.network.params, pipeline.codec.params, towers))
print(sum(leaf.size for leaf in leaves), sum(leaf.nbytes for leaf in leaves), flush=True)
"""


def anonymous_bytes(process):
  """A process's memory but for files that it has mapped, whose pages the system can drop; 0 when it is gone."""
  try:
    status = pathlib.Path(f"/proc/{process.pid}/status").read_text()
  except OSError:
    return 0
  found = re.search(r"RssAnon:\s+(\d+) kB", status)
  return 1024 * int(found[1]) if found else 0


def write_zeros(path, state):
  """A safetensors file of float16 zeros with these names and shapes; nothing but its header is written."""
  header, end = {}, 0
  for name, tensor in state.items():
    size = 2 * tensor.numel()
    header[name] = {"dtype": "F16", "shape": list(tensor.shape), "data_offsets": [end, end + size]}
    end += size
  text = json.dumps(header).encode()
  path.parent.mkdir(parents=True, exist_ok=True)
  with path.open("wb") as file:
    file.write(struct.pack("<Q", len(text)) + text)
    file.truncate(8 + len(text) + end)


def write_folder(folder, kind):
  """A published model's folder; returns its number of parameters."""
  total, tokenizer = 0, train_tokenizer(["a red three on white"], 600, length=77)
  components = {"scheduler": ("diffusers", "DDIMScheduler")}
  with torch.device("meta"):
    parts = {
      "unet": diffusers.UNet2DConditionModel(**UNETS[kind]),
      "vae": diffusers.AutoencoderKL(**VAE),
    }
    for name, cls, config in TOWERS[kind]:
      parts[name] = cls(transformers.CLIPTextConfig(**config))
  for name, network in parts.items():
    state = network.state_dict()
    state = {key: tensor for key, tensor in state.items() if not key.endswith("position_ids")}
    total += sum(tensor.numel() for tensor in state.values())
    text = name.startswith("text")
    write_zeros(folder / name / f"{'model' if text else 'diffusion_pytorch_model'}.safetensors", state)
    (folder / name / "config.json").write_text(
      json.dumps(network.config.to_dict() if text else dict(network.config), default=list)
    )
    components[name] = ("transformers" if text else "diffusers", type(network).__name__)
    if text:
      tokenizer.save(folder / name.replace("text_encoder", "tokenizer"))
  diffusers.DDIMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012).save_pretrained(
    folder / "scheduler"
  )
  (folder / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionPipeline", **components}))
  return total


@pytest.mark.parametrize(
  ("kind", "unet", "others"),
  [
    pytest.param("1.5", 859_520_964, 83_653_863 + 123_060_480, marks=pytest.mark.slow),
    pytest.param("2.1", 865_910_724, 83_653_863 + 340_387_840, marks=pytest.mark.soak),
    pytest.param("xl", 2_567_463_684, 83_653_863 + 123_060_480 + 694_659_840, marks=pytest.mark.soak),
  ],
)
def test_zero_filled_folders_load_in_the_memory_of_their_weights(tmp_path, kind, unet, others):
  assert write_folder(tmp_path, kind) == unet + others
  pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
  process = subprocess.Popen([sys.executable, "-c", LOAD, str(tmp_path)], **pipes)
  assert process.stdout.readline() == "ready\n", process.stderr.read()
  before = peak = anonymous_bytes(process)
  while process.poll() is None:
    peak = max(peak, anonymous_bytes(process))
    time.sleep(0.01)
  out, errors = process.communicate()
  assert process.returncode == 0, errors
  count, size = map(int, out.split())
  assert count == unet + others and size == 2 * count
  assert peak - before <= 1.2 * size


@pytest.mark.soak
@pytest.mark.parametrize(("kind", "side", "bound"), [("1.5", 512, 4.0), ("xl", 1024, 12.0)])
def test_drawing_one_image_in_float32(tmp_path, kind, side, bound):
  write_folder(tmp_path, kind)
  with pretrained.unread():
    pipeline = pretrained.load_pipeline(tmp_path, dtype=jnp.float32)
  rows = dry_run.dry_run(pipeline, 1, size=(side, side))
  assert rows["network"] + rows["denoising"] <= bound * 2**30
  assert rows["autoencoder"] + rows["decoding"] <= bound * 2**30
