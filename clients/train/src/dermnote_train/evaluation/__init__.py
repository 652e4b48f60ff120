"""Evaluation of a trained model: metrics, bootstrap intervals and subgroups."""
