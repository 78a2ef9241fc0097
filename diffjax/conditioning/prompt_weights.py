"""Prompts with weights, of any length, by the rules of the two programs that people write them for.

A prompt is split into sections of as many tokens as the text encoder takes; each is encoded alone, with its own start
and end, and their hidden states are concatenated. A weight acts on the hidden states of its tokens.

"a1111" (AUTOMATIC1111's web UI): (x) is x with weight 1.1, [x] with 1/1.1, (x:1.3) with 1.3, and weights of nested
brackets multiply; BREAK starts a new section. A section that is full ends after its last comma, if that is among its
last 20 tokens. States are multiplied by their weights, then the whole section so that its mean stays as it was.

"comfy" (ComfyUI): (x) multiplies the weight around it by 1.1, and (x:1.3) is 1.3 whatever is around it; square
brackets mean nothing. What is between changes of weight stays in one section if it has fewer than 8 tokens. States are
moved from those of the empty prompt at the same place: empty + weight * (state - empty).

"plain": brackets mean nothing, and what is beyond the encoder's length is cut off.

In all of them a backslash takes a bracket's meaning away.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

SYNTAXES = ("a1111", "comfy", "plain")
IMPLICIT = 1.1
"""The weight of (x)."""
COMMA_WINDOW = 20
KEPT_TOGETHER = 8
BREAK = "BREAK"


class Part(NamedTuple):
  """A text with its weight; text None starts a new section."""

  text: str | None
  weight: float = 1.0


class Sections(NamedTuple):
  """A prompt's sections: tokens int32 [S, L] and weights float32 [S, L]."""

  tokens: np.ndarray
  weights: np.ndarray


def parse_a1111(prompt: str) -> list[Part]:
  """The parts of a prompt by the rules of "a1111".

  >>> [(part.text, round(part.weight, 2)) for part in parse_a1111("a (red:1.3) [three] ((big))")]
  [('a ', 1.0), ('red', 1.3), (' ', 1.0), ('three', 0.91), (' ', 1.0), ('big', 1.21)]
  """
  found: list[tuple[str | None, float]] = []
  opened: dict[str, list[int]] = {"(": [], "[": []}

  def multiply(start, factor):
    found[start:] = [(text, weight * factor) for text, weight in found[start:]]

  tokens = re.finditer(r"\\[\\()\[\]]|[(\[]|:\s*([+-]?(?:\d+\.?\d*|\.\d+))\s*\)|[)\]]|[^\\()\[\]:]+|[\\:]", prompt)
  for token in tokens:
    text, weight = token[0], token[1]
    if text[0] == "\\":  # one alone is dropped
      found.append((text[1:], 1.0))
    elif text in opened:
      opened[text].append(len(found))
    elif weight is not None and opened["("]:
      multiply(opened["("].pop(), float(weight))
    elif text == ")" and opened["("]:
      multiply(opened["("].pop(), IMPLICIT)
    elif text == "]" and opened["["]:
      multiply(opened["["].pop(), 1 / IMPLICIT)
    else:
      for number, piece in enumerate(re.split(rf"\s*\b{BREAK}\b\s*", text)):
        found += [(None, 1.0)] * (number > 0) + [(piece, 1.0)]
  for start in opened["("]:  # a bracket that is never closed reaches to the end
    multiply(start, IMPLICIT)
  for start in opened["["]:
    multiply(start, 1 / IMPLICIT)
  return _merged(found)


def parse_comfy(prompt: str) -> list[Part]:
  r"""The parts of a prompt by the rules of "comfy".

  >>> [(part.text, round(part.weight, 2)) for part in parse_comfy(r"a (red:1.3) [three] ((big) \(one\):2)")]
  [('a ', 1.0), ('red', 1.3), (' [three] ', 1.0), ('big', 2.2), (' (one)', 2.0)]
  """
  hidden = prompt.replace("\\(", "\0").replace("\\)", "\1")  # characters that no prompt has
  return [Part(text.replace("\0", "(").replace("\1", ")"), weight) for text, weight in _weighed(hidden)]


def _weighed(text, weight=1.0) -> Iterator[tuple[str, float]]:
  for group in _groups(text):
    if not (len(group) >= 2 and group[0] == "(" and group[-1] == ")"):
      yield group, weight
      continue
    inner, own = group[1:-1], weight * IMPLICIT
    before, colon, number = inner.rpartition(":")
    if colon and before and _is_number(number):
      inner, own = before, float(number)
    yield from _weighed(inner, own)


