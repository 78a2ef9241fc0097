"""What there is to know of each method before one draws with it: the rows of `sample.py --list_samplers`."""

from collections.abc import Iterable
from typing import NamedTuple


class Method(NamedTuple):
  """Order of convergence of the ODE (of the variance, for a method that is always stochastic), network calls, paper.

  The order is that of the default, as the tests measure it on a grid even in log sigma; restart's asks for more steps
  of its own, too, and adaptive's is of the calls that a tolerance takes. "-" is none: few-step models jump, and a
  corrector leaves a bias of about snr^2 in the variance.

  `calls` is the number in each step; where it varies, that of the first steps and of the later ones, as in "4, 1", or
  a word. The step to zero costs one call more. `stochastic` is "no", "yes", or the field that makes it so.
  """

  order: int | str
  calls: int | str
  stochastic: str
  paper: str


METHODS = {
  "euler": Method(1, 1, "eta", "Song et al. 2020, DDIM"),
  "ddpm": Method(1, 1, "yes", "Ho et al. 2020, DDPM"),
  "heun": Method(2, 2, "s_churn", "Karras et al. 2022, EDM"),
  "dpm2": Method(2, 2, "s_churn", "Karras et al. 2022, EDM; Lu et al. 2022, DPM-Solver"),
  "dpm2_ancestral": Method(2, 2, "yes", "Song et al. 2020, DDIM; Lu et al. 2022, DPM-Solver"),
  "dpm_solver_1": Method(1, 1, "no", "Lu et al. 2022, DPM-Solver"),
  "dpm_solver_2": Method(2, 2, "no", "Lu et al. 2022, DPM-Solver"),
  "dpm_solver_3": Method(3, 3, "no", "Lu et al. 2022, DPM-Solver"),
  "dpmpp_1s": Method(1, 1, "no", "Lu et al. 2022, DPM-Solver++"),
  "dpmpp_2s": Method(2, 2, "no", "Lu et al. 2022, DPM-Solver++"),
  "dpmpp_3s": Method(3, 3, "no", "Lu et al. 2022, DPM-Solver++"),
  "dpmpp_2s_ancestral": Method(2, 2, "yes", "Lu et al. 2022, DPM-Solver++"),
  "dpmpp_2m": Method(2, 1, "eta", "Lu et al. 2022, DPM-Solver++"),
  "dpmpp_3m": Method(3, 1, "eta", "Lu et al. 2022, DPM-Solver++"),
  "dpmpp_sde": Method(2, 2, "yes", "Lu et al. 2022, DPM-Solver++"),
  "dpmpp_2m_sde": Method(2, 1, "yes", "Lu et al. 2022, DPM-Solver++"),
  "dpmpp_3m_sde": Method(2, 1, "yes", "Lu et al. 2022, DPM-Solver++"),
  "unipc": Method(4, 1, "no", "Zhao et al. 2023, UniPC"),
  "deis": Method(3, 1, "no", "Zhang & Chen 2022, DEIS"),
  "lms": Method(4, 1, "no", "Adams & Bashforth"),
  "pndm": Method(2, "4, 1", "no", "Liu et al. 2022, PNDM"),
  "ipndm": Method(2, 1, "no", "Zhang & Chen 2022, DEIS"),
  "sa_solver": Method(2, 1, "yes", "Xue et al. 2023, SA-Solver"),
  "er_sde": Method(2, 1, "yes", "Cui et al. 2023, ER-SDE-Solver"),
  "rk4": Method(4, 4, "no", "Kutta 1901"),
  "restart": Method(2, "varies", "yes", "Xu et al. 2023, Restart"),
  "predictor_corrector": Method("-", 2, "yes", "Song et al. 2020, score SDE"),
  "consistency": Method("-", 1, "yes", "Song et al. 2023, consistency models"),
  "lcm": Method("-", 1, "yes", "Luo et al. 2023, LCM"),
  "tcd": Method("-", 1, "yes", "Zheng et al. 2024, TCD"),
  "adaptive": Method(5, "varies", "no", "Dormand & Prince 1980"),
}


def table(names: Iterable[str]) -> str:
  """The methods of these names as lines of text, under a heading."""
  heading = ("name", "order", "calls per step", "stochastic", "paper")
  rows = [heading, *((name, *map(str, METHODS[name])) for name in names)]
  widths = [max(map(len, column)) for column in zip(*rows)]
  return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows)
