"""What published configurations say, and what is refused in them."""

import jax
import numpy as np
import pytest
from published_configs import LATENT, SDXL

from diffjax import guidance, schedules


def test_terminal_noise_is_infinite_or_4096():
  config = {"_class_name": "DDIMScheduler", "prediction_type": "v_prediction", "rescale_betas_zero_snr": True}
  config |= {"timestep_spacing": "trailing"}
  assert schedules.from_diffusers(config).grid(10)[0] == pytest.approx(schedules.MAX_SIGMA, rel=1e-3)
  euler = LATENT | config | {"_class_name": "EulerDiscreteScheduler"}
  assert schedules.from_diffusers(euler).grid(10)[0] == pytest.approx(4096, rel=1e-3)


def test_whether_noise_is_left():
  final = lambda config: schedules.from_diffusers(config).final_sigma
  ddim = LATENT | {"_class_name": "DDIMScheduler"}
  assert final(ddim) == 0
  assert final(ddim | {"set_alpha_to_one": False}) == pytest.approx(float(schedules.scaled_linear().sigma(0.0)))
  assert final(SDXL) == 0  # the key is not one of Euler's, and has no effect
  assert final(SDXL | {"final_sigmas_type": "sigma_min"}) > 0


@pytest.mark.parametrize(
  ("config", "says"),
  [
    ({"beta_start": 1e-4}, "no key '_class_name'"),
    ({"_class_name": "EulerScheduler"}, r"there is no scheduler 'EulerScheduler' \(did you mean"),
    (SDXL | {"beta_strat": 1e-4}, r"'beta_strat' \(did you mean 'beta_start'"),
    (SDXL | {"use_karras_sigmas": True, "use_beta_sigmas": True}, "use_karras_sigmas and use_beta_sigmas each set"),
    (SDXL | {"rescale_betas_zero_snr": True}, "rescale_betas_zero_snr leaves pure noise"),
    (SDXL | {"trained_betas": [0.1, 0.2]}, "trained_betas has 2 entries, but num_train_timesteps is 1000"),
    (
      SDXL | {"prediction_type": "eps"},
      "prediction_type of EulerDiscreteScheduler is 'eps', but can only be 'epsilon'",
    ),
    (SDXL | {"prediction_type": "flow_prediction"}, "'flow_prediction' and use_flow_sigmas belong together"),
    (LATENT | {"_class_name": "DPMSolverMultistepScheduler", "solver_order": 4}, "solver_order of .* is 4"),
    (LATENT | {"_class_name": "DPMSolverMultistepScheduler", "algorithm_type": "dpmsolver"}, "is 'dpmsolver', but can"),
    (
      {"_class_name": "EDMEulerScheduler", "prediction_type": "sample"},
      "is 'sample', but can only be 'epsilon', 'v_pred",
    ),
    ({"_class_name": "CosineDPMSolverMultistepScheduler", "sigma_data": 0.5}, "sigma_data of .* is 0.5, but can only"),
    (
      {"_class_name": "DPMSolverSinglestepScheduler", "algorithm_type": "sde-dpmsolver++"},
      "is 'sde-dpmsolver\\+\\+', but",
    ),
    ({"_class_name": "IPNDMScheduler", "trained_betas": [0.1]}, "trained_betas of IPNDMScheduler is"),
    ({"_class_name": "CMStochasticIterativeScheduler", "s_noise": 1.1}, "s_noise of .* is 1.1"),
    (
      {"_class_name": "FlowMatchEulerDiscreteScheduler", "use_dynamic_shifting": True},
      r"depends on the image's size; take schedules\.Shifted",
    ),
    (
      LATENT | {"_class_name": "DPMSolverMultistepScheduler", "solver_type": "heun"},
      "is 'heun', but can only be 'mi",
    ),
    (LATENT | {"_class_name": "UniPCMultistepScheduler", "solver_type": "x"}, "is 'x', but can only be 'bh1', 'bh2' h"),
    ({"_class_name": "UnCLIPScheduler"}, r"UnCLIPScheduler is not read, .*; use schedules\.squared_cosine"),
    ({"_class_name": "DDIMInverseScheduler"}, r"not read, as it maps images to noise; use editing\.ddim_inv"),
    ({"_class_name": "DPMSolverMultistepInverseScheduler"}, r"no exact inverse; .* editing\.ddim_invert, or editing"),
    (
      {"_class_name": "UniPCMultistepScheduler", "predict_x0": False},
      "predict_x0 of .* is False, but can only be True",
    ),
    (None, "the configuration is None, but must be a dict"),
    (SDXL | {"beta_start": "x"}, r"beta_start of .* is 'x', but must be a number in \(0, 1\)"),
    (SDXL | {"num_train_timesteps": None}, "num_train_timesteps of .* is None, but must be a number"),
    (SDXL | {"beta_start": 0.02, "beta_end": 1e-4}, "beta_start is 0.02, above beta_end, which is 0.0001"),
    (SDXL | {"sigma_min": 9.0, "sigma_max": 1.0}, "sigma_min is 9.0, above sigma_max, which is 1.0"),
    ({"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": -1}, r"shift of .* is -1, but must be in \(0, inf\)"),
    (
      {"_class_name": "DDPMScheduler", "thresholding": True, "dynamic_thresholding_ratio": 3},
      r"dynamic_thresholding_ratio of DDPMScheduler is 3, but must be in \[0, 1\]",
    ),
  ],
)
def test_mistakes_are_named(config, says):
  with pytest.raises(ValueError, match=says):
    schedules.from_diffusers(config)


def test_dynamic_thresholds_come_before_clipping():
  """As theirs: published configurations ask for both."""
  both = {"_class_name": "DDPMScheduler", "thresholding": True, "clip_sample": True, "sample_max_value": 1.5}
  assert isinstance(schedules.from_diffusers(both).threshold(None), guidance.DynamicThreshold)


def test_steps_that_do_not_fit_are_refused():
  published = schedules.from_diffusers(LATENT | {"_class_name": "DPMSolverMultistepScheduler", "steps_offset": 999})
  with pytest.raises(ValueError, match="a whole number from 1 to"):
    published.grid(0)
  with pytest.raises(ValueError, match=r"must descend within 0\.\.999"):
    published.grid(1500)


@pytest.mark.parametrize(
  ("name", "solver_type"),
  [("UniPC", "midpoint"), ("UniPC", "heun"), ("DEIS", "heun"), ("DEIS", "bh1"), ("DPMSolver", "bh2")],
)
def test_a_solver_type_of_another_class_is_the_own_default(name, solver_type):
  """As diffusers does, whose configurations are handed from one class to another."""
  config = LATENT | {"_class_name": f"{name}MultistepScheduler"}
  given, own = (schedules.from_diffusers(c).sampler for c in (config | {"solver_type": solver_type}, config))
  assert type(given) is type(own)
  jax.tree.map(np.testing.assert_array_equal, given, own)
  diffusers = pytest.importorskip("diffusers")
  theirs = getattr(diffusers, config["_class_name"])
  assert theirs(solver_type=solver_type).config.solver_type == theirs().config.solver_type
