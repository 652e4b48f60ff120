"""Notes of a data set: requested over HTTP, kept in a table, checked for blinding."""
