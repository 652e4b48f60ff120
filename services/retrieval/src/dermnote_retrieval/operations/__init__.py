"""Operations on the whole store: snapshots, restore and re-embedding."""