def _groups(text) -> Iterator[str]:
  """The text cut before each outermost opening bracket and after its closing one."""
  depth, start = 0, 0
  for i, character in enumerate(text):
    if character == "(":
      if depth == 0 and i > start:
        yield text[start:i]
        start = i
      depth += 1
    elif character == ")" and depth:
      depth -= 1
      if depth == 0:
        yield text[start : i + 1]
        start = i + 1
  if start < len(text):
    yield text[start:]


def _is_number(text) -> bool:
  try:
    return np.isfinite(float(text))
  except ValueError:
    return False


def _merged(found) -> list[Part]:
  """Neighbours of one weight as one part."""
  parts: list[Part] = []
  for text, weight in found:
    if text is not None and parts and parts[-1].text is not None and parts[-1].weight == weight:
      parts[-1] = Part(parts[-1].text + text, weight)
    elif text != "":
      parts.append(Part(text, weight))
  return parts


def sections(prompt: str, syntax: str, tokenizer: Any) -> Sections:
  """A prompt's sections, at least one.

  Args:
    prompt: the text.
    syntax: one of SYNTAXES.
    tokenizer: a `data.Tokenizer`.

  Raises:
    ValueError: an unknown syntax.
  """
  if syntax == "plain":
    tokens = tokenizer([prompt])
    return Sections(tokens, np.ones(tokens.shape, np.float32))
  if syntax not in SYNTAXES:
    raise ValueError(f"there is no prompt syntax {syntax!r}; choose one of {', '.join(SYNTAXES)}.")
  parts = (parse_a1111 if syntax == "a1111" else parse_comfy)(prompt)
  ids = lambda part: [(i, part.weight) for i in tokenizer.ids(part.text)]
  room = tokenizer.length - 2  # start and end
  comma = tokenizer.ids(",")
  if syntax == "a1111":
    rows = _split_at_commas([None if part.text is None else ids(part) for part in parts], room, comma)
  else:
    rows = _split_between_groups([ids(part) for part in parts], room)
  return Sections(*map(np.stack, zip(*[_framed(row, tokenizer) for row in rows])))


def _split_at_commas(groups: Sequence[list | None], room: int, comma: list[int]) -> list[list[tuple[int, float]]]:
  rows: list[list[tuple[int, float]]] = [[]]
  for group in groups:
    if group is None:
      rows.append([])
      continue
    for token in group:
      row = rows[-1]
      if len(row) == room:
        commas = [i for i in range(max(room - COMMA_WINDOW, 0), room) if [row[i][0]] == comma]
        cut = commas[-1] + 1 if commas and [token[0]] != comma else room
        rows[-1:] = [row[:cut], row[cut:]]
      rows[-1].append(token)
  return rows


def _split_between_groups(groups: Sequence[list], room: int) -> list[list[tuple[int, float]]]:
  rows: list[list[tuple[int, float]]] = [[]]
  for group in groups:
    divisible = len(group) >= KEPT_TOGETHER or len(group) > room
    while len(rows[-1]) + len(group) > room:
      free = room - len(rows[-1]) if divisible else 0
      rows[-1], group = rows[-1] + group[:free], group[free:]
      rows.append([])
    rows[-1] = rows[-1] + group
  return rows


def _framed(row, tokenizer) -> tuple[np.ndarray, np.ndarray]:
  """A section's tokens and weights between start and end, padded."""
  ids, weights = zip(*row) if row else ((), ())
  tokens = np.full(tokenizer.length, tokenizer.pad_id, np.int32)
  tokens[: len(ids) + 2] = (tokenizer.start_id, *ids, tokenizer.end_id)
  factors = np.ones(tokenizer.length, np.float32)
  factors[1 : len(ids) + 1] = weights
  return tokens, factors


def weighed(states: np.ndarray, weights: np.ndarray, empty: np.ndarray, syntax: str) -> np.ndarray:
  """Hidden states [S, L, D] under weights [S, L]; `empty` [L, D] are those of the empty prompt."""
  if (weights == 1).all():
    return states
  factors = weights[..., None]
  if syntax == "comfy":
    return np.where(factors == 1, states, empty + factors * (states - empty))
  changed = states * factors
  mean, new = (a.mean(axis=(1, 2), keepdims=True, dtype=np.float64) for a in (states, changed))
  return (changed * (mean / new)).astype(states.dtype)
