"""Draws from a run and reports the quality of the pictures; or a CLIP's accuracy, or an autoencoder's precision.

  python -m diffjax.evaluation --workdir=runs/digits [--num=1000 --steps=10 --sampler=dpmpp_2m --seed=0]
  python -m diffjax.evaluation --workdir=runs/clip_digits --zero_shot
  python -m diffjax.evaluation --workdir=runs/digits --clip=runs/clip_digits --num=300 --steps=25
  python -m diffjax.evaluation --workdir=runs/colors_autoencoder

Prints a table and writes `evaluation.json` and `evaluation.png`. Pictures are compared by their pixels; for other
features call `diffjax.evaluation.evaluate`. Conditional models draw every label equally often. An autoencoder's run
reconstructs held-out pictures. With --zero_shot each held-out picture is classified by its most similar caption, with
the training templates and with held-out ones. With --clip every class is prompted by its captions, held-out ones or
with --captions=training those of training, and a classifier reads the result.
"""

import json
import sys

import numpy as np
from absl import flags

from diffjax import plots
from diffjax.cluster import command_line, processes
from diffjax.cluster.signals import StopRequest
from diffjax.data import evenly
from diffjax.data.arrays import read_npz
from diffjax.evaluation import evaluate, nearest_distances, pixels, table
from diffjax.system import compilation, paths, writing

SHOWN = 60
"""Number of drawn images in evaluation.png."""
RECONSTRUCTED = 20
"""Number of reconstructed images in an autoencoder's evaluation.png."""
DRAWING = ("num", "steps", "sampler", "eta", "seed", "guidance_scale", "batch_size")
MAX_BYTES = 2**30
"""Largest size of the unpacked arrays in a file of samples."""


def main(argv: list[str]) -> None:
  """Runs the command line; an error exits with one sentence."""
  options = _options()
  with command_line.reporting(), StopRequest(patience=2.0, interrupt=True):
    command_line.parse(argv, options)
    if options.help:
      print(__doc__, *(f"  --{name}: {options[name].help}" for name in options), sep="\n")
      return
    command_line.join(options)
    if options.zero_shot:
      report_on_clip(options)
    elif is_autoencoder(options):
      report_on_autoencoder(options)
    else:
      report_on_run(options)


def report_on_clip(options: flags.FlagValues) -> None:
  """Classifies the held-out pictures with every template, prints the table and writes the files."""
  _check_workdir(options)
  given = [name for name in (*DRAWING, "samples", "clip") if options[name].present]
  if given:
    raise ValueError(f"--zero_shot draws nothing, so --{given[0]} has no effect; drop one of them.")
  from diffjax.data import in_memory
  from diffjax.runs import load_clip, load_data

  clip = load_clip(options.workdir)
  if clip.config is None:
    raise ValueError(
      f"{options.workdir} holds published weights, without the data and captions that --zero_shot needs; give a run."
    )
  out = _out(options)
  held_out = in_memory(load_data(clip.config, "test"))
  processes.from_first(lambda: _report_on_clip(clip, options.workdir, held_out, out))


def _report_on_clip(clip, workdir, held_out, out):
  from diffjax.from_config import clip as configs
  from diffjax.from_config.clip_run import similarity
  from diffjax.runs import load_data

  parts = {"training templates": configs.training_captions, "held-out templates": configs.held_out_captions}
  report = {}
  for part, captions in parts.items():
    right = clip.zero_shot(captions(clip.config), held_out["image"]) == held_out["label"]
    templates = clip.config.captions["templates" if part.startswith("training") else "held_out"]
    report[part] = {template: float(share) for template, share in zip(templates, right.mean(axis=1))}
    report[part]["mean"] = float(right.mean())
  with writing.replacing(out / "evaluation.json") as file:
    file.write_text(json.dumps({"pictures": len(held_out["image"]), "zero_shot": report}, indent=2) + "\n")
  similarity(clip, load_data(clip.config, "test"), out / "evaluation.png")
  print(f"{len(held_out['image'])} held-out images, classified by {workdir}")
  for part, shares in report.items():
    print(f"\n{part}", *(f"{share:>9.1%}   {template}" for template, share in shares.items()), sep="\n")
  print(f"\nwrote {out}")


def is_autoencoder(options: flags.FlagValues) -> bool:
  """Whether the folder holds the run of an autoencoder; False if it holds no run at all."""
  from diffjax import from_config
  from diffjax.runs import CONFIG, read_config

  folder = options.workdir and paths.as_path(options.workdir)
  return bool(folder) and (folder / CONFIG).is_file() and from_config.kind_of(read_config(folder)) == "autoencoder"


