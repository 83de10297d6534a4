"""The settings of each stage and the fingerprint of its result: what is known of a stage without loading its code."""
