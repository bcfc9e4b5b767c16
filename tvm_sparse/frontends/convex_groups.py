"""Groups of nodes of a graph that can be replaced by one node each.

A group is convex if no path leaves it and comes back: only then can one node take its place
without a cycle. This is integer work, so that it is tested without models.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterable, Sequence


def convex_groups(successors: Sequence[Iterable[int]], chosen: Collection[int]) -> list[list[int]]:
    """Return maximal groups of chosen nodes.

    Replacing every group by one node leaves a graph without cycles. Groups are connected, and no
    two of them that are neighbours could be one group.

    Parameters
    ----------
    successors : sequence of iterable of int
        The nodes that read an output of each node; nodes are numbered in topological order.
    chosen : collection of int
        The nodes to group; each is in exactly one group.

    Returns
    -------
    list of list of int
        The groups, each sorted, in the order of their first nodes.
    """
    group_of = list(range(len(successors)))
    members = {node: [node] for node in group_of}
    edges = [(node, reader) for node in sorted(chosen) for reader in successors[node]]
    edges = [(node, reader) for node, reader in edges if reader in set(chosen)]
    has_changed = True
    while has_changed:
        has_changed = False
        for node, reader in edges:
            first, second = group_of[node], group_of[reader]
            if first == second or _has_detour(successors, group_of, members, first, second):
                continue
            for member in members[second]:
                group_of[member] = first
            members[first] += members.pop(second)
            has_changed = True
    groups = {group_of[node] for node in chosen}
    return sorted(sorted(members[group]) for group in groups)


def _has_detour(
    successors: Sequence[Iterable[int]],
    group_of: Sequence[int],
    members: dict[int, list[int]],
    first: int,
    second: int,
) -> bool:
    """Return whether a path leads from a group to another one through a third."""
    last = max(members[second])
    seen = {first}
    waiting = [first]
    while waiting:
        group = waiting.pop()
        for node in members[group]:
            for reader in successors[node]:
                found = group_of[reader]
                if found == second and group != first:
                    return True
                if found != second and found not in seen and min(members[found]) < last:
                    seen.add(found)
                    waiting.append(found)
    return False


def between(
    successors: Sequence[Sequence[int]], predecessors: Sequence[Sequence[int]], node: int, end: int
) -> set[int]:
    """Return the nodes on the paths from `node` to `end`, with both."""
    return _reached(successors, node) & _reached(predecessors, end)


def _reached(neighbours: Sequence[Sequence[int]], start: int) -> set[int]:
    seen, waiting = {start}, [start]
    while waiting:
        for node in neighbours[waiting.pop()]:
            if node not in seen:
                seen.add(node)
                waiting.append(node)
    return seen


def order_of_groups(
    successors: Sequence[Iterable[int]], groups: Sequence[Sequence[int]]
) -> list[list[int]]:
    """Return all nodes in topological order, those of a group together.

    Parameters
    ----------
    successors : sequence of iterable of int
        The nodes that read an output of each node; nodes are numbered in topological order.
    groups : sequence of sequence of int
        Convex groups, as `convex_groups` returns them.

    Returns
    -------
    list of list of int
        Each group as one entry, each other node as an entry of its own; as close to the numbering
        as possible.
    """
    unit_of = list(range(len(successors)))
    for group in groups:
        for node in group:
            unit_of[node] = group[0]
    units: dict[int, list[int]] = {}
    for node, unit in enumerate(unit_of):
        units.setdefault(unit, []).append(node)
    readers = {
        unit: {unit_of[reader] for node in nodes for reader in successors[node]} - {unit}
        for unit, nodes in units.items()
    }
    waits_for = dict.fromkeys(units, 0)
    for found in readers.values():
        for unit in found:
            waits_for[unit] += 1
    ready = [unit for unit, count in waits_for.items() if not count]
    ordered = []
    while ready:
        unit = heapq.heappop(ready)
        ordered.append(units[unit])
        for reader in readers[unit]:
            waits_for[reader] -= 1
            if not waits_for[reader]:
                heapq.heappush(ready, reader)
    return ordered
