"""Published models by name, downloaded with `huggingface_hub` into its cache."""

import re
from collections.abc import Sequence
from pathlib import Path

PREFIX = "hub:"
NAME = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?", re.ASCII)
SKIPPED = ("safety_checker", "feature_extractor", "image_encoder")
"""Components that nothing here reads."""
VARIANTS = (".fp16", ".bf16", ".non_ema", ".ema_only")


def fetch(source: str) -> Path:
  """The folder of "hub:owner/name" or "hub:owner/name@revision", downloaded unless it is in the cache.

  Only configurations, tokenizers and safetensors are downloaded, and of several variants of a weight the full one.
  Progress bars, cache and token are those of `huggingface_hub`; without a network the cache alone is used.

  Raises:
    ValueError: not such a name.
    ImportError: the package is missing.
    OSError: no such model or revision, a model that needs permission, or no network.
  """
  name = source.removeprefix(PREFIX)
  if not NAME.fullmatch(name):
    raise ValueError(f"{source!r} names no model; write hub:owner/name, or hub:owner/name@revision.")
  repo, _, revision = name.partition("@")
  try:
    import huggingface_hub as hub
  except ImportError:
    raise ImportError(
      f'{source} needs huggingface_hub; run pip install -e ".[hub]", or download the files of'
      f" https://huggingface.co/{repo} by hand and give their folder."
    ) from None
  from huggingface_hub import errors

  revision = revision or None
  try:
    listed = hub.HfApi().model_info(repo, revision=revision)
  except errors.GatedRepoError:
    raise OSError(_gated(source, repo)) from None
  except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError):
    raise OSError(
      f"there is no model {name} on the hub, or it is private; correct the name, or run hf auth login."
    ) from None
  except Exception as error:  # its HTTP library's errors differ between versions
    try:
      # asked for all files, it would miss those that are never downloaded; `load_pipeline` names what is missing
      kept = hub.snapshot_download(repo, revision=revision, local_files_only=True, allow_patterns=["model_index.json"])
      return Path(kept)
    except Exception:
      raise OSError(_failed(source, error)) from None
  files = wanted([file.rfilename for file in listed.siblings or ()])
  try:
    return Path(hub.snapshot_download(repo, revision=revision, allow_patterns=files))
  except errors.GatedRepoError:
    raise OSError(_gated(source, repo)) from None
  except Exception as error:
    raise OSError(_failed(source, error)) from None


def _gated(source, repo):
  return f"{source} needs permission; ask for it at https://huggingface.co/{repo}, then run hf auth login."


def _failed(source, error):
  reason = (str(error) or type(error).__name__).splitlines()[0]
  return f"{source} cannot be downloaded ({reason:.200}); check network and disk, or give a downloaded folder."


def wanted(files: Sequence[str]) -> list[str]:
  """Of a repository's files those that `load_pipeline` reads.

  >>> wanted(["model_index.json", "unet/config.json", "unet/a.safetensors", "unet/a.fp16.safetensors", "a.ckpt"])
  ['model_index.json', 'unet/config.json', 'unet/a.safetensors']
  """
  kept = []
  for file in files:
    *folders, name = file.split("/")
    if len(folders) > 1 or file.startswith(SKIPPED) or _variant_of_another(file, files):
      continue
    if name.endswith((".json", ".txt")) or (folders and name.endswith(".safetensors")):
      kept.append(file)
  return kept


def _variant_of_another(file: str, files: Sequence[str]) -> bool:
  """Whether a weight, one of its shards or their index is there without its variant too."""
  for variant in VARIANTS:
    if variant in file and (file.replace(variant, "") in files or _whole(file, variant) in files):
      return True
  return False


def _whole(file, variant):
  """The name of the weights in a single file, without a shard's number."""
  return re.sub(r"-\d+-of-\d+|\.index", "", file.replace(variant, "")).removesuffix(".json")
