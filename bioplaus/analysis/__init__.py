"""What is shown: published numbers, runs beside them, figures, tables and the report."""
