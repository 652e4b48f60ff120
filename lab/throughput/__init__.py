"""Modules of lab/engine.py: requests, arms, selection of the peers' settings, report."""
