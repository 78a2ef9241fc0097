import jax
import jax.numpy as jnp
import pytest
from oracles import Gaussian

from diffjax import samplers


@pytest.mark.parametrize("sampler", [samplers.DPMpp2M(), samplers.DPMpp3M(), samplers.UniPC()])
def test_methods_in_log_sigma_refuse_the_step_to_zero(sampler):
  x, keys = jnp.ones((2, 1)), jax.random.split(jax.random.key(0), 2)
  with pytest.raises(ValueError, match="has no step to sigma_next = 0; call the denoiser there"):
    sampler.step(Gaussian(), x, jnp.asarray(1.0), jnp.asarray(0.0), sampler.init(x), keys)
