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
        "Simulate CT studies with known truth, of heads or of chests, as DICOM files in their competition's layout.",
        "rsna-e2e synth raw --studies 40 --seed 1 --prevalence demo",
        "rsna-e2e synth raw --kind ctpa --thick --studies 40 --prevalence demo   # pulmonary embolism",
        "rsna-e2e synth raw --preview sheet.png",
    )
    verb.add_argument("out", type=Path, metavar="OUT", help="folder to write to; with --preview, folder to show")
    verb.add_argument(
        "--kind",
        choices=("head", "ctpa"),
        default="head",
        help="head: head CT with five kinds of bleeding; ctpa: CT pulmonary angiography with emboli (default head)",
    )
    verb.add_argument(
        "--thick", action="store_true", help="with --kind ctpa: slices of 3 mm, so only 80 to 100 of them in a study"
    )
    verb.add_argument("--studies", type=at_least_one, default=100, help="how many studies (default 100)")
    verb.add_argument("--seed", type=seed, default=0, help="the same seed gives the same bytes (default 0)")
    verb.add_argument(
        "--prevalence",
        choices=("natural", "demo"),
        default="natural",
        help="natural: about as common as in the competition; demo: more studies with bleeds or emboli",
    )
    verb.add_argument("--test-fraction", type=float, default=0.2, help="share of patients held out (default 0.2)")
    verb.add_argument("--jobs", type=at_least_one, help="processes (default: all cores)")
    verb.add_argument("--preview", type=Path, metavar="PNG", help="draw a contact sheet of studies already in OUT")


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
            prevalence=options.prevalence,
            test_fraction=options.test_fraction,
            n_jobs=options.jobs,
            progress=progress,
        )
    tell(*field_lines(report).splitlines())
