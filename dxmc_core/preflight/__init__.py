"""What a run will need: the cost that each stage counts, and rates of this machine."""
