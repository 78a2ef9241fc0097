"""Samplers: one numerical method a file. Each is a frozen pytree whose leaves are its hyper-parameters."""

from diffjax.samplers.adaptive import Adaptive
from diffjax.samplers.consistency import Consistency
from diffjax.samplers.ddpm import DDPM
from diffjax.samplers.deis import DEIS
from diffjax.samplers.dpm2 import DPM2
from diffjax.samplers.dpm2_ancestral import DPM2Ancestral
from diffjax.samplers.dpm_solver import DPMSolver
from diffjax.samplers.dpmpp_2m import DPMpp2M
from diffjax.samplers.dpmpp_2s_ancestral import DPMpp2SAncestral
from diffjax.samplers.dpmpp_3m import DPMpp3M
from diffjax.samplers.dpmpp_s import DPMppS
from diffjax.samplers.dpmpp_sde import DPMppSDE
from diffjax.samplers.er_sde import ERSDE
from diffjax.samplers.euler import Euler
from diffjax.samplers.heun import Heun
from diffjax.samplers.ipndm import IPNDM
from diffjax.samplers.lms import LMS
from diffjax.samplers.mean_guided import MeanGuided
from diffjax.samplers.momentum import Momentum
from diffjax.samplers.pndm import PNDM
from diffjax.samplers.predictor_corrector import PredictorCorrector
from diffjax.samplers.recurrent import Recurrent
from diffjax.samplers.restart import Restart
from diffjax.samplers.rk4 import RK4
from diffjax.samplers.sa_solver import SASolver
from diffjax.samplers.tcd import TCD
from diffjax.samplers.unipc import UniPC

__all__ = [
  "DDPM",
  "DEIS",
  "DPM2",
  "ERSDE",
  "IPNDM",
  "LMS",
  "PNDM",
  "RK4",
  "TCD",
  "Adaptive",
  "Consistency",
  "DPM2Ancestral",
  "DPMSolver",
  "DPMpp2M",
  "DPMpp2SAncestral",
  "DPMpp3M",
  "DPMppS",
  "DPMppSDE",
  "Euler",
  "Heun",
  "MeanGuided",
  "Momentum",
  "PredictorCorrector",
  "Recurrent",
  "Restart",
  "SASolver",
  "UniPC",
]
