"""Operations on the whole store: snapshots, restore, re-embedding and maintenance."""
