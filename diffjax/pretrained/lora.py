"""LoRA files: whatever trainer wrote them, each tensor finds its weight in a table of the model's own names."""

import dataclasses
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import traverse_util

from diffjax.adapters import Decomposed, Full, Hadamard, Kronecker, LoRA, LowRank, merge
from diffjax.adapters.lora import Change
from diffjax.conditioning import Text
from diffjax.denoisers import BoundNetwork, NetworkDenoiser
from diffjax.networks import TextUNet
from diffjax.pipelines import Pipeline
from diffjax.pretrained.clip.keys import HUGGING_FACE
from diffjax.pretrained.folders import open_file
from diffjax.pretrained.key_maps import KeyMap
from diffjax.pretrained.stable_diffusion import keys
from diffjax.pretrained.tensors import FLOATS, Stored, open_tensors
from diffjax.system.files import parse_json, shown

SUFFIXES = {  # what names end in
  "down": r"(?:lora_A(?:\.\w+)?|[._]lora\.down|lora_down|lora_linear_layer\.down)\.weight",
  "up": r"(?:lora_B(?:\.\w+)?|[._]lora\.up|lora_up|lora_linear_layer\.up)\.weight",
  "mid": r"lora_mid\.weight",
  "magnitude": r"lora_magnitude_vector(?:\.\w+)?(?:\.weight)?",
  "own": r"(?:hada|lokr)_[wt][12](?:_[ab])?|alpha|dora_scale|diff|diff_b|w_norm|b_norm",
}
NAME = re.compile(r"(?P<stem>.+?)\.?(?:" + "|".join(f"(?P<{part}>{end})" for part, end in SUFFIXES.items()) + ")")
METADATA = "lora_adapter_metadata"
"""Where diffusers keeps peft's settings, as JSON."""


class Place(NamedTuple):
  """Where a stem's weight is: which network (0: the U-Net, then the text encoders), its path, and the part of it."""

  network: int
  module: str
  part: int
  parts: int


def load_lora(pipeline: Pipeline, path: str | os.PathLike) -> LoRA:
  """The changes in a .safetensors file, of a text-to-image model's U-Net and text encoders.

  peft's and diffusers' names, old and new, and kohya's for either spelling of the U-Net; low-rank changes of dense
  layers and convolutions, with Tucker's core, LoHa, LoKr, DoRA, whole differences, and those of norms.

  Raises:
    ValueError: a pickle or a damaged file; a tensor that belongs to no weight of this model, or does not fit it.
    FileNotFoundError: there is no such file.
  """
  path = open_file(path, "give a .safetensors file of a LoRA")
  _, network, conditioner = _parts(pipeline)
  params = [network.params, *(tower.params for tower in conditioner.towers)]
  trees: list[Mapping[str, Any]] = [traverse_util.flatten_dict(tree["params"], sep="/") for tree in params]
  table = _table(network.module, trees)
  with open_tensors(path.parent, path.name) as stored:
    groups, settings = _grouped(path, stored), _settings(stored)
    found: list[dict[str, list]] = [{} for _ in trees]
    for stem, tensors in groups.items():
      if stem not in table:
        raise ValueError(f"{path} changes {shown(stem)}, which this model does not have; use a LoRA made for it.")
      place = table[stem]
      for leaf, change in _changes(path, stem, tensors, trees[place.network], place, settings).items():
        parts = found[place.network].setdefault(f"{place.module}/{leaf}", [None] * place.parts)
        if parts[place.part] is not None:
          raise ValueError(f"{path} changes {shown(stem)} twice, in two spellings; use another file.")
        parts[place.part] = change
  of_network, *of_towers = [{name: tuple(parts) for name, parts in changes.items()} for changes in found]
  return LoRA(of_network, tuple(of_towers))


def with_lora(pipeline: Pipeline, lora: LoRA, strength: float = 1.0) -> Pipeline:
  """The pipeline with strength times a LoRA added to its weights; another strength compiles nothing anew.

  Raises:
    ValueError: it is no text-to-image model.
  """
  denoiser, network, conditioner = _parts(pipeline)
  merged = lambda params, changes: merge(params, changes, float(strength)) if changes else params
  of_tower = dict(enumerate(lora.towers))
  towers = tuple(
    dataclasses.replace(tower, params=merged(tower.params, of_tower.get(i)))
    for i, tower in enumerate(conditioner.towers)
  )
  network = dataclasses.replace(network, params=merged(network.params, lora.network))
  return dataclasses.replace(
    pipeline,
    denoiser=dataclasses.replace(denoiser, network=network),
    conditioner=dataclasses.replace(conditioner, towers=towers),
  )


