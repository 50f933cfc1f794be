"""`init`: from a table to a spec that a person edits, and a page that shows the table."""
