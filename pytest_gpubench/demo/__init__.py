"""Small models that let everything run without a GPU or a network: :mod:`models` writes them."""
