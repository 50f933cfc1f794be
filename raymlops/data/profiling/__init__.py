"""What a table is like, found by one pass over it: its files, its columns, their roles, and a split that suits it."""
