"""One typed client per service; the only place that knows HTTP."""
