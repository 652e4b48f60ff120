"""The error tree: the client raises the same class as the service, and each error reads as one line."""

import re
from pathlib import Path

import pytest

from dermnote_contracts import problems
from dermnote_contracts.problems import (
    DermnoteError,
    FieldError,
    InternalError,
    InvalidRequest,
    NoFacts,
    NotFound,
    Unavailable,
    UnknownNote,
    error_from_problem,
    one_line,
)


def tree(base: type[DermnoteError]) -> list[type[DermnoteError]]:
    """Every error of the contracts package."""
    errors = [base] if base.__module__ == "dermnote_contracts.problems" else []
    return errors + [error for child in base.__subclasses__() for error in tree(child)]


ERRORS = [kind for kind in dict.fromkeys(tree(DermnoteError)) if kind is not DermnoteError]


@pytest.mark.parametrize("kind", ERRORS)
def test_the_client_raises_what_the_service_raised(kind: type[DermnoteError]) -> None:
    field_error = FieldError(field="metadata.age", message="too large", index=3, nearest=["nevus"])
    raised = kind("what happened", errors=[field_error])
    rebuilt = error_from_problem(raised.problem().model_dump(mode="json", exclude_none=True), status=kind.status)
    assert type(rebuilt) is kind
    assert (rebuilt.detail, rebuilt.errors) == (raised.detail, raised.errors)


def test_every_error_has_a_unique_code_and_a_title() -> None:
    codes = [kind.code for kind in ERRORS]
    assert len(codes) == len(set(codes))
    for kind in ERRORS:
        assert kind.code == kind.code.lower().replace(" ", "-")
        assert 400 <= kind.status < 600
        assert kind.title


def test_a_subclass_keeps_the_status_of_its_family() -> None:
    for family in (InvalidRequest, NotFound, Unavailable):
        assert {kind.status for kind in tree(family)} == {family.status}


def test_an_internal_error_exposes_no_detail() -> None:
    problem = InternalError().problem()
    assert (problem.status, problem.code, problem.detail) == (500, "internal-error", "")


@pytest.mark.parametrize("body", [None, "<html>", [], {}, {"detail": "Bad Gateway"}], ids=repr)
def test_a_response_in_another_format_is_reported_with_its_status(body: object) -> None:
    error = error_from_problem(body, status=502)
    assert type(error) is DermnoteError
    assert "502" in str(error)


@pytest.mark.parametrize(
    "body", [{"code": "not-found"}, {"code": 7, "title": "x", "status": 404}, {"code": "a", "title": 1, "status": "x"}]
)
def test_a_malformed_problem_is_a_dermnote_error_too(body: dict[str, object]) -> None:
    error = error_from_problem(body, status=502)
    assert isinstance(error, DermnoteError)
    assert "502" in str(error)


def test_an_unknown_code_keeps_its_text() -> None:
    body = {"title": "Teapot", "status": 418, "code": "teapot", "detail": "short and stout"}
    assert "short and stout" in str(error_from_problem(body, status=418))


def test_one_line_names_title_detail_and_the_first_three_fields() -> None:
    errors = [FieldError(field=f"metadata.f{n}", message="is wrong", index=n if n else None) for n in range(5)]
    line = one_line(InvalidRequest("nothing was queued", errors=errors))
    assert "\n" not in line
    assert line == (
        "The request is not valid: nothing was queued: metadata.f0: is wrong; item 1: metadata.f1: is wrong; "
        "item 2: metadata.f2: is wrong (+2 more)"
    )


def test_the_line_does_not_repeat_the_title() -> None:
    assert one_line(UnknownNote()) == "No such note"
    assert one_line(error_from_problem(UnknownNote().problem().model_dump(), status=404)) == "No such note"


def test_an_error_without_detail_reads_as_its_title() -> None:
    assert str(NoFacts()) == NoFacts.title


def test_the_tree_in_the_docstring_shows_every_class_with_its_parent_and_status() -> None:
    assert problems.__doc__ is not None
    drawn: dict[str, str] = {}
    parent = ""
    for line in problems.__doc__.splitlines()[3:]:
        indented = line.startswith("│")
        status = ""
        for name, number in reversed(re.findall(r"([A-Z]\w+)(?: (\d{3}))?", line)):
            status = number or status
            drawn[name] = parent if indented else status
            parent = parent if indented else name

    expected = {
        kind.__name__: str(kind.status) if DermnoteError in kind.__bases__ else kind.__bases__[0].__name__
        for kind in ERRORS
    }
    assert drawn == expected


def test_every_error_with_a_code_is_defined_in_the_contracts() -> None:
    root = Path(__file__).parents[2]
    sources = [path for folder in ("services", "clients", "imaging") for path in (root / folder).rglob("src/**/*.py")]
    elsewhere = [
        str(path.relative_to(root))
        for path in sources
        if re.search(r"^    code(, status)?(, title)?\b.* = .*\"[a-z]+(-[a-z]+)+\"", path.read_text(), re.MULTILINE)
    ]
    assert elsewhere == []
