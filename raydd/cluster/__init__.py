"""Work on Ray's processes: joining a cluster, sharing what is made, ending in good order, what a trial reports."""
