"""The place from which configs written for version 0.1 import their defaults, `from_config.configuration` by now."""

from diffjax.from_config.configuration import default_clip_config, default_config, default_guidance_config

__all__ = ["default_clip_config", "default_config", "default_guidance_config"]
