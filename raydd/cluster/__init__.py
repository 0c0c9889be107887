"""Work in Ray's processes: connecting to a cluster, sharing records, ending gracefully, and reports of trials."""
