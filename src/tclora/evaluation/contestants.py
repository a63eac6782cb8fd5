"""Who is scored, and on what: contestants, development examples and multiple-choice sets.

A control library has groups of its own (random clusters, tasks), so items may carry further assignments, by name, and
a contestant may name the one that chooses its adapter. `check_request` refuses, before any model work: names given
twice, folder counts that do not fit the kind, assignments that are absent, out of range or not parallel, pairs of
unknown contestants, and a request with nothing to score.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from tclora.data import ChoiceItem, Example
from tclora.errors import ConfigError

__all__ = ["ChoiceSet", "Contestant", "DevSet", "check_request"]

Kind = Literal["base", "adapter", "routed", "merged", "multi_task", "control"]
Routes = Mapping[str, tuple[int, ...]]
"""Further assignments of items, by name: for each item, the index of the adapter that answers it."""


@dataclass(frozen=True)
class Contestant:
    """One row of the results: the base alone, one adapter folder, or one folder per cluster with routing.

    `folders` is empty for `base`, holds one folder per cluster in cluster order for `routed`, one per group where
    `route` is given, and one otherwise.
    """

    name: str
    kind: Kind
    folders: tuple[str, ...] = ()
    route: str | None = None
    """The name of the assignment that chooses the adapter, where it is not the clusters."""

    def folder_for(self, group: int) -> str | None:
        """The adapter that answers an item of this group, or cluster; None: the base alone."""
        if not self.folders:
            return None
        return self.folders[group] if self.kind == "routed" or self.route is not None else self.folders[0]


@dataclass(frozen=True)
class DevSet:
    """Development examples, and the index of each one's cluster."""

    examples: tuple[Example, ...]
    clusters: tuple[int, ...]
    routes: Routes = field(default_factory=dict)


@dataclass(frozen=True)
class ChoiceSet:
    """One multiple-choice task: items, the index of each one's cluster, and how choices are compared.

    `normalize` is what the log-likelihood of a choice is divided by: nothing, its tokens, or its UTF-8 bytes.
    """

    name: str
    items: tuple[ChoiceItem, ...]
    clusters: tuple[int, ...]
    normalize: Literal["none", "tokens", "bytes"] = "bytes"
    routes: Routes = field(default_factory=dict)


def check_request(
    contestants: Sequence[Contestant],
    dev: DevSet,
    choices: Sequence[ChoiceSet],
    cluster_names: Sequence[str],
    pairs: Sequence[tuple[str, str]] = (),
) -> None:
    """Refuse a request that cannot be scored as it stands.

    Raises:
        ConfigError: names the contestant or the set, and what is wrong with it.
    """
    _check_distinct("contestants", [contestant.name for contestant in contestants])
    _check_distinct("choice sets", [choice_set.name for choice_set in choices])
    _check_distinct("clusters", list(cluster_names))
    for contestant in contestants:
        _check_folders(contestant, len(cluster_names))
    for name in sorted({name for pair in pairs for name in pair} - {contestant.name for contestant in contestants}):
        raise ConfigError("a pair names no contestant", found=name, do="compare contestants of this evaluation")
    _check_clusters("the development set", len(dev.examples), dev.clusters, len(cluster_names))
    _check_routes("the development set", len(dev.examples), dev.routes, contestants)
    for choice_set in choices:
        where = f"choice set {choice_set.name}"
        _check_clusters(where, len(choice_set.items), choice_set.clusters, len(cluster_names))
        _check_routes(where, len(choice_set.items), choice_set.routes, contestants)
        if not choice_set.items:
            raise ConfigError("a choice set has no items", where=where, do="leave it out, or check its file")
    if not contestants or not (dev.examples or choices):
        raise ConfigError(
            "there is nothing to evaluate",
            found=f"{len(contestants)} contestants, {len(dev.examples)} examples, {len(choices)} choice sets",
            expected="at least one contestant, and examples or a choice set",
        )


def _check_distinct(what: str, names: list[str]) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(f"two {what} are called '{twice[0]}'", do="give one of them another name")


def _check_folders(contestant: Contestant, n_clusters: int) -> None:
    if contestant.route is not None and contestant.kind == "control" and contestant.folders:
        return  # how many groups there are is known by the assignment alone
    expected = {"base": 0, "routed": n_clusters}.get(contestant.kind, 1)
    is_lost = contestant.route is not None or (contestant.kind == "routed" and not n_clusters)
    if len(contestant.folders) != expected or is_lost:
        raise ConfigError(
            "the contestant has the wrong number of adapter folders",
            where=f"{contestant.name} ({contestant.kind})",
            found=len(contestant.folders),
            expected=f"{expected}: none for base, one per cluster for routed, one per group for a routed control, "
            "one otherwise",
        )


def _check_routes(where: str, n_items: int, routes: Routes, contestants: Sequence[Contestant]) -> None:
    for contestant in contestants:
        if contestant.route is None or not n_items:
            continue
        if contestant.route not in routes:
            raise ConfigError(
                "items lack the assignment that a contestant is routed by",
                where=f"{where}, {contestant.name}",
                found=", ".join(routes) or "no assignment but the clusters",
                expected=contestant.route,
            )
        _check_clusters(
            f"{where}, assignment {contestant.route}", n_items, routes[contestant.route], len(contestant.folders)
        )


def _check_clusters(where: str, n_items: int, clusters: Sequence[int], n_clusters: int) -> None:
    if len(clusters) != n_items:
        raise ConfigError(
            "items and their clusters differ in number", where=where, found=f"{n_items} and {len(clusters)}"
        )
    outside = [cluster for cluster in clusters if not 0 <= cluster < n_clusters]
    if outside:
        raise ConfigError(
            "an item's cluster does not exist", where=where, found=outside[0], expected=f"0 to {n_clusters - 1}"
        )
