"""The one directory that holds everything a prediction needs: written atomically, verified on every read."""
