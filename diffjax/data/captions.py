"""Captions for labelled images: templates filled with class names."""

from collections.abc import Mapping, Sequence


def captions(templates: Sequence[str], names: Mapping[str, Sequence[str]]) -> list[list[str]]:
  """The caption of each class in each template, [templates][classes] (Radford et al. 2021, section 3.1.4).

  >>> captions(["a handwritten {word}", "the digit {figure}"], {"word": ["zero", "one"], "figure": ["0", "1"]})
  [['a handwritten zero', 'a handwritten one'], ['the digit 0', 'the digit 1']]

  Args:
    templates: texts with fields of `names` in braces.
    names: for each field, its text for class 0, 1, ...

  Raises:
    ValueError: no templates or names, fields of different lengths, or a template with an unknown field or none.
  """
  counts = {field: len(values) for field, values in names.items()}
  if not templates or not counts or len(set(counts.values())) > 1 or 0 in counts.values():
    raise ValueError(
      f"captions need templates, and one name per class in each field, got {list(templates)}, {counts}; add them."
    )
  classes = [dict(zip(names, values)) for values in zip(*names.values())]
  return [[_filled(template, fields) for fields in classes] for template in templates]


def _filled(template, fields):
  known = " or ".join(f"{{{field}}}" for field in fields)
  try:
    filled = template.format(**fields)
  except (KeyError, IndexError, ValueError):
    raise ValueError(f"the template {template!r} has an unknown field; use {known}.") from None
  if filled == template:
    raise ValueError(f"the template {template!r} does not name the class; use {known} in it.")
  return filled
