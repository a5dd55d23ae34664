"""Simulated head CT studies with five kinds of bleeding, in the layout of the RSNA competition of 2019."""
