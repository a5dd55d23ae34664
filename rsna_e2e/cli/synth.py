"""The verb that simulates studies: synth."""

import argparse
from pathlib import Path

from rsna_e2e.cli.arguments import at_least_one, seed
from rsna_e2e.cli.verbs import Verbs, add_verb, tell


def add_synth(verbs: Verbs) -> None:
    """Add `rsna-e2e synth`."""
    verb = add_verb(
        verbs,
        "synth",
        _synth,
        "Simulate CT studies or chest radiographs with known truth, as DICOM files in their competition's layout.",
        "rsna-e2e synth raw --studies 40 --seed 1 --prevalence demo",
        "rsna-e2e synth raw --kind ctpa --thick --studies 40 --prevalence demo   # pulmonary embolism",
        "rsna-e2e synth raw --kind radiograph --studies 200 --size 512   # chest radiographs",
        "rsna-e2e synth raw --studies 200 --context strong   # slices that only their neighbours explain",
        "rsna-e2e synth raw --preview sheet.png",
    )
    verb.add_argument("out", type=Path, metavar="OUT", help="folder to write to; with --preview, folder to show")
    _add_kinds(verb)
    _add_of_heads(verb)
    verb.add_argument("--studies", type=at_least_one, default=100, help="how many studies (default 100)")
    verb.add_argument("--seed", type=seed, default=0, help="the same seed gives the same bytes (default 0)")
    verb.add_argument(
        "--prevalence",
        choices=("natural", "demo"),
        default="natural",
        help="natural: about as common as in the competition; demo: more studies with bleeds, emboli or opacities",
    )
    verb.add_argument(
        "--test-fraction",
        type=float,
        default=0.2,
        help="share of patients held out (default 0.2); of radiographs half of it is `balanced`",
    )
    verb.add_argument("--jobs", type=at_least_one, help="processes (default: all cores)")
    verb.add_argument("--preview", type=Path, metavar="PNG", help="draw a contact sheet of studies already in OUT")


def _add_of_heads(verb: argparse.ArgumentParser) -> None:
    """What only head CT has."""
    verb.add_argument(
        "--context",
        choices=("none", "natural", "strong"),
        default="natural",
        help="with --kind head: what only neighbouring slices tell. none: each slice shows its blood by itself; "
        "strong: slices alone cannot tell small bleeds from calcifications, bone and streaks (default natural)",
    )
    verb.add_argument(
        "--masks",
        type=Path,
        metavar="DIR",
        help="with --kind head: folder to make, with a picture LABEL/IMAGE.png of where each label of a slice is seen",
    )


def _add_kinds(verb: argparse.ArgumentParser) -> None:
    """Let the user choose the kind, and what only some kinds have."""
    verb.add_argument(
        "--kind",
        choices=("head", "ctpa", "radiograph"),
        default="head",
        help="head: head CT with five kinds of bleeding; ctpa: CT pulmonary angiography with emboli; radiograph: chest "
        "radiographs with opacities (default head)",
    )
    verb.add_argument(
        "--thick", action="store_true", help="with --kind ctpa: slices of 3 mm, so only 80 to 100 of them in a study"
    )
    verb.add_argument(
        "--size",
        type=at_least_one,
        metavar="PIXELS",
        help="with --kind radiograph: longer side of an image (default 1024, as in the competition)",
    )
    verb.add_argument(
        "--format",
        choices=("dicom", "png"),
        help="with --kind radiograph: kind of file (default dicom); png holds no view, sex or age",
    )


def _synth(options: argparse.Namespace) -> None:
    from rsna_e2e.core.console import field_lines, progress_bar
    from rsna_e2e.tools.synth.simulate import simulate

    if options.preview is not None:
        from rsna_e2e.tools.synth.preview import preview

        preview(options.out, options.preview)
        tell(f"contact sheet: {options.preview}")
        return
    with progress_bar("simulate", unit="studies") as progress:
        report = simulate(
            options.out,
            n_studies=options.studies,
            seed=options.seed,
            kind=options.kind,
            is_thick=options.thick,
            size_px=options.size,
            file_format=options.format,
            masks=options.masks,
            prevalence=options.prevalence,
            context=options.context,
            test_fraction=options.test_fraction,
            n_jobs=options.jobs,
            progress=progress,
        )
    tell(*field_lines(report).splitlines())
