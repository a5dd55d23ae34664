"""Recipes: where the numbers of a published or a demonstration run live, one module for each task."""

from collections.abc import Callable

from rsna_e2e.config.recipes import ich, pe, xray, xray_boxes
from rsna_e2e.config.run import RunConfig
from rsna_e2e.config.two_stage import TwoStageConfig

RECIPES: dict[str, Callable[[], RunConfig]] = {
    "demo": ich.demo,
    "reference": ich.reference,
    "ich_fastai": ich.fastai,
    "pe": pe.joint,
    "pe_demo": pe.demo,
    "xray_classify": xray.classify,
    "xray_classify_demo": xray.classify_demo,
    "xray_transfer": xray.transfer,
    "xray_transfer_demo": xray.transfer_demo,
    "xray_boxes": xray_boxes.boxes,
    "xray_boxes_demo": xray_boxes.boxes_demo,
    "xray_masks": xray_boxes.masks,
    "xray_segment": xray_boxes.segment,
    "xray_segment_demo": xray_boxes.segment_demo,
}

TWO_STAGE_RECIPES: dict[str, Callable[[], TwoStageConfig]] = {
    "demo": ich.two_stage_demo,
    "reference": ich.two_stage_reference,
    "pe_reference": pe.two_stage_reference,
    "pe_demo": pe.two_stage_demo,
}
