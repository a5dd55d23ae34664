"""The backbones and arguments that a configuration may name.

timm.create_model takes much more: folders, repositories, addresses of weights, pickled files. A configuration may
come with the run of another person, so what is not in this table is refused.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import AfterValidator, Field

MOST_BLOCKS = 512  # of a stage
MOST_STAGES = 64
LARGEST_RATIO = 1e6
_NAME = re.compile(r"[a-z0-9_]{1,60}(\.[a-z0-9_]{1,60})?")  # an architecture, and maybe the tag of its weights
_WORD = re.compile(r"[a-z0-9_]{0,40}")


@dataclass(frozen=True, slots=True)
class _Kind:
    """What an argument is: in words, and whether a value is such. A list has one for each stage of the backbone."""

    words: str
    holds: Callable[[Any], bool]

    def takes(self, value: Any, *, levels: int = 2) -> bool:
        """Whether it is such a value, or a list of such; None is timm's own default."""
        if isinstance(value, list | tuple):
            return levels > 0 and len(value) <= MOST_STAGES and all(self.takes(v, levels=levels - 1) for v in value)
        return value is None or self.holds(value)


def _whole(most: int) -> _Kind:
    return _Kind(f"a whole number from 0 to {most}", lambda value: type(value) is int and 0 <= value <= most)


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


_RATE = _Kind("a number from 0 to below 1", lambda value: _is_number(value) and 0 <= value < 1)
_RATIO = _Kind(f"a number up to {LARGEST_RATIO:.0f}", lambda value: _is_number(value) and abs(value) <= LARGEST_RATIO)
_FLAG = _Kind("true or false", lambda value: isinstance(value, bool))
_WORDS = _Kind("a word", lambda value: isinstance(value, str) and _WORD.fullmatch(value) is not None)

# timm's names, of 1.0.31. `drop_rate` is missing: many of its models drop by a function, which knows no slices
_BY_KIND: dict[_Kind, str] = {
    _RATE: "attn_drop_rate drop_block_rate drop_path_rate patch_drop_rate pos_drop_rate proj_drop_rate",
    _whole(8192): (
        "base_dim base_dims base_width cardinality channels dim dims embed_dim embed_dims feature_dim final_chs "
        "growth_rate groups head_dim head_hidden_size head_widths heads hidden_sizes img_size init_channels "
        "initial_chs inner_dim key_dim num_features num_heads num_init_features num_reg_tokens output_stride "
        "patch_size reg_tokens stem_hidden_dim stem_size stem_width widths window_size window_sizes"
    ),
    _whole(MOST_BLOCKS): (
        "block_config block_reduce_first bn_size depth depths down_kernel_size kernel_size kernel_sizes layers "
        "num_blocks sr_ratios stages stem_kernel_size"
    ),
    _RATIO: (
        "bottle_ratio depth_mult expand_ratio expansion_ratio init_values layer_scale_init_value "
        "layer_scale_init_values ls_init_value mlp_ratio mlp_ratios norm_eps rope_temperature se_ratio width width_mult"
    ),
    _FLAG: (
        "avg_down class_token conv_bias conv_mlp dynamic_img_pad dynamic_img_size final_norm head_norm_first "
        "no_embed_class pre_norm proj_bias qk_norm qkv_bias qkv_fused replace_stem_pool strict_img_size swiglu_mlp "
        "use_abs_pos_emb use_fc_norm use_grn use_pos_embed use_rel_pos_bias use_rot_pos_emb zero_init_last"
    ),
    _WORDS: "act_layer aa_layer global_pool norm_layer pad_type pos_embed stem_type",
}
_KINDS = {name: kind for kind, names in _BY_KIND.items() for name in names.split()}


def _check_name(name: str) -> str:
    if _NAME.fullmatch(name) is None:
        raise ValueError(
            "must be the name of a model in timm, such as resnet10t or resnet50.a1_in1k, torchvision.NAME, or none; "
            "folders and addresses are not accepted"
        )
    return name


def _check_arguments(arguments: dict[str, Any]) -> dict[str, Any]:
    for name, value in arguments.items():
        if name == "drop_rate":
            raise ValueError("instead of drop_rate, set model.backbone_dropout")
        kind = _KINDS.get(name)
        if kind is None:
            raise ValueError(
                f"{name!r:.60} is not accepted. Only arguments that shape a backbone are, such as channels, depths, "
                "drop_path_rate or global_pool; rsna_e2e/config/backbone.py lists them"
            )
        if not kind.takes(value):
            raise ValueError(f"{name} must be {kind.words}, or a list of such, not {value!r:.60}")
    return arguments


Backbone = Annotated[str, AfterValidator(_check_name)]
Arguments = Annotated[dict[str, Any], Field(max_length=MOST_STAGES), AfterValidator(_check_arguments)]
