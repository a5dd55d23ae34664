"""Comparison of runs that differ in a few settings: in come a store, a recipe and the values to vary; out come a run
and its predictions for each, and one table and page of how well they predict the same slices.

`variants` says which runs there are, `run` trains them and predicts, `table` scores the saved predictions, and `page`
shows the table.
"""
