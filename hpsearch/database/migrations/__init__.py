"""How our tables came to be what they are: one alembic revision a version; ``hpsearch.database.upgrade`` runs them."""
