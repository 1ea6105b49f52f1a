"""What `bench/run`, `bench/scale` and `bench/instructions` share."""
