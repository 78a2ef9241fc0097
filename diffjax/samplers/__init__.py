"""Samplers: one file per numerical method, one row of METHODS per name.

Each is a frozen pytree whose leaves are its hyper-parameters.
"""

import warnings
from functools import partial

from diffjax.samplers.adaptive import Adaptive as Adaptive
from diffjax.samplers.ancestral import Ancestral as Ancestral
from diffjax.samplers.churn import Churn as Churn
from diffjax.samplers.churn import dpm2_with_churn, heun_with_churn
from diffjax.samplers.consistency import Consistency as Consistency
from diffjax.samplers.ddpm import DDPM as DDPM
from diffjax.samplers.deis import DEIS as DEIS
from diffjax.samplers.dpm_solver import DPMSolver as DPMSolver
from diffjax.samplers.dpmpp_2m import DPMpp2M as DPMpp2M
from diffjax.samplers.dpmpp_3m import DPMpp3M as DPMpp3M
from diffjax.samplers.dpmpp_s import DPMppS as DPMppS
from diffjax.samplers.dpmpp_sde import DPMppSDE as DPMppSDE
from diffjax.samplers.er_sde import ERSDE as ERSDE
from diffjax.samplers.euler import Euler as Euler
from diffjax.samplers.heun import Heun as Heun
from diffjax.samplers.ipndm import IPNDM as IPNDM
from diffjax.samplers.lms import LMS as LMS
from diffjax.samplers.mean_guided import MeanGuided as MeanGuided
from diffjax.samplers.methods import Method as Method
from diffjax.samplers.momentum import Momentum as Momentum
from diffjax.samplers.pndm import PNDM as PNDM
from diffjax.samplers.predictor_corrector import PredictorCorrector as PredictorCorrector
from diffjax.samplers.recurrent import Recurrent as Recurrent
from diffjax.samplers.restart import Restart as Restart
from diffjax.samplers.rk4 import RK4 as RK4
from diffjax.samplers.sa_solver import SASolver as SASolver
from diffjax.samplers.tcd import TCD as TCD
from diffjax.samplers.unipc import UniPC as UniPC

METHODS: dict[str, Method] = {
  "euler": Method(Euler, 1, 1, "eta", "Song et al. 2020, DDIM"),
  "ddpm": Method(DDPM, 1, 1, "yes", "Ho et al. 2020, DDPM"),
  "heun": Method(heun_with_churn, 2, 2, "s_churn", "Karras et al. 2022, EDM"),
  "dpm2": Method(dpm2_with_churn, 2, 2, "s_churn", "Karras et al. 2022, EDM; Lu et al. 2022, DPM-Solver"),
  "dpm_solver_1": Method(partial(DPMSolver, 1), 1, 1, "no", "Lu et al. 2022, DPM-Solver"),
  "dpm_solver_2": Method(partial(DPMSolver, 2), 2, 2, "no", "Lu et al. 2022, DPM-Solver"),
  "dpm_solver_3": Method(partial(DPMSolver, 3), 3, 3, "no", "Lu et al. 2022, DPM-Solver"),
  "dpmpp_1s": Method(partial(DPMppS, 1), 1, 1, "no", "Lu et al. 2022, DPM-Solver++"),
  "dpmpp_2s": Method(partial(DPMppS, 2), 2, 2, "no", "Lu et al. 2022, DPM-Solver++"),
  "dpmpp_3s": Method(partial(DPMppS, 3), 3, 3, "no", "Lu et al. 2022, DPM-Solver++"),
  "rk4": Method(RK4, 4, 4, "no", "Kutta 1901"),
  "restart": Method(Restart.of_heun, 2, "varies", "yes", "Xu et al. 2023, Restart"),
  "adaptive": Method(Adaptive, 5, "varies", "no", "Dormand & Prince 1980"),
  "dpmpp_2m": Method(DPMpp2M, 2, 1, "eta", "Lu et al. 2022, DPM-Solver++"),
  "dpmpp_2m_sde": Method(lambda eta=1.0: DPMpp2M(eta), 2, 1, "yes", "Lu et al. 2022, DPM-Solver++"),
  "dpmpp_3m": Method(DPMpp3M, 3, 1, "eta", "Lu et al. 2022, DPM-Solver++"),
  "unipc": Method(UniPC, 4, 1, "no", "Zhao et al. 2023, UniPC"),
  "deis": Method(DEIS, 3, 1, "no", "Zhang & Chen 2022, DEIS"),
  "lms": Method(LMS, 4, 1, "no", "Adams & Bashforth"),
  "pndm": Method(PNDM, 2, "4, 1", "no", "Liu et al. 2022, PNDM"),
  "ipndm": Method(IPNDM, 2, 1, "no", "Zhang & Chen 2022, DEIS"),
  "dpm2_ancestral": Method(
    partial(Ancestral, DPMSolver(2)), 2, 2, "yes", "Song et al. 2020, DDIM; Lu et al. 2022, DPM-Solver"
  ),
  "dpmpp_2s_ancestral": Method(partial(Ancestral, DPMppS(2)), 2, 2, "yes", "Lu et al. 2022, DPM-Solver++"),
  "dpmpp_sde": Method(DPMppSDE, 2, 2, "yes", "Lu et al. 2022, DPM-Solver++"),
  "dpmpp_3m_sde": Method(lambda eta=1.0: DPMpp3M(eta), 2, 1, "yes", "Lu et al. 2022, DPM-Solver++"),
  "sa_solver": Method(SASolver, 2, 1, "yes", "Xue et al. 2023, SA-Solver"),
  "er_sde": Method(ERSDE, 2, 1, "yes", "Cui et al. 2023, ER-SDE-Solver"),
  "predictor_corrector": Method(PredictorCorrector, "-", 2, "yes", "Song et al. 2020, score SDE"),
  "consistency": Method(Consistency, "-", 1, "yes", "Song et al. 2023, consistency models"),
  "lcm": Method(lambda: Consistency(0.0), "-", 1, "yes", "Luo et al. 2023, LCM"),
  "tcd": Method(TCD, "-", 1, "yes", "Zheng et al. 2024, TCD"),
}

RENAMED = {"DPM2": "dpm2", "DPM2Ancestral": "dpm2_ancestral", "DPMpp2SAncestral": "dpmpp_2s_ancestral"}
"""Class names of version 0.1, with their rows of METHODS."""


def __getattr__(name: str):
  if name not in RENAMED:
    raise AttributeError(f"module 'diffjax.samplers' has no attribute {name!r}; see dir(diffjax.samplers).")
  now = f"diffjax.samplers.METHODS[{RENAMED[name]!r}].make"
  warnings.warn(f"diffjax.samplers.{name} is now {now}; use that.", DeprecationWarning, stacklevel=2)
  return METHODS[RENAMED[name]].make
