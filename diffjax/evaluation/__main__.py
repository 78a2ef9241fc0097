"""Draws from a run and reports how good the pictures are; or how well a CLIP reads pictures it never saw.

  python -m diffjax.evaluation --workdir=runs/digits [--num=1000 --steps=10 --sampler=dpmpp_2m --seed=0]
  python -m diffjax.evaluation --workdir=runs/clip_digits --zero_shot
  python -m diffjax.evaluation --workdir=runs/digits --clip=runs/clip_digits --num=300 --steps=25

Prints a table and writes `evaluation.json` and `evaluation.png`. Pictures are compared by their pixels; for other
features call `diffjax.evaluation.evaluate`. Conditional models are asked for every label evenly. With --zero_shot each
held-out picture is read as the class whose caption is most similar, in templates that training knew and in new ones.
With --clip every class is asked for by its captions in turn, held-out ones or those of --captions=training, and a
classifier reads what was drawn.
"""

import json
import sys

import numpy as np
from absl import flags

from diffjax import plots
from diffjax.cluster import command_line, processes
from diffjax.cluster.signals import StopRequest
from diffjax.data.arrays import read_npz
from diffjax.evaluation import evaluate, nearest_distances, pixels, table
from diffjax.system import compilation, paths, writing

DRAWING = ("num", "steps", "sampler", "eta", "seed", "guidance_scale")
MOST_BYTES = 2**30
"""Of the arrays in a file of samples, unpacked."""


def main(argv: list[str]) -> None:
  """Runs the command line; a mistake ends the process with one sentence."""
  options = _options()
  with command_line.reporting(), StopRequest(patience=2.0, leave=True):
    command_line.parse(argv, options)
    if options.help:
      print(__doc__, *(f"  --{name}: {options[name].help}" for name in options), sep="\n")
      return
    command_line.join(options)
    (report_on_clip if options.zero_shot else report_on_run)(options)


def report_on_clip(options: flags.FlagValues) -> None:
  """Reads the held-out pictures in every template, prints the table, writes the files."""
  _check_workdir(options)
  given = [name for name in (*DRAWING, "samples", "clip") if options[name].present]
  if given:
    raise ValueError(f"--zero_shot draws nothing, so --{given[0]} has no use: leave one of them out.")
  from diffjax.data import in_memory
  from diffjax.runs import load_clip, load_data

  clip = load_clip(options.workdir)
  if clip.config is None:
    raise ValueError(
      f"{options.workdir} holds published weights; --zero_shot needs a run, which names data and captions."
    )
  out = _out(options)
  held_out = in_memory(load_data(clip.config, "test"))
  processes.from_first(lambda: _report_on_clip(clip, options.workdir, held_out, out))


def _report_on_clip(clip, workdir, held_out, out):
  from diffjax.from_config import clip as configs
  from diffjax.runs.preview import similarity

  parts = {"training templates": configs.training_captions, "held-out templates": configs.held_out_captions}
  report = {}
  for part, captions in parts.items():
    right = clip.zero_shot(captions(clip.config), held_out["image"]) == held_out["label"]
    templates = clip.config.captions["templates" if part.startswith("training") else "held_out"]
    report[part] = {template: float(share) for template, share in zip(templates, right.mean(axis=1))}
    report[part]["mean"] = float(right.mean())
  with writing.replacing(out / "evaluation.json") as file:
    file.write_text(json.dumps({"pictures": len(held_out["image"]), "zero_shot": report}, indent=2) + "\n")
  similarity(clip, out / "evaluation.png")
  print(f"{len(held_out['image'])} held-out pictures, read by {workdir}")
  for part, shares in report.items():
    print(f"\n{part}", *(f"{share:>9.1%}   {template}" for template, share in shares.items()), sep="\n")
  print(f"\nwrote {out}")


def report_on_run(options: flags.FlagValues) -> None:
  """Draws or reads the pictures, prints the table, writes the files."""
  _check_workdir(options)
  given = [name for name in DRAWING if options[name].present]
  if options.samples and given:
    raise ValueError(f"--samples brings pictures already drawn, so --{given[0]} has no use: leave one of them out.")
  for name in ("captions", "guidance"):
    if options[name].present and not options.clip:
      raise ValueError(
        f"--{name} says how a CLIP is asked, and there is none: give its run as --clip, or leave it out."
      )
  from diffjax.runs import load_run

  run = load_run(options.workdir)
  out = _out(options)
  train, held_out = run.data("train"), run.data("test")
  if options.samples:
    drawn, source = read_samples(options.samples), {"samples": options.samples}
  else:
    pixels(train["image"][:1])  # pictures that are too large are refused before any is drawn
    drawn, source = (_draw_prompted if options.clip else _draw)(run, options)
  processes.from_first(lambda: _report_on_pictures(drawn, source, train, held_out, out))


def _report_on_pictures(drawn, source, train, held_out, out):
  report = source | evaluate(drawn, train, held_out)
  with writing.replacing(out / "evaluation.json") as part:
    part.write_text(json.dumps(report, indent=2, allow_nan=False) + "\n")
  shown = drawn["image"][:60]
  nearest = nearest_distances(pixels(shown), pixels(train["image"]))[1]
  plots.save(plots.real_beside_drawn(held_out["image"], shown, train["image"][nearest]), out / "evaluation.png")
  told = ", ".join(f"{name} {value}" for name, value in source.items() if value is not None)
  print(
    f"{told}; against {len(train['image'])} training pictures, on pixels in [-1, 1]\n\n{table(report)}\n\nwrote {out}"
  )


