"""Whether a command of the documents is one that works, command by command: RULES is the list of all that are known.

A rule raises AssertionError, or what the program itself raises, with what is wrong.
"""

import argparse
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from documents import ROOT
from packaging.requirements import Requirement
from workshop import Call, Workshop

from rsna_e2e.cli.program import _parser
from rsna_e2e.config import load_config, load_two_stage
from rsna_e2e.training.meeting import read_nodes

IMAGES = {"rsna_e2e", "rsna_e2e:volta"}  # what docker/build.sh makes unless TAG says otherwise

# Options of the engines' run that docker/run.sh gives a value
VALUED = ("--ulimit", "--user", "--volume", "--env", "--security-opt", "--device", "--gpus")

# Slurm's, as its manual of sbatch has them
SBATCH = {
    *("account", "constraint", "cpus-per-task", "error", "exclusive", "gpus-per-node", "gres", "job-name", "mem"),
    *("nodes", "ntasks-per-node", "open-mode", "output", "partition", "qos", "requeue", "signal", "time"),
}


@dataclass
class Context:
    """What a command finds: the workshop, programs of its page by name, and the images that were built, in order.

    places: of a container, what is mounted; None outside.
    """

    workshop: Workshop
    programs: frozenset[str] = frozenset()
    images: list[str] = field(default_factory=list)
    places: tuple[str, ...] | None = None


def check(call: Call, context: Context) -> None:
    """Hold a call against the rule for its command."""
    command, *words = call.words
    RULES[command](words, call.environment, context)


@cache
def program() -> argparse.ArgumentParser:
    """The parser of the command line."""
    return _parser()


def parse_verb(words: list[str]) -> argparse.Namespace:
    """What the program's own parser makes of words; it says on stderr what it does not take."""
    try:
        return program().parse_args(words)
    except SystemExit as end:
        if end.code != 0:
            raise AssertionError(f"rsna-e2e {' '.join(words)}: not understood") from None
        return argparse.Namespace(verb=None)  # --help and --version end too


def _verb(words: list[str], environment: Mapping[str, str], context: Context) -> None:
    parsed = parse_verb(words)
    settings = getattr(parsed, "overrides", None)
    if settings is not None:
        settings = [text for text in settings if not re.fullmatch(r"task=\S+\.yaml", text)]  # a file that is not here
        recipe = "demo" if str(parsed.recipe).endswith((".yaml", ".yml")) else parsed.recipe
        is_two_stage = parsed.verb == "pipeline" and parsed.mode != "joint"
        (load_two_stage if is_two_stage else load_config)(recipe, settings)
    if context.places is not None:
        for path in paths_of(parsed):
            assert str(path).startswith(context.places), f"{path} is not in the container: {context.places}"


def paths_of(parsed: argparse.Namespace) -> list[Path]:
    """Every path among the options."""
    values = [one for value in vars(parsed).values() for one in (value if isinstance(value, list) else [value])]
    return [value for value in values if isinstance(value, Path)]


def _python(words: list[str], environment: Mapping[str, str], context: Context) -> None:
    match words:
        case ["-m", "rsna_e2e.training.launch", store, run, *options]:
            _verb(["train", store, run, "--resume", "auto", *options], environment, context)
            read_nodes(environment)
        case ["-m", "rsna_e2e.cli", *options]:
            _verb(options, environment, context)
        case ["-m", "pip", *options]:
            _pip(options, environment, context)
        case ["-m", "pytest", *options]:
            _pytest(options, environment, context)
        case ["-m", "venv", _] | ["-c", *_]:
            pass
        case ["tests/gpu/check_gpu.py", *options]:
            import check_gpu  # beside its tests

            check_gpu.parse(options)
        case ["tests/gpu/cuda_source.py"]:
            pass
        case [script, _, port] if script.endswith("bin/demo_serve.py"):
            assert port.isdigit(), f"{port}: no port"
        case ["docs/figures/make_context.py", picture]:
            assert (ROOT / picture).is_file(), f"{picture}: no such picture"
        case [program] if program.endswith(".py"):
            assert program.removesuffix(".py") in context.programs, f"{program}: no program of that name on the page"
        case _:
            raise AssertionError(f"no rule for python {' '.join(words)}")


