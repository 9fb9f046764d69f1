"""Pages, docstrings and comments are plain: short sentences, the field's terms, no misspelt words.

codespell looks for misspelt words (its settings are in pyproject.toml).  The rules here are few and ours.
"""

import ast
import importlib.util
import io
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parent.parent
PAGES = [CHECKOUT / "README.md", CHECKOUT / "CONTRIBUTING.md", *sorted((CHECKOUT / "docs").glob("*.md"))]
MODULES = sorted((CHECKOUT / "deepsec_jax").rglob("*.py"))

LONGEST = 30  # words in a sentence of a page
LONGEST_IN_CODE = 38  # words in a sentence of a docstring or comment

PLAIN = {
    r"(?:in|of) (?:this|the) house\b|\bthe house's\b": "here, our",
    r"\brooms?\b(?! for)": "package",
    r"\bfloors?\b(?!\()": "level; lower bound",
    r"\ba hair\b|\bhair's breadth\b": "slightly, by rounding",
    r"\b(?:is|are|be) dear\b|\bdearer\b": "expensive, more expensive",
    r"\bto and fro\b": "oscillate",  # codespell:ignore
    r"\b(?:hangs|hung|hang) on\b": "depends on",
    r"\bits own luck\b|\btheir luck\b|\bby luck\b": "chance, sampling error",
    r"\bmend(?:s|ed|ing)?\b": "fix, correct",
    r"\bstands? (?:for|in|at|beside|under|below|above|after|before|behind|once|where)\b": "is",
    r"\bgoes? (?:on|through|to|by|along|with|into|back|down|up|out)\b": "continues, passes, moves, is",
    r"\bwhoever\b": "the caller, the user",
    r"\bhonest gradients?\b": "exact gradient",
    r"\blies? (?:beside|aside|in its folder)\b": "is next to, is in",
    r"\blooks? (?:through|at it)\b": "checks, traverses",
    r"\b(?:drive|drives|driven) to\b": "target",
    r"\bflees?\b": "move away from",
    r"\bknows? (?:of )?no\b": "is independent of",
    r"\bcomes? back\b": "is returned",
    r"\bwhat is no\b": "what is not a",
    r"\bas (?:it|they) stands?\b": "unchanged",
    r"\bsays? (?:nothing of|so)\b": "does not depend on; declares",
    r"\bthat there is\b": "name the thing",
    r"\ball the same\b": "still",
    r"\bin the place of\b": "instead of",
}
"""Idioms that a reader from another country stumbles on -> what to say instead."""


def sentences(text: str) -> list[str]:
    """Split prose into sentences; a blank line, a list item, a colon and a semicolon end one, too."""
    blocks = re.split(r"\n\s*\n|\n\s*(?:[-*]|\d+\.) |\n\s+\w+: ", text)
    return [part for block in blocks for part in re.split(r"(?<=[.!?:;])\s+", block) if part.strip()]


def words(sentence: str) -> int:
    return len(re.findall(r"[A-Za-z][\w'’-]*", sentence))


def prose_of_page(text: str) -> str:
    """Return a page without code, tables, headings, comments and the targets of links."""
    text = re.sub(r"^( *)```.*?^\1```$", "", text, flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"^\s*(?:\||#|<!--).*$", "", text, flags=re.MULTILINE)
    return re.sub(r"`[^`]*`", "x", re.sub(r"\]\([^)]*\)", "]", text))


def prose_of_module(source: str) -> Iterator[str]:
    """Yield docstrings, the texts below constants, and comments, of which neighbouring lines are one."""
    for node in ast.walk(ast.parse(source)):
        for statement in (
            getattr(node, "body", None) or [] if not isinstance(node, ast.Lambda | ast.IfExp) else []
        ):
            if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
                if isinstance(statement.value.value, str):
                    yield _without_formulas(statement.value.value)
    comments: list[str] = []
    last = -1
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            text = token.string.lstrip("# ")
            if token.start[0] == last + 1 and comments:
                comments[-1] += f" {text}"
            else:
                comments.append(text)
            last = token.start[0]
    yield from comments


