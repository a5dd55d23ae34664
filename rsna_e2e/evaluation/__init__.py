"""Evaluation of predictions, with intervals and a report, and inspection of data sets.

In come a submission and the truth, or a store; out come metrics as JSON and HTML pages.
"""
