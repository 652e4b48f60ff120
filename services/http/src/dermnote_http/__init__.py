"""What every HTTP service of Dermnote needs: app factory, errors, authentication, limits, logging, settings."""
