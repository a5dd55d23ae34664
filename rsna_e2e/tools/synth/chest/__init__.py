"""Simulated CT pulmonary angiography with emboli and their likes, in the layout of the RSNA competition of 2020."""
