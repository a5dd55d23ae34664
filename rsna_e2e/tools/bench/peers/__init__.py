"""Others at the same job, each written as someone who knows the library would for speed.

A module per library, with a function `contestants(job)`; only it imports the library. These are implementations of the
job that share nothing with ours, windows included: that is what makes the comparison of their images worth something.
"""
