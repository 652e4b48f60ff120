"""The training client of Dermnote. Talks to the services over HTTP only."""
