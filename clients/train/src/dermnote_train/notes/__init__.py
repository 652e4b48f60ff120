"""Notes of a data set: requests over HTTP, the notes table, and blinded notes."""
