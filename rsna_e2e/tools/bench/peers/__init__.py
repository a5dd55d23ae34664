"""The job of `bench transform` in other libraries, each in the fastest form that the library offers.

A module per library, with a function `contestants(job)`; only it imports the library. They share no code with ours, not
even the windows, so that agreement of the images is a real check.
"""
