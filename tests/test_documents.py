"""What the documents tell a reader to type works, and what they name is there.

Every block of bash is run by bash in a workshop, where commands are stand-ins that write down how they were called;
each call is then held against the rule for its command (`command_rules.RULES`), and those of `EXECUTED` whose input
is in `stock` are run for real on a store of a few slices. A command without a rule, or with an option that the
program does not have, fails. A block with a marker, `<!-- program: NAME -->`, is left to the test that names it.
"""

import os
import re
import shlex
import shutil
import tomllib
from collections.abc import Callable
from functools import cache
from pathlib import Path

import archives
import numpy as np
import pytest
import small
import yaml
from command_rules import RULES, Context, check, check_sbatch, parse_verb, paths_of, program
from documents import PAGES, ROOT, Block, Document, lost_links, lost_names
from inline_code import subparsers, wrong_code, wrong_variables
from workshop import BlockError, Call, Workshop

import rsna_e2e
from rsna_e2e.cli.program import main
from rsna_e2e.core.errors import RsnaError
from rsna_e2e.inference.predict import predict
from rsna_e2e.store import Store
from rsna_e2e.tasks.ich import ICH
from rsna_e2e.tasks.labels import write_labels
from rsna_e2e.training.train import train

SHELLS, NO_COMMANDS = ("bash",), ("text", "csv", "yaml", "json")
DOCUMENTS = [Document.read(page) for page in PAGES]
BLOCKS = [block for document in DOCUMENTS for block in document.blocks]
SHELL_BLOCKS = [block for block in BLOCKS if block.language in SHELLS and block.marker is None]

# Paths of the documents outside the folder, and what they are in the workshop
PLACES = {"/data/dicom": "raw", "/disks/ct": "raw"}
SERIES_HASH = "1f3a9c20"  # of the documents' example series

# Verbs that are run for real where their input is there; of the others settings and recipe are checked
DATA_VERBS = ("settings", "tasks", "prepare", "store", "export-shards", "inspect", "quirks")
EXECUTED = (*DATA_VERBS, "predict", "evaluate", "bag", "smooth")
OUTPUTS = ("out", "deidentify")

JOB = {"SLURM_JOB_ID": "1"}  # what Slurm sets in a job


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the documents' commands read, by the names that they have there."""
    folder = tmp_path_factory.mktemp("stock")
    store = small.make_store(folder)
    archives.zip_folder(folder / "raw", folder / "rsna-intracranial-hemorrhage-detection.zip")
    train(store, folder / "runs/first", small.config(), device="cpu")
    predict(folder / "runs/first", store, split="test", out=folder / "submission.csv", device="cpu")
    is_test = store.index["split"] == "test"
    for name, is_labelled in (("truth.csv", is_test), ("labels.csv", is_test | True)):
        values = np.arange(np.count_nonzero(is_labelled))[:, None] % 2 * np.ones(len(ICH.slices.names))
        write_labels(folder / name, ICH, store.index["image_id"][is_labelled].tolist(), values)
    (folder / "out").mkdir()
    os.symlink("../store", folder / "out/store")
    return folder


@pytest.fixture(scope="module")
def run_block(stock: Path, tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> Callable[[Block], list[str]]:
    """`check_block` in a workshop of its own, once for each block."""

    @cache
    def run(block: Block) -> list[str]:
        with pytest.MonkeyPatch.context() as patch:
            workshop = make_workshop(tmp_path_factory.mktemp("block"))
            patch.chdir(workshop.folder)
            patch.syspath_prepend(str(ROOT / "tests/gpu"))
            return check_block(block, workshop, stock)

    return run


def make_workshop(folder: Path) -> Workshop:
    return Workshop.make(folder / "workshop", stand_ins={name for name in RULES if "/" not in name})


def check_block(block: Block, workshop: Workshop, stock: Path) -> list[str]:
    """Run a block, hold every call against its rule, execute what can be; returns the verbs that were executed."""
    shutil.copytree(stock, workshop.folder, symlinks=True, dirs_exist_ok=True)
    text = block.text.replace(SERIES_HASH, str(Store.open(stock / "store").index["series_key"][0])[:8])
    for place, name in PLACES.items():
        text = text.replace(place, str(workshop.folder / name))
    check_sbatch(text)
    assert wrong_variables(text) is None
    context = Context(
        workshop, frozenset(marked.marker for marked in BLOCKS if marked.page == block.page and marked.marker)
    )
    executed = []
    for call in workshop.run(text, JOB if "#SBATCH" in text else {}):
        check(call, context)
        if call.words[0] == "rsna-e2e" and is_executed(call):
            execute(call)
            executed.append(call.words[1])
    return executed


def is_executed(call: Call) -> bool:
    """Whether this is a verb to run, and all that it reads is there."""
    parsed = parse_verb(list(call.words[1:]))
    if parsed.verb not in EXECUTED or getattr(parsed, "ray", False):
        return False
    outputs = {
        str(getattr(parsed, name, None)) for name in (*OUTPUTS, *(["store"] if parsed.verb == "prepare" else []))
    }
    return all(path.exists() for path in paths_of(parsed) if str(path) not in outputs)


def execute(call: Call) -> None:
    words = list(call.words[1:])
    parsed = parse_verb(words)
    if parsed.verb == "prepare" and parsed.store.exists():
        parsed.store.rename(f"{parsed.store}.before")
    code = main([*words, *(["--jobs", "1"] if parsed.verb == "prepare" else [])])
    assert code == 0, f"{call}: ends with {code}"


def is_tested_elsewhere(block: Block) -> bool:
    """Whether a test names the page of a block and its marker."""
    tests = [path.read_text() for path in (ROOT / "tests").rglob("test_*.py") if path != Path(__file__)]
    return any(Path(block.page).name in text and re.search(rf"[\"']{block.marker}[\"']", text) for text in tests)


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.name)
def test_a_block_says_what_it_is_and_is_tested(block: Block) -> None:
    assert block.language in (*SHELLS, *NO_COMMANDS, "python")
    if block.marker is not None:
        assert is_tested_elsewhere(block), f"no test names {block.page} and {block.marker!r}"
    else:
        assert block.language != "python", "a program needs a marker and a test that runs it"


