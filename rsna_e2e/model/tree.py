"""Logits of labels that exclude and imply each other, from one number for each branch of their tree."""

# B series, K branches of a tree, k of one group, M labels

from collections.abc import Sequence

import torch
from torch.nn.functional import logsigmoid

from rsna_e2e.tasks.tree import Choice, Some, Tree


def branches(tree: Tree) -> tuple[str, ...]:
    """Return the branches of all groups, in the order of the columns that `marginal_logits` takes."""
    return tuple(branch for group in tree for branch in group.branches)


def marginal_logits(raw_BK: torch.Tensor, tree: Tree, names: Sequence[str]) -> torch.Tensor:
    """Return the logit of each label's probability [B, M], in float32 or better, from the raw numbers of branches.

    names: the labels (M), all of them branches of `tree`. A branch holds if the one that its group is given does and,
    given that, with a probability of its own: softmax over the branches of a choice, each sigmoid by itself for those
    of kind some. With p = q(given) q, both log p = log q(given) + log q and log(1 - p) = log((1 - q(given)) + q(given)
    (1 - q)) are sums in the logarithm, so that nothing is clamped: a label that is predicted with confidence, and
    wrong, has a gradient of 1, as a label without a tree has.
    """
    holds: dict[str, torch.Tensor] = {}  # log p [B] by branch
    fails: dict[str, torch.Tensor] = {}  # log(1 - p)
    exact_BK = raw_BK.to(torch.promote_types(raw_BK.dtype, torch.float32))
    columns = torch.split(exact_BK, [len(group.branches) for group in tree], dim=1)
    for group, raw_Bk in zip(tree, columns, strict=True):
        own_Bk, own_fails_Bk = _own(group, raw_Bk)
        for k, branch in enumerate(group.branches):
            holds[branch], fails[branch] = own_Bk[:, k], own_fails_Bk[:, k]
            if group.given:
                given = holds[group.given]
                fails[branch] = torch.logaddexp(fails[group.given], given + fails[branch])
                holds[branch] = given + holds[branch]
    return torch.stack([holds[name] - fails[name] for name in names], dim=1)


def _own(group: Choice | Some, raw_Bk: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return log q and log(1 - q) [B, k] of the branches of a group, given that it applies."""
    if isinstance(group, Some):
        return logsigmoid(raw_Bk), logsigmoid(-raw_Bk)
    own_Bk = raw_Bk.log_softmax(dim=1)
    is_itself = torch.eye(raw_Bk.shape[1], device=raw_Bk.device) > 0  # as onnxruntime knows it
    others_Bkk = own_Bk[:, None, :].masked_fill(is_itself, -torch.inf)
    return own_Bk, others_Bkk.logsumexp(dim=2)
