"""Unsupervised learning by competing hidden units (Krotov and Hopfield 2019)."""