def _check_workdir(options):
  if not options.workdir:
    raise ValueError("--workdir is missing: give the folder of a run, as in --workdir=runs/digits.")


def _out(options):
  out = paths.as_path(options.out or paths.as_path(options.workdir) / "evaluation")
  processes.from_first(lambda: writing.check_writable(out))
  return out


def read_samples(path: str) -> dict[str, np.ndarray]:
  """Pictures that `sample.py` wrote: {"image": uint8 [N, H, W, C], "label": int [N] if the file has labels}.

  Raises ValueError if the file is no .npz, lacks a fitting array `images`, or would take more than 2^30 bytes.
  """
  told = "give the samples.npz that sample.py wrote."
  if paths.is_remote(path):
    raise ValueError(f"{path} lies in a bucket; copy it to this machine first.")
  arrays = read_npz(path, ("images", "labels"), told, MOST_BYTES)
  images, labels = arrays.get("images", np.zeros(0)), arrays.get("labels")
  if images.ndim != 4 or images.dtype != np.uint8:
    raise ValueError(f"{path} holds no array `images` of uint8 [N, H, W, C]: {told}")
  if labels is not None and (labels.shape != images.shape[:1] or labels.dtype.kind not in "iu"):
    raise ValueError(f"{path} holds labels {labels.dtype}{list(labels.shape)}, not one for each picture: {told}")
  return {"image": images} | ({} if labels is None else {"label": labels})


def _draw(run, options: flags.FlagValues) -> tuple[dict[str, np.ndarray], dict]:
  asked = {name: options[name].value for name in DRAWING}
  labels = np.arange(options.num, dtype=np.int32) % run.num_classes if run.num_classes else None
  images = np.asarray(run.draw(labels=labels, **asked))
  asked["sampler"] = options.sampler or run.config.sampler.name
  asked["steps"] = options.steps or run.config.sampler.steps
  return {"image": images} | ({} if labels is None else {"label": labels}), asked


def _draw_prompted(run, options: flags.FlagValues) -> tuple[dict[str, np.ndarray], dict]:
  from diffjax.from_config import clip as configs
  from diffjax.runs import load_clip, make_prompt

  clip = load_clip(options.clip)
  if clip.config is None:
    raise ValueError(
      f"{options.clip} holds published weights; --clip needs a run here, whose captions name the classes."
    )
  make = {"training": configs.training_captions, "held_out": configs.held_out_captions}[options.captions]
  templates = make(clip.config)
  classes = len(templates[0])
  if options.num < classes:
    raise ValueError(f"--num={options.num} is fewer than the {classes} classes; ask for one picture of each at least.")
  asked = {name: options[name].value for name in ("steps", "sampler", "eta")}
  images, labels = [], []
  for label in range(classes):
    each = options.num // classes + (label < options.num % classes)
    text = templates[label % len(templates)][label]
    prompt = make_prompt(clip, text, config=options.guidance, scale=options.guidance_scale)
    images.append(run.draw(each, prompt=prompt, seed=options.seed + label, **asked))
    labels.append(np.full(each, label, np.int32))
  told = asked | {name: options[name].value for name in ("clip", "captions", "guidance_scale", "seed")}
  return {"image": np.concatenate(images), "label": np.concatenate(labels)}, told


def _options() -> flags.FlagValues:
  """Flags of their own, so that importing this file adds none to a program's."""
  from ml_collections import config_flags

  options = flags.FlagValues()
  flags.DEFINE_string("workdir", None, "Folder of the run.", flag_values=options)
  flags.DEFINE_integer("num", 1000, "Pictures to draw.", lower_bound=6, flag_values=options)
  flags.DEFINE_integer("steps", None, "Noise levels above zero (default: the run's).", 1, flag_values=options)
  flags.DEFINE_string("sampler", None, "Sampler (default: the run's).", flag_values=options)
  flags.DEFINE_float("eta", None, "Share of fresh noise, for samplers that have it.", flag_values=options)
  flags.DEFINE_integer("seed", 0, "Seed of the noise.", flag_values=options)
  flags.DEFINE_float("guidance_scale", None, "Classifier-free guidance (default: the run's).", flag_values=options)
  flags.DEFINE_string("samples", None, "A samples.npz to judge, instead of drawing.", flag_values=options)
  flags.DEFINE_string("clip", None, "Run of a CLIP, whose captions ask for the pictures.", flag_values=options)
  flags.DEFINE_enum(
    "captions", "held_out", ["held_out", "training"], "Which captions ask, with --clip.", flag_values=options
  )
  config_flags.DEFINE_config_file(
    "guidance", None, "How CLIP guides, such as configs/guidance.py:disco.", flag_values=options
  )
  flags.DEFINE_bool("zero_shot", False, "How well a CLIP's run reads held-out pictures.", flag_values=options)
  flags.DEFINE_string("out", None, "Folder to write to (default: WORKDIR/evaluation).", flag_values=options)
  flags.DEFINE_bool("help", False, "Show this help.", flag_values=options)
  command_line.define_processes(options)
  return options


if __name__ == "__main__":
  compilation.use_persistent_cache()
  main(sys.argv)
