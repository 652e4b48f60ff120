"""What the KV cache holds: a tree of tokens over lanes (llama.cpp's sequences). Each shared prefix is decoded once.

A lane holds a path from the root; a branch copies its stem, which costs no cells. Branches that nobody stands on are
kept by use and go, the least recently used first, when a lane or cells are wanted.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from dermnote_notegen.engine.sampling import Logits

# Nodes whose logits are kept, a vocabulary of 32 bit numbers each.
LOGITS_KEPT = 256


class Cells(Protocol):
    """The cache itself. Positions count from 0; `drop` removes those from `start` on."""

    lanes: int

    def copy(self, source: int, target: int, *, length: int) -> None: ...

    def drop(self, lane: int, *, start: int) -> None: ...


class NoLane(Exception):
    """Every lane is in use."""


@dataclass(eq=False)
class Lane:
    """One of llama.cpp's sequences. `tip`: the deepest node in it, which no other lane goes beyond."""

    number: int
    tip: "Node"


class Node:
    """One token behind its parent's; a root (depth 0, the empty text) has itself as parent.

    `lane`: one that holds the path to it, None while it is not decoded.
    """

    __slots__ = ("children", "depth", "lane", "logits", "parent", "passes", "planned", "seen", "token", "used", "users")

    def __init__(self, token: int = -1, parent: "Node | None" = None) -> None:
        self.token = token
        self.parent: Node = parent or self
        self.depth: int = 0 if parent is None else parent.depth + 1
        self.children: dict[int, Node] = {}
        self.lane: Lane | None = None
        self.logits: Logits | None = None
        self.users = 0
        self.passes = 0
        self.used = 0
        self.planned = 0
        self.seen = 0

    @property
    def decoded(self) -> bool:
        """Whether the cache holds it; the root is the empty text, which needs no holding."""
        return self.lane is not None or not self.depth

    def path(self) -> Iterator["Node"]:
        """This node and those above it, without the root."""
        node = self
        while node.depth:
            yield node
            node = node.parent


