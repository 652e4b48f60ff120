"""Whether a split can be trained on: checked before anything heavy starts."""

from collections import Counter
from collections.abc import Mapping, Sequence

from dermnote_train.data.records import Record, Split
from dermnote_train.errors import UserError

FEWEST_A_CLASS = 2
FEWEST_VALIDATION = 2


def refuse_untrainable(split: Split, *, classes: Sequence[str], notes: Mapping[str, str] | None) -> None:
    """Raise UserError, naming what is short and what to do, if `train` could not make sense of these parts."""
    _refuse_classes(split, classes=classes)
    if notes is not None:
        _refuse_missing_notes(split.train, notes=notes)


def _refuse_classes(split: Split, *, classes: Sequence[str]) -> None:
    if len(classes) < 2:
        raise UserError(f"only {len(classes)} class to tell apart; a data set needs at least 2")
    held = Counter(record.label for record in (*split.train, *split.val))
    unknown = sorted(set(held) - set(classes))
    if unknown:
        raise UserError(f"labels that are not among the classes: {', '.join(unknown)}")
    counts = Counter(record.label for record in split.train)
    short = [f"{name} ({counts[name]})" for name in classes if counts[name] < FEWEST_A_CLASS]
    if short:
        raise UserError(
            f"too few training images of {', '.join(short)}: each class needs at least {FEWEST_A_CLASS} after the "
            "split; add images or leave the class out"
        )
    if len(split.val) < FEWEST_VALIDATION:
        raise UserError(
            f"only {len(split.val)} validation images: at least {FEWEST_VALIDATION} are needed to know when to stop; "
            "add images or split otherwise"
        )


def _refuse_missing_notes(records: Sequence[Record], *, notes: Mapping[str, str]) -> None:
    without = [record.image_id for record in records if not notes.get(record.image_id, "").strip()]
    if without:
        raise UserError(
            f"{len(without)} of {len(records)} training images have no note (the first: {without[0]}); run "
            "`dermnote notes` again, it goes on where it stopped"
        )
