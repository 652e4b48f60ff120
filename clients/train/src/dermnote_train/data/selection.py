"""Taking a balanced part of a data set: values in, values out."""

import random
from collections import Counter, defaultdict
from collections.abc import Sequence

from dermnote_train.data.records import Record
from dermnote_train.errors import UserError


def balanced_part(records: Sequence[Record], *, limit: int, seed: int) -> tuple[Record, ...]:
    """At most `limit` records, classes as even as their sizes allow, whole groups (only the last may be cut).

    The class that has the fewest so far gives its next group, drawn with `seed`; the records keep their order.
    """
    if limit < 1:
        raise UserError(f"a limit of {limit} leaves no images; give 1 or more")
    if limit >= len(records):
        return tuple(records)
    waiting = _groups_by_class(records, seed=seed)
    taken: set[str] = set()
    counts: Counter[str] = Counter(dict.fromkeys(waiting, 0))
    while len(taken) < limit:
        label = min((name for name in waiting if waiting[name]), key=lambda name: (counts[name], name))
        group = waiting[label].pop()[: limit - len(taken)]
        taken |= {record.image_id for record in group}
        counts.update(record.label for record in group)
    return tuple(record for record in records if record.image_id in taken)


def _groups_by_class(records: Sequence[Record], *, seed: int) -> dict[str, list[list[Record]]]:
    """Shuffled groups by the class that most of their records have."""
    groups: defaultdict[str, list[Record]] = defaultdict(list)
    for record in records:
        groups[record.group].append(record)
    members = sorted(groups.items())
    random.Random(seed).shuffle(members)
    by_class: defaultdict[str, list[list[Record]]] = defaultdict(list)
    for _, group in members:
        by_class[Counter(record.label for record in group).most_common(1)[0][0]].append(group)
    return dict(by_class)
