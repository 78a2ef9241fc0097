"""Methods by name: builds an object from a table, a name and parameters, or explains in one sentence why not."""

import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from diffjax.checks import check_numbers


def lookup(table: Mapping[str, Any], kind: str, name: str) -> Any:
  """table[name]; if it is missing, a ValueError that names the nearest and all names."""
  if not isinstance(name, str) or name not in table:
    name = name if isinstance(name, str) else str(name)
    raise ValueError(
      f"there is no {kind} {name!r:.80}{_nearest(name[:80], table)}; choose one of {', '.join(sorted(table))}."
    )
  return table[name]


def _nearest(name: str, names: Iterable[str]) -> str:
  near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
  return f" (did you mean {near[0]!r}?)" if near else ""


def construct(table: Mapping[str, Callable], kind: str, spec: Mapping[str, Any], *args, **context) -> Any:
  """Calls table[spec["name"]] with the rest of `spec` and those entries of `context` that it has parameters for.

  Raises:
    ValueError: an unknown name or key (the message names the nearest), or a number out of range.
  """
  fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list | tuple) else v for k, v in spec.items()}
  name = fields.pop("name", "")
  make = lookup(table, kind, name)
  parameters = list(inspect.signature(make).parameters)[len(args) :]
  for key in fields:
    if key not in parameters:
      known = ", ".join(sorted(set(parameters) - set(context)))
      remedy = f"choose one of {known}" if known else "omit it, as there are none"
      raise ValueError(f"{kind} {name!r} has no parameter {key!r}{_nearest(key, parameters)}; {remedy}.")
  check_numbers({f"{name}.{key}": value for key, value in fields.items()})
  fields = {key: value for key, value in context.items() if key in parameters} | fields
  return make(*args, **fields)


def entry_for_steps(table: Mapping[str, Any], num_steps: int) -> Any:
  """The entry for `num_steps` in a table keyed by minimum number of steps, {"1": ..., "8": ...}; None if none fits."""
  fitting = [key for key in table if int(key) <= num_steps]
  return table[max(fitting, key=int)] if fitting else None


def check_steps(table: Iterable[str], key: str) -> None:
  """Raises ValueError unless all keys of a table, the one at a config's `key`, are numbers of steps."""
  for steps in table:
    if not (steps.isdecimal() and int(steps)):
      raise ValueError(f"{key} has a key {steps!r}; use a number of steps such as '8'.")


def set_fields(spec: Mapping[str, Any]) -> dict[str, Any]:
  """The fields that a config sets; those that are None are left to the network's own defaults."""
  return {key: value for key, value in spec.items() if value is not None}
