"""What is measured against whom: `rsna-e2e bench transform|loader|train`.

Every figure is a rate in slices per second with its number of rounds, median and spread. The contestants of a
benchmark take turns in every round, so that what else the machine does meets all of them alike; ratios are formed
within a round. Other libraries (`peers/`) are optional: what is not installed is listed, not timed.
"""
