"""What is known and decided of versions: evidence, evaluation, promotion, lineage, reproduction."""
