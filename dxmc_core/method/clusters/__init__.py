"""Clusters: found by k-means, joined, told apart, followed from one clustering to the next, judged."""
