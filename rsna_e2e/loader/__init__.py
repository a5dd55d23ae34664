"""Loading: from a store to packed batches of whole series.

In: a store, a configuration, and positions of series in the store. Out: `SeriesBatch`es with images [N, C, S, S], made
of int16 HU by one launch of the fused kernel, through DALI or torch, or with stored embeddings in their place; with the
labels and the store row of every slice. Kept without imports: who uses `kernels` alone loads nothing else.
"""
