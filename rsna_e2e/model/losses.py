"""The training loss: binary cross-entropy, weighted by label, over the cells whose label is known."""

# N slices (packed), L labels

import torch
from torch.nn.functional import binary_cross_entropy_with_logits


def weighted_bce(
    logits_NL: torch.Tensor, labels_NL: torch.Tensor, mask_NL: torch.Tensor, *, label_weights_L: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (sum, weight): the weighted sum of cross-entropies over known cells, and the sum of their weights.

    The loss is sum / weight, so that several batches or ranks can be normalised together. With every label known it is
    the competition's metric without its clipping, (6 * mean over all labels + mean over 'any') / 7 with 'any' counted
    double. Cells outside mask_NL (bool) contribute exactly zero gradient. Computed in float32.
    """
    known_NL = torch.where(mask_NL, labels_NL, 0.0)
    cells_NL = binary_cross_entropy_with_logits(logits_NL.float(), known_NL, reduction="none")
    weights_NL = label_weights_L * mask_NL
    return (cells_NL * weights_NL).sum(), weights_NL.sum()
