"""What backends have in common: pooling, heads, devices and dtypes."""
