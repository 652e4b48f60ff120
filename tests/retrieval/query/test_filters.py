"""The filter language against a plain scan in Python, and invalid filters."""

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dermnote_contracts.metadata import normalise_known
from dermnote_contracts.problems import FilterRefused
from dermnote_retrieval.query.filters import compile_filter
from dermnote_retrieval.store.database import Database
from dermnote_retrieval.store.items import ItemStore, NewItem

scalars = st.one_of(
    st.booleans(), st.integers(-3, 3), st.sampled_from([0.5, 1.0, -2.5]), st.sampled_from("abc"), st.none()
)
extras = st.dictionaries(
    st.sampled_from(["x", "y", 'q"t', "a.b", "$", "ä\\"]), st.one_of(scalars, st.lists(scalars, max_size=3))
)
known = st.fixed_dictionaries(
    {},
    optional={
        "age": st.sampled_from([0, 4, 50, 50.5, 120, "unknown"]),
        "sex": st.sampled_from(["male", "F", "unk"]),
        "personal_hx_mm": st.sampled_from([True, "no", None]),
        "symptoms": st.fixed_dictionaries({}, optional={"itch": st.sampled_from(["yes", False, "UNK"])}),
        "findings": st.fixed_dictionaries(
            {}, optional={"colours": st.lists(st.sampled_from(["red", "black", "white"]))}
        ),
    },
)
metadata = st.builds(lambda a, b: a | b, known, extras)

leaves = st.one_of(
    st.dictionaries(st.sampled_from(["x", "y", 'q"t', "a.b", "$", "ä\\"]), scalars, max_size=2),
    st.fixed_dictionaries({"age": st.sampled_from([50, "50", None, {"gte": 4}, {"lte": 50}, {"gte": 4, "lte": 50.5}])}),
    st.fixed_dictionaries({"sex": st.sampled_from(["m", "female", None, {"in": ["f", None]}])}),
    st.fixed_dictionaries({"personal_hx_mm": st.sampled_from([True, "no", None])}),
    st.fixed_dictionaries({"symptoms": st.fixed_dictionaries({"itch": st.sampled_from(["yes", False, None])})}),
    st.fixed_dictionaries({"findings.colours": st.sampled_from(["red", {"in": ["black", "white"]}, None])}),
    st.fixed_dictionaries({"x": st.fixed_dictionaries({"in": st.lists(scalars, min_size=1, max_size=3)})}),
    st.fixed_dictionaries({"y": st.sampled_from([{"gte": 0}, {"lte": 0.5}, {"gte": "b"}, {"lte": "b"}])}),
)
filters = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.fixed_dictionaries({"and": st.lists(inner, min_size=1, max_size=3)}),
        st.fixed_dictionaries({"or": st.lists(inner, min_size=1, max_size=3)}),
        st.fixed_dictionaries({"not": inner}),
    ),
    max_leaves=6,
)


def members(held: dict[str, Any], path: str) -> list[Any]:
    """The values of metadata at a path, by a plain walk."""
    value: Any = held.get(path)
    if value is None and "." in path:
        group, field = path.split(".")
        value = (held.get(group) or {}).get(field)
    return [v for v in (value if isinstance(value, list) else [value]) if v is not None]


def same(a: Any, b: Any) -> bool:
    return isinstance(a, bool) == isinstance(b, bool) and a == b


def normalised(path: str, value: Any) -> Any:
    group, _, field = path.partition(".")
    if group in ("symptoms", "findings"):
        normalised = normalise_known({group: {field: value}}).get(group, {}).get(field)
    else:
        normalised = normalise_known({path: value}).get(path)
    return normalised[0] if isinstance(normalised, list) else normalised


def comparable(a: Any, b: Any) -> bool:
    numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in (a, b))
    return numbers or (isinstance(a, str) and isinstance(b, str))


def holds(held: dict[str, Any], path: str, spec: Any) -> bool:
    values = members(held, path)
    if isinstance(spec, dict):
        tests = {
            "in": lambda options: any(holds(held, path, option) for option in options),
            "gte": lambda low: any(comparable(v, normalised(path, low)) and v >= normalised(path, low) for v in values),
            "lte": lambda high: any(
                comparable(v, normalised(path, high)) and v <= normalised(path, high) for v in values
            ),
        }
        return all(tests[operator](operand) for operator, operand in spec.items())
    value = normalised(path, spec)
    return not values if value is None else any(same(v, value) for v in values)


def matches(held: dict[str, Any], spec: dict[str, Any]) -> bool:
    def entry(key: str, value: Any) -> bool:
        if key == "and":
            return all(matches(held, part) for part in value)
        if key == "or":
            return any(matches(held, part) for part in value)
        if key == "not":
            return not matches(held, value)
        if key in ("symptoms", "findings"):
            return all(holds(held, f"{key}.{field}", inner) for field, inner in value.items())
        return holds(held, key, value)

    return all(entry(key, value) for key, value in spec.items())


