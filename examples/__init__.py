"""Small models, nodes and clients that show how the product is used; tests run them."""
