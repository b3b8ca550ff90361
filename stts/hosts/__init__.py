"""The models that are pruned: one file each over what all share."""
