"""Samplers: one numerical method a file. Each is a frozen pytree whose leaves are its hyper-parameters."""

from diffjax.samplers.ddpm import DDPM
from diffjax.samplers.dpmpp_2m import DPMpp2M
from diffjax.samplers.euler import Euler
from diffjax.samplers.heun import Heun

__all__ = ["DDPM", "DPMpp2M", "Euler", "Heun"]
