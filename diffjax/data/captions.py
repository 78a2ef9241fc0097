"""Captions for pictures that only have labels: templates filled with the names of the classes."""

from collections.abc import Mapping, Sequence


def captions(templates: Sequence[str], names: Mapping[str, Sequence[str]]) -> list[list[str]]:
  """The caption of each class in each template, [templates][classes] (Radford et al. 2021, section 3.1.4).

  >>> captions(["a handwritten {word}", "the digit {figure}"], {"word": ["zero", "one"], "figure": ["0", "1"]})
  [['a handwritten zero', 'a handwritten one'], ['the digit 0', 'the digit 1']]

  Args:
    templates: texts with the fields of `names` in braces.
    names: for each field what it says of class 0, 1, ...

  Raises:
    ValueError: no template or names, fields of different lengths, a template with another field, or without any.
  """
  counts = {field: len(values) for field, values in names.items()}
  if not templates or not counts or len(set(counts.values())) > 1 or 0 in counts.values():
    raise ValueError(f"captions need templates, and one name per class in each field; got {list(templates)}, {counts}.")
  classes = [dict(zip(names, values)) for values in zip(*names.values())]
  return [[_filled(template, fields) for fields in classes] for template in templates]


def _filled(template, fields):
  known = " or ".join(f"{{{field}}}" for field in fields)
  try:
    filled = template.format(**fields)
  except (KeyError, IndexError, ValueError):
    raise ValueError(f"the template {template!r} has a field that is not known; write {known}.") from None
  if filled == template:
    raise ValueError(f"the template {template!r} says nothing of the class; write {known} in it.")
  return filled
