"""The KV cache as a tree of tokens over llama.cpp's sequences. Each shared prefix is decoded once.

A sequence holds a path from the root; a fork shares the cells of the common prefix, so it needs no new cells. Unused
branches stay cached and are evicted, least recently used first, when a sequence or cells are needed.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from dermnote_notegen.engine.model import KVCache
from dermnote_notegen.engine.sampling import Logits

# Number of nodes whose logits are cached; each takes one 32-bit float per token of the vocabulary.
CACHED_LOGITS = 256


class NoFreeSequence(Exception):
    """Every sequence is in use."""


@dataclass(eq=False)
class Branch:
    """One of llama.cpp's sequences. `tip`: its deepest node, the only one that can be extended without a fork."""

    seq_id: int
    tip: "Node"


@dataclass(eq=False, repr=False, slots=True)
class Node:
    """One token, which follows its parent's token. A root (depth 0, the empty text) is its own parent.

    `branch`: a branch that holds the path to this node; None until the node is decoded.
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
        """Whether it is a leaf, but not a root, and no request references it."""
        return bool(self.depth) and not self.children and not self.ref_count

    def path(self) -> Iterator["Node"]:
        """This node and its ancestors, without the root."""
        node = self
        while node.depth:
            yield node
            node = node.parent


class PrefixCache:
    """The tree of nodes with their branches and reference counts. `cached_logits`: how many nodes keep their logits."""

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
        """Number of branches that no request references."""
        return len(self._idle)

    @property
    def sequences_used(self) -> int:
        """Number of sequences that hold tokens."""
        return self._kv_cache.max_sequences - len(self._free_ids)

    def unused_cells(self, active: Iterable[Node]) -> int:
        """Number of cells whose tokens are not on the path to any node in `active`."""
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
        """Return the node that `tokens` lead to from `node`, with one more reference; creates missing nodes."""
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
        """Move a reference from `node` to the node that `tokens` lead to from it."""
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
        """Remove `node`, if unused, and the unused nodes between it and `stem`; `stem` stays."""
        if node in self._idle and node is not stem:
            self._remove(node, stop=lambda ancestor: ancestor is stem)

    def missing(self, node: Node) -> tuple[Node, list[Node]]:
        """(deepest decoded node on the path to `node`, the nodes after it that must be decoded, in order)."""
        chain = []
        while not node.decoded:
            chain.append(node)
            node = node.parent
        return node, chain[::-1]

    def extend(self, anchor: Node, chain: Sequence[Node]) -> Branch:
        """Return a branch in which to decode `chain` after the decoded node `anchor`. Raises NoFreeSequence.

        Call `mark_decoded` afterwards or, if nothing was decoded, `undo_extend`.
        """
        branch = anchor.branch
        if branch is None or branch.tip is not anchor:
            branch = self.fork(anchor)
        branch.tip = chain[-1]  # reserves the sequence
        return branch

    def undo_extend(self, anchor: Node, branch: Branch) -> None:
        """Undo the call of `extend` that returned `branch` for `anchor`."""
        if branch is anchor.branch:
            branch.tip = anchor
        else:
            self.free(branch)

    def fork(self, node: Node) -> Branch:
        """A new branch that holds the path to the decoded node `node`. Raises NoFreeSequence."""
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
        """Cache a copy of the logits after `node`; if there is no free row, evict the least recently used logits."""
        if node.logits is None:
            node.logits = self._free_row(len(logits))
        np.copyto(node.logits, logits)
        self._with_logits[node] = None

    def logits(self, node: Node) -> Logits | None:
        """The cached logits after `node`, valid until the next call of `store_logits`."""
        if node.logits is not None:
            self._with_logits.move_to_end(node)
        return node.logits

    def _free_row(self, vocabulary: int) -> Logits:
        """A row of the array that holds all cached logits; separate arrays would fragment the memory."""
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
        """Remove the least recently used idle branch from its end back to a node visited more than once, which stays.

        False if no branch is idle.
        """
        if not self._idle:
            return False
        self._remove(min(self._idle, key=lambda node: node.last_used), stop=lambda ancestor: ancestor.visits > 1)
        return True

    def clear(self) -> None:
        """Remove all unused branches, so that free sequences are assigned in ascending order again."""
        while self.evict():
            pass
        self._free_ids.sort(reverse=True)

    def _remove(self, leaf: Node, *, stop: Callable[[Node], bool]) -> None:
        """Remove `leaf` and the ancestors that only led to it; the first ancestor where `stop` is true stays."""
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
        """End `branch` at `tip`; free its sequence if another branch holds the whole path to `tip`."""
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
