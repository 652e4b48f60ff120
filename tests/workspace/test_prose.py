"""The prose check finds planted phrases in every kind of text, and nothing in the repository."""

import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).parents[2]
prose = SimpleNamespace(**runpy.run_path(str(ROOT / "tools/prose.py")))
RULES, ALLOWED = prose.read_rules()
PLANTED = "The load goes on."


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_each_pattern_finds_its_example_and_not_its_suggestion(rule: object) -> None:
    hits = prose.check("example.md", rule.example, [rule])  # type: ignore[attr-defined]

    assert len(hits) == 1
    assert prose.check("example.md", rule.suggestion, RULES) == []  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("name", "source", "line"),
    [
        ("page.md", f"# Title\n\n{PLANTED}\n", 3),
        ("page.md", "# Title\n\nThe load goes\non.\n", 3),
        ("module.py", f'"""{PLANTED}"""\n', 1),
        ("module.py", f'"""A module.\n\n{PLANTED}\n"""\n', 3),
        ("module.py", f'x: int = 1\n"""{PLANTED}"""\n', 2),
        ("module.py", f"x = 1\n\n# {PLANTED}\n", 3),
        ("module.py", "# The load goes\n# on.\n", 1),
        ("module.py", f"def f() -> None:\n    raise ValueError('{PLANTED}')\n", 2),
        ("module.py", f"def f(name: str) -> None:\n    raise ValueError(f'{{name}}: {PLANTED}')\n", 2),
        ("module.py", f"logger.warning('%s: {PLANTED}', 1)\n", 1),
        ("module.py", f"option = typer.Option(help='{PLANTED}')\n", 1),
        ("module.py", f"print('{PLANTED}')\n", 1),
        ("module.py", f"output.print_line(f'{PLANTED}')\n", 1),
        ("module.py", f"output.print_table('Title', ('{PLANTED}',), [])\n", 1),
        ("module.py", f"class Full(Problem):\n    code, title = 'full', '{PLANTED}'\n", 2),
        ("module.py", f"DESCRIPTION = '{PLANTED}'\n", 1),
        ("test_module.py", "def test_a_load_goes_on() -> None: ...\n", 1),
        ("settings.toml", f"key = 1  \n# {PLANTED}\n", 2),
        ("Dockerfile", f"# {PLANTED}\nFROM scratch\n", 1),
    ],
)
def test_a_planted_phrase_is_reported_with_its_line(name: str, source: str, line: int) -> None:
    hits = prose.check(name, source, RULES)

    assert [(hit.line, hit.rule.name) for hit in hits] == [(line, "goes on")]
    assert str(hits[0]).startswith(f"{name}:{line}: goes on: ")


def test_ordinary_string_literals_are_not_prose() -> None:
    assert prose.check("module.py", f"text = '{PLANTED}'\n", RULES) == []


def test_a_phrase_after_escaped_line_breaks_is_reported() -> None:
    (hit,) = prose.check("module.py", f'"""A\\n\\n\\n {PLANTED}"""\n', RULES)

    assert hit.rule.name == "goes on"


def test_a_line_can_be_excluded() -> None:
    allowed = [{"file": "page.md", "text": "The load", "reason": "a quotation"}]

    assert prose.check("page.md", f"{PLANTED} <!-- prose: ignore -->\n", RULES) == []
    assert prose.check("page.md", PLANTED, RULES, allowed) == []
    assert len(prose.check("other.md", PLANTED, RULES, allowed)) == 1


def test_every_exception_has_a_reason() -> None:
    assert all(entry["reason"] for entry in ALLOWED)


def test_the_repository_has_no_phrase_to_rewrite() -> None:
    hits = prose.check_tree(ROOT, RULES, ALLOWED)

    assert not hits, "\n".join(map(str, hits))
