"""The verb that lists settings: on the terminal, or as the page docs/settings.md."""

import argparse
import shutil
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rsna_e2e.cli.arguments import RECIPES_OF_RUNS
from rsna_e2e.cli.verbs import Verbs, add_verb, tell

if TYPE_CHECKING:
    from rsna_e2e.config import RunConfig, TwoStageConfig
    from rsna_e2e.config.catalogue import Section, Setting

MARKDOWN = "rsna-e2e settings --markdown > docs/settings.md"
_RECIPES = ("demo", "reference")
# Other recipes, and those that they are compared with: of a run, and of the two-stage pipeline
_LIKE_FASTAI = {"ich_fastai": "reference"}
_LIKE_PE = {"pe": "reference", "pe_demo": "demo"}
_LIKE_XRAY = {
    "xray_classify": "reference",
    "xray_transfer": "reference",
    "xray_classify_demo": "demo",
    "xray_transfer_demo": "demo",
}
_LIKE_BOXES = {
    "xray_boxes": "reference",
    "xray_masks": "reference",
    "xray_segment": "reference",
    "xray_boxes_demo": "demo",
    "xray_segment_demo": "demo",
}
_TWO_STAGE_LIKE = {"pe_reference": "reference", "pe_demo": "demo"}
# Sections of the pipeline that few recipes have, and those of the same recipe that they are compared with
_LIKE_SECTION = {"beside.0.": "images.", "series_sequences.": "sequences."}
_RUNS = ("images", "beside", "sequences", "series_sequences")  # of the two-stage pipeline, with the settings of a run
_WIDEST = 120  # columns
_INDENT = " " * 4
_NULL = "null"
_LEFT_OUT = "-"  # in the place of a value: its section is null

# By the name of an effect on a run
_ON_RESUME = {"learned": "kept, learned", "run": "kept", "none": "may change"}

_PAGE = f"""# Settings

All settings of a training run and of the two-stage pipeline. `rsna-e2e settings [PREFIX]` lists them on the terminal. A
value is set with `--set NAME=VALUE`, such as `--set image.size=256`, on top of a recipe, or in a YAML file given as
`--recipe FILE`; [runs.md](runs.md) says how values are checked. This page is made from the source: `{MARKDOWN}`.

`demo` and `reference` are the values in these recipes; `{_LEFT_OUT}` stands for a section that the recipe leaves out.
[Other recipes](#other-recipes) have tables of their own.
What `--resume` allows:

- **may change**: the setting affects speed, memory and kept checkpoints only, and may differ each time that a run is
  resumed.
- **kept**: `--resume` refuses another value. Runs that differ in such settings alone, as the folds of a
  cross-validation do, are of one kind: their embeddings may be used together.
- **kept, learned**: the setting affects what the model is and learns. As above, but runs that differ are of different
  kinds."""

_OF_RUNS = """The pipeline's kinds of run have the settings of a run, as `images.NAME` and `sequences.NAME`; further
classifiers and heads for whole series, in recipes that have them, as `beside.0.NAME` and `series_sequences.NAME`. These
have other values than in a run of the recipe of the same name:"""

_OF_FASTAI = """`ich_fastai` classifies single slices by
[fastai's practice](training.md#fastais-practice-on-hemorrhage). It has other values than `reference` in:"""

_OF_PE = """`pe` and `pe_demo` are for pulmonary embolism on CT angiography (task `pe`): to train on GPUs, and in
minutes on two CPU cores. They have other values than `reference` and `demo` in:"""

_OF_XRAYS = """Those that classify chest radiographs (task `pneumonia`, or another of grey values) are `xray_classify`,
which learns whole, and `xray_transfer`, on top of a network that stays as it was trained on other images; the demos
learn from scratch on two CPU cores. They have other values than `reference` and `demo` in:"""

_OF_BOXES = """Those that find boxes on chest radiographs ([boxes.md](boxes.md)) are detectors, `xray_boxes` and
`xray_masks`, and a segmenter, `xray_segment`; the demos learn from scratch on two CPU cores. They have other values
than `reference` and `demo` in:"""

_OF_OTHER_PIPELINES = """In two stages, `pe_reference` is the published solution by EC601 and `pe_demo` one like it in
small. They have other values than `reference` and `demo` in the following; `beside.0` and `series_sequences` than
`images` and `sequences` of their own recipe:"""

_OTHERS = ((_OF_FASTAI, _LIKE_FASTAI), (_OF_PE, _LIKE_PE), (_OF_XRAYS, _LIKE_XRAY), (_OF_BOXES, _LIKE_BOXES))