@pytest.mark.parametrize("block", SHELL_BLOCKS, ids=lambda block: block.name)
def test_a_block_runs(block: Block, run_block: Callable[[Block], list[str]]) -> None:
    run_block(block)


def test_the_verbs_that_are_cheap_are_executed(run_block: Callable[[Block], list[str]]) -> None:
    """If an example gets another name, `stock` does too."""
    executed = {verb for block in SHELL_BLOCKS if "rsna-e2e" in block.text for verb in run_block(block)}
    assert executed >= {"prepare", "inspect", "predict", "evaluate", "quirks"}


def test_a_job_that_was_told_to_end_is_queued_again(tmp_path: Path) -> None:
    blocks = [block for block in SHELL_BLOCKS if "scontrol requeue" in block.text]
    assert blocks
    for number, block in enumerate(blocks):
        workshop = make_workshop(tmp_path / str(number))
        with pytest.raises(BlockError, match="ends with 75"):
            workshop.run(block.text, JOB | {"SRUN_ENDS_WITH": "75"})
        assert ("scontrol", "requeue", "1") in [call.words for call in workshop.calls()]


@pytest.mark.parametrize("verb", subparsers(program()))
def test_the_examples_of_a_verbs_help_are_understood(verb: str) -> None:
    parser = subparsers(program())[verb]
    examples = [
        example
        for one in (parser, *subparsers(parser).values())
        for example in re.findall(r"^  (rsna-e2e .*)$", one.epilog or "", re.MULTILINE)
    ]
    assert examples
    for example in examples:
        check(Call(tuple(shlex.split(example, comments=True)), {}), Context(Workshop(ROOT)))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.page)
