"""Governance of versions: evidence, evaluation, promotion, lineage, reproduction."""
