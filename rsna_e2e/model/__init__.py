"""The networks: a 2D CNN over every slice, a recurrent head over the whole series, and exact gradients through both.

In goes a batch of packed slices [N, C, S, S] with the lengths of its series; out come slice logits [N, L] and, with a
series head, series logits [B, L], the loss over the cells whose label is known, and gradients in bounded memory.
"""
