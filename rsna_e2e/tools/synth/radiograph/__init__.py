"""Simulated chest radiographs with opacities and their likes, in the layout of the RSNA competition of 2018."""
