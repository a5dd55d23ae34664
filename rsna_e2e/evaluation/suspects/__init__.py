"""Labels that are probably wrong. In: the labels of a store and out-of-fold predictions. Out: a ranked table, and a
page with pictures of the first and of their neighbours.
"""
