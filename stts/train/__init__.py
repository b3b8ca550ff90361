"""Fine-tuning: the loop and what only training needs."""
