"""The report: one self-contained page that says what a sweep or a run found. Optuna and Plotly, not Ray."""
