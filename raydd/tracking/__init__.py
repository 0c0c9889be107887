"""Runs in MLflow: written by a thread of their own, read back, shown. Nothing else imports MLflow."""
