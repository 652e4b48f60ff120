"""The HTTP routes: each parses the request, calls one method of the service, and answers."""
