"""Results of a study, computed from the outputs of its cells."""