def _parts(pipeline: Pipeline) -> tuple[NetworkDenoiser, BoundNetwork, Text]:
  denoiser, conditioner = pipeline.denoiser, pipeline.conditioner
  if isinstance(denoiser, NetworkDenoiser) and isinstance(conditioner, Text):
    if isinstance(denoiser.network, BoundNetwork):
      return denoiser, denoiser.network, conditioner
  raise ValueError("a LoRA needs a text-to-image model; omit it.")


def _table(unet: TextUNet, trees: list[Mapping[str, Any]]) -> dict[str, Place]:
  """Every spelling of every module's name, for the parameters of U-Net and text encoders by path."""
  table = {}
  for name, place in _places(keys.unet(unet, linear_projection=True), trees[0], 0):
    plain = re.sub(r"\.(to_[qkv]|to_out)(\.0)?$", r".processor.\1", name)
    for prefix in ("unet.", "", "base_model.model.", "base_model.model.unet."):
      table |= {prefix + name: place, prefix + plain: place}
    table[f"lora_unet_{name}".replace(".", "_")] = place
  for name, place in _places(keys.original_unet(unet, linear_projection=True), trees[0], 0):
    table |= {f"lora_unet_{name}".replace(".", "_"): place, f"diffusion_model.{name}": place}
  for number, tree in enumerate(trees[1:], 1):
    folder, kohya = ("text_encoder.", ("lora_te_", "lora_te1_")) if number == 1 else ("text_encoder_2.", ("lora_te2_",))
    for name, place in _places(HUGGING_FACE, tree, number, "text/"):
      old = re.sub(r"\.self_attn\.([qkv]|out)_proj$", r".self_attn.to_\1", name)
      table |= {folder + spelling: place for spelling in (name, old, name.removeprefix("text_model."))}
      table |= {prefix + name.replace(".", "_"): place for prefix in kohya}
  return table


def _places(key_map: KeyMap, tree: Mapping[str, Any], network: int, prefix: str = "") -> Iterator[tuple[str, Place]]:
  """(their name of a module, where it is) of all parameters of a network."""
  for path in tree:
    names, _ = key_map.find(prefix + path)
    module, _, leaf = path.rpartition("/")
    if leaf in ("kernel", "scale"):
      for part, name in enumerate(names):
        yield name.removesuffix(".weight"), Place(network, module, part, len(names))


def _grouped(path: Path, stored: Mapping[str, Stored]) -> dict[str, dict[str, np.ndarray]]:
  """The tensors of each stem, by what they are."""
  groups: dict[str, dict[str, np.ndarray]] = {}
  for name, tensor in stored.items():
    found = NAME.fullmatch(name)
    if found is None or found.lastgroup is None:
      raise ValueError(f"{path} holds {shown(name)}, which is no part of a LoRA; use another file.")
    if tensor.dtype not in FLOATS:
      raise ValueError(f"{path} holds {shown(name)} as {tensor.dtype}, expected floating point; use another file.")
    part = found["own"] or found.lastgroup
    array = np.asarray(tensor.read(), np.float32)
    if not np.isfinite(array).all():
      raise ValueError(f"{path} holds {shown(name)}, which is not finite, as the file is damaged; download it again.")
    groups.setdefault(found["stem"], {})[part] = array
  return groups


def _settings(stored: Mapping[str, Stored]) -> Mapping[str, Any]:
  """peft's settings in the file's metadata, as diffusers writes them, or {}."""
  metadata = next((tensor.file.metadata() for tensor in stored.values()), None) or {}
  try:
    settings = parse_json(metadata.get(METADATA, "{}"))
  except ValueError:
    settings = {}
  return settings if isinstance(settings, dict) else {}


