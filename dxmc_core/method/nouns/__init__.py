"""Nouns: which describe the images, what each image is in them, and what clusters are called."""
