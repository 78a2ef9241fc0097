"""Argument checks: each error says in one sentence what is wrong and what to pass instead."""

import inspect
import numbers
from collections.abc import Mapping
from typing import Any

import jax

RANGES = {
  "[1, inf)": "steps batch_size accumulate steps_per_call log_every max_skipped_in_row keep_checkpoints max_steps",
  "[1, 1048576]": "num_steps sampler.steps multipliers attention_resolutions num_heads head_dim num_groups"
  " patch heads features mlp_width",
  "[4, 1048576]": "width",
  "[1, 65536]": "data.image_size data.image_width",
  "[1, 128]": "blocks_per_level layers data.channels",
  "[0, inf)": "checkpoint_every sample_every warmup_steps clip_norm weight_decay bound_weight guidance_interval s_churn"
  " data.shift sigma_min s_tmin s_tmax s_noise tau rtol atol snr added_dims training_free.rho",
  "[0, 1048576]": "num_classes augment_dim",
  "[3, 8192]": "captions.length",
  "(0, inf)": "learning_rate time_scale sigma_data std shift rho sigma_max bound",
  "[0, 1]": "augment label_dropout guidance_rescale eta quantile fraction tcd.gamma",
  "[0, 1)": "b1 b2 decays dropout",
  "[0, 4294967296)": "seed",
}
"""Allowed ranges by name, wherever the name occurs, or only after the prefix given with a dot; all other numbers must
be finite. Sizes are bounded so that an untrusted config cannot exhaust memory."""
MAX_LIST_LENGTH = 4096
RANGE_OF = {name: interval for interval, names in RANGES.items() for name in names.split()}


def check_numbers(values: Mapping[str, Any]) -> None:
  """Raises ValueError unless each number, alone or in a list, is in the range of its key or the key's last part.

  Arrays, which may be traced, are not checked.
  """
  for key, value in values.items():
    interval = RANGE_OF.get(key) or RANGE_OF.get(key.rpartition(".")[2])
    if isinstance(value, list | tuple) and len(value) > MAX_LIST_LENGTH:
      raise ValueError(f"{key} has {len(value)} values, but at most {MAX_LIST_LENGTH} are allowed; shorten it.")
    for number in value if isinstance(value, list | tuple) else (value,):
      if isinstance(number, numbers.Real):
        right = _lies_in(number, interval or "(-inf, inf)")
      else:
        right = interval is None or isinstance(number, jax.Array)
      if not right:
        expected = f"in {interval}" if interval else "finite"
        raise ValueError(f"{key} is {value!r:.200}, but must be {expected}; correct it.")


def check_in(interval: str, **values: Any) -> None:
  """Raises ValueError unless every value that is a Python number lies in the interval, such as "[0, 1)"."""
  for name, value in values.items():
    if isinstance(value, numbers.Real) and not _lies_in(value, interval):
      raise ValueError(f"{name} is {value!r}, but must be in {interval}; correct it.")


def check_sampler(sampler: Any) -> None:
  """Raises ValueError unless `sampler` is an object with `init` and `step`, not a class."""
  if isinstance(sampler, type):
    raise ValueError(f"sampler is the class {sampler.__name__}; pass an instance, {sampler.__name__}().")
  if not (hasattr(sampler, "init") and hasattr(sampler, "step")):
    raise ValueError(f"sampler is {sampler!r:.100}; pass an object such as diffjax.samplers.Euler().")


def check_call(name: str, function: Any, arguments: str) -> None:
  """Raises TypeError unless `function` can be called with `arguments`, such as "x, sigma, cond, key=keys"."""
  if not callable(function):
    raise TypeError(f"{name} is {function!r:.100}; pass a function that takes ({arguments}).")
  words = arguments.split(", ")
  positional = [word for word in words if "=" not in word]
  keywords = {word.partition("=")[0]: None for word in words if "=" in word}
  try:
    signature = inspect.signature(function)
  except ValueError:  # some built-in functions have no signature
    return
  try:
    signature.bind(*positional, **keywords)
  except TypeError as error:
    raise TypeError(f"{name} takes {signature}, but is called with ({arguments}); make it accept them.") from error


def check_integer(least: int, **values: Any) -> None:
  """Raises ValueError unless each value is a whole number of at least `least`."""
  for name, value in values.items():
    if not isinstance(value, numbers.Integral) or isinstance(value, bool) or value < least:
      raise ValueError(f"{name} is {value!r}, but must be a whole number of at least {least}; correct it.")


def _lies_in(number: Any, interval: str) -> bool:
  low, high = map(float, interval[1:-1].split(","))
  above = number > low if interval.startswith("(") else number >= low
  return above and (number < high if interval.endswith(")") else number <= high)
