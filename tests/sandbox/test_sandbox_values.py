"""Plain values come out of the jail as they went in, and nothing else comes out at all."""

import json
import math
from collections import Counter, OrderedDict, defaultdict, deque, namedtuple
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tclora.sandbox import Opaque, numeric_value
from tclora.sandbox.answers import from_plain
from tclora.sandbox.inside import plain
from tclora.sandbox.inside.plain import to_text


def there_and_back(value: object) -> object:
    return from_plain(json.loads(to_text(value)))


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(min_value=-(2**200), max_value=2**200),
    st.floats(allow_nan=False),
    st.text(),
    st.binary(max_size=20),
    st.complex_numbers(allow_nan=False),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.dictionaries(SCALARS, inner, max_size=4),
        st.sets(SCALARS, max_size=4),
        st.frozensets(SCALARS, max_size=4),
    ),
    max_leaves=12,
)


@settings(max_examples=60, deadline=None)
@given(VALUES)
def test_a_plain_value_comes_back_equal_and_of_its_type(value):
    back = there_and_back(value)
    assert back == value
    assert type(back) is type(value)
    # Equal values of different types (1, 1.0, True) are told apart by this, inside containers too. A set has no order.
    if "set" not in repr(value) and "{" not in repr(value):
        assert repr(back) == repr(value)


@pytest.mark.parametrize(
    "value",
    [
        -0.0,
        math.inf,
        -math.inf,
        5e-324,
        1.7976931348623157e308,
        2**53,
        -(2**53),
        10**5000,
        "\ud800",
        "\0\u2028\U0001f600",
        Fraction(1, 3),
        Decimal("1.50"),
        Decimal("-0"),
        bytearray(b"x"),
        deque([1, 2]),
        range(3, 9, 2),
        range(0),
        {1: {2: (3, {4})}},
        {(1, 2): 3},
        {None: 1},
        [[]] * 3,
        1j,
        complex(-0.0, math.inf),
    ],
    ids=lambda v: repr(v)[:20] if not isinstance(v, int) else "int",
)
def test_odd_plain_values(value):
    back = there_and_back(value)
    assert back == value
    assert type(back) is type(value)
    if isinstance(value, float):
        assert math.copysign(1, back) == math.copysign(1, value)


def test_nan_stays_nan():
    assert math.isnan(there_and_back(float("nan")))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (OrderedDict(a=1), {"a": 1}),
        (Counter("aab"), {"a": 2, "b": 1}),
        (defaultdict(list, a=[1]), {"a": [1]}),
        (namedtuple("P", "x y")(1, 2), (1, 2)),
        ({"a": 1}.keys(), {"a"}),
    ],
)
def test_relatives_of_plain_types_become_plain(value, expected):
    assert there_and_back(value) == expected


@pytest.mark.parametrize("value", [iter([1, 2]), map(int, "12"), (x for x in (1, 2)), iter((1, 2)), iter({1: 0, 2: 0})])
def test_an_iterator_gives_its_items_and_is_no_list(value):
    back = there_and_back(value)
    assert back != [1, 2]
    assert list(back) == [1, 2]


def test_a_method_of_the_program_does_not_come_along():
    class Liar(int):
        def __eq__(self, other):
            return True

        __hash__ = int.__hash__

    back = there_and_back([Liar(3)])
    assert back == [3]
    assert back != [4]
    assert type(back[0]) is int


def test_what_is_no_plain_data_is_only_a_name():
    back = there_and_back([object(), len])
    assert [type(item) for item in back] == [Opaque, Opaque]
    assert back[0] != back[1]
    assert back[0] != there_and_back([object()])[0]


def test_an_endless_iterator_is_no_plain_data():
    import itertools

    assert isinstance(there_and_back(itertools.count()), Opaque)
    assert isinstance(there_and_back(range(10**12)), Opaque)


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        '{"a":1,"b":2}',
        '{"unknown":1}',
        '{"int":"xyz"}',
        '{"int":5}',
        '{"float":"1.5"}',
        '{"float":null}',
        '{"set":[[]]}',
        '{"set":5}',
        '{"dict":[1]}',
        '{"dict":[[],1]}',
        '{"complex":["1"]}',
        '{"bytes":"0"}',
        '{"bytes":5}',
        '{"range":["0","1","0"]}',
        '{"range":["0","fffffffffff","1"]}',
        '{"fraction":["1","0"]}',
        '{"decimal":"1e999999999"}',
        '{"decimal":"x"}',
        '{"opaque":[]}',
        '{"opaque":5}',
        '{"tuple":{"dict":[]}}',
        '{"dict_items":[1]}',
        '{"deque":"ab"}',
        '{"iterator":{}}',
        '{"range":["0","' + "f" * 40 + '","1"]}',
        '{"__class__":1}',
        '[{"frozenset":[{"dict":[]}]}]',
    ],
)
def test_what_is_no_encoding_is_refused(text):
    with pytest.raises(ValueError):
        from_plain(json.loads(text))


def test_answers_have_a_depth_and_a_size(monkeypatch):
    deep: list = []
    for _ in range(200):
        deep = [deep]
    with pytest.raises(ValueError, match="deep"):
        to_text(deep)
    monkeypatch.setattr(plain, "MAX_ITEMS", 100)
    with pytest.raises(ValueError, match="items"):
        to_text([0] * 101)


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (5, 5.0),
        (-7, -7.0),
        (0, 0.0),
        (2.5, 2.5),
        (-0.0, 0.0),
        (1e-320, 1e-320),
        (10**300, 1e300),
        (10**400, None),
        (10**100_000, None),
        (float("inf"), None),
        (float("-inf"), None),
        (float("nan"), None),
        (True, None),
        (False, None),
        (None, None),
        ("5", 5.0),
        (" 5.5 ", 5.5),
        ("1,000", 1000.0),
        ("$1,234.50", 1234.5),
        ("12%", 12.0),
        ("-3", -3.0),
        ("+3", 3.0),
        ("1e3", 1000.0),
        ("1e400", None),
        ("inf", None),
        ("nan", None),
        ("NaN", None),
        ("Infinity", None),
        ("", None),
        (" ", None),
        ("five", None),
        ("5 apples", None),
        ("0x10", None),
        ("1_000", None),
        ("１２", None),
        ("5" * 2000, None),
        ("1/2", None),
        ("--1", None),
        ([5], 5.0),
        ((5,), 5.0),
        (["7"], 7.0),
        ([5, 6], None),
        ([], None),
        ([[5]], None),
        ({5}, None),
        ({"a": 5}, None),
        (Fraction(1, 4), 0.25),
        (Decimal("2.5"), 2.5),
        (Decimal("NaN"), None),
        (Decimal("1e10000"), None),
        (Decimal("sNaN"), None),
        (complex(3, 0), 3.0),
        (complex(3, 1), None),
        (b"5", None),
        (Opaque("int64", True), None),
        (range(5), None),
        ("\0", None),
    ],
    ids=lambda v: repr(v)[:20] if not isinstance(v, int) else "int",
)
def test_the_number_that_an_answer_means(value, number):
    assert numeric_value(value) == number
