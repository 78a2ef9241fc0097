"""Pipelines: models with all that is needed to draw with them."""

from diffjax.pipelines.pipeline import Defaults, Drawn, Pipeline

__all__ = ["Defaults", "Drawn", "Pipeline"]
