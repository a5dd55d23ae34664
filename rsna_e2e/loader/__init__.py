"""From the store to batches of whole series, packed: the network's input, the labels, and where both came from.

In goes a store and the positions of series; int16 slices are read and checked, and one launch turns a batch into images
[N, C, S, S], through DALI or torch. Or stored embeddings are read in their place. Kept without imports: the DALI
operators are used without torch.
"""
