"""Export of synthetic sets: writes a set or its student in common formats, with a data card; and scores sets."""
