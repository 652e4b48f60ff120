"""The in-memory vector index, derived from the store. It deals with item numbers and vectors only."""
