"""Routes: parse, call one thing, answer. No domain decisions here."""
