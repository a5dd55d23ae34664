"""Predictions and stores judged: scores with intervals, the evaluation report, and the report on a data set.

In go a submission and the truth, or a store; out come metrics as JSON and pages to read.
"""
