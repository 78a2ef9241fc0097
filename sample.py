"""Draws samples from a trained run.

  python sample.py --workdir=runs/digits --num=64 --steps=5 --sampler=dpmpp_2m --seed=0 --out=out/digits
  python sample.py --workdir=runs/digits_conditional --label=3 --guidance_scale=2 --filmstrip
  python sample.py --workdir=runs/digits_conditional --label=3 --guidance_scale=0.8 --cfgpp --sampler=euler
  python sample.py --workdir=runs/digits --init_image=eight.png --strength=0.6
  python sample.py --workdir=runs/digits --init_image=eight.png --mask=upper_half.png
  python sample.py --workdir=runs/digits --clip=runs/clip_digits --prompt="a handwritten three" --steps=25
  python sample.py --workdir=stable-diffusion-v1-5 --prompt="a lighthouse at dusk" --negative_prompt="people" --num=4
  python sample.py --workdir=hub:stabilityai/sdxl-turbo --prompt="a lighthouse" --guidance_scale=1 --steps=4
  python sample.py --workdir=stable-diffusion-v1-5 --size=768x1024 --num=1 --dry_run
  python sample.py --list_samplers

Writes samples.npz (`images`, uint8 [N, H, W, C], `labels` if requested, and with a prompt `scores`), grid.png, and
with --filmstrip filmstrip.png and denoising.gif. A text-to-image model's images are also written one by one, with
prompt and settings in their metadata. Needs only the run's folder, and for a prompt that of the CLIP. The
same seed draws the same images. --dry_run only prints the memory that drawing would take.
"""

import dataclasses
import pathlib
import sys
from typing import Any

import numpy as np
from absl import flags

from diffjax import plots
from diffjax.cluster import processes
from diffjax.cluster.command_line import run as run_script
from diffjax.conditioning import Text, split_prompt, split_weighted
from diffjax.conditioning.prompt_weights import SYNTAXES
from diffjax.data.pictures import load_picture
from diffjax.pipelines import Pipeline, dry_run
from diffjax.plots.parameters import parameters, save_png
from diffjax.pretrained import load_lora, load_preview_codec, load_textual_inversion, with_lora
from diffjax.runs import Prompt, load_clip, make_prompt, open_pipeline
from diffjax.samplers import METHODS
from diffjax.samplers.methods import table
from diffjax.system import compilation, paths, writing
from diffjax.system.files import read_at_most

IN_GRID, IN_FILM = 100, 8
"""Number of images in grid.png and in the film strip."""
MAX_SIDE, MAX_PROMPTS = 2**14, 2**20
UNCOUNTED = (
  "clip",
  "image_prompt",
  "init_image",
  "mask",
  "prompts",
  "best_of",
  "repeats",
  "cfgpp",
  "embeddings",
  "lora",
  "filmstrip",
  "preview_decoder",
)
"""Flags whose memory a dry run does not know."""


