"""Benchmarks behind `rsna-e2e bench`, a module each. In: a store, by default a simulated one. Out: a result with its
figures as a table (`str`), written as JSON where a file is named.

Rates are slices per second with number of rounds, median and interquartile range. The contestants of a benchmark take
turns in every round, so that other load on the machine affects all of them alike, and ratios are formed within a
round. Other libraries (`peers/`) are optional: those that are not installed are listed, not timed.
"""
