"""HTTP clients of the two services; the only package that uses HTTP."""