class Tree:
    """The nodes, their lanes, and who stands where. `logits_kept`: nodes whose logits are kept for who comes later."""

    def __init__(self, cells: Cells, *, logits_kept: int = LOGITS_KEPT) -> None:
        self._cells = cells
        self._free = list(range(cells.lanes - 1, -1, -1))
        self._idle: dict[Node, None] = {}
        self._kept: OrderedDict[Node, None] = OrderedDict()
        self._logits_kept = logits_kept
        self._rows: list[Logits] | None = None
        self._clock = 0
        self.root = Node()
        self.held = 0

    @property
    def idle(self) -> int:
        """Branches that nobody stands on."""
        return len(self._idle)

    @property
    def lanes_used(self) -> int:
        """Lanes that hold something."""
        return self._cells.lanes - len(self._free)

    def unused(self, stands: Iterable[Node]) -> int:
        """Cells that hold tokens on no path to any of `stands`."""
        self._clock += 1
        used = 0
        for stand in stands:
            for node in stand.path():
                if node.seen == self._clock:
                    break
                node.seen = self._clock
                used += node.lane is not None
        return self.held - used

    def enter(self, node: Node, tokens: Sequence[int]) -> Node:
        """Stand on the node `tokens` below `node`; missing ones are made, to be decoded."""
        for token in tokens:
            below = node.children.get(token)
            if below is None:
                below = node.children[token] = Node(token, node)
                self._idle.pop(node, None)
            below.passes += 1
            node = below
        node.users += 1
        self._idle.pop(node, None)
        return node

    def move(self, node: Node, tokens: Sequence[int]) -> Node:
        """Go from `node` to the one `tokens` below it."""
        node.users -= 1
        return self.enter(node, tokens)

    def leave(self, node: Node) -> None:
        """Stand nowhere any more; the branch stays until its cells or its lane are wanted."""
        node.users -= 1
        self._clock += 1
        node.used = self._clock
        if not node.users and not node.children and node.depth:
            self._idle[node] = None

    def cut(self, node: Node, *, stem: Node) -> None:
        """Remove the branch that ends at `node`, which was left, as far as nobody uses it and not beyond `stem`."""
        if node in self._idle and node is not stem:
            self._remove(node, stop=lambda above: above is stem)

    def missing(self, node: Node) -> tuple[Node, list[Node]]:
        """(deepest decoded node above or at `node`, the nodes from there to `node` in order)."""
        chain = []
        while not node.decoded:
            chain.append(node)
            node = node.parent
        return node, chain[::-1]

    def lane_for(self, anchor: Node, chain: Sequence[Node]) -> Lane:
        """A lane to decode `chain` in, behind `anchor`, which is decoded. Raises NoLane.

        Follow it by `hold` or, when nothing was decoded, by `undo`.
        """
        lane = anchor.lane
        if lane is None or lane.tip is not anchor:
            lane = self.lane_apart(anchor)
        lane.tip = chain[-1]  # nobody else may go on in it
        return lane

    def undo(self, anchor: Node, lane: Lane) -> None:
        """What `lane_for` gave was not used."""
        if lane is anchor.lane:
            lane.tip = anchor
        else:
            self.spare(lane)

    def lane_apart(self, node: Node) -> Lane:
        """A lane of its own that holds the path to `node`, which is decoded. Raises NoLane."""
        lane = Lane(self._free_lane(), node)
        if node.lane is not None:
            self._cells.copy(node.lane.number, lane.number, length=node.depth)
        return lane

    def hold(self, nodes: Sequence[Node], lane: Lane) -> None:
        """`nodes`, in order, were decoded in `lane`."""
        for node in nodes:
            node.lane = lane
        self.held += len(nodes)

    def spare(self, lane: Lane) -> None:
        """Give back a lane that nothing was held in."""
        self._cells.drop(lane.number, start=0)
        self._free.append(lane.number)

    def keep_logits(self, node: Node, logits: Logits) -> None:
        """Keep a copy of the logits behind `node` for who comes to it later; the least recently used go for it."""
        if node.logits is None:
            node.logits = self._row(len(logits))
        np.copyto(node.logits, logits)
        self._kept[node] = None

    def _row(self, vocabulary: int) -> Logits:
        """A row of the one block that all kept logits live in: copies made one by one would fragment the memory."""
        if self._rows is None:
            self._rows = list(np.empty((self._logits_kept, vocabulary), dtype=np.float32))
        if not self._rows:
            self._forget_logits(next(iter(self._kept)))
        return self._rows.pop()

    def _forget_logits(self, node: Node) -> None:
        if node.logits is not None and self._rows is not None:
            self._rows.append(node.logits)
            del self._kept[node]
            node.logits = None

    def logits(self, node: Node) -> Logits | None:
        """Logits kept of `node`, until others are kept."""
        if node.logits is not None:
            self._kept.move_to_end(node)
        return node.logits

    def evict(self) -> bool:
        """Remove the least recently used idle branch, down to where others passed too; False when there is none."""
        if not self._idle:
            return False
        self._remove(min(self._idle, key=lambda node: node.used), stop=lambda above: above.passes > 1)
        return True

    def _free_lane(self) -> int:
        while not self._free:
            if not self.evict():
                raise NoLane
        return self._free.pop()

    def _remove(self, leaf: Node, *, stop: Callable[[Node], bool]) -> None:
        """Remove `leaf` and what only led to it, up to a node where `stop` is true."""
        lanes: dict[Lane, None] = {}
        node = leaf
        while node.depth and not node.children and not node.users:
            if node is not leaf and stop(node):
                break
            self._idle.pop(node, None)
            self._forget_logits(node)
            if node.lane is not None:
                lanes[node.lane] = None
                self.held -= 1
            del node.parent.children[node.token]
            node = node.parent
        for lane in lanes:
            self._shorten(lane, node)
        if node.depth and not node.children and not node.users:
            node.used = leaf.used
            self._idle[node] = None

    def _shorten(self, lane: Lane, tip: Node) -> None:
        """`lane` ends at `tip` now; it is freed where another lane holds all of that."""
        other = next((child.lane for child in tip.children.values() if child.lane is not None), None)
        other = other or (tip.lane if tip.lane is not lane else None)
        if tip.depth and other is None:
            lane.tip = tip
            self._cells.drop(lane.number, start=tip.depth)
            return
        for node in tip.path():
            if node.lane is lane:
                node.lane = other
        self.spare(lane)
