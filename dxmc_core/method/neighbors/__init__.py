"""Nearest rows: exact, among cells, in an index of FAISS; and images that are copies."""
