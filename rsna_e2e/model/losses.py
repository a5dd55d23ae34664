"""The training loss: binary cross-entropy, weighted by label, over the cells whose label is known."""

# N slices (packed) or series, L labels

import torch
from torch.nn.functional import binary_cross_entropy_with_logits


def weighted_bce(
    logits_NL: torch.Tensor,
    labels_NL: torch.Tensor,
    mask_NL: torch.Tensor,
    *,
    label_weights_L: torch.Tensor,
    row_weights_N: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (sum, weight): the weighted sum of cross-entropies over known cells, and the sum of their weights.

    The loss is sum / weight, so that several batches or ranks can be normalised together. With every label known it is
    the metric of RSNA ICH 2019 without its clipping, (6 * mean over all labels + mean over 'any') / 7 with 'any'
    counted double. row_weights_N: on top of those of labels. Cells outside mask_NL (bool) contribute exactly zero
    gradient. Computed in float32, or in float64 if the logits are.
    """
    logits_NL = logits_NL.to(torch.promote_types(logits_NL.dtype, torch.float32))
    known_NL = torch.where(mask_NL, labels_NL, 0.0).to(logits_NL.dtype)
    cells_NL = binary_cross_entropy_with_logits(logits_NL, known_NL, reduction="none")
    weights_NL = label_weights_L * mask_NL
    if row_weights_N is not None:
        weights_NL = weights_NL * row_weights_N[:, None]
    return (cells_NL * weights_NL).sum(), weights_NL.sum()