@pytest.fixture(scope="module")
def store() -> Iterator[ItemStore]:
    with TemporaryDirectory() as folder:
        database = Database(Path(folder))
        yield ItemStore(database)
        database.close()


@settings(max_examples=120, deadline=None)
@given(held=st.lists(metadata, min_size=1, max_size=8), specs=st.lists(filters, min_size=1, max_size=5))
def test_filters_select_the_same_as_a_plain_scan(
    store: ItemStore, held: list[dict[str, Any]], specs: list[dict[str, Any]]
) -> None:
    normal = [normalise_known(one) for one in held]
    with store.database.transaction() as connection:
        connection.execute("delete from items")
    items = [NewItem(f"i{n}", None, one, None, None, None, {}) for n, one in enumerate(normal)]
    numbers = [written.number for written in store.upsert(items, model_id="m")]

    for spec in specs:
        expected = [number for number, one in zip(numbers, normal, strict=True) if matches(one, spec)]
        assert store.matching(compile_filter(spec)).tolist() == expected, spec


@pytest.mark.parametrize(
    ("spec", "place"),
    [
        ({"age": {"gt": 50}}, "filter.age.gt"),
        ({"age": {}}, "filter.age"),
        ({"age": {"gte": [1]}}, "filter.age.gte"),
        ({"age": {"gte": True}}, "filter.age.gte"),
        ({"age": {"gte": None}}, "filter.age.gte"),
        ({"age": 500}, "filter.age"),
        ({"age": [50, 60]}, "filter.age"),
        ({"age.years": 50}, "filter.age.years"),
        ({"diagnosis": "melanomma"}, "filter.diagnosis"),
        ({"diagnosis": {"gte": "melanoma"}}, "filter.diagnosis.gte"),
        ({"diagnosis": {"in": []}}, "filter.diagnosis.in"),
        ({"diagnosis": {"in": "melanoma"}}, "filter.diagnosis.in"),
        ({"diagnosis": {"in": ["nv", "nonsense"]}}, "filter.diagnosis.in.1"),
        ({"symptoms": "yes"}, "filter.symptoms"),
        ({"symptoms": {"ache": "yes"}}, "filter.symptoms.ache"),
        ({"symptoms": {}}, "filter.symptoms"),
        ({"and": {}}, "filter.and"),
        ({"or": []}, "filter.or"),
        ({"or": ["x"]}, "filter.or.0"),
        ({"not": [{}]}, "filter.not"),
        ({"own": 2**70}, "filter.own"),
        ({"own": {"in": list(range(1001))}}, "filter.own.in"),
        ({"and": [{"x": n} for n in range(300)]}, "filter"),
        ({"and": [{}] * 400}, "filter"),
    ],
)
def test_invalid_filters_name_the_location(spec: dict[str, Any], place: str) -> None:
    with pytest.raises(FilterRefused) as refused:
        compile_filter(spec)

    assert refused.value.errors[0].field == place


def test_deep_nesting_is_rejected() -> None:
    spec: dict[str, Any] = {"x": 1}
    for _ in range(20):
        spec = {"not": spec}

    with pytest.raises(FilterRefused, match="nested deeper"):
        compile_filter(spec)


def test_the_largest_valid_filter_runs(store: ItemStore) -> None:
    spec = {"or": [{"x": n, "y": {"in": list(range(900))}} for n in range(60)]}

    assert store.matching(compile_filter(spec)).size >= 0


def test_filters_and_stored_metadata_are_normalised_alike(client: Any, put: Any) -> None:
    put(client, "a", note="n", metadata={"diagnosis": "NEV", "site": "ARM", "age": "50", "own": {"deep": [1, "x"]}})

    for spec in (
        {"diagnosis": "nv"},
        {"diagnosis": {"in": ["melanoma", "melanocytic nevus"]}},
        {"age": {"gte": 50}},
        {"own.deep": "x"},
        {"not": {"diagnosis": "mel"}},
        {"sex": None},
        {"sex": "unknown"},
        {},
    ):
        answer = client.post("/search", json={"text": "n", "filter": spec})
        assert [hit["id"] for hit in answer.json()["hits"]] == ["a"], spec
    assert client.post("/search", json={"text": "n", "filter": {"diagnosis": "mel"}}).json()["hits"] == []


def test_an_invalid_filter_is_a_422_with_the_location(client: Any) -> None:
    answer = client.post("/search", json={"text": "n", "filter": {"age": {"above": 3}}})

    assert (answer.status_code, answer.json()["code"]) == (422, "filter-refused")
    assert answer.json()["errors"][0]["nearest"] == ["in", "gte", "lte"]
