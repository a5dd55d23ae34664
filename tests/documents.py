"""The documents as tests see them: blocks of code with their markers, code inside sentences, headings and links."""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = ("README.md", "CONTRIBUTING.md", *sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("docs/*.md")))

_BLOCK = re.compile(
    r"(?:^<!-- program: (?P<marker>[\w-]+) -->\n)?^```(?P<language>[^\n]*)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
_CODE = re.compile(r"`([^`\n]+(?:\n[^`\n]+)?)`")  # a sentence may break inside
_LINK = re.compile(r"!?\[[^\]]*\]\(([^()\s]+)\)|<(?:img|a)\s[^>]*?(?:src|href)=\"([^\"]+)\"")


@dataclass(frozen=True)
class Block:
    """Lines between fences, and the name in the comment above them, if there is one."""

    page: str
    line: int
    language: str
    marker: str | None
    text: str

    @property
    def name(self) -> str:
        return f"{self.page}:{self.line}"


@dataclass(frozen=True)
class Document:
    """A page of Markdown."""

    page: str
    text: str

    @classmethod
    def read(cls, page: str) -> "Document":
        return cls(page, (ROOT / page).read_text())

    @property
    def blocks(self) -> list[Block]:
        return [
            Block(
                self.page,
                self.text.count("\n", 0, found.start("text")),
                found["language"],
                found["marker"],
                found["text"],
            )
            for found in _BLOCK.finditer(self.text)
        ]

    @property
    def prose(self) -> str:
        """Everything but blocks."""
        return _BLOCK.sub("", self.text)

    @property
    def code(self) -> list[str]:
        """Code inside sentences."""
        return [" ".join(found.split()) for found in _CODE.findall(self.prose)]

    @property
    def links(self) -> list[str]:
        return [first or second for first, second in _LINK.findall(self.prose)]

    @property
    def anchors(self) -> set[str]:
        """What a link may name after #: headings as GitHub spells them, the second of a name with -1 and so on."""
        anchors: list[str] = []
        for heading in re.findall(r"^#+ (.+)$", self.prose, re.MULTILINE):
            plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
            slug = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
            n_before = sum(re.fullmatch(rf"{re.escape(slug)}(-\d+)?", anchor) is not None for anchor in anchors)
            anchors.append(f"{slug}-{n_before}" if n_before else slug)
        return {*anchors, *re.findall(r"<a (?:id|name)=\"([^\"]+)\"", self.prose)}


def lost_links(document: Document) -> list[str]:
    """Links into the project that lead nowhere. What lies elsewhere is not looked up."""
    lost = []
    for link in document.links:
        if re.match(r"[a-z]+:", link):
            continue
        target, _, anchor = link.partition("#")
        path = (ROOT / document.page).parent / target if target else ROOT / document.page
        if not path.exists():
            lost.append(link)
        elif anchor and path.suffix == ".md":
            page = document if not target else Document(document.page, path.read_text())
            lost += [] if anchor in page.anchors else [link]
    return lost


def lost_names(document: Document) -> list[str]:
    """Tests, modules and files of the project that are named and not there."""
    tests = {path.name: path.read_text() for path in (ROOT / "tests").rglob("*.py")}
    functions = {name for text in tests.values() for name in re.findall(r"^def (test_\w+)", text, re.MULTILINE)}
    return [code for code in document.code if _is_lost(code, set(tests), functions)]


def _is_lost(code: str, files: set[str], functions: set[str]) -> bool:
    first = code.split("/")[0]
    if re.fullmatch(r"test_\w+\.py", code):
        return code not in files
    if re.fullmatch(r"test_\w+", code):
        return code not in functions
    if re.fullmatch(r"[\w./-]+", code) and first in {
        "rsna_e2e",
        "csrc",
        "tests",
        "bin",
        "docker",
        "docs",
        "requirements",
    }:
        return not (ROOT / code).exists()
    is_module = re.fullmatch(r"[\w/]+\.py", code) and (ROOT / "rsna_e2e" / first).is_dir()
    return bool(is_module) and not (ROOT / "rsna_e2e" / code).exists()