def draw(
  workdir: str | pathlib.Path,
  out: str | pathlib.Path,
  *,
  num: int | None = None,
  labels: list[int] | None = None,
  init_image: str | pathlib.Path | None = None,
  mask: str | pathlib.Path | None = None,
  clip: str | pathlib.Path | None = None,
  prompt: str | None = None,
  prompts: str | pathlib.Path | None = None,
  negative_prompt: str | None = None,
  size: tuple[int, int] | None = None,
  image_prompt: str | None = None,
  guidance=None,
  guidance_scale: float | None = None,
  best_of: int | None = None,
  best: bool = False,
  tokenizer: str | None = None,
  prediction: str | None = None,
  embeddings: list[str] | None = None,
  lora: str | None = None,
  filmstrip: bool = False,
  preview_decoder: str | None = None,
  **options,
) -> np.ndarray:
  """Draws from the run in `workdir`, writes the files to `out`, and returns the images, uint8 [num, H, W, C].

  With several processes each draws its share and returns all images, and process 0 writes.

  Args:
    workdir: the folder of a run or of published weights, or a single file of them.
    out: folder to write to; created if missing.
    num: number of images, with `prompts` of each; default: 64, or as many as the model draws at a time if those are
      fewer, and with `prompts` 1.
    labels: class labels, used cyclically.
    init_image: an image file to start from, cropped and resized to the model's image size.
    mask: an image file of the same proportions, white where to redraw the init image, black where to keep it.
    clip: the folder of a CLIP, its run or published weights, for a prompt.
    prompt: for a text-to-image model a text; with a CLIP, texts separated by |, each with a weight after ::.
    prompts: a text file with a prompt in each line, for a text-to-image model.
    negative_prompt: what to guide away from, for a text-to-image model.
    size: (height, width) of the images; default: the model's.
    image_prompt: image files to resemble, in the syntax of prompts.
    guidance: a ConfigDict for CLIP guidance; default: as `runs.make_prompt`.
    guidance_scale: scale of classifier-free guidance by text or label, or of CLIP guidance where the model reads no
      text and a prompt is given.
    best_of: draw this many and keep the `num` with the highest CLIP scores.
    tokenizer, prediction: as in `pretrained.load_single_file`.
    embeddings: files of textual inversion, each with a word for prompts, as `pretrained.load_textual_inversion`.
    lora: LoRA files separated by |, each with a strength after ::, by default 1, as `pretrained.load_lora`.
    best: draw from the checkpoint with the lowest held-out loss instead of the newest.
    filmstrip: also write the trajectory from noise to image.
    preview_decoder: a folder with a small decoder for the trajectory, such as TAESD's.
    **options: as in `diffjax.pipelines.Pipeline.draw`.

  Raises:
    ValueError: as `Pipeline.draw`, or if an image file cannot be read.
    FileNotFoundError: if the folder holds no run or no checkpoint.
    OSError: if nothing can be written to `out`.
  """
  pipeline, source = open_pipeline(workdir, best=best, tokenizer=tokenizer, prediction=prediction)
  for file in embeddings or ():
    pipeline = load_textual_inversion(pipeline, file)
  for file, strength in _loras(lora):
    pipeline = with_lora(pipeline, load_lora(pipeline, file), strength)
  if preview_decoder is not None:
    if not filmstrip:
      raise ValueError("--preview_decoder decodes the film strip; add --filmstrip, or omit it.")
    pipeline = with_preview(pipeline, preview_decoder)
  out = paths.as_path(out)
  texts = None if prompts is None else read_prompts(prompts, prompt)
  num = (1 if texts else min(64, pipeline.defaults.batch_size)) if num is None else num
  num *= len(texts or [""])
  processes.from_first(lambda: writing.check_writable(out))
  options |= {"size": size} | read_images(pipeline, size, init_image, mask)
  if isinstance(pipeline.conditioner, Text):
    asked = read_guide(clip, prompt if clip else None, image_prompt, guidance, None)
    texts = [text for text in texts for _ in range(num // len(texts))] if texts else prompt
    options |= dict(prompt=texts, negative_prompt=negative_prompt, guidance_scale=guidance_scale)
  else:
    if prompts is not None:
      raise ValueError("--prompts needs a text-to-image model; with --clip give one prompt at a time.")
    if negative_prompt is not None:
      raise ValueError(
        "--negative_prompt needs a text-to-image model; with --clip write it as in --prompt='a three|a four::-0.5'."
      )
    asked = read_guide(clip, prompt, image_prompt, guidance, guidance_scale)
    options |= {"guidance_scale": guidance_scale} if asked is None else {}
  count = num if best_of is None else best_of
  if best_of is not None and prompts is not None:
    raise ValueError("--best_of selects the images of one prompt; give that as --prompt instead of --prompts.")
  if best_of is not None and (asked is None or best_of < num):
    raise ValueError(f"--best_of={best_of} selects {num} images by a prompt; give a prompt, and --best_of >= --num.")
  arrays = {} if labels is None else {"labels": np.array([labels[i % len(labels)] for i in range(count)])}
  options |= dict(labels=arrays.get("labels"), guide=asked, trajectory=filmstrip, progress=_progress)
  drawn = pipeline.draw(count, **options)
  images, path, numbers = drawn.images, drawn.path, np.arange(count)
  if asked:
    arrays["scores"] = asked.scores(images)
  if best_of is not None:
    kept = np.argsort(-arrays["scores"], kind="stable")[:num]
    images, arrays = images[kept], {name: values[kept] for name, values in arrays.items()}
    numbers = numbers[kept]
    path = None if path is None else path[:, kept]
  settings = settings_of(pipeline, numbers, options) if isinstance(pipeline.conditioner, Text) else []
  processes.from_first(lambda: write(out, images, arrays, path, asked, settings))
  calls = "" if drawn.calls is None else f", each with {drawn.calls.min()} to {drawn.calls.max()} network calls"
  processes.announce(f"{num} images from {source} in {out}{calls}")
  return images


def write(
  out: pathlib.Path,
  images: np.ndarray,
  arrays: dict[str, np.ndarray],
  path,
  asked: Prompt | None,
  settings: list[str],
) -> None:
  """Writes the images, their labels and scores if any, and the trajectory if there is one.

  With `settings`, a text for each image, they are also written one by one.
  """
  with writing.replacing(out / "samples.npz") as part, part.open("wb") as file:
    np.savez_compressed(file, images=images, **arrays)  # pyright: ignore[reportArgumentType]  none is allow_pickle
  for i, text in enumerate(settings):
    save_png(images[i], out / f"{i:04d}.png", text)
  number = len(settings)
  while settings and (stale := out / f"{number:04d}.png").is_file():  # of a larger draw before
    stale.unlink()
    number += 1
  notes = [f"{score:.2f}" for score in arrays.get("scores", ())[:IN_GRID]]
  plots.save(plots.grid(images[:IN_GRID], notes=notes), out / "grid.png")
  if path is not None:
    film = path[:, :IN_FILM]
    scores = np.stack([asked.scores(moment) for moment in film]) if asked else None
    plots.save(plots.film_strip(film, scores=scores), out / "filmstrip.png")
    plots.animation(path[:, :IN_GRID], out / "denoising.gif")


def settings_of(pipeline: Pipeline, numbers: np.ndarray, options: dict[str, Any]) -> list[str]:
  """For each image, given by its number, how it was drawn, as `plots.parameters` writes it."""
  get, defaults = options.get, pipeline.defaults
  height, width = get("size") or pipeline.image_shape[:2]
  scale, clip_skip, guide = get("guidance_scale"), get("clip_skip"), get("guide")
  strength = get("strength")
  if strength is None and get("init_image") is not None:
    strength = 0.5 if get("mask") is None else 1.0
  common = dict(
    steps=get("steps") or defaults.steps,
    sampler=get("sampler") or (guide.sampler if guide else None) or defaults.sampler_name,
    cfg_scale=defaults.guidance_scale if scale is None else scale,
    seed=get("seed", 0),
    size=f"{width}x{height}",  # as their readers expect it
    denoising_strength=strength,
    clip_skip=None if clip_skip is None else clip_skip + 1,  # theirs counts the last layer too
  )
  prompt = options["prompt"]
  prompts = prompt if isinstance(prompt, list) else [prompt] * (int(numbers.max()) + 1)
  return [parameters(prompts[i], get("negative_prompt"), **common, image=int(i)) for i in numbers]


def read_prompts(file: str | pathlib.Path, prompt: str | None) -> list[str]:
  """The lines of a text file that are not blank.

  Raises:
    ValueError: no such file, none but blank lines, or a prompt besides.
  """
  if prompt is not None:
    raise ValueError("--prompt and --prompts are both given; omit one of them.")
  path = pathlib.Path(file).expanduser()
  if not path.is_file():
    raise ValueError(f"there is no file {file}; give a text file with a prompt in each line as --prompts.")
  try:
    texts = [line.strip() for line in read_at_most(path, MAX_PROMPTS).decode("utf-8-sig").split("\n")]
  except UnicodeDecodeError:
    raise ValueError(f"{file} is not UTF-8 text; save it as that.") from None
  texts = [text for text in texts if text]
  if not texts:
    raise ValueError(f"{file} holds no prompt; write one in each line.")
  return texts


def with_preview(pipeline: Pipeline, folder: str | pathlib.Path) -> Pipeline:
  """The pipeline with the small decoder of a folder for film strips; ValueError if it decodes other latents."""
  try:
    codec, latents = load_preview_codec(folder), pipeline.shapes()[2]
  except ValueError as error:
    raise ValueError(f"--preview_decoder={folder} is no small decoder ({error}).") from None
  own = (codec.downscaling, codec.module.latent_channels)
  if own != (pipeline.codec.downscaling, latents[-1]):
    raise ValueError(
      f"{folder} decodes latents of {own[1]} channels, {own[0]} pixels wide, but the model's have {latents[-1]} and are"
      f" {pipeline.codec.downscaling} pixels wide; give a decoder of the same latents."
    )
  return dataclasses.replace(pipeline, preview_codec=codec)


def read_guide(clip, prompt, image_prompt, guidance, scale) -> Prompt | None:
  """The CLIP guidance by the prompts of the flags; None if there are none.

  Raises:
    ValueError: a prompt without a CLIP, or a CLIP or guidance without a prompt.
  """
  if prompt is None and image_prompt is None:
    if clip or guidance is not None:
      raise ValueError('--clip and --guidance act on a prompt; write one, as in --prompt="a handwritten three".')
    return None
  if not clip:
    raise ValueError("a prompt needs a CLIP; give its folder, as in --clip=runs/clip_digits.")
  pictures = [] if image_prompt is None else split_prompt(image_prompt)
  read = [(load_picture(file, None, 3), weight) for file, weight in pictures]
  return make_prompt(load_clip(clip), prompt, image_prompts=read, config=guidance, scale=scale)


def _loras(asked: str | None) -> list[tuple[str, float]]:
  """The files and strengths that --lora names."""
  return [] if asked is None else split_weighted(asked, "LoRA", "name a file, such as 'ink.safetensors'")


def read_images(pipeline: Pipeline, size: tuple[int, int] | None, init_image, mask) -> dict:
  """Reads the given image files into arguments for `Pipeline.draw`."""
  height, width, channels = (*size, pipeline.image_shape[2]) if size else pipeline.image_shape
  images = {}
  if init_image:
    images["init_image"] = load_picture(init_image, (height, width), channels)
  if mask:
    images["mask"] = load_picture(mask, (height, width), 1, like=init_image)[..., 0] > 127
  return images


def read_size(text: str | None) -> tuple[int, int] | None:
  """(height, width) from a flag such as 512x768; ValueError if it is no such text."""
  if text is None:
    return None
  sides = text.lower().split("x")
  if len(sides) != 2 or not all(side.isdecimal() and 0 < int(side) <= MAX_SIDE for side in sides):
    raise ValueError(f"--size={text} is not a size; write height x width in pixels, up to {MAX_SIDE}, as in 512x768.")
  return int(sides[0]), int(sides[1])


def expected(workdir: str | pathlib.Path, size: tuple[int, int] | None, options: dict[str, Any]) -> str:
  """A table of the memory that drawing with these flags takes; published weights are not read.

  Raises:
    ValueError: as `draw`, or a flag whose memory is not counted.
  """
  uncounted = [name for name in UNCOUNTED if options[name]]
  if uncounted:
    raise ValueError(f"--dry_run does not count what --{uncounted[0]} takes; omit one of them.")
  given = {name: options[name] for name in ("best", "tokenizer", "prediction")}
  pipeline, _ = open_pipeline(workdir, **given, read=False)
  num = min(64, pipeline.defaults.batch_size) if options["num"] is None else options["num"]
  names = ("steps", "sampler", "grid", "guidance_scale", "batch_size")
  asked: dict[str, Any] = {name: options[name] for name in names}
  rows = dry_run.dry_run(pipeline, num, size=size, labels=options["labels"] is not None, **asked)
  return dry_run.text(rows)


def _progress(batches):
  import tqdm

  shown = processes.is_first() and sys.stderr.isatty()
  return tqdm.tqdm(batches, unit="batch", disable=len(batches) < 2 or not shown)


def main() -> None:
  given = flags.FLAGS
  if given.list_samplers:
    print(table(METHODS))
    return
  if not given.workdir:
    raise ValueError("--workdir is missing; give the folder of a run, as in --workdir=runs/digits.")
  compilation.use_persistent_cache()
  labels = None
  if given.label is not None:
    if not (given.label and all(label.isdecimal() for label in given.label)):
      label = ",".join(given.label)
      raise ValueError(f"--label={label} is not a label; give a number, or several as in --label=0,1,2.")
    labels = [int(label) for label in given.label]
  names = (
    "num",
    "steps",
    "sampler",
    "grid",
    "seed",
    "guidance_scale",
    "cfgpp",
    "repeats",
    "init_image",
    "mask",
    "strength",
    "clip",
    "prompt",
    "prompts",
    "negative_prompt",
    "prompt_syntax",
    "clip_skip",
    "image_prompt",
    "guidance",
    "best_of",
    "tokenizer",
    "prediction",
    "embeddings",
    "lora",
    "eta",
    "s_churn",
    "batch_size",
    "best",
    "filmstrip",
    "preview_decoder",
  )
  options: dict[str, Any] = {name: given[name].value for name in names}
  if given.dry_run:
    print(expected(given.workdir, read_size(given.size), options | {"labels": labels}))
    return
  draw(given.workdir, given.out, labels=labels, size=read_size(given.size), **options)


if __name__ == "__main__":
  from ml_collections import config_flags

  flags.DEFINE_string(
    "workdir", None, "Folder of a run or of published weights, a single .safetensors file, or hub:owner/name."
  )
  flags.DEFINE_string("tokenizer", None, "Folder of CLIP's tokenizer, for a single file.")
  flags.DEFINE_enum("prediction", None, ["eps", "v"], "What the network of a single file predicts, if it cannot tell.")
  flags.DEFINE_list("embeddings", None, "Files of textual inversion, whose words prompts can use.")
  flags.DEFINE_string("lora", None, "LoRA files, several with strengths: 'ink.safetensors::0.8|paper.safetensors'.")
  flags.DEFINE_string("out", "out", "Folder to write to.")
  flags.DEFINE_integer("num", None, "Number of images; default: 64, or 4 from published weights.")
  flags.DEFINE_integer("steps", None, "Noise levels above zero; default: the run's.")
  flags.DEFINE_string("sampler", None, "Name of a sampler; default: that of the prompt's guidance, or the run's.")
  flags.DEFINE_string("grid", None, "Name of a grid; default: the one the run recommends for the number of steps.")
  flags.DEFINE_integer("seed", 0, "Random seed.")
  flags.DEFINE_list("label", None, "Class to draw, or several used cyclically: --label=0,1,2.")
  flags.DEFINE_float(
    "guidance_scale", None, "Scale of guidance by the prompt, or of classifier-free guidance by the label."
  )
  flags.DEFINE_string("clip", None, "Folder of the CLIP that reads the prompt: its run, or published weights.")
  flags.DEFINE_string("prompt", None, "What to draw; with --clip several with weights: 'a three|a four::-0.5'.")
  flags.DEFINE_string("prompts", None, "Text file with a prompt in each line; --num is then for each of them.")
  flags.DEFINE_string("negative_prompt", None, "What to guide away from, for a text-to-image model.")
  flags.DEFINE_string("size", None, "Height x width in pixels, as in 512x768, for a model that allows it.")
  flags.DEFINE_enum("prompt_syntax", None, SYNTAXES, "How weights in prompts are written; default: a1111.")
  flags.DEFINE_integer("clip_skip", None, "Leave out this many of the text encoder's last layers.")
  flags.DEFINE_string("image_prompt", None, "Images to resemble; several with weights: 'three.png|four.png::-0.5'.")
  config_flags.DEFINE_config_file("guidance", None, "How CLIP guides, such as configs/guidance.py:disco.")
  flags.DEFINE_integer("best_of", None, "Draw this many and keep the --num that CLIP rates highest.")
  flags.DEFINE_bool("cfgpp", False, "CFG++: keep the unguided model's noise; with a guidance_scale of 0 to 1.")
  flags.DEFINE_integer(
    "repeats",
    None,
    "Time travel: take each step this many times, adding fresh noise in between; default: that of the prompt's"
    " guidance, or 1.",
  )
  flags.DEFINE_string("init_image", None, "Image file to start from instead of noise.")
  flags.DEFINE_string("mask", None, "Image file: white where to redraw the init image, black where to keep it.")
  flags.DEFINE_float("strength", None, "Fraction of the steps to take from the init image, in (0, 1].")
  flags.DEFINE_float("eta", None, "Fraction of fresh noise in each step, for samplers that have it.")
  flags.DEFINE_float("s_churn", None, "EDM's churn, for samplers heun and dpm2.")
  flags.DEFINE_integer("batch_size", None, "Images drawn at a time; default: 256, or 4 with published weights.")
  flags.DEFINE_bool("best", False, "Draw from the checkpoint with the lowest held-out loss, not from the newest.")
  flags.DEFINE_bool(
    "filmstrip", False, "Also write the trajectory from noise to image: filmstrip.png and denoising.gif."
  )
  flags.DEFINE_string("preview_decoder", None, "Folder of a small decoder for the film strip, such as TAESD's.")
  flags.DEFINE_bool("dry_run", False, "Only print the memory that drawing would take.")
  flags.DEFINE_bool("list_samplers", False, "Only print every sampler with its order, network calls and paper.")
  run_script(main)
