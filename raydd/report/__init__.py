"""The report: one self-contained page that shows what a sweep or a run found. It uses Optuna and Plotly, not Ray."""
