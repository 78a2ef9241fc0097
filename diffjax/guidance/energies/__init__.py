"""Energies of x0 for gradient guidance to descend: one value per image, low if the image is as wanted."""
