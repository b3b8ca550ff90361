"""How the weights of the small models are made."""
