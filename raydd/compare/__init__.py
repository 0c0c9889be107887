"""Comparison of methods: makes the rows of the table, writes the table, and gives its page."""