def test_what_a_page_names_is_there(document: Document) -> None:
    assert document.prose.count("```") == 0, "a block is not closed"
    assert lost_links(document) == []
    assert lost_names(document) == []
    wrong = {code: wrong_code(code) for code in document.code}
    assert {code: why for code, why in wrong.items() if why} == {}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("frobnicate store", "no rule for the command: frobnicate"),
        ("bin/no_such.sh", "ends with 127"),
        ("rsna-e2e prepare raw store --no-such", "not understood"),
        ("rsna-e2e train store --recipe demo", "not understood"),  # RUN is missing
        ("rsna-e2e predict runs/first store --split none --out a.csv", "not understood"),
        ("rsna-e2e train store runs/x --recipe large", "unknown recipe 'large'"),
        ("rsna-e2e find-lr store rates --set optimizer.rate=1", "there is no 'rate'"),
        ("rsna-e2e pipeline full --data raw --set two_stage.no_such=1", "there is no 'no_such'"),
        ("rsna-e2e evaluate submission.csv labels.csv --out report", "ends with 3"),  # executed: of other images
        ("bin/train.sh store runs/x --no-such", "not understood"),
        ("bin/train.sh store", "no rule for python"),
        ("NNODES=2 bin/train.sh store runs/x", "NNODES=2 needs NODE_RANK"),
        ("DATA=raw bin/run_full.sh --no-such", "not understood"),
        ("OUT=out RECIPE=large bin/run_31_fast.sh", "unknown recipe 'large'"),
        ("bin/demo.sh a && rsna-e2e no-such", "not understood"),
        ("bin/demo.sh a b", "ends with 2: demo: one folder at most"),
        ("STUDYS=16 bin/demo.sh", "bin/demo.sh reads no variable STUDYS"),
        ("bin/setup.sh --cuda", "--cuda: none of"),
        ("bin/check_gpu.sh --no-such", "2"),
        ("bin/check_cuda_source.sh --all", "no rule for python"),
        ("bin/test.sh tests/none/test_none.py", "no such test"),
        ("bin/same_results.sh a b c", "a b c: none of"),
        ("docker/check.sh volta", "volta: none of"),
        ("STACK=volta docker/build.sh\ndocker/run.sh rsna-e2e --version", "rsna_e2e after building rsna_e2e:volta"),
        ("TAG=mine docker/run.sh rsna-e2e --version", "the image mine, which is not built"),
        ("docker/run.sh rsna-e2e prepare /data /out/store", "/data is not in the container"),
        ("docker/run.sh bin/train.sh store /out/run", "store is not in the container"),
        ("docker/run.sh rsna-e2e inspect /out/store --no-such", "not understood"),
        ("DATA=nowhere docker/run.sh rsna-e2e prepare /data /out/store", "no such folder or archive"),
        ("STACK=ampere docker/build.sh", "must be cu13 or volta"),
        ("docker push rsna_e2e", "no rule for docker push"),
        ("#SBATCH --node=2\nsrun bin/train.sh store runs/x", "not options of sbatch: {'node'}"),
        ("#SBATCH --nodes=2\nsrun bin/train.sh store runs/x", "--ntasks-per-node=1"),
        ("srun --kill-on-bad-exit=0 bin/train.sh store runs/x --no-such", "not understood"),
        ("pip install 'rsna_e2e[no-such]'", "the extras are jpeg"),
        ("pip install tensorflow", "no package of this project"),
        ("pip install -r requirements/none.txt", "no such file"),
        ("sudo apt-get install cowsay", "no script asks for it"),
        ("python mine.py", "no program of that name"),
        ("git push", "push: none of"),
    ],
)
def test_a_wrong_command_is_found(text: str, why: str, run_block: Callable[[Block], list[str]]) -> None:
    with pytest.raises((AssertionError, BlockError, RsnaError, SystemExit), match=re.escape(why)):
        run_block(Block("planted.md", 1, "bash", None, f"{text}\n"))


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("rsna-e2e no-such", "there is no verb no-such"),
        ("rsna-e2e store mend STORE", "there is no verb mend"),
        ("rsna-e2e prepare RAW STORE --no-such", "has no option --no-such"),
        ("prepare --no-such", "has no option --no-such"),
        ("predict --split none", "--split takes"),
        ("import-weights FILE OUT --kind images|words", "--kind takes images, sequences"),
        ("train --set model.no_such=1", "there is no 'no_such'"),
        ("--set precision=fp12", "precision"),
        ("image.no_such=3", "there is no 'no_such'"),
        ("--set model.no_such=FILE", "there is no 'no_such'"),
        ("bin/no_such.sh", "there is no bin/no_such.sh"),
        ("bin/train.sh STORE RUN --no-such", "has no option --no-such"),
        ("pip install 'rsna_e2e[no-such]'", "the extras are"),
        ("NPROCS=4 bin/train.sh STORE RUN", "reads no variable NPROCS"),
        ("NPROC=4 bin/train.sh STORE RUN --no-such", "has no option --no-such"),
        ("NPROC=4 NNODES=2 NODE_RANK=0 MASTER_ADDR=node0 bin/train.sh STORE RUN --device cpu", None),
        ("DATA=raw CXX=c++ bin/run_21_single.sh", None),
        ("rsna-e2e VERB --help", None),
        ("rsna-e2e import-weights FILE OUT.safetensors --kind images|sequences", None),
        ("bin/train.sh STORE RUN [OPTIONS]", None),
        ("bin/run_full.sh --part bag", None),
        ("--set model.weights_file=FILE", None),
        ("--set NAME=VALUE", None),
        ("python -m pytest", None),
    ],
)
def test_wrong_code_in_a_sentence_is_found(code: str, why: str | None) -> None:
    found = wrong_code(code)
    assert (found is None) == (why is None)
    assert (why or "") in (found or "")


def test_the_citation_is_of_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= set(citation)  # required: Citation File Format 1.2.0
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert (citation["version"], citation["license"]) == (rsna_e2e.__version__, project["license"])


def test_lost_names_and_links_are_found() -> None:
    text = "# A b: `c`\n## A b: c\n"
    text += '[1](#a-b-c) [2](#a-b-c-1) [3](docs/store.md#no-such) [4](no.md) [5](#no) <img src="no.png">\n'
    text += "`test_privacy.py` `test_no.py` `test_no_such` `tests/no.py` `core/errors.py` `core/no.py` `csrc/`"
    document = Document("README.md", text)
    assert lost_links(document) == ["docs/store.md#no-such", "no.md", "#no", "no.png"]
    assert lost_names(document) == ["test_no.py", "test_no_such", "tests/no.py", "core/no.py"]


def test_a_marker_that_no_test_names_is_found() -> None:
    assert is_tested_elsewhere(Block("docs/api.md", 1, "python", "kernel", ""))
    assert not is_tested_elsewhere(Block("docs/api.md", 1, "python", "no-such", ""))
    assert not is_tested_elsewhere(Block("docs/no.md", 1, "python", "kernel", ""))
