"""The version 0.1 import path of the config defaults, which now live in `from_config.configuration`."""

from diffjax.from_config.configuration import default_clip_config, default_config, default_guidance_config

__all__ = ["default_clip_config", "default_config", "default_guidance_config"]
