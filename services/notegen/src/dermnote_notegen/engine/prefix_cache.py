"""The KV cache as a tree of tokens over llama.cpp's sequences. Each shared prefix is decoded once.

A sequence holds a path from the root; forking copies the common prefix, which costs no cells. Unused branches stay
cached and are evicted, least recently used first, when a sequence or cells are needed.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from dermnote_notegen.engine.model import KVCache
from dermnote_notegen.engine.sampling import Logits

# Nodes whose logits are cached, one 32-bit float for every token of the vocabulary.
CACHED_LOGITS = 256


class NoFreeSequence(Exception):
    """Every sequence is in use."""


@dataclass(eq=False)
class Branch:
    """One of llama.cpp's sequences. `tip`: its deepest node; no other branch may extend the sequence beyond it."""

    seq_id: int
    tip: "Node"


@dataclass(eq=False, repr=False, slots=True)
class Node:
    """One token after its parent's; a root (depth 0, the empty text) is its own parent.

    `branch`: one that holds the path to this node, None until it is decoded.
    """

    token: int = -1
    parent: "Node" = None  # type: ignore[assignment]  # a root becomes its own parent
    children: dict[int, "Node"] = field(default_factory=dict)
    branch: Branch | None = None
    logits: Logits | None = None
    ref_count: int = 0
    visits: int = 0
    last_used: int = 0
    planned_at: int = 0
    visited_at: int = 0
    depth: int = 0

    def __post_init__(self) -> None:
        if self.parent is None:
            self.parent = self
        else:
            self.depth = self.parent.depth + 1

    @property
    def decoded(self) -> bool:
        """Whether the cache holds it; the root is the empty text and always counts as decoded."""
        return self.branch is not None or not self.depth

    @property
    def removable(self) -> bool:
        """Whether it is a leaf (not a root) that no request is at."""
        return bool(self.depth) and not self.children and not self.ref_count

    def path(self) -> Iterator["Node"]:
        """This node and its ancestors, without the root."""
        node = self
        while node.depth:
            yield node
            node = node.parent


