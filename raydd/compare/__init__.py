"""Methods compared: the rows of the table, what makes them, the table and its page."""