def _changes(
  path: Path, stem: str, tensors: dict[str, np.ndarray], tree: Mapping[str, Any], place: Place, settings: Mapping
) -> dict[str, Change]:
  """The changes of a module's own parameters, by leaf, checked against their shapes."""
  leaf = "kernel" if f"{place.module}/kernel" in tree else "scale"
  whole = tree[f"{place.module}/{leaf}"].shape
  shape = (*whole[:-1], whole[-1] // place.parts)
  wanted = {"bias": shape[-1:], leaf: shape}
  try:
    scale = lambda rank: _scale(stem, rank, tensors.get("alpha"), settings)
    both = {"bias": _bias(tensors), leaf: _change(dict(tensors), shape, scale)}
    found = {name: change for name, change in both.items() if change is not None}
    made = {name: _shape_of(change, wanted[name]) for name, change in found.items()}
  except (ValueError, TypeError, KeyError):
    found = made = {}
  if not found:
    listed = ", ".join(f"{shown(name)} {array.shape}" for name, array in tensors.items())
    raise ValueError(
      f"{path}: the tensors of {shown(stem)} ({listed}) make up no change of a weight of shape {shape}; use a LoRA made"
      " for this model."
    )
  for name, found_shape in made.items():
    if found_shape != wanted[name] or f"{place.module}/{name}" not in tree:
      raise ValueError(
        f"{path}: {shown(stem)} changes a weight of shape {found_shape}, but this model's has {wanted[name]};"
        " use a LoRA made for this model."
      )
  return found


def _shape_of(change: Change, shape: tuple[int, ...]) -> tuple[int, ...]:
  return jax.eval_shape(change.of, jax.ShapeDtypeStruct(shape, np.float32)).shape


def _bias(tensors: Mapping[str, np.ndarray]) -> Full | None:
  name = next((name for name in ("diff_b", "b_norm") if name in tensors), None)
  return None if name is None else Full(tensors[name].reshape(-1))


def _change(held: dict[str, np.ndarray], shape: tuple[int, ...], scale: Callable[[int], float]) -> Change | None:
  """The change of a module's weight that its tensors make up, all of them, or None if there are none."""
  window = shape[:-2]
  for name in ("diff_b", "b_norm"):
    held.pop(name, None)
  magnitude, dora_scale = held.pop("magnitude", None), held.pop("dora_scale", None)
  built = [build(held, window, scale) for build in (_full, _low_rank, _hadamard, _kronecker)]
  held.pop("alpha", None)
  changes = [change for change in built if change is not None]
  if held or len(changes) > 1:
    raise ValueError("left over, or two changes of one weight")
  if not changes:
    return None
  if magnitude is not None:
    return Decomposed(changes[0], magnitude.reshape(-1))
  if dora_scale is not None:
    return Decomposed(changes[0], dora_scale.reshape(-1), by_input=dora_scale.shape[0] != shape[-1])
  return changes[0]


def _full(held, window, scale) -> Full | None:
  if "w_norm" in held:
    return Full(held.pop("w_norm").reshape(-1))
  return Full(_ours(held.pop("diff"), window)) if "diff" in held else None


def _ours(stored: np.ndarray, window: tuple[int, ...] = ()) -> np.ndarray:
  """Stored [O, I * window] in any number of axes -> [window, I, O]."""
  a = stored.reshape(stored.shape[0], -1, *window)
  return a.transpose(*range(2, a.ndim), 1, 0)


def _tucker(core: np.ndarray, down: np.ndarray) -> np.ndarray:
  """A core [r, s, h, w] and down [s, I] -> down [h, w, I, r] of the two together."""
  return np.einsum("rshw,si->hwir", core, down.reshape(down.shape[0], -1))


def _low_rank(held, window, scale) -> LowRank | None:
  if "up" not in held:
    return None
  up, down, core = held.pop("up"), held.pop("down"), held.pop("mid", None)
  own = _ours(down, window) if core is None else _tucker(core, down)
  return LowRank(own, _ours(up), scale(down.shape[0]))


def _hadamard(held, window, scale) -> Hadamard | None:
  if "hada_w1_a" not in held:
    return None
  rank = held["hada_w1_b"].shape[0]
  take = lambda name: held.pop(f"hada_{name}", None)
  left, right = (LowRank(*_factors(take(f"w{i}_a"), take(f"w{i}_b"), take(f"t{i}"), window)) for i in (1, 2))
  return Hadamard(left, right, scale(rank))


def _factors(a, b, core, window) -> tuple[np.ndarray, np.ndarray]:
  """(down, up) of a @ b, or, with a core, of a^T, core and b."""
  return (_ours(b, window), a.T) if core is None else (_tucker(core, b), a)


def _kronecker(held, window, scale) -> Kronecker | None:
  if not {"lokr_w1", "lokr_w1_a"} & set(held):
    return None
  ranks = [held[name].shape[0] for name in ("lokr_w1_b", "lokr_w2_b") if name in held]

  def side(i, window):
    if (whole := held.pop(f"lokr_w{i}", None)) is not None:
      return Full(_ours(whole, window))
    return LowRank(*_factors(held.pop(f"lokr_w{i}_a"), held.pop(f"lokr_w{i}_b"), held.pop(f"lokr_t{i}", None), window))

  return Kronecker(side(1, ()), side(2, window), scale(ranks[-1]) if ranks else 1.0)


def _scale(stem: str, rank: int, alpha: np.ndarray | None, settings: Mapping[str, Any]) -> float:
  """alpha / rank; 1 without an alpha."""
  if alpha is not None:
    return float(alpha.reshape(())) / rank or 1.0  # some trainers write 0 for none
  component, _, module = stem.partition(".")
  patterns = settings.get(f"{component}.alpha_pattern")
  patterns = patterns if isinstance(patterns, dict) else {}
  special = [a for name, a in patterns.items() if f".{module}".endswith(f".{name}")]
  asked = special[0] if special else settings.get(f"{component}.lora_alpha")
  if asked is None:
    return 1.0
  return float(asked) / (rank**0.5 if settings.get(f"{component}.use_rslora") else rank)