def add_settings_list(verbs: Verbs) -> None:
    """Add `rsna-e2e settings`."""
    verb = add_verb(
        verbs,
        "settings",
        _settings,
        "List the settings that --set takes: value in a recipe, allowed values, unit and meaning.",
        "rsna-e2e settings                                    # of a run and of the two-stage pipeline",
        "rsna-e2e settings loader                             # of a section",
        "rsna-e2e settings model.batchnorm",
        "rsna-e2e settings images.model --recipe reference    # of the pipeline's image classifiers",
        "rsna-e2e settings --recipe runs/first/config.yaml    # as a run has them",
    )
    verb.add_argument("prefix", nargs="?", default="", metavar="PREFIX", help="section or setting, or how it begins")
    verb.add_argument(
        "--recipe",
        default="demo",
        metavar="NAME|FILE",
        help=f"whose values to show: {RECIPES_OF_RUNS}, pe_reference; FILE: a config.yaml of a run or of the pipeline "
        "(default demo)",
    )
    verb.add_argument("--markdown", action="store_true", help="print the page docs/settings.md")


@dataclass(frozen=True, slots=True)
class _Recipe:
    """The values of a recipe; of a file, which is for a run or for the pipeline, those of one."""

    run: "RunConfig | None"
    pipeline: "TwoStageConfig | None"

    def sections(self) -> "Iterator[Section]":
        """Yield the sections that there are values for."""
        from rsna_e2e.config import RunConfig, TwoStageConfig
        from rsna_e2e.config.catalogue import sections

        if self.run is not None:
            yield from sections(RunConfig)
        if self.pipeline is not None:
            yield from list(sections(TwoStageConfig))[1:]  # the first holds nothing but the name of the recipe

    def value(self, name: str) -> str:
        """Return the value of a setting."""
        from rsna_e2e.config.catalogue import value_of

        config = self.pipeline if name.split(".")[0] in ("two_stage", *_RUNS) else self.run
        assert config is not None
        return value_of(config, name) or _LEFT_OUT

    def differing(self) -> Iterator[str]:
        """Yield what of the pipeline's two kinds of run has other values than a run: settings, or a section that they
        leave out."""
        for section in self.sections():
            is_left_out = self.value(section.name) == _NULL if section.name else False
            for name in [section.name] if is_left_out else [item.name for item in section.settings]:
                kind, _, of_run = name.replace(".0.", ".").partition(".")
                if kind in _RUNS and of_run and self.value(name) not in (self.value(of_run), _LEFT_OUT):
                    yield name


def _read(recipe: str) -> _Recipe:
    from rsna_e2e.config import RECIPES, TWO_STAGE_RECIPES, load_config, load_two_stage
    from rsna_e2e.config.files import is_two_stage

    is_of_pipeline = recipe in TWO_STAGE_RECIPES
    if recipe in RECIPES or is_of_pipeline or not Path(recipe).is_file():
        of_run = load_config(recipe) if recipe in RECIPES or not is_of_pipeline else None
        return _Recipe(of_run, load_two_stage(recipe) if is_of_pipeline else None)
    if is_two_stage(Path(recipe)):
        return _Recipe(None, load_two_stage(recipe))
    return _Recipe(load_config(recipe), None)


def _settings(options: argparse.Namespace) -> None:
    if options.markdown:
        tell(*_page({name: _read(name) for name in _RECIPES}))
        return
    width = min(shutil.get_terminal_size((_WIDEST, 24)).columns, _WIDEST)
    recipe = _read(options.recipe)
    is_short = not options.prefix and recipe.run is not None
    for section, settings in _chosen(recipe, options.prefix):
        if not (is_short and section.name.split(".")[0] in _RUNS):
            tell(*_described(section, settings, recipe, width))
    if is_short and recipe.pipeline is not None:
        text = (
            "images, sequences: the pipeline's kinds of run, with the settings of a run. Those whose values differ "
            "from the ones above (rsna-e2e settings images explains all):"
        )
        tell("", *textwrap.wrap(text, width), "")
        tell(*(line for name in recipe.differing() for line in _wrapped(f"{name} = {recipe.value(name)}", width)))


def _chosen(recipe: _Recipe, prefix: str) -> "list[tuple[Section, list[Setting]]]":
    """The settings whose names begin with `prefix`, by section. Raises UsageError, with near names, for none."""
    from rsna_e2e.config.catalogue import near_names
    from rsna_e2e.core.errors import UsageError
    from rsna_e2e.core.records import printable

    sections = list(recipe.sections())
    for begin in (f"{prefix.rstrip('.')}.", prefix):  # whole words first: `epochs` is not the beginning of another
        chosen = [(s, [item for item in s.settings if f"{item.name}.".startswith(begin)]) for s in sections]
        if any(settings for _, settings in chosen):
            return [(section, settings) for section, settings in chosen if settings]
    near = near_names(prefix, sections)
    hint = f"Near: {', '.join(near)}. " if near else ""
    raise UsageError(f"there is no setting {printable(prefix)!r:.80}. {hint}rsna-e2e settings lists all")