def report_on_autoencoder(options: flags.FlagValues) -> None:
  """Reconstructs held-out pictures, prints their peak signal-to-noise ratio and writes the files."""
  given = [name for name in (*DRAWING, "samples", "clip", "captions", "guidance") if options[name].present]
  given = [name for name in given if name not in ("num", "batch_size")]
  if given:
    raise ValueError(f"an autoencoder draws nothing, so --{given[0]} has no effect; drop it.")
  from diffjax.runs import load_autoencoder, load_data, read_config
  from diffjax.runs.autoencoder import reconstructed

  codec, held_out = load_autoencoder(options.workdir), load_data(read_config(options.workdir), "test")
  out = _out(options)
  images = np.stack([example["image"] for example in evenly(held_out, options.num)])
  again = reconstructed(codec, images)
  error = np.square(again.astype(np.float64) - images).mean(axis=(1, 2, 3))
  psnr = 10 * np.log10(255**2 / np.maximum(error, 1e-9))
  report = {"images": len(images), "psnr": float(psnr.mean()), "least": float(psnr.min()), "scale": float(codec.scale)}
  processes.from_first(lambda: _report_on_reconstructions(report, images, again, options.workdir, out))


def _report_on_reconstructions(report, images, again, workdir, out):
  with writing.replacing(out / "evaluation.json") as part:
    part.write_text(json.dumps(report, indent=2) + "\n")
  shown = np.linspace(0, len(images) - 1, min(RECONSTRUCTED, len(images))).astype(int)
  pairs = np.concatenate([images[shown], again[shown]])
  plots.save(plots.grid(pairs, columns=len(shown)), out / "evaluation.png")
  print(
    f"{report['images']} held-out images, reconstructed by {workdir}\n\npeak signal-to-noise ratio"
    f" {report['psnr']:.2f} dB on average, {report['least']:.2f} dB at least\n\nwrote {out}"
  )


def report_on_run(options: flags.FlagValues) -> None:
  """Draws or loads the pictures, prints the table and writes the files."""
  _check_workdir(options)
  given = [name for name in DRAWING if options[name].present]
  if options.samples and given:
    raise ValueError(f"--samples evaluates existing images, so --{given[0]} has no effect; drop one of them.")
  for name in ("captions", "guidance"):
    if options[name].present and not options.clip:
      raise ValueError(f"--{name} has no effect without a CLIP; give its run as --clip, or drop the flag.")
  from diffjax.runs import load_run

  run = load_run(options.workdir)
  if run.frozen is not None and not options.samples:
    raise ValueError(
      f"{options.workdir} draws from text, and which prompts to judge it by is for you to say; draw with sample.py"
      " --prompts, and give the samples.npz as --samples. For coloured digits there is benchmarks/colored_digits.py."
    )
  out = _out(options)
  train, held_out = run.data("train"), run.data("test")
  if options.samples:
    drawn, source = read_samples(options.samples), {"samples": options.samples}
  else:
    pixels(train["image"][:1])  # refuses pictures that are too large before any is drawn
    drawn, source = (_draw_prompted if options.clip else _draw)(run, options)
  processes.from_first(lambda: _report_on_pictures(drawn, source, train, held_out, out))


def _report_on_pictures(drawn, source, train, held_out, out):
  report = source | evaluate(drawn, train, held_out)
  with writing.replacing(out / "evaluation.json") as part:
    part.write_text(json.dumps(report, indent=2, allow_nan=False) + "\n")
  count = len(drawn["image"])
  shown = drawn["image"][np.linspace(0, count - 1, min(SHOWN, count)).astype(int)]  # of all classes, if in their order
  nearest = nearest_distances(pixels(shown), pixels(train["image"]))[1]
  plots.save(plots.real_beside_drawn(held_out["image"], shown, train["image"][nearest]), out / "evaluation.png")
  made = ", ".join(f"{name} {value}" for name, value in source.items() if value is not None)
  print(
    f"{made}; against {len(train['image'])} training images, on pixels in [-1, 1]\n\n{table(report)}\n\nwrote {out}"
  )


def _check_workdir(options):
  if not options.workdir:
    raise ValueError("--workdir is missing; give the folder of a run, as in --workdir=runs/digits.")


def _out(options):
  out = paths.as_path(options.out or paths.as_path(options.workdir) / "evaluation")
  processes.from_first(lambda: writing.check_writable(out))
  return out


