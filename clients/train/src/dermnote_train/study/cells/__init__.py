"""Cells of a study: one arm, route and seed each, trained or reused, with outputs kept on disk."""