def _without_formulas(docstring: str) -> str:
    """Drop what is indented deeper than the docstring's sections, and tables; both are no prose."""
    lines = docstring.expandtabs().splitlines()
    margin = min((len(line) - len(line.lstrip()) for line in lines[1:] if line.strip()), default=0)
    sections = re.search(r"^\s*(?:Args|Attributes|Returns|Raises|Yields):$", docstring, re.MULTILINE)
    kept = []
    for line in lines:
        deep = len(line) - len(line.lstrip()) >= margin + 4
        section = sections is not None and docstring.find(line) > sections.start()
        kept.append("" if (deep and not section) or re.search(r"={3}| {3}\S", line.strip()) else line)
    return "\n".join(kept)


def faults(prose: str, longest: int) -> list[str]:
    """Return what a reader would stumble on, each with the words concerned."""
    prose = re.sub(r"[ \t]*\n[ \t]*(?=\S)", lambda found: found[0], prose)
    found = [
        f"{words(sentence)} words: {' '.join(sentence.split())}"
        for sentence in sentences(prose)
        if words(sentence) > longest
    ]
    flat = " ".join(prose.split())
    for idiom, instead in PLAIN.items():
        for match in re.finditer(idiom, flat, re.IGNORECASE):
            found.append(
                f"{match[0]!r} ({instead}): ...{flat[max(0, match.start() - 40) : match.end() + 40]}"
            )
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pages_are_plain(page):
    assert faults(prose_of_page(page.read_text()), LONGEST) == []


@pytest.mark.parametrize("module", MODULES, ids=lambda path: path.relative_to(CHECKOUT).as_posix())
def test_docstrings_and_comments_are_plain(module):
    texts = prose_of_module(module.read_text())
    assert [fault for text in texts for fault in faults(text, LONGEST_IN_CODE)] == []


def test_what_is_not_plain_is_found():
    long = " ".join(["word"] * 43) + "."
    source = (
        f'"""Keep it in the house."""\n\nX = 1\n"""{long}"""\n\n# A step is dear,\n# as they say.\ny = 2\n'
    )
    found = [fault for text in prose_of_module(source) for fault in faults(text, LONGEST_IN_CODE)]
    assert len(found) == 3 and found[1].startswith("43 words")
    assert "in the house" in found[0] and "is dear" in found[2]
    page = (
        f"# The house's heading\n\n| dear | table |\n|---|---|\n\n```python\nroom = 'floor'\n```\n\n{long}\n"
    )
    assert len(faults(prose_of_page(page), LONGEST)) == 1
    assert faults("Small steps oscillate. A second sentence is short.", 5) == []


MEASURED = [page for page in PAGES if page.name.startswith("measured-")]


def unsourced(page: str) -> list[str]:
    """Return what a page of measured figures must name and does not."""
    needs = {
        "a commit": r"\b[0-9a-f]{7}\b",
        "a date": r"\b20\d\d-\d\d-\d\d\b",
        "a command": r"```sh\n|`benchmarks/[\w/]+\.py",
    }
    return [name for name, pattern in needs.items() if not re.search(pattern, page)]


@pytest.mark.parametrize("page", MEASURED, ids=lambda page: page.name)
def test_measured_figures_name_commit_date_and_command(page):
    assert unsourced(page.read_text()) == []


def test_measured_figures_without_a_source_are_found():
    assert len(MEASURED) >= 3
    assert unsourced("PAT keeps 94.6 %.") == ["a commit", "a date", "a command"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_percent_signs_follow_a_space(page):
    assert re.findall(r".{0,20}\d%.{0,10}", prose_of_page(page.read_text())) == []


needs_codespell = pytest.mark.skipif(
    importlib.util.find_spec("codespell_lib") is None,
    reason="codespell is not installed: pip install codespell",
)


def codespell(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "codespell_lib", *arguments], cwd=CHECKOUT, capture_output=True, text=True
    )


@needs_codespell
def test_nothing_is_misspelt():
    done = codespell()
    assert done.returncode == 0, done.stdout + done.stderr


@needs_codespell
def test_a_misspelt_word_is_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("Adverserial exmaples.\n")  # codespell:ignore
    assert "exmaples ==> examples" in codespell(str(page)).stdout  # codespell:ignore
