"""How the weights of the tiny model are made."""
