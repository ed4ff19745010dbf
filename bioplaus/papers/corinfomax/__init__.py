"""Correlative information maximization (Bozkurt, Pehlevan and Erdogan 2023)."""
