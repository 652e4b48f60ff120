"""Reports phrases in documentation, docstrings, comments and messages that tools/prose.toml lists; exits 1 on a hit.

Run by `make lint`. Reads the tracked files: Markdown; docstrings, comments, names of tests and messages (raise, log,
help texts, titles, output) of Python; comments of YAML, TOML, shell, Dockerfiles and the Makefile. A line with
`prose: ignore` is skipped.
"""

import ast
import io
import re
import subprocess
import sys
import tokenize
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
RULES = Path(__file__).with_suffix(".toml")
IGNORE = "prose: ignore"
HASH_COMMENTS = (".toml", ".yaml", ".yml", ".sh", "Dockerfile", "Makefile")
LOG_METHODS = {"debug", "info", "warning", "error", "exception", "critical", "log"}
OUTPUT_FUNCTIONS = {"print", "print_line", "print_table", "echo", "exit"}
TEXT_NAMES = {"title", "description"}
TEXT_ARGUMENTS = {"help", "description", "title", "short_help", "epilog"}

Piece = tuple[int, str]
"""Line number of the first line, and the text."""


@dataclass(frozen=True)
class Rule:
    """A phrase to avoid. `example` is a sentence that contains it."""

    name: str
    regex: re.Pattern[str]
    suggestion: str
    example: str


@dataclass(frozen=True)
class Hit:
    """A phrase found in a file."""

    file: str
    line: int
    rule: Rule
    phrase: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.rule.name}: {self.phrase!r}: {self.rule.suggestion}"


def read_rules(path: Path = RULES) -> tuple[list[Rule], list[dict[str, str]]]:
    """The patterns and the allowed exceptions of the data file."""
    data = tomllib.loads(path.read_text())
    rules = [
        Rule(
            name=entry["name"],
            regex=re.compile(entry["regex"].replace(" ", r"\s+"), re.IGNORECASE),
            suggestion=entry["suggestion"],
            example=entry["example"],
        )
        for entry in data["pattern"]
    ]
    return rules, data.get("allow", [])


def check(name: str, source: str, rules: Iterable[Rule], allowed: Iterable[dict[str, str]] = ()) -> list[Hit]:
    """All hits in one file's prose, in line order."""
    exceptions = [entry["text"] for entry in allowed if name.startswith(entry["file"])]
    lines = source.splitlines()
    hits = []
    for start, text in pieces(name, source):
        for rule in rules:
            for match in rule.regex.finditer(text):
                number = start + text.count("\n", 0, match.start())
                line = lines[min(number, len(lines)) - 1]  # a string with \n escapes spans fewer lines than its text
                if IGNORE not in line and not any(exception in line for exception in exceptions):
                    hits.append(Hit(name, number, rule, " ".join(match[0].split())))
    return sorted(hits, key=lambda hit: hit.line)


def pieces(name: str, source: str) -> Iterator[Piece]:
    """The texts of a file that a person reads."""
    if name.endswith(".md"):
        yield 1, source
    elif name.endswith(".py"):
        yield from _comments(
            (token.start[0], token.string)
            for token in tokenize.generate_tokens(io.StringIO(source).readline)
            if token.type == tokenize.COMMENT
        )
        for node in ast.walk(ast.parse(source)):
            yield from _texts(node)
    elif name.endswith(HASH_COMMENTS):
        lines = enumerate(source.splitlines(), start=1)
        yield from _comments((number, line.lstrip()) for number, line in lines if line.lstrip().startswith("#"))


def _comments(comments: Iterable[Piece]) -> Iterator[Piece]:
    """Comments of consecutive lines, joined into one piece."""
    block: list[str] = []
    start = 0
    for number, comment in comments:
        if block and number != start + len(block):
            yield start, "\n".join(block)
            block = []
        if not block:
            start = number
        block.append(comment.lstrip("#"))
    if block:
        yield start, "\n".join(block)


def _texts(node: ast.AST) -> Iterator[Piece]:
    """Texts of one syntax node: bare strings (docstrings), messages, and names of tests."""
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
        yield node.lineno, node.value.value
    elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
        yield node.lineno, node.name.replace("_", " ")
    elif isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
        yield from _strings(node.exc)
    elif isinstance(node, ast.Call):
        if _function(node) in LOG_METHODS | OUTPUT_FUNCTIONS:
            yield from _strings(node)
        yield from (piece for word in node.keywords if word.arg in TEXT_ARGUMENTS for piece in _strings(word.value))
    elif isinstance(node, ast.Assign) and not _assigned(node).isdisjoint(TEXT_NAMES):
        yield from _strings(node.value)


def _assigned(node: ast.Assign) -> set[str]:
    """The names that an assignment sets, in lower case: "title" in `code, title = ...`."""
    names = (name for target in node.targets for name in ast.walk(target))
    return {name.id.lower() for name in names if isinstance(name, ast.Name)}


def _function(call: ast.Call) -> str:
    function = call.func
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def _strings(node: ast.AST) -> Iterator[Piece]:
    for child in ast.walk(node):
        if isinstance(child, ast.Constant) and isinstance(child.value, str):
            yield child.lineno, child.value.replace("\n", " ")


def tracked_files(root: Path) -> list[str]:
    """Paths of the files that git tracks, relative to `root`."""
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=root, capture_output=True, text=True, check=True)  # noqa: S607
    return [name for name in listing.stdout.split("\0") if name]


def check_tree(root: Path, rules: list[Rule], allowed: list[dict[str, str]]) -> list[Hit]:
    """All hits of a repository."""
    names = [name for name in tracked_files(root) if name.endswith((".md", ".py", *HASH_COMMENTS))]
    return [hit for name in names for hit in check(name, (root / name).read_text(), rules, allowed)]


def main() -> None:
    """Print the hits, all or those of the paths given as arguments; exit 1 if there are any."""
    rules, allowed = read_rules()
    hits = [hit for hit in check_tree(ROOT, rules, allowed) if hit.file.startswith(tuple(sys.argv[1:]) or "")]
    for hit in hits:
        print(hit)
    if hits:
        sys.exit(f"{len(hits)} phrases to rewrite; patterns and exceptions: {RULES.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