def read_samples(path: str) -> dict[str, np.ndarray]:
  """Pictures that `sample.py` wrote: {"image": uint8 [N, H, W, C], "label": int [N] if the file has labels}.

  Raises ValueError if the file is not an .npz, has no valid array `images`, or would take more than 2^30 bytes.
  """
  remedy = "give the samples.npz that sample.py wrote"
  if paths.is_remote(path):
    raise ValueError(f"{path} is in a bucket; copy it to this machine first.")
  arrays = read_npz(path, ("images", "labels"), remedy, MAX_BYTES)
  images, labels = arrays.get("images", np.zeros(0)), arrays.get("labels")
  if images.ndim != 4 or images.dtype != np.uint8:
    raise ValueError(f"{path} holds no array `images` of uint8 [N, H, W, C]; {remedy}.")
  if labels is not None and (labels.shape != images.shape[:1] or labels.dtype.kind not in "iu"):
    raise ValueError(f"{path} holds labels {labels.dtype}{list(labels.shape)}, not one for each image; {remedy}.")
  return {"image": images} | ({} if labels is None else {"label": labels})


def _draw(run, options: flags.FlagValues) -> tuple[dict[str, np.ndarray], dict]:
  asked = {name: options[name].value for name in DRAWING}
  labels = np.arange(options.num, dtype=np.int32) % run.num_classes if run.num_classes else None
  images = np.asarray(run.draw(labels=labels, **asked))
  del asked["batch_size"]  # which changes no picture
  asked["sampler"] = options.sampler or run.config.sampler.name
  asked["steps"] = options.steps or run.config.sampler.steps
  return {"image": images} | ({} if labels is None else {"label": labels}), asked


def _draw_prompted(run, options: flags.FlagValues) -> tuple[dict[str, np.ndarray], dict]:
  from diffjax.from_config import clip as configs
  from diffjax.runs import load_clip, make_prompt

  clip = load_clip(options.clip)
  if clip.config is None:
    raise ValueError(
      f"{options.clip} holds published weights, without captions that name the classes; give a CLIP's run as --clip."
    )
  make = {"training": configs.training_captions, "held_out": configs.held_out_captions}[options.captions]
  templates = make(clip.config)
  classes = len(templates[0])
  if options.num < classes:
    raise ValueError(f"--num={options.num} is fewer than the {classes} classes; draw at least one image of each.")
  asked = {name: options[name].value for name in ("steps", "sampler", "eta")}
  images, labels = [], []
  for label in range(classes):
    each = options.num // classes + (label < options.num % classes)
    text = templates[label % len(templates)][label]
    prompt = make_prompt(clip, text, config=options.guidance, scale=options.guidance_scale)
    images.append(run.draw(each, prompt=prompt, seed=options.seed + label, batch_size=options.batch_size, **asked))
    labels.append(np.full(each, label, np.int32))
  settings = asked | {name: options[name].value for name in ("clip", "captions", "guidance_scale", "seed")}
  return {"image": np.concatenate(images), "label": np.concatenate(labels)}, settings


def _options() -> flags.FlagValues:
  """This module's own flags, so that importing it adds none to a program's."""
  from ml_collections import config_flags

  options = flags.FlagValues()
  flags.DEFINE_string("workdir", None, "Folder of the run.", flag_values=options)
  flags.DEFINE_integer("num", 1000, "Images to draw.", lower_bound=6, flag_values=options)
  flags.DEFINE_integer("steps", None, "Noise levels above zero (default: the run's).", 1, flag_values=options)
  flags.DEFINE_string("sampler", None, "Sampler (default: the run's).", flag_values=options)
  flags.DEFINE_float("eta", None, "Fraction of fresh noise, for samplers that have it.", flag_values=options)
  flags.DEFINE_integer("seed", 0, "Seed of the noise.", flag_values=options)
  flags.DEFINE_float("guidance_scale", None, "Classifier-free guidance (default: the run's).", flag_values=options)
  flags.DEFINE_integer("batch_size", 256, "Images drawn at a time.", lower_bound=1, flag_values=options)
  flags.DEFINE_string("samples", None, "A samples.npz to evaluate, instead of drawing.", flag_values=options)
  flags.DEFINE_string("clip", None, "Run of a CLIP, whose captions are the prompts.", flag_values=options)
  flags.DEFINE_enum(
    "captions", "held_out", ["held_out", "training"], "Which captions are prompts, with --clip.", flag_values=options
  )
  config_flags.DEFINE_config_file(
    "guidance", None, "How CLIP guides, such as configs/guidance.py:disco.", flag_values=options
  )
  flags.DEFINE_bool("zero_shot", False, "Measure a CLIP run's zero-shot accuracy.", flag_values=options)
  flags.DEFINE_string("out", None, "Folder to write to (default: WORKDIR/evaluation).", flag_values=options)
  flags.DEFINE_bool("help", False, "Show this help.", flag_values=options)
  command_line.define_processes(options)
  return options


if __name__ == "__main__":
  compilation.use_persistent_cache()
  main(sys.argv)
