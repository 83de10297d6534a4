"""Where images come from: sources and how they are listed, fetched, decoded and described."""
