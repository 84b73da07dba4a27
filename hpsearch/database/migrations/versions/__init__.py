"""One module a revision. What is released never changes: databases were made by it."""
