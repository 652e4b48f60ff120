"""Training client of Dermnote; uses the services over HTTP only."""