class PrefixCache:
    """The nodes, their branches, and the requests at them. `cached_logits`: nodes whose logits are kept for reuse."""

    def __init__(self, kv_cache: KVCache, *, cached_logits: int = CACHED_LOGITS) -> None:
        self._kv_cache = kv_cache
        self._free_ids = list(range(kv_cache.max_sequences - 1, -1, -1))
        self._idle: dict[Node, None] = {}
        self._with_logits: OrderedDict[Node, None] = OrderedDict()
        self._cached_logits = cached_logits
        self._free_rows: list[Logits] | None = None
        self._clock = 0
        self.root = Node()
        self.cells_held = 0

    @property
    def idle_branches(self) -> int:
        """Branches that no request is at."""
        return len(self._idle)

    @property
    def sequences_used(self) -> int:
        """Sequences that hold tokens."""
        return self._kv_cache.max_sequences - len(self._free_ids)

    def unused_cells(self, active: Iterable[Node]) -> int:
        """Cells that hold tokens on no path to any of `active`."""
        self._clock += 1
        used = 0
        for leaf in active:
            for node in leaf.path():
                if node.visited_at == self._clock:
                    break
                node.visited_at = self._clock
                used += node.branch is not None
        return self.cells_held - used

    def acquire(self, node: Node, tokens: Sequence[int]) -> Node:
        """Reference the node `tokens` below `node`; missing nodes are created, to be decoded."""
        for token in tokens:
            child = node.children.get(token)
            if child is None:
                child = node.children[token] = Node(token, node)
                self._idle.pop(node, None)
            child.visits += 1
            node = child
        node.ref_count += 1
        self._idle.pop(node, None)
        return node

    def advance(self, node: Node, tokens: Sequence[int]) -> Node:
        """Move a reference from `node` to the node `tokens` below it."""
        node.ref_count -= 1
        return self.acquire(node, tokens)

    def release(self, node: Node) -> None:
        """Drop a reference; the branch stays cached until its cells or its sequence are needed."""
        node.ref_count -= 1
        self._clock += 1
        node.last_used = self._clock
        if node.removable:
            self._idle[node] = None

    def discard(self, node: Node, *, stem: Node) -> None:
        """Remove the branch that ends at `node`, as far as it is unused and not beyond `stem`."""
        if node in self._idle and node is not stem:
            self._remove(node, stop=lambda ancestor: ancestor is stem)

    def missing(self, node: Node) -> tuple[Node, list[Node]]:
        """(deepest decoded node above or at `node`, the nodes from there to `node` in order)."""
        chain = []
        while not node.decoded:
            chain.append(node)
            node = node.parent
        return node, chain[::-1]

    def extend(self, anchor: Node, chain: Sequence[Node]) -> Branch:
        """A branch to decode `chain` in, after `anchor`, which is decoded. Raises NoFreeSequence.

        Follow it by `mark_decoded` or, if nothing was decoded, by `undo_extend`.
        """
        branch = anchor.branch
        if branch is None or branch.tip is not anchor:
            branch = self.fork(anchor)
        branch.tip = chain[-1]  # reserves the sequence
        return branch

    def undo_extend(self, anchor: Node, branch: Branch) -> None:
        """Undo `extend`, which returned a branch for `anchor`."""
        if branch is anchor.branch:
            branch.tip = anchor
        else:
            self.free(branch)

    def fork(self, node: Node) -> Branch:
        """A new branch that holds the path to `node`, which is decoded. Raises NoFreeSequence."""
        while not self._free_ids:
            if not self.evict():
                raise NoFreeSequence
        branch = Branch(self._free_ids.pop(), node)
        if node.branch is not None:
            self._kv_cache.copy(node.branch.seq_id, branch.seq_id, length=node.depth)
        return branch

    def mark_decoded(self, nodes: Sequence[Node], branch: Branch) -> None:
        """Record that `nodes`, in order, were decoded in `branch`."""
        for node in nodes:
            node.branch = branch
        self.cells_held += len(nodes)

    def free(self, branch: Branch) -> None:
        """Free the sequence of a branch that no node refers to."""
        self._kv_cache.drop(branch.seq_id, start=0)
        self._free_ids.append(branch.seq_id)

    def store_logits(self, node: Node, logits: Logits) -> None:
        """Cache a copy of the logits after `node`; the least recently used ones are evicted for it."""
        if node.logits is None:
            node.logits = self._free_row(len(logits))
        np.copyto(node.logits, logits)
        self._with_logits[node] = None

    def logits(self, node: Node) -> Logits | None:
        """The cached logits after `node`, valid until others are stored."""
        if node.logits is not None:
            self._with_logits.move_to_end(node)
        return node.logits

    def _free_row(self, vocabulary: int) -> Logits:
        """A row of one block that holds all cached logits: separate copies would fragment the memory."""
        if self._free_rows is None:
            self._free_rows = list(np.empty((self._cached_logits, vocabulary), dtype=np.float32))
        if not self._free_rows:
            self._drop_logits(next(iter(self._with_logits)))
        return self._free_rows.pop()

    def _drop_logits(self, node: Node) -> None:
        if node.logits is not None and self._free_rows is not None:
            self._free_rows.append(node.logits)
            del self._with_logits[node]
            node.logits = None

    def evict(self) -> bool:
        """Remove the least recently used idle branch up to where other requests passed; False if there is none."""
        if not self._idle:
            return False
        self._remove(min(self._idle, key=lambda node: node.last_used), stop=lambda ancestor: ancestor.visits > 1)
        return True

    def clear(self) -> None:
        """Remove all unused branches; sequences are then assigned in order again."""
        while self.evict():
            pass
        self._free_ids.sort(reverse=True)

    def _remove(self, leaf: Node, *, stop: Callable[[Node], bool]) -> None:
        """Remove `leaf` and the ancestors that only led to it, up to a node where `stop` is true."""
        branches: dict[Branch, None] = {}
        node = leaf
        while node.removable and (node is leaf or not stop(node)):
            self._idle.pop(node, None)
            self._drop_logits(node)
            if node.branch is not None:
                branches[node.branch] = None
                self.cells_held -= 1
            del node.parent.children[node.token]
            node = node.parent
        for branch in branches:
            self._shorten(branch, node)
        if node.removable:
            node.last_used = leaf.last_used
            self._idle[node] = None

    def _shorten(self, branch: Branch, tip: Node) -> None:
        """End `branch` at `tip`; free its sequence if another branch holds all of that path."""
        other = next((child.branch for child in tip.children.values() if child.branch is not None), None)
        other = other or (tip.branch if tip.branch is not branch else None)
        if tip.depth and other is None:
            branch.tip = tip
            self._kv_cache.drop(branch.seq_id, start=tip.depth)
            return
        for node in tip.path():
            if node.branch is branch:
                node.branch = other
        self.free(branch)
