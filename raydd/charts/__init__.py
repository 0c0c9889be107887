"""All that is drawn: figures by Matplotlib for MLflow and files, charts by Plotly for the page of a report."""
