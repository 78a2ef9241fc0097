"""A row of the table of methods, `samplers.METHODS`, and the table as text for `sample.py --list_samplers`."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from diffjax.typing import Sampler


class Method(NamedTuple):
  """What makes a sampler, its order of convergence, network calls, source of noise, and paper.

  Attributes:
    make: the sampler from its hyper-parameters, all of which have defaults.
    order: of the ODE's solution, or of the variance for a method that is always stochastic; that of the defaults, as
      the tests measure it on a grid even in log sigma. Restart's asks for more steps of its own, too, and adaptive's is
      of the calls that a tolerance takes. "-" is none: few-step models jump, and a corrector leaves a bias of about
      snr^2 in the variance.
    calls: network calls of each step; where they vary, those of the first steps and of the later ones, as in "4, 1", or
      a word. The step to zero costs one call more.
    stochastic: "no", "yes", or the hyper-parameter that makes it so.
    paper: authors, year and name.
  """

  make: Callable[..., Sampler]
  order: int | str
  calls: int | str
  stochastic: str
  paper: str


def table(methods: Mapping[str, Method]) -> str:
  """Methods by name as lines of text, under a heading."""
  heading = ("name", "order", "calls per step", "stochastic", "paper")
  rows = [heading, *((name, *map(str, method[1:])) for name, method in methods.items())]
  widths = [max(map(len, column)) for column in zip(*rows)]
  return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows)
