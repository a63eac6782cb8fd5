"""Requests that cannot be scored are refused before any model work, with the fault named."""

import pytest

from tclora.errors import ConfigError
from tclora.evaluation import ChoiceSet, Contestant, DevSet
from tclora.evaluation.contestants import check_request

BASE = Contestant("base", "base")
NAMES = ("cluster-0", "cluster-1")


def test_a_routed_contestant_answers_by_cluster():
    routed = Contestant("routed", "routed", ("x", "y"))
    assert [routed.folder_for(c) for c in (0, 1)] == ["x", "y"]


def test_one_adapter_answers_every_cluster():
    assert Contestant("one", "merged", ("x",)).folder_for(7) == "x"


def test_the_base_answers_alone():
    assert BASE.folder_for(0) is None


@pytest.mark.parametrize(
    ("contestant", "message"),
    [
        (Contestant("b", "base", ("x",)), r"wrong number(?s:.)*b \(base\)(?s:.)*expected  0"),
        (Contestant("m", "merged"), r"wrong number(?s:.)*m \(merged\)(?s:.)*expected  1"),
        (Contestant("r", "routed", ("x",)), r"wrong number(?s:.)*r \(routed\)(?s:.)*expected  2"),
        (Contestant("base", "adapter", ("x",)), "two contestants are called 'base'"),
    ],
)
def test_contestants_that_do_not_fit_are_refused(dev, contestant, message):
    with pytest.raises(ConfigError, match=message):
        check_request([BASE, contestant], DevSet(dev.examples[:1], (0,)), [], NAMES)


def test_lists_that_are_not_parallel_are_refused(dev):
    with pytest.raises(ConfigError, match=r"differ in number(?s:.)*12 and 1"):
        check_request([BASE], DevSet(dev.examples, (0,)), [], NAMES)


def test_one_cluster_out_of_range_among_good_ones_is_refused(dev):
    with pytest.raises(ConfigError, match=r"cluster does not exist(?s:.)*found     2(?s:.)*0 to 1"):
        check_request([BASE], DevSet(dev.examples[:3], (0, 2, 1)), [], NAMES)


def test_two_sets_of_one_name_are_refused(dev, choices):
    with pytest.raises(ConfigError, match="two choice sets are called 'quiz'"):
        check_request([BASE], dev, [choices[0], choices[0]], (*NAMES, "cluster-2"))


def test_an_empty_set_is_refused():
    with pytest.raises(ConfigError, match=r"no items(?s:.)*choice set void"):
        check_request([BASE], DevSet((), ()), [ChoiceSet("void", (), ())], NAMES)


def test_nothing_to_do_is_refused():
    with pytest.raises(ConfigError, match="nothing to evaluate"):
        check_request([BASE], DevSet((), ()), [], NAMES)
