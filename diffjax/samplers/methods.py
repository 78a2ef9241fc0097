"""The row type of the table `samplers.METHODS`, and the table as text for `sample.py --list_samplers`."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from diffjax.typing import Sampler


class Method(NamedTuple):
  """A sampler's constructor, order of convergence, network calls, source of noise, and paper.

  Attributes:
    make: builds the sampler from its hyper-parameters, all of which have defaults.
    order: order of the ODE's solution, or of the variance for a method that is always stochastic, with the default
      hyper-parameters, as the tests measure it on a grid uniform in log sigma. For Restart its own steps must be
      refined too, and for adaptive it is the order in the number of calls that a tolerance takes. "-" means none:
      few-step models jump, and a corrector leaves a bias of about snr^2 in the variance.
    calls: network calls per step; if they vary, those of the first and of the later steps, as in "4, 1", or a word.
      The step to zero costs one more call.
    stochastic: "no", "yes", or the hyper-parameter that makes the method stochastic.
    paper: authors, year and name.
  """

  make: Callable[..., Sampler]
  order: int | str
  calls: int | str
  stochastic: str
  paper: str


def table(methods: Mapping[str, Method]) -> str:
  """The methods as a text table with a header."""
  heading = ("name", "order", "calls per step", "stochastic", "paper")
  rows = [heading, *((name, *map(str, method[1:])) for name, method in methods.items())]
  widths = [max(map(len, column)) for column in zip(*rows)]
  return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows)
