"""What the tables of embeddings are called: all that a configuration needs to know of tables.

The tables themselves are declared in tables.py, with pyarrow's types.
"""

#: Of the embeddings by the first encoder.
IMAGES_NAME = "images"


def further_images_name(encoder: str) -> str:
    """Of the embeddings by a further encoder."""
    return f"{IMAGES_NAME}-{encoder}"
