"""The bounded matcher says what `re` says, and refuses what it does not know."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tclora.adapters.pattern_syntax import UnsupportedPatternError, parse
from tclora.adapters.patterns import Budget, PatternTable, fullmatch

PATHS = [
    "lm_head",
    "q_proj",
    "model.layers.0.self_attn.q_proj",
    "model.layers.11.mlp.up_proj",
    "model.language_model.layers.1.self_attn.k_proj",
    "vision.blocks.3.attn.qkv",
    "transformer.h.0.attn.c_attn",
]
SEEN_IN_THE_WILD = [
    r".*\.(q_proj|v_proj)",
    r"^model\.layers\.(?:0|11)\..*$",
    r"(?:.*?(?:language|text).*?(?:self_attn|mlp).*?(?:k_proj|up_proj).*?)|(?:\bmodel\.layers\.[\d]{1,}\.(?:self_attn|mlp)\.(?:(?:q_proj|up_proj)))",
    r"^(model\.language_model(?=\.).*\.(k_proj|q_proj))$",
    r"^(?!.*vision).*(q_proj|qkv)$",
    r"layers\.\d+\.self_attn\.[qkv]_proj",
    r"model.layers.[0-9]+.*",
    r"(?P<name>q|k)_proj",
    r"h\.\d{1,2}\.attn\.c_attn",
    r"[^.]+",
    r".*?\w{2,}_proj\Z",
    "q_proj|lm_head",
    "",
]


@pytest.mark.parametrize("pattern", SEEN_IN_THE_WILD)
@pytest.mark.parametrize("path", PATHS)
def test_real_patterns_match_as_re_says(pattern: str, path: str):
    assert fullmatch(parse(pattern), path, Budget()) == bool(re.fullmatch(pattern, path))
    key = PatternTable.of([pattern]).key_for(path)
    assert (key is not None) == bool(re.match(rf"(.*\.)?({pattern})$", path))


ATOMS = st.sampled_from(["a", "b", ".", r"\.", "[ab]", "[^a]", r"\w", r"\b", "^", "$", r"\d", "0"])
QUANTIFIERS = st.sampled_from(["", "", "*", "+", "?", "*?", "{2}", "{1,2}", "{,2}", "{,}"])
PATTERNS = st.recursive(
    st.tuples(ATOMS, QUANTIFIERS).map(lambda pair: pair[0] + ("" if pair[0] in (r"\b", "^", "$") else pair[1])),
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3).map("".join),
        st.tuples(inner, inner).map("|".join),
        st.tuples(inner, QUANTIFIERS).map(lambda pair: f"(?:{pair[0]}){pair[1]}"),
        inner.map(lambda pattern: f"({pattern})"),
        inner.map(lambda pattern: f"(?={pattern})"),
        inner.map(lambda pattern: f"(?!{pattern})"),
    ),
    max_leaves=6,
)


@settings(max_examples=300, deadline=None)
@given(PATTERNS, st.text("ab.0", max_size=8))
def test_any_pattern_matches_as_re_says(pattern: str, text: str):
    assert fullmatch(parse(pattern), text, Budget()) == bool(re.fullmatch(pattern, text))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.one_of(st.text("ab.", min_size=1, max_size=4), PATTERNS), max_size=5), st.text("ab.0", max_size=8))
def test_the_first_key_that_matches_wins(keys: list[str], path: str):
    # PEFT's get_pattern_key, word for word.
    expected = next((key for key in keys if re.match(rf"(.*\.)?({key})$", path)), None)
    assert PatternTable.of(keys).key_for(path) == expected


@pytest.mark.parametrize(
    "pattern", [r"(a)\1", "(?<=a)b", "(?i)a", "(a", "a)", "[a", "*a", "a**", "a{2000}", r"\p", "a{3,2}", "a++"]
)
def test_what_is_not_known_is_refused(pattern: str):
    with pytest.raises(UnsupportedPatternError):
        parse(pattern)


def test_the_budget_ends_what_would_take_long():
    table = PatternTable.of([r"(((.*)*\.)*)*!"])
    table.budget.steps = 10_000
    with pytest.raises(UnsupportedPatternError, match="steps"):
        for i in range(1000):
            table.key_for(f"model.layers.{i}.self_attn.q_proj")


def test_many_plain_keys_for_many_modules_are_quick():
    paths = [f"model.layers.{i}.experts.{j}.up_proj" for i in range(50) for j in range(100)]
    table = PatternTable.of(paths)
    assert all(table.key_for(path) == path for path in paths)
