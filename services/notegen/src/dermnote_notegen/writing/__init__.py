"""From a request to what the model receives: strategies, clinical priors, prompts and grammars. Pure functions."""