def _described(section: "Section", settings: "Sequence[Setting]", recipe: _Recipe, width: int) -> Iterator[str]:
    """Yield the lines of a section on a terminal."""
    yield ""
    for number, paragraph in enumerate(section.meaning.split("\n\n")):
        name = f"{section.name}: " if section.name and number == 0 else ""
        yield from textwrap.wrap(f"{name}{paragraph}", width)
    for setting in settings:
        yield ""
        yield from _wrapped(f"{setting.name} = {recipe.value(setting.name)}", width)
        yield from textwrap.wrap(setting.meaning, width, initial_indent=_INDENT, subsequent_indent=_INDENT)
        on_resume = f"; on resume: {_ON_RESUME[setting.effect.value]}" if setting.effect else ""
        facts = f"{setting.values}{on_resume}"
        yield from textwrap.wrap(facts, width, initial_indent=_INDENT, subsequent_indent=_INDENT)


def _wrapped(line: str, width: int) -> list[str]:
    return textwrap.wrap(line, width, subsequent_indent=_INDENT)


def _page(recipes: dict[str, _Recipe]) -> Iterator[str]:
    """Yield the lines of docs/settings.md."""
    from rsna_e2e.config import TwoStageConfig
    from rsna_e2e.config.catalogue import sections

    yield from _PAGE.splitlines()
    yield from ("", "## A training run")
    all_sections = list(recipes[_RECIPES[0]].sections())
    for section in all_sections:
        kind = section.name.partition(".")[0]
        if kind in _RUNS:
            continue
        if kind == "two_stage":
            yield from ("", "## The two-stage pipeline", "", *next(sections(TwoStageConfig)).meaning.splitlines())
        if section.name:
            yield from ("", f"### `{section.name}`")
        yield from ("", *section.meaning.splitlines(), "")
        yield from _table(("setting", *_RECIPES, "values", "on resume", "meaning"), _rows(section, recipes))
    yield from ("", "### `images` and `sequences`", "", *_OF_RUNS.splitlines(), "")
    names = dict.fromkeys(name for recipe in recipes.values() for name in recipe.differing())
    yield from _table(("setting", *_RECIPES), [(f"`{name}`", *_values(name, recipes)) for name in sorted(names)])
    yield from ("", "## Other recipes")
    for text, like in _OTHERS:
        yield from ("", *text.splitlines(), "")
        yield from _table(("setting", *like), _rows_of_others(recipes, like))
    yield from ("", *_OF_OTHER_PIPELINES.splitlines(), "")
    yield from _table(("setting", *_TWO_STAGE_LIKE), _rows_of_other_pipelines(recipes))


def _rows(section: "Section", recipes: dict[str, _Recipe]) -> Iterator[Sequence[str]]:
    for item in section.settings:
        on_resume = _ON_RESUME[item.effect.value] if item.effect else ""
        yield (f"`{item.name}`", *_values(item.name, recipes), item.values, on_resume, item.meaning)


def _rows_of_others(recipes: dict[str, _Recipe], like: dict[str, str]) -> Iterator[Sequence[str]]:
    """Yield the settings in which a recipe differs from the one that it is like, by its name."""
    others = {name: _read(name) for name in like}
    for name in (item.name for section in next(iter(others.values())).sections() for item in section.settings):
        if any(other.value(name) != recipes[like[recipe]].value(name) for recipe, other in others.items()):
            yield (f"`{name}`", *_values(name, others))


def _rows_of_other_pipelines(recipes: dict[str, _Recipe]) -> Iterator[Sequence[str]]:
    """Yield the settings in which a pipeline's recipe for another task differs from what it is compared with."""
    others = {name: _Recipe(None, _read(name).pipeline) for name in _TWO_STAGE_LIKE}
    for name in (item.name for section in next(iter(others.values())).sections() for item in section.settings):
        like = next((name.replace(part, of, 1) for part, of in _LIKE_SECTION.items() if name.startswith(part)), name)
        if any(
            other.value(name) != (other if like != name else recipes[_TWO_STAGE_LIKE[recipe]]).value(like)
            for recipe, other in others.items()
        ):
            yield (f"`{name}`", *_values(name, others))


def _values(name: str, recipes: dict[str, _Recipe]) -> Iterator[str]:
    for recipe in recipes.values():
        yield f"`{recipe.value(name)}`"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """Yield the lines of a table in Markdown."""
    yield f"| {' | '.join(header)} |"
    yield "|---" * len(header) + "|"
    for row in rows:
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |"
