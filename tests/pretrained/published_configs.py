"""Published scheduler configurations that tests read."""

LATENT = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "num_train_timesteps": 1000}
STABLE_DIFFUSION_15 = {
  **LATENT,
  **{"_class_name": "PNDMScheduler", "_diffusers_version": "0.6.0", "clip_sample": False, "set_alpha_to_one": False},
  **{"skip_prk_steps": True, "steps_offset": 1, "trained_betas": None},
}
SDXL = {
  **LATENT,
  **{"_class_name": "EulerDiscreteScheduler", "_diffusers_version": "0.19.0.dev0", "clip_sample": False},
  **{"interpolation_type": "linear", "prediction_type": "epsilon", "sample_max_value": 1.0, "set_alpha_to_one": False},
  **{"skip_prk_steps": True, "steps_offset": 1, "timestep_spacing": "leading", "trained_betas": None},
  **{"use_karras_sigmas": False},
}
"""scheduler_config.json of two published models."""
