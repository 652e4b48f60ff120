"""Routes: parse the request, call one thing, return its answer. No domain decisions here."""
