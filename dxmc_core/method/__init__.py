"""The method: arrays in, arrays out. No files, no configuration, no Ray."""
