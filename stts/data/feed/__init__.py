"""From examples to the batches of training: order, workers, packing, budgets."""
