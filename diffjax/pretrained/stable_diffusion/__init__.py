"""Stable Diffusion: published networks and pipelines, from and to folders, and from single files."""
