"""Networks: a 2D CNN over every slice, a recurrent head over the whole series, and exact gradients through both.

In: packed slices [N, C, S, S] with the lengths of their series, or weights files of others. Out: slice logits [N, L]
and, with a series head, series logits [B, L]; the loss over the cells with a known label; gradients in bounded memory.
"""
