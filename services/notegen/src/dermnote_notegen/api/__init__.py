"""The API process: routes that parse a request, call one function and return its result; no domain logic."""
