"""All figures and charts: Matplotlib figures for MLflow and for files, Plotly charts for the page of a report."""
