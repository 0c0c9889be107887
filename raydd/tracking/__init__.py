"""Runs in MLflow: writes them from a separate thread, reads them back, shows them. No other package imports MLflow."""
