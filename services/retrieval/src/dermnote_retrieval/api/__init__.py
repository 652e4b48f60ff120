"""The HTTP routes: each parses, calls one thing of the service, and answers."""
