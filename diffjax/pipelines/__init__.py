"""Pipelines: models with everything needed to sample from them."""

from diffjax.pipelines.pipeline import Defaults, Drawn, Pipeline

__all__ = ["Defaults", "Drawn", "Pipeline"]