@cache
def _project() -> dict[str, list[Requirement]]:
    """What the package depends on, and what its extras add, by name."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = {"": project["dependencies"], **project["optional-dependencies"]}
    return {name: [Requirement(line) for line in lines] for name, lines in named.items()}


@cache
def _packages() -> set[str]:
    """Packages of the project and of its locks."""
    locked = {
        Requirement(line.split(" ")[0])
        for path in ROOT.glob("requirements/*.txt")
        for line in path.read_text().splitlines()
        if "==" in line and not line.lstrip().startswith(("#", "-"))
    }
    own = {requirement for requirements in _project().values() for requirement in requirements}
    return {requirement.name.lower() for requirement in locked | own} | {"pip", "setuptools", "wheel"}


def _pip(words: list[str], environment: Mapping[str, str], context: Context) -> None:
    action, *rest = [word for word in words if word not in ("--disable-pip-version-check", "--quiet", "-q")]
    assert action == "install", f"no rule for pip {action}"
    flags = ("--no-deps", "--no-build-isolation", "--upgrade", "-U", "-e", "--editable")
    is_file = False
    for word in rest:
        if is_file:
            assert (ROOT / re.sub(r"^.*/requirements/", "requirements/", word)).is_file(), f"{word}: no such file"
        is_file = word == "-r"
        if not is_file and not word.endswith(".txt") and word not in flags:
            _check_requirement(word)


def _check_requirement(word: str) -> None:
    wanted = Requirement(re.sub(r"^\.(?=\[|$)", "rsna_e2e", word))
    assert wanted.name.lower() in _packages() | {"rsna_e2e"}, f"{word}: no package of this project or its locks"
    if wanted.name == "rsna_e2e":
        assert wanted.extras <= set(_project()), f"{word}: the extras are {', '.join(filter(None, _project()))}"


def _pytest(words: list[str], environment: Mapping[str, str], context: Context) -> None:
    for word in words:
        if not word.startswith("-") and "/" in word:
            assert list(ROOT.glob(word.split("::")[0])), f"{word}: no such test"


def _apt(words: list[str], environment: Mapping[str, str], context: Context) -> None:
    """The packages are those that the project's own scripts ask for."""
    known = "".join((ROOT / name).read_text() for name in ("bin/setup.sh", "docker/Dockerfile", "docker/check.sh"))
    action, *packages = [word for word in words if not word.startswith("-")]
    assert action in ("update", "install"), f"no rule for apt {action}"
    for package in packages:
        assert re.search(rf"(?<![\w-]){re.escape(package)}(?![\w-])", known), f"{package}: no script asks for it"


def _docker(words: list[str], environment: Mapping[str, str], context: Context) -> None:
    action, *rest = words
    if action == "build":
        context.images.append(rest[rest.index("--tag") + 1])
        return
    assert action == "run", f"no rule for docker {action}"
    options = []
    while rest[0].startswith("-"):
        n = 2 if rest[0] in VALUED else 1
        options, rest = [*options, tuple(rest[:n])], rest[n:]
    image, *inside = rest
    if context.images:
        assert image == context.images[-1], f"runs the image {image} after building {context.images[-1]}"
    assert image in IMAGES or context.images, f"runs the image {image}, which is not built"
    mounted = tuple(pair[1].split(":")[1] for pair in options if pair[0] == "--volume")
    given = dict(pair[1].split("=", 1) for pair in options if pair[0] == "--env")
    run_inside(inside, {name: value for name, value in given.items() if name not in ("HOME", "USER")}, context, mounted)


def run_inside(words: list[str], environment: Mapping[str, str], context: Context, places: tuple[str, ...]) -> None:
    """Hold what a container runs against the same rules, with paths of the container alone."""
    within = Context(context.workshop, context.programs, context.images, places)
    for call in context.workshop.run('"$@"\n', environment, words):
        check(call, within)


def _known(*forms: str) -> "Rule":
    """A rule that takes these forms of arguments, as regular expressions."""

    def rule(words: list[str], environment: Mapping[str, str], context: Context) -> None:
        assert any(re.fullmatch(form, " ".join(words)) for form in forms), f"{' '.join(words)}: none of {forms}"

    return rule


Rule = Callable[[list[str], Mapping[str, str], Context], None]
ANYTHING = _known(".*")  # of scripts of ours, whose own tests run them
RULES: dict[str, Rule] = {
    "rsna-e2e": _verb,
    **dict.fromkeys(("python", "python3"), _python),
    "pip": _pip,
    "pytest": _pytest,
    **dict.fromkeys(("apt", "apt-get"), _apt),
    **dict.fromkeys(("docker", "podman"), _docker),
    "git": _known(r"clone \S+( \S+)?", "pull", r"checkout \S+"),
    "h5repack": _known(r"-f NONE -l CONTI \S+ \S+"),
    "kaggle": _known("competitions download -c rsna-intracranial-hemorrhage-detection.*"),
    **dict.fromkeys(("sudo", "srun", "sbatch"), ANYTHING),  # what they run is called too
    "scontrol": _known("requeue [0-9]+", "show hostnames .*"),
    **dict.fromkeys(("ruff", "mypy", "clang-format"), ANYTHING),  # bin/test.sh calls them
    "bin/setup.sh": _known("", "--system-torch", "--help"),
    "bin/same_results.sh": _known(r"\S+( \S+)?", "--help"),
    "docker/check.sh": _known("", "plain", "system", "plain system", "--help"),
}


def check_sbatch(text: str) -> None:
    """Options of a job script are Slurm's, and one task is started on each node, as training wants it."""
    lines = re.findall(r"^#SBATCH (.*)$", text, re.MULTILINE)
    options = dict(re.findall(r"--([\w-]+)(?:=(\S+))?", " ".join(lines)))
    assert set(options) <= SBATCH, f"not options of sbatch: {set(options) - SBATCH}"
    if "nodes" in options:
        assert options.get("ntasks-per-node") == "1", "training wants --ntasks-per-node=1"
