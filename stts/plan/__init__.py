"""What a training run will cost before it runs: tokens, arithmetic, memory, time. No GPU and no values are needed."""
