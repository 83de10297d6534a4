"""What processes share: memory that is freed, quick products, work ahead, lengths of time."""
